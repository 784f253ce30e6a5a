pytest_plugins = ["tests.capabilities", "tests.support.databases", "pytester"]
