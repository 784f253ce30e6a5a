"""`AzureOpenAI` of the openai SDK for Node: a run streamed, and one polled."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.node import test_node_sdk
from tests.node.test_node_sdk import HERE, PATIENCE_S, Node
from tests.support.server import RunningServer
from tests.support.stories import CREATED, ScriptedModels, names_of, text_of
from threadkeep.upstream.scripted import Say

# Fixtures.
node, story = test_node_sdk.node, test_node_sdk.story


def test_azures_client_streams_and_polls(
    story: Path, node: Node, stage: RunningServer, scripted_models: ScriptedModels
) -> None:
    # Beside the other script, where the SDK is installed.
    script = shutil.copy(HERE / "azure.mjs", story.parent)
    model = scripted_models.new_model()
    model.says(Say("Hel", "lo"))
    model.says(Say("Again"))

    done = subprocess.run(
        [node.node, script, stage.url, stage.new_key(), model.name],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "events": names_of(CREATED, text_of(2), "thread.run.completed"),
        "streamed": "completed",
        "polled": "completed",
        "texts": ["Hi", "Hello", "Again"],
    }
