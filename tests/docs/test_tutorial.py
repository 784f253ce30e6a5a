"""The tutorial does what it says, block by block, with the SDK that it is about."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environments import environment
from tests.support.process import serving

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "threads.md"
SHOWN = "http://127.0.0.1:8400"
STEP = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server as `./run` starts it."""
    with serving(folder=tmp_path) as program:
        yield program.url


def test_every_block_prints_what_stands_under_it(url: str, tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    steps = STEP.findall(page)
    assert len(steps) == page.count("```python")
    session = 'print("---")\n'.join(block for block, _ in steps).replace(SHOWN, url)

    done = subprocess.run(
        [environment("openai-1.20"), "-I", "-"],
        input=session,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "*"},
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split("---\n") == [printed for _, printed in steps]
    assert "Deprecat" not in done.stderr


def test_the_environment_that_it_tells_to_make_is_the_one_that_is_tested() -> None:
    [told] = re.findall(r"pip install (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    asked = (PAGE.parents[2] / "locks/clients/openai-1.20.in").read_text("utf-8").splitlines()

    assert [word.strip('"') for word in told.split()] == [line for line in asked if not line.startswith("#")]
