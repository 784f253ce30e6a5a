import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDK calls its own Assistants methods deprecated; that they work is what is tested here."""
    for item in items:
        if "/tests/sdk/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
