"""The locks say what pyproject.toml asks for, name no index, and need nothing compiled."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {
    "runtime": PROJECT["project"]["dependencies"],
    "dev": PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"],
}
REMEDY = "run ./run lock and commit what it writes"


def pins(name: str) -> dict[str, tuple[int, ...]]:
    lines = re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / f"locks/{name}.txt").read_text(), re.MULTILINE)
    return {project: tuple(map(int, version.strip(".").split("."))) for project, version in lines}


@pytest.mark.parametrize(
    ("lock", "requirement"),
    [(lock, requirement) for lock, requirements in ASKED.items() for requirement in requirements],
)
def test_every_dependency_is_locked_at_a_version_that_is_asked_for(lock: str, requirement: str) -> None:
    parts = re.match(r"([\w.-]+)(?:\[\w+\])?(?:>=|==)([\d.]+)", requirement)
    assert parts, f"{requirement}: give the oldest version that is known to work"
    name, oldest = parts[1], tuple(map(int, parts[2].split(".")))

    assert name in pins(lock), f"locks/{lock}.txt lacks {name}: {REMEDY}"
    assert pins(lock)[name] >= oldest, f"locks/{lock}.txt has an old {name}: {REMEDY}"


def test_the_tests_run_with_the_versions_that_are_shipped() -> None:
    shipped, tested = pins("runtime"), pins("dev")

    assert {name: tested[name] for name in shipped} == shipped


SANDBOX = "src/threadkeep/sandbox/environment"


def test_the_list_for_code_is_locked() -> None:
    asked = (ROOT / f"{SANDBOX}.in").read_text()
    names = [name for line in asked.splitlines() if (name := line.partition("#")[0].strip())]

    assert len(names) >= 12
    assert set(names) <= set(pins(f"../{SANDBOX}")), REMEDY


CLIENTS = [f"clients/{asked.stem}" for asked in sorted((ROOT / "locks/clients").glob("*.in"))]


@pytest.mark.parametrize("lock", CLIENTS)
def test_a_clients_lock_has_the_version_that_it_is_named_for(lock: str) -> None:
    asked = re.findall(r"^([\w.-]+)==([\d.]+)$", (ROOT / f"locks/{lock}.in").read_text(), re.MULTILINE)

    assert asked, f"locks/{lock}.in pins nothing"
    assert {name: pins(lock).get(name) for name, _ in asked} == {
        name: tuple(map(int, version.split("."))) for name, version in asked
    }, f"locks/{lock}.txt: {REMEDY}"


@pytest.mark.parametrize("lock", ["runtime", "dev", f"../{SANDBOX}", *CLIENTS])
def test_a_lock_holds_digests_and_no_address(lock: str) -> None:
    text = (ROOT / f"locks/{lock}.txt").read_text()

    assert "://" not in text
    assert text.count("--hash=sha256:") >= len(pins(lock))
