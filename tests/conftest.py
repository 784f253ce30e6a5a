pytest_plugins = [
    "tests.capabilities",
    "tests.support.databases",
    "tests.support.sandbox",
    "tests.support.server",
    "tests.support.s3",
    "tests.support.stories",
    "pytester",
]
