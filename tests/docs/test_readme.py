"""What the documentation shows is what the program does: its Python is run, its settings are read."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import serving
from tests.support.sandbox import PLACE
from threadkeep.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
SHOWN = "http://127.0.0.1:8400"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The tutorial is for another SDK, and has a test of its own.
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "tutorials"),
]


def blocks(language: str, *pages: Path) -> list[str]:
    return [block for page in pages for name, block in BLOCK.findall(page.read_text("utf-8")) if name == language]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as `./run` starts it: no model server, no keys, the environment for code beside it."""
    place = ("--sandbox-environment", str(PLACE))
    with serving(*place, folder=tmp_path_factory.mktemp("readme")) as program:
        yield program.url


def run(program: str, url: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-u", "-c", program.replace(SHOWN, url)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "NO_PROXY": "*"},
    )


def output(program: str, url: str, folder: Path) -> str:
    with run(program, url, folder) as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return said.decode()


def test_the_readmes_snippet_answers_and_remembers(url: str, tmp_path: Path) -> None:
    [snippet] = blocks("python", ROOT / "README.md")
    hello, memory = output(snippet, url, tmp_path).splitlines()
    assert hello == "I will remember that your name is Ada."
    assert memory == "Your name is Ada."


def test_the_readmes_snippet_prints_words_as_they_come(url: str, tmp_path: Path) -> None:
    [snippet] = blocks("python", ROOT / "README.md")
    slowly = snippet.replace('model="offline"', 'model="offline-100ms"')
    assert slowly != snippet
    reads: list[bytes] = []
    with run(slowly, url, tmp_path) as process:
        assert process.stdout is not None
        while read := os.read(process.stdout.fileno(), 65_536):
            reads.append(read)
        process.communicate(timeout=120)
    assert b"".join(reads).decode().endswith("Your name is Ada.\n")
    # Twelve words; that a slow machine shows some of them together must not fail this.
    assert len(reads) > 3


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks("python", page)], ids=lambda page: page.name)
def test_every_python_block_of_the_pages_runs(
    page: Path, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page.name == "code-interpreter.md":
        request.getfixturevalue("isolation")
    for block in blocks("python", page):
        assert output(block, url, tmp_path)


def test_the_screen_at_the_start_shows_a_snippet_that_works(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as program:
        snippet = program.output[program.output.index("from openai") : program.output.index("listening on")]
        assert "not a language model" in output(snippet, program.url, tmp_path)


def test_every_settings_file_of_the_pages_is_understood(tmp_path: Path) -> None:
    shown = blocks("toml", *PAGES)
    assert len(shown) >= 3
    keys = {"OPENAI_API_KEY": "sk-1", "AZURE_OPENAI_API_KEY": "azure-1"}
    for block in shown:
        (tmp_path / "threadkeep.toml").write_text(block, "utf-8")
        settings = read_settings({"data_dir": str(tmp_path)}, keys, folder=tmp_path)
        assert len(settings.upstreams) == block.count("[[upstream]]")
