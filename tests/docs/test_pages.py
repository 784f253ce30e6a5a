"""Guards against documentation that drifts: links, flags, the names in tables."""

import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from threadkeep.api.routes import OPERATIONS
from threadkeep.cli import parser
from threadkeep.settings import PREFIX, ROWS, UPSTREAM_KEYS, variable
from threadkeep.upstream.quirks import QUIRKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+\w")
VARIABLE = re.compile(rf"{PREFIX}[A-Z_]*[A-Z]")

# Flags of other programs that the pages show. A flag of ours never belongs here.
OTHERS = {
    "--enable-auto-tool-choice",  # vllm serve
    "--tool-call-parser",
    "--jinja",  # llama-server
    "--from",  # uvx
    "--spec",  # pipx run
    "--wheel",  # uv build
    "--no-deps",  # pip wheel
    "--fix",  # ruff check
    "--require-hashes",  # pip install
    "--security-opt",  # docker run
    "--cap-add",
    "--init",
}
TEST_FLAGS = {"--strict", "--system"}
LOCK_FLAGS = {"--upgrade"}
CLIENT_FLAGS = {"--record"}


def flags_of(command: ArgumentParser) -> Iterator[str]:
    """Every flag of the command and of the commands below it."""
    for action in command._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        # What argparse keeps there for commands is a dictionary; for other arguments it is a list, or nothing.
        below = cast("object", action.choices)
        if isinstance(below, dict):
            for command_below in cast("dict[str, ArgumentParser]", below).values():
                yield from flags_of(command_below)


def benchmark_flags() -> set[str]:
    """Also those of the long form of the chaos suite."""
    return {
        flag
        for file in [*(ROOT / "benchmarks").glob("*.py"), ROOT / "scripts" / "chaos.py"]
        for flag in re.findall(r'add_argument\(\s*"(--[a-z-]+)"', file.read_text("utf-8"))
    }


def headings(page: Path) -> set[str]:
    """The anchors that a heading gets where such pages are shown."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.relative_to(ROOT)} links to {link}"
        assert not anchor or anchor in headings(target), f"{page.relative_to(ROOT)}: no heading for {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_that_is_mentioned_exists(page: Path) -> None:
    known = set(flags_of(parser())) | benchmark_flags() | OTHERS | TEST_FLAGS | LOCK_FLAGS | CLIENT_FLAGS
    assert set(FLAG.findall(page.read_text("utf-8"))) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_variable_that_is_mentioned_exists(page: Path) -> None:
    known = {variable(name) for name in ROWS} | {"THREADKEEP_TEST_STRICT"}
    assert set(VARIABLE.findall(page.read_text("utf-8"))) - known == set()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "README.md":
            assert f"({page.relative_to(ROOT / 'docs')})" in index


def test_the_page_on_upstreams_has_every_quirk_and_no_other() -> None:
    page = (ROOT / "docs" / "how-to" / "upstreams.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z0-9.-]+)` \|", page, re.MULTILINE) == list(dict.fromkeys(q.name for q in QUIRKS))


def test_the_settings_page_has_every_key_of_an_upstream() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    assert all(f"| `{key}` |" in page for key in UPSTREAM_KEYS)


def test_what_the_readme_says_is_not_there_is_not_there() -> None:
    """Whoever adds one of these corrects the table of what is supported."""
    readme = (ROOT / "README.md").read_text("utf-8")
    paths = {operation.path.split("/")[1] for operation in OPERATIONS}
    assert ("| vector stores | not yet" in readme) == ("vector_stores" not in paths)
