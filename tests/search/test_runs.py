"""A run whose model searches: what it is offered and told, what the step shows, and citations in the answer."""

import io
import json
from typing import Any

import openai
import pytest
from msgspec.structs import replace

from tests.support.stories import CREATED, FUNCTION, STEP, Story, call_ids, names_of, text_of
from threadkeep.runs.streams import THREAD_DELETED
from threadkeep.search.tokens import tokenizer
from threadkeep.storage.store import Transaction
from threadkeep.tools.file_search import queries_in
from threadkeep.upstream.scripted import Call, Say, Usage

# The SDK's own methods are deprecated; that they work is what is tested.
# pyright: reportDeprecated=false

SEARCH: Any = {"type": "file_search"}
INCLUDE = "step_details.tool_calls[*].file_search.results[*].content"


@pytest.fixture
def sdk(story: Story) -> Any:
    return openai.OpenAI(base_url=story.server.base_url, api_key=story.key, max_retries=0, timeout=120)


def searches(*queries: str) -> Call:
    return Call("file_search", {"queries": list(queries)})


def a_store(sdk: openai.OpenAI, **files: str) -> str:
    store = sdk.vector_stores.create(name="notes")
    uploads = [io.BytesIO(text.encode()) for text in files.values()]
    for upload, name in zip(uploads, files, strict=True):
        upload.name = f"{name}.txt"
    batch = sdk.vector_stores.file_batches.upload_and_poll(store.id, files=uploads, poll_interval_ms=50)
    assert batch.file_counts.completed == len(files)
    return store.id


def searching(story: Story, store_id: str, **tool: Any) -> str:
    return story.assistant(
        tools=[{**SEARCH, **({"file_search": tool} if tool else {})}],
        tool_resources={"file_search": {"vector_store_ids": [store_id]}},
    )


def test_what_is_found_is_told_to_the_model_and_cited_in_the_answer(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, whales="Whales sing under water.", bees="Bees dance to tell of flowers."))
    story.model.says(
        [searches("how do bees talk"), Usage(20, 5)], [Say("They dance ", "【1:", "0†bees.txt】", "."), Usage(40, 3)]
    )

    stream = story.stream_run(story.thread("How do bees talk?"))

    step, _ = stream.every("thread.run.step.completed")
    [call] = step["step_details"]["tool_calls"]
    assert set(call) == {"id", "type", "file_search"}
    assert call["file_search"]["ranking_options"] == {"ranker": "auto", "score_threshold": 0.0}
    [result, *_] = call["file_search"]["results"]
    assert (result["file_name"], "content" in result) == ("bees.txt", False)
    assert 0 < result["score"] <= 1
    told = story.model.requests[1]["messages"][-1]["content"]
    assert "Bees dance to tell of flowers." in told
    assert "【0:0†bees.txt】" in told
    # The mark that the model wrote names no search of this run.
    assert stream.data("thread.message.completed")["content"][0]["text"]["annotations"] == []


def test_a_mark_becomes_an_annotation_in_the_stream_and_in_the_message(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, bees="Bees dance to tell of flowers."))
    story.model.says(searches("bees"), Say("Sie tanzen 💃 ", "【0:", "0†be", "es.txt】", "."))

    stream = story.stream_run(story.thread("How do bees talk?"))

    [part] = stream.data("thread.message.completed")["content"]
    text = part["text"]
    [citation] = text["annotations"]
    assert citation["type"] == "file_citation"
    assert text["value"][citation["start_index"] : citation["end_index"]] == citation["text"] == "【0:0†bees.txt】"
    assert citation["file_citation"]["quote"] == ""
    deltas = [
        annotation
        for delta in stream.every("thread.message.delta")
        for entry in delta["delta"]["content"]
        for annotation in entry["text"].get("annotations", [])
    ]
    assert deltas == [{"index": 0, **citation}]
    assert stream.text == text["value"]


def test_the_events_of_a_search_are_those_of_the_contract(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, bees="Bees dance."))
    story.model.says(searches("bees"), Say("Dance."))

    stream = story.stream_run(story.thread("Bees?"))

    assert stream.names() == names_of(
        CREATED,
        STEP,
        "thread.run.step.delta",
        "thread.run.step.completed",
        text_of(1),
        "thread.run.completed",
        "done",
    )
    [delta] = stream.every("thread.run.step.delta")
    [call] = delta["delta"]["step_details"]["tool_calls"]
    assert call == {"index": 0, "id": call["id"], "type": "file_search", "file_search": {}}


def test_contents_are_shown_to_those_who_ask(story: Story, sdk: openai.OpenAI) -> None:
    assistant = searching(story, a_store(sdk, bees="Bees dance."))
    story.model.says(searches("bees"), Say("Dance."))
    thread = story.thread("Bees?")

    with story.streaming(f"{thread}/runs?include[]={INCLUDE}", {"assistant_id": assistant}) as stream:
        stream.rest()

    step = stream.every("thread.run.step.completed")[0]
    [result] = step["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert result["content"] == [{"type": "text", "text": "Bees dance."}]
    assert story.get(f"{stream.run_path}/steps/{step['id']}?include[]={INCLUDE}") == step
    [without] = story.get(f"{stream.run_path}/steps/{step['id']}")["step_details"]["tool_calls"]
    assert "content" not in without["file_search"]["results"][0]
    assert "queries" not in json.dumps(without)


def test_the_model_reads_its_own_queries_again(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, bees="Bees dance."))
    story.model.says(searches("bees", "dance"), searches("wasps"), Say("Dance."))

    story.stream_run(story.thread("Bees?"))

    messages = story.model.requests[2]["messages"]
    asked = [json.loads(call["function"]["arguments"]) for call in (m["tool_calls"][0] for m in messages[1::2])]
    assert asked == [{"queries": ["bees", "dance"]}, {"queries": ["wasps"]}]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    # Each search of a run has a number of its own.
    assert "【0:0†" in messages[2]["content"]


def test_a_search_beside_a_function_leaves_only_the_function_to_the_client(story: Story, sdk: openai.OpenAI) -> None:
    store_id = a_store(sdk, bees="Bees dance.")
    story.assistant(tools=[SEARCH, FUNCTION], tool_resources={"file_search": {"vector_store_ids": [store_id]}})
    story.model.says([searches("bees"), Call("get_weather", {"city": "Oslo"})], Say("Sunny dance."))

    asked = story.stream_run(story.thread("Both."))
    [waiting] = call_ids(asked.run)
    stream = story.stream_outputs(asked.run_path, {waiting: "sun"})

    assert stream.run["status"] == "completed"
    [step, _] = story.steps(asked.run_path)
    assert [call["type"] for call in step["step_details"]["tool_calls"]] == ["file_search", "function"]


def test_searches_among_other_calls_have_numbers_of_their_own(story: Story, sdk: openai.OpenAI) -> None:
    store_id = a_store(sdk, bees="Bees dance.", ants="Ants march.")
    story.assistant(tools=[SEARCH, FUNCTION], tool_resources={"file_search": {"vector_store_ids": [store_id]}})
    story.model.says(
        [Call("get_weather", {"city": "Oslo"}), searches("bees")],
        searches("ants"),
        Say("Ants march 【2:0†ants.txt】, bees dance 【1:0†bees.txt】."),
    )

    asked = story.stream_run(story.thread("All."))
    [waiting] = call_ids(asked.run)
    stream = story.stream_outputs(asked.run_path, {waiting: "sun"})

    told = [message["content"] for message in story.model.requests[2]["messages"] if message["role"] == "tool"]
    assert [text.partition("\n")[0] for text in told] == ["sun", "【1:0†bees.txt】", "【2:0†ants.txt】"]
    names = {file.id: file.filename for file in sdk.files.list()}
    [part] = stream.data("thread.message.completed")["content"]
    cited = [annotation["file_citation"]["file_id"] for annotation in part["text"]["annotations"]]
    assert [names[file_id] for file_id in cited] == ["ants.txt", "bees.txt"]


@pytest.mark.parametrize(
    "name", ["a, 1:2, b.txt", "【4:1†source】.txt", "line\nbreak.txt", "名前 | ‡.txt", f"{'long' * 50}.txt"]
)
def test_a_mark_is_read_whatever_the_file_is_called(story: Story, sdk: openai.OpenAI, name: str) -> None:
    uploaded = sdk.files.create(file=(name, b"Bees dance."), purpose="assistants")
    store = sdk.vector_stores.create()
    sdk.vector_stores.files.create_and_poll(uploaded.id, vector_store_id=store.id, poll_interval_ms=50)
    searching(story, store.id)
    thread = story.thread("Bees?")
    story.model.says(searches("bees"), Say("Dance."))
    story.stream_run(thread)
    told = story.model.requests[1]["messages"][-1]["content"]
    mark = told.removesuffix("\nBees dance.")

    story.model.says(searches("bees"), Say(f"Dance {mark}."))
    stream = story.stream_run(thread)

    [citation] = stream.data("thread.message.completed")["content"][0]["text"]["annotations"]
    assert (citation["text"], citation["file_citation"]["file_id"]) == (mark, uploaded.id)


def test_the_budget_of_results_is_counted_in_tokens_of_any_language(story: Story, sdk: openai.OpenAI) -> None:
    text = "".join(f"第{number}只蜜蜂跳舞告诉同伴花在哪里。" for number in range(3000))
    searching(story, a_store(sdk, bees=text), max_num_results=50)
    story.model.says(searches("蜜蜂"), Say("Dance."))

    story.stream_run(story.thread("Bees?"))

    told = story.model.requests[1]["messages"][-1]["content"]
    assert 15_000 < tokenizer().count(told) < 17_000


def test_a_run_whose_thread_goes_while_it_waits_for_files_just_ends(
    story: Story, sdk: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    story.assistant(tools=[SEARCH])
    long = b"Bees dance, and ants march. " * 400_000
    uploaded = sdk.files.create(file=("bees.txt", long), purpose="assistants")
    message = {
        "role": "user",
        "content": "Bees?",
        "attachments": [{"file_id": uploaded.id, "tools": [SEARCH]}],
    }
    thread = f"/threads/{story.post('/threads', {'messages': [message]})['id']}"

    with story.streaming_run(thread) as stream:
        stream.until("thread.run.in_progress")
        assert story.http.delete(thread).status_code == 200
        stream.rest()

    assert stream.data("error")["error"]["message"] == THREAD_DELETED
    assert story.model.requests == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_attachment_is_searched_by_the_run_that_follows(story: Story, sdk: openai.OpenAI) -> None:
    story.assistant(tools=[SEARCH])
    uploaded = sdk.files.create(file=("bees.txt", b"Bees dance."), purpose="assistants")
    attachments = [{"file_id": uploaded.id, "tools": [SEARCH]}]
    message = {"role": "user", "content": "Bees?", "attachments": attachments}
    thread = f"/threads/{story.post('/threads', {'messages': [message]})['id']}"
    story.model.says(searches("bees"), Say("Dance 【0:0†bees.txt】."))

    # The run waits until the file is read.
    stream = story.stream_run(thread)

    [citation] = stream.data("thread.message.completed")["content"][0]["text"]["annotations"]
    assert citation["file_citation"]["file_id"] == uploaded.id


def test_both_stores_are_searched(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, bees="Bees dance."))
    thread = story.post(
        "/threads", {"tool_resources": {"file_search": {"vector_store_ids": [a_store(sdk, ants="Ants dance too.")]}}}
    )
    story.post(f"/threads/{thread['id']}/messages", {"role": "user", "content": "Who?"})
    story.model.says(searches("dance"), Say("Both."))

    stream = story.stream_run(f"/threads/{thread['id']}")

    results = stream.every("thread.run.step.completed")[0]["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert {result["file_name"] for result in results} == {"bees.txt", "ants.txt"}


def test_an_assistants_store_that_is_expired_or_gone_has_nothing(story: Story, sdk: openai.OpenAI) -> None:
    store_id = a_store(sdk, bees="Bees dance.")
    searching(story, store_id)

    def expire(tx: Transaction) -> None:
        store = tx.vector_stores.get(store_id)
        tx.vector_stores.replace(replace(store, expires_at=store.created_at - 1))

    story.server.write(story.project, expire)
    story.model.says(searches("bees"), Say("No."), searches("bees"), Say("No."))
    thread = story.thread("Bees?")

    expired = story.stream_run(thread)
    sdk.vector_stores.delete(store_id)
    gone = story.stream_run(thread)

    for stream in (expired, gone):
        [call] = stream.every("thread.run.step.completed")[0]["step_details"]["tool_calls"]
        assert (stream.run["status"], call["file_search"]["results"]) == ("completed", [])


def test_the_number_of_results_is_the_tools(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, **{f"bees{n}": f"Bees dance {n}." for n in range(5)}), max_num_results=2)
    story.model.says(searches("bees"), Say("Dance."))

    stream = story.stream_run(story.thread("Bees?"))

    step = stream.every("thread.run.step.completed")[0]
    assert len(step["step_details"]["tool_calls"][0]["file_search"]["results"]) == 2


def test_marks_of_an_earlier_answer_are_not_shown_to_the_model_again(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, bees="Bees dance."))
    thread = story.thread("Bees?")
    story.model.says(searches("bees"), Say("They dance【0:0†bees.txt】."))
    story.stream_run(thread)

    story.model.says(Say("Yes."))
    story.stream_run(thread)

    assert story.model.requests[-1]["messages"][1] == {"role": "assistant", "content": "They dance."}


def test_nothing_found_is_said(story: Story, sdk: openai.OpenAI) -> None:
    searching(story, a_store(sdk, bees="Bees dance."))
    story.model.says(searches("submarine"), Call("file_search", {}), Say("No."))

    story.stream_run(story.thread("Submarines?"))

    told = [m["content"] for m in story.model.requests[2]["messages"] if m["role"] == "tool"]
    assert told[0] == "Nothing was found."
    assert "queries" in told[1]


@pytest.mark.parametrize(
    ("arguments", "queries"),
    [
        ('{"queries": ["a", " b ", "a", ""]}', ["a", "b"]),
        ('{"query": "a"}', ["a"]),
        ('["a", "b"]', ["a", "b"]),
        ('"a"', ["a"]),
        ("what bees do", ["what bees do"]),
        ('{"queries": ["a", "b', ["a", "b"]),
        ("{}", []),
        ("", []),
        ("7", []),
        ('{"queries": [1, null]}', []),
    ],
)
def test_what_a_model_asks_is_read_nearly_however_it_writes(arguments: str, queries: list[str]) -> None:
    assert queries_in(arguments) == queries
