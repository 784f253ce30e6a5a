"""Files in and out, with the SDK: what is attached is there, and what code writes can be had."""

# The SDK's own methods are deprecated; that they work is what is tested.
# pyright: reportDeprecated=false

import io
from typing import Any

import openai
import pytest

from tests.code.test_runs import code, logs_of
from tests.support.stories import Story
from threadkeep.upstream.scripted import Say

CSV = b"region,sales\nnorth,10\nsouth,20\nnorth,5\n"
GROUP_AND_DRAW = """
import pandas as pd, matplotlib.pyplot as plt
frame = pd.read_csv('/mnt/data/sales.csv')
total = frame.groupby('region').sales.sum()
total.plot.bar()
plt.show()
total.to_csv('/mnt/data/totals.csv')
print(total.to_dict())
"""


def test_a_csv_is_grouped_drawn_and_returned(coder: Story, sdk: openai.OpenAI) -> None:
    uploaded = sdk.files.create(file=("sales.csv", CSV), purpose="assistants")
    assistant = sdk.beta.assistants.create(model=coder.model.name, tools=[{"type": "code_interpreter"}])
    attachment: Any = {"file_id": uploaded.id, "tools": [{"type": "code_interpreter"}]}
    thread = sdk.beta.threads.create(
        messages=[{"role": "user", "content": "Sales by region?", "attachments": [attachment]}]
    )
    text = "North 15, south 20. [Download the totals](sandbox:/mnt/data/totals.csv)."
    coder.model.says(code(GROUP_AND_DRAW), Say(*[text[at : at + 3] for at in range(0, len(text), 3)]))

    with sdk.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        stream.until_done()
        run = stream.get_final_run()
        [message] = stream.get_final_messages()

    assert (run.status, run.last_error) == ("completed", None)
    step = next(iter(sdk.beta.threads.runs.steps.list(run_id=run.id, thread_id=thread.id, order="asc")))
    assert step.step_details.type == "tool_calls"
    [call] = step.step_details.tool_calls
    assert call.type == "code_interpreter"
    kinds = [output.type for output in call.code_interpreter.outputs]
    assert sorted(kinds) == ["image", "logs"]
    picture, words = message.content
    assert picture.type == "image_file"
    png = sdk.files.content(picture.image_file.file_id).read()
    assert png.startswith(b"\x89PNG")
    assert sdk.files.retrieve(picture.image_file.file_id).purpose == "assistants_output"
    assert words.type == "text"
    [link] = words.text.annotations
    assert link.type == "file_path"
    assert words.text.value == text
    assert text[link.start_index : link.end_index] == link.text == "sandbox:/mnt/data/totals.csv"
    assert sdk.files.content(link.file_path.file_id).read() == b"region,sales\nnorth,15\nsouth,20\n"
    assert sdk.files.retrieve(link.file_path.file_id).filename == "totals.csv"
    assert sdk.beta.threads.messages.retrieve(message.id, thread_id=thread.id) == message


def test_a_file_is_there_under_its_id_and_its_name(coder: Story, sdk: openai.OpenAI) -> None:
    uploaded = sdk.files.create(file=("Größe (neu).csv", CSV), purpose="assistants")
    coder.assistant(
        tools=[{"type": "code_interpreter"}], tool_resources={"code_interpreter": {"file_ids": [uploaded.id]}}
    )
    coder.model.says(
        code(f"print(open('/mnt/data/{uploaded.id}').read() == open('/mnt/data/Größe (neu).csv').read())"), Say("Yes.")
    )

    stream = coder.stream_run(coder.thread("Same?"))

    assert logs_of(coder.steps(stream.run_path)[0]) == "True\n"
    assert "Größe (neu).csv" in coder.model.requests[0]["tools"][0]["function"]["description"]


def test_what_is_attached_later_appears_in_the_live_session(coder: Story, sdk: openai.OpenAI) -> None:
    thread = coder.thread("Begin.")
    coder.model.says(code("kept = 1"), Say("Begun."))
    coder.stream_run(thread)
    later = sdk.files.create(file=("later.txt", b"late"), purpose="assistants")
    attachments = [{"file_id": later.id, "tools": [{"type": "code_interpreter"}]}]
    coder.post(f"{thread}/messages", {"role": "user", "content": "And this?", "attachments": attachments})

    coder.model.says(code("print(kept, open('/mnt/data/later.txt').read())"), Say("Late."))
    stream = coder.stream_run(thread)

    assert logs_of(coder.steps(stream.run_path)[0]) == "1 late\n"


def test_a_large_file_comes_in_and_out_whole(coder: Story, sdk: openai.OpenAI) -> None:
    content = bytes(range(256)) * 40_000
    uploaded = sdk.files.create(file=("big.bin", io.BytesIO(content)), purpose="assistants")
    coder.assistant(
        tools=[{"type": "code_interpreter"}], tool_resources={"code_interpreter": {"file_ids": [uploaded.id]}}
    )
    coder.model.says(
        code("data = open('/mnt/data/big.bin', 'rb').read()\nopen('/mnt/data/back.bin', 'wb').write(data[::-1])"),
        Say("[back](sandbox:/mnt/data/back.bin)"),
    )

    stream = coder.stream_run(coder.thread("Reverse it."))

    message = stream.data("thread.message.completed")
    [link] = message["content"][0]["text"]["annotations"]
    assert sdk.files.content(link["file_path"]["file_id"]).read() == content[::-1]


@pytest.mark.parametrize("name", ["a b.csv", "täst.csv", "sub/deep.csv"])
def test_links_to_files_of_any_name_become_annotations(coder: Story, name: str) -> None:
    coder.model.says(
        code(f"import os\nos.makedirs('/mnt/data/sub', exist_ok=True)\nopen('/mnt/data/{name}', 'w').write('x')"),
        Say(f"[it](sandbox:/mnt/data/{name})"),
    )

    stream = coder.stream_run(coder.thread("Write."))

    [part] = stream.data("thread.message.completed")["content"]
    [link] = part["text"]["annotations"]
    assert link["text"] == f"sandbox:/mnt/data/{name}"
    assert part["text"]["value"][link["start_index"] : link["end_index"]] == link["text"]


def test_a_later_run_may_link_to_what_an_earlier_one_wrote(coder: Story) -> None:
    thread = coder.thread("Write.")
    coder.model.says(code("open('/mnt/data/a.txt', 'w').write('x')"), Say("Written."))
    coder.stream_run(thread)

    coder.model.says(Say("Here: [a](sandbox:/mnt/data/a.txt)"))
    stream = coder.stream_run(thread)

    [part] = stream.data("thread.message.completed")["content"]
    assert [annotation["type"] for annotation in part["text"]["annotations"]] == ["file_path"]


def test_a_link_to_nothing_stays_text(coder: Story) -> None:
    coder.model.says(code("print(1)"), Say("[it](sandbox:/mnt/data/nothing.csv)"))

    stream = coder.stream_run(coder.thread("Go."))

    [part] = stream.data("thread.message.completed")["content"]
    assert part["text"] == {"value": "[it](sandbox:/mnt/data/nothing.csv)", "annotations": []}


def test_pictures_of_several_calls_begin_the_answer_in_order(coder: Story) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    coder.model.says(code(draw), code(draw), Say("Both."))

    stream = coder.stream_run(coder.thread("Draw."))

    shown = [
        output["image"]["file_id"]
        for step in coder.steps(stream.run_path)[:2]
        for output in step["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"]
        if output["type"] == "image"
    ]
    content = stream.data("thread.message.completed")["content"]
    assert [part["type"] for part in content] == ["image_file", "image_file", "text"]
    assert [part["image_file"]["file_id"] for part in content[:2]] == shown
    assert len(set(shown)) == 2
