"""The clients that every run of the tests has, and what holds the suite together. All of them: ./run clients."""

import re
from pathlib import Path

import environments
import pytest

from tests.capabilities import missing
from tests.clients.suite import CLIENTS, SCRIPTS, Client, isolates, run
from tests.support.environments import environment, node_environment

ROOT = Path(__file__).resolve().parents[2]
IN_EVERY_RUN = [client for client in CLIENTS if client.in_every_run]


@pytest.mark.clients
@pytest.mark.parametrize("client", IN_EVERY_RUN, ids=lambda client: client.name)
def test_a_client_works_unchanged(client: Client, tmp_path: Path) -> None:
    if client.is_node:
        node_environment(client.environment)
    else:
        environment(client.environment)

    outcome = run(client, tmp_path)

    assert outcome.is_good, outcome.shown
    if not isolates():
        missing("isolation for code, without which clients do all the rest", fix="see `threadkeep sandbox status`")


def test_every_script_and_every_lock_belongs_to_a_client() -> None:
    scripts = {file.name for file in SCRIPTS.iterdir() if file.suffix in (".py", ".cjs")} - {"told.py", "told.cjs"}
    locks = set(environments.names()) | {folder.name for folder in environments.LOCKS.iterdir() if folder.is_dir()}

    assert {client.script for client in CLIENTS} == scripts
    assert {client.environment for client in CLIENTS} == locks


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_clients_lock_holds_digests_and_no_address_of_a_registry(client: Client) -> None:
    lock = environments.LOCKS / client.environment
    if client.is_node:
        text = (lock / "package-lock.json").read_text("utf-8")
        assert '"resolved"' not in text
        packages = len(re.findall(r'^    "node_modules/', text, re.MULTILINE))
        assert text.count('"integrity": "sha512-') == packages > 0
    else:
        text = lock.with_name(f"{lock.name}.txt").read_text("utf-8")
        assert "://" not in text
        assert text.count("--hash=sha256:") >= len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) > 0


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_page_on_compatibility_names_the_versions_that_are_run(client: Client) -> None:
    page = (ROOT / "docs" / "reference" / "compatibility.md").read_text("utf-8")
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{client.name}` |")]

    for package, version in client.versions().items():
        assert f"{package} {version}" in row
