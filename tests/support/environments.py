"""Clients in environments of their own: `environment("openai-1.20")` is a Python that has what locks/clients says."""

from functools import cache
from pathlib import Path

import environments

from tests.capabilities import missing


@cache
def environment(name: str) -> Path:
    """The Python of the environment. A machine that cannot install it skips the test that asks."""
    try:
        return environments.environment(name)
    except environments.NotInstalled as error:
        missing(f"packages of {name} ({error})", fix=f".venv/bin/python scripts/environments.py {name}")


@cache
def node_environment(name: str) -> Path:
    """The node_modules of the environment, likewise."""
    try:
        return environments.node_environment(name)
    except environments.NotInstalled as error:
        missing(f"packages of {name} ({error})", fix="a network in which npm reaches a registry")
