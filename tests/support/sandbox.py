"""What running code takes: the environment that ./test installs, and bubblewrap. A test that lacks one says so."""

import os
import shutil
from pathlib import Path

import pytest

from tests.capabilities import missing
from threadkeep.sandbox.environment import Environment, read_environment

PLACE = Path(os.environ.get("THREADKEEP_SANDBOX_ENVIRONMENT") or Path(__file__).resolve().parents[2] / ".sandbox")


@pytest.fixture(scope="session")
def sandbox_environment() -> Environment:
    """The Python environment of the code interpreter. It is shared: nothing may change it."""
    environment = read_environment(PLACE)
    if environment is None:
        missing("environment for the code interpreter", fix="./test")
    return environment


@pytest.fixture(scope="session")
def bubblewrap() -> str:
    """The program that isolates code."""
    program = shutil.which("bwrap")
    if program is None:
        missing("bubblewrap", fix="apt-get install bubblewrap (as root), or ./test --system")
    return program
