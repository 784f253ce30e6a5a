pytest_plugins = [
    "tests.capabilities",
    "tests.support.databases",
    "tests.support.server",
    "tests.support.stories",
    "pytester",
]
