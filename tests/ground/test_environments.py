"""Clients' environments: made once, from a lock, apart from ours."""

import subprocess
import sys
import threading
from pathlib import Path

import environments
import pytest

from tests.support.environments import environment


class Installer:
    """Stands in for the installation, which takes an index: remembers what the locks said."""

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.has_network = True

    def __call__(self, lock: Path, site_packages: Path, base: str, held: tuple[int, ...], python: Path) -> None:
        if not self.has_network:
            sys.exit("no network")
        self.installed.append(lock.read_text())


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Installer:
    installer = Installer()
    monkeypatch.setattr(environments, "install", installer)
    return installer


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Locks and environments of the test's own, below the project's folder in name only."""
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(environments, "PLACE", tmp_path / "made")
    (tmp_path / "locks").mkdir()
    return tmp_path


def test_an_environment_has_what_its_lock_says_and_not_ours() -> None:
    python = environment("openai-1.20")

    program = "import importlib.util as u, openai; print(openai.__version__, u.find_spec('threadkeep'))"
    assert subprocess.check_output([python, "-I", "-c", program], text=True) == "1.20.0 None\n"


def test_an_environment_is_made_once_whoever_asks(place: Path, installer: Installer) -> None:
    (place / "locks/none.txt").write_text("# nothing\n")

    threads = [threading.Thread(target=environments.environment, args=("none",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert installer.installed == ["# nothing\n"]
    assert environments.environment("none").is_file()


def test_a_changed_lock_makes_it_anew(place: Path, installer: Installer) -> None:
    for text in ("# one\n", "# one\n", "# two\n"):
        (place / "locks/some.txt").write_text(text)
        environments.environment("some")

    assert installer.installed == ["# one\n", "# two\n"]


def test_a_failed_installation_says_so_and_is_tried_again(place: Path, installer: Installer) -> None:
    (place / "locks/bad.txt").write_text("# bad\n")
    installer.has_network = False

    with pytest.raises(environments.NotInstalled, match="made/bad could not be made: no network"):
        environments.environment("bad")

    installer.has_network = True
    assert environments.environment("bad").is_file()


def node_project(place: Path, locked: str) -> None:
    """A package that asks for nothing, and a lock that says so."""
    folder = place / "locks/web"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text('{"name": "web", "private": true}')
    (folder / "package-lock.json").write_text(locked)


def test_an_environment_for_node_is_made_once_and_anew_when_its_lock_changes(place: Path) -> None:
    lock = '{"name": "web", "lockfileVersion": 3, "requires": true, "packages": {"": {"name": "web"}}}'
    made = place / "made/web/package-lock.json"

    node_project(place, lock)
    modules = environments.node_environment("web")
    first = made.stat().st_ino
    environments.node_environment("web")
    assert (modules, made.stat().st_ino) == (place / "made/web/node_modules", first)

    node_project(place, lock + "\n")
    environments.node_environment("web")
    assert made.read_text() == lock + "\n"


def test_a_failed_installation_for_node_says_so(place: Path) -> None:
    node_project(place, "no lock")

    with pytest.raises(environments.NotInstalled, match="made/web could not be made: npm ci"):
        environments.node_environment("web")
