"""What becomes of code whose server dies, and of processes that code has started."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.code.test_runs import code, logs_of
from tests.support.databases import Database
from tests.support.nodes import begun, node, successor
from tests.support.sandbox import PLACE
from tests.support.stories import ScriptedModel, ScriptedModels
from threadkeep.sandbox.environment import Environment
from threadkeep.upstream.scripted import Say

INTERPRETER = ("--code-interpreter", "on", "--sandbox-environment", str(PLACE), "--sandbox-pool", "1")
TOOLS = [{"type": "code_interpreter"}]
PATIENCE_S = 60.0


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


def below(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = {int(child) for child in tasks.read_text().split()}
        except OSError:
            continue
        found |= children.union(*map(below, children))
    return found


def until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := {pid for pid in pids if _runs(pid)}:
        assert time.monotonic() < deadline, f"{len(left)} processes of the sandbox go on"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_code_whose_node_dies_is_run_again_by_another_without_asking_the_model_twice(
    database: Database,
    scripted_models: ScriptedModels,
    model: ScriptedModel,
    sandbox_environment: Environment,
    bubblewrap: str,
) -> None:
    until = time.time() + 8
    model.says(code(f"import time\nprint('begun')\nwhile time.time() < {until}: pass\nprint('ended')"), Say("Done."))
    with node(database, scripted_models, *INTERPRETER) as first, begun(first, model, tools=TOOLS) as stream:
        while '"logs": "begun' not in json.dumps(stream.every("thread.run.step.delta")):
            stream.until("thread.run.step.delta", count=len(stream.every("thread.run.step.delta")) + 1)
        processes = below(first.program.pid)
        assert processes
        with successor(database, scripted_models, first, *INTERPRETER) as second:
            until_gone(processes)

            assert second.until_ended(stream.run_path, PATIENCE_S) == "completed"

            steps = second.http.get(f"{stream.run_path}/steps?order=asc").json()["data"]
    assert [(step["type"], step["status"]) for step in steps] == [
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    assert logs_of(steps[0]).endswith("begun\nended\n")
    assert len(model.requests) == 2


def test_a_server_that_is_told_to_stop_leaves_nothing_running(
    database: Database,
    scripted_models: ScriptedModels,
    model: ScriptedModel,
    sandbox_environment: Environment,
    bubblewrap: str,
) -> None:
    model.says(code("import subprocess\nsubprocess.Popen(['sleep', '600'])\nprint('begun')"), Say("Done."))
    with node(database, scripted_models, *INTERPRETER) as first:
        with begun(first, model, tools=TOOLS) as stream:
            assert stream.rest().run["status"] == "completed"
        processes = below(first.program.pid)
        assert any("sleep" in Path(f"/proc/{pid}/cmdline").read_text() for pid in processes)

        assert first.program.stop() == 0

        until_gone(processes)
    assert os.getpid() not in processes


def test_files_that_code_wrote_are_there_again_in_a_session_on_another_node(
    database: Database,
    scripted_models: ScriptedModels,
    model: ScriptedModel,
    sandbox_environment: Environment,
    bubblewrap: str,
) -> None:
    write = "kept = 1\nfor name in 'ab': open(f'/mnt/data/{name}.txt', 'w').write('written before')"
    model.says(code(write), code("import os\nos.remove('/mnt/data/b.txt')"), Say("Written."))
    with node(database, scripted_models, *INTERPRETER) as first:
        with begun(first, model, tools=TOOLS) as stream:
            assistant = stream.rest().run["assistant_id"]
        with successor(database, scripted_models, first, *INTERPRETER) as second:
            model.says(code("import os\nprint(os.listdir('/mnt/data'), open('/mnt/data/a.txt').read())"), Say("Read."))
            thread = stream.run_path.partition("/runs/")[0]
            run = second.http.post(f"{thread}/runs", json={"assistant_id": assistant}).json()
            assert second.until_ended(f"{thread}/runs/{run['id']}") == "completed"
            [_, step] = second.http.get(f"{thread}/runs/{run['id']}/steps").json()["data"]

    # What code deleted stays away.
    assert logs_of(step).endswith("['a.txt'] written before\n")
    # Whoever wrote the code is told that its variables are gone.
    assert "variables" in logs_of(step)
