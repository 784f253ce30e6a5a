"""What running code takes: the environment that ./test installs, and bubblewrap. A test that lacks one says so."""

import os
import shutil
from pathlib import Path

import pytest

from tests.capabilities import missing
from tests.support.process import run
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


@pytest.fixture(scope="session")
def isolation(sandbox_environment: Environment, bubblewrap: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For tests of what happens where code can be isolated: the self-test passes here."""
    told = run("sandbox", "status", "--sandbox-environment", str(PLACE), folder=tmp_path_factory.mktemp("isolation"))
    if told.status != 0:
        missing(f"isolation for code ({told.output.strip()})", fix="see docs/how-to/code-interpreter.md")
