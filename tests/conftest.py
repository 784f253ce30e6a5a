pytest_plugins = ["tests.capabilities", "pytester"]
