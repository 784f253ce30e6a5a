"""``GET …/runs/{run_id}/stream``: a stream that was left is joined again, and goes on as if nobody had left it."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.databases import Database
from tests.support.sdk_models import check_event
from tests.support.server import RunningServer, serving
from tests.support.stories import (
    CREATED,
    FUNCTION,
    STEP,
    ScriptedModels,
    Story,
    Stream,
    call_ids,
    names_of,
    settings_on,
    text_of,
)
from threadkeep.upstream.scripted import Call, Gate, Say, Usage


def frames_of(told: bytes) -> list[bytes]:
    """One for each event, ``done`` included."""
    assert told.endswith(b"\n\n")
    return [frame + b"\n\n" for frame in told.split(b"\n\n")[:-1]]


def number_of(frame: bytes) -> int:
    first, _ = frame.split(b"\n", 1)
    return int(first.removeprefix(b"id: "))


def name_of(frame: bytes) -> str:
    return next(line for line in frame.decode().splitlines() if line.startswith("event: ")).removeprefix("event: ")


def names_in(told: bytes) -> list[str]:
    return [name_of(frame) for frame in frames_of(told)]


def rejoined(story: Story, run_path: str, after: int | None = None, **headers: str) -> bytes:
    """The stream from behind number ``after``, to its end."""
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    answer = story.http.get(f"{run_path}/stream", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content


def told_once(story: Story, thread: str, **fields: object) -> tuple[str, bytes]:
    """The path of a run, and what its first reader was told."""
    assistant = story.assistant(**fields)
    body = {"assistant_id": assistant, "stream": True}
    told = story.http.post(f"{thread}/runs", json=body).content
    first = frames_of(told)[0]
    run_id = first.split(b'"id":"', 1)[1].split(b'"', 1)[0].decode()
    return f"{thread}/runs/{run_id}", told


class TestOnOneNode:
    def test_a_run_that_has_ended_is_told_again_word_for_word(self, story: Story) -> None:
        story.model.says([Say("Hel", "lo"), Usage(5, 2)])
        run_path, told = told_once(story, story.thread("Hi"))

        assert rejoined(story, run_path) == told

    def test_numbers_count_from_one(self, story: Story) -> None:
        story.model.says(Say("Hel", "lo"))
        _, told = told_once(story, story.thread("Hi"))

        *numbered, done = frames_of(told)
        assert [number_of(frame) for frame in numbered] == list(range(1, len(numbered) + 1))
        assert done == b"event: done\ndata: [DONE]\n\n"

    def test_it_goes_on_behind_any_number(self, story: Story) -> None:
        story.model.says([Say(*"Hello"), Usage(5, 2)])
        run_path, told = told_once(story, story.thread("Hi"))
        frames = frames_of(told)

        for seen in range(len(frames)):
            assert rejoined(story, run_path, after=seen) == b"".join(frames[seen:])

    def test_a_run_that_goes_on_is_followed_to_its_end(self, story: Story) -> None:
        story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
        with story.streaming_run(story.thread("Hi")) as first:
            first.until("thread.message.delta")
            with story.http.stream("GET", f"{first.run_path}/stream?after=2") as response:
                second = Stream(response)
                second.until("thread.message.delta")
                gate.release()
                second.rest()
            first.rest()

        assert second.events == first.events[2:]

    def test_a_client_that_left_finds_what_it_missed(self, story: Story) -> None:
        story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
        with story.streaming_run(story.thread("Hi")) as left:
            left.until("thread.message.delta")
        gate.release()
        assert story.until(left.run_path)["status"] == "completed"

        rest = rejoined(story, left.run_path, after=left.last_id)

        whole = rejoined(story, left.run_path)
        assert rest == b"".join(frames_of(whole)[len(left.events) :])
        assert names_in(whole) == names_of(CREATED, text_of(2), "thread.run.completed", "done")

    def test_it_goes_over_the_client_s_answers_and_ends_where_the_client_is_awaited(self, story: Story) -> None:
        story.model.says(Call("get_weather", {"city": "Oslo"}), [Say("Sunny."), Usage(5, 2)])
        run_path, asked = told_once(story, story.thread("Weather?"), tools=[FUNCTION])
        assert rejoined(story, run_path) == asked

        run = story.get(run_path)
        outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in call_ids(run)]
        body = {"tool_outputs": outputs, "stream": True}
        answered = story.http.post(f"{run_path}/submit_tool_outputs", json=body).content

        whole = rejoined(story, run_path)
        assert whole == b"".join(frames_of(asked)[:-1]) + answered
        *numbered, _ = frames_of(whole)
        assert [number_of(frame) for frame in numbered] == list(range(1, len(numbered) + 1))

    def test_everything_seen_is_only_done(self, story: Story) -> None:
        story.model.says(Say("Hello"))
        run_path, told = told_once(story, story.thread("Hi"))

        assert rejoined(story, run_path, after=len(frames_of(told)) - 1) == b"event: done\ndata: [DONE]\n\n"

    def test_the_header_counts_before_the_query(self, story: Story) -> None:
        story.model.says(Say("Hello"))
        run_path, _ = told_once(story, story.thread("Hi"))

        by_header = story.http.get(f"{run_path}/stream?after=1", headers={"Last-Event-ID": "5"}).content

        assert number_of(frames_of(by_header)[0]) == 6
        assert number_of(frames_of(story.http.get(f"{run_path}/stream?after=1").content)[0]) == 2

    def test_a_run_that_was_polled_has_a_stream_too(self, story: Story) -> None:
        story.model.says(Say("Hello"))
        thread = story.thread("Hi")
        run = story.run_to_end(thread)

        told = rejoined(story, f"{thread}/runs/{run['id']}")

        assert names_in(told) == names_of(CREATED, text_of(1), "thread.run.completed", "done")

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("after=x", "invalid_type"),
            ("after=1.5", "invalid_type"),
            ("after=-1", "integer_below_min_value"),
            ("after=1000", "invalid_value"),
        ],
    )
    def test_what_is_no_number_of_an_event_is_refused(self, story: Story, query: str, code: str) -> None:
        story.model.says(Say("Hello"))
        run_path, _ = told_once(story, story.thread("Hi"))

        answer = story.http.get(f"{run_path}/stream?{query}")

        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code

    def test_a_header_that_is_no_number_is_refused(self, story: Story) -> None:
        story.model.says(Say("Hello"))
        run_path, _ = told_once(story, story.thread("Hi"))

        answer = story.http.get(f"{run_path}/stream", headers={"Last-Event-ID": "x"})

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")

    def test_a_number_that_a_run_has_not_come_to_is_refused(self, story: Story) -> None:
        story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
        with story.streaming_run(story.thread("Hi")) as stream:
            stream.until("thread.message.delta")
            answer = story.http.get(f"{stream.run_path}/stream?after=9")
            gate.release()

        assert answer.status_code == 400
        assert "8" in answer.json()["error"]["message"]

    def test_what_is_not_there_is_refused_as_by_get_run(self, story: Story) -> None:
        thread = story.thread("Hi")
        for path in (f"{thread}/runs/run_none", "/threads/thread_none/runs/run_none", f"{thread}/runs/x"):
            expected, answer = story.http.get(path), story.http.get(f"{path}/stream")
            assert answer.status_code == expected.status_code >= 400
            assert answer.json() == expected.json()

    def test_another_project_sees_nothing(
        self, story: Story, stage: RunningServer, scripted_models: ScriptedModels
    ) -> None:
        story.model.says(Say("Hello"))
        run_path, _ = told_once(story, story.thread("Hi"))

        with Story(stage, scripted_models) as other:
            assert other.http.get(f"{run_path}/stream").status_code == 404

    def test_fifty_readers_are_told_the_same(self, story: Story) -> None:
        words = [f"w{number} " for number in range(200)]
        story.model.says([Say(*words[:100]), gate := Gate(), Say(*words[100:])])
        with story.streaming_run(story.thread("Hi")) as first:
            first.until("thread.message.delta")
            path = f"{first.run_path}/stream"
            readers = [story.http.send(story.http.build_request("GET", path), stream=True) for _ in range(50)]
            gate.release()
            told = {reader.read() for reader in readers}
            first.rest()

        [same] = told
        assert names_in(same) == first.names()

    def test_a_thread_that_is_deleted_ends_its_streams(self, story: Story) -> None:
        story.model.says([Say("Hel"), Gate()])
        thread = story.thread("Hi")
        with story.streaming_run(thread) as first:
            first.until("thread.message.delta")
            with story.http.stream("GET", f"{first.run_path}/stream") as response:
                second = Stream(response)
                second.until("thread.message.delta")
                assert story.http.delete(thread).status_code == 200
                second.rest()

        assert second.events[-1].data["error"]["message"] == "The thread was deleted."

    def test_the_first_beta_is_spoken_here_too(self, story: Story) -> None:
        story.http.headers["OpenAI-Beta"] = "assistants=v1"
        story.http.event_hooks = {}
        story.model.says([Say("Hel", "lo"), Usage(5, 2)])
        assistant = story.http.post("/assistants", json={"model": story.model.name}).json()["id"]
        thread = story.http.post("/threads", json={"messages": [{"role": "user", "content": "Hi"}]}).json()["id"]
        body = {"assistant_id": assistant, "stream": True}
        told = story.http.post(f"/threads/{thread}/runs", json=body).content
        assert b'"file_ids"' in told
        run = story.http.get(f"/threads/{thread}/runs").json()["data"][0]["id"]

        assert story.http.get(f"/threads/{thread}/runs/{run}/stream").content == told

    def test_a_run_that_waits_for_its_turn_is_followed_from_its_beginning(self, story: Story) -> None:
        story.model.says([Say("one"), gate := Gate(), Usage(5, 2)], [Say("two"), Usage(5, 2)])
        thread = story.thread("Hi")
        with story.streaming_run(thread) as first:
            first.until("thread.message.delta")
            waiting = story.create_run(thread, if_active="enqueue")
            with story.http.stream("GET", f"{thread}/runs/{waiting['id']}/stream") as response:
                second = Stream(response)
                second.until("thread.run.queued")
                gate.release()
                second.rest()

        assert second.names() == names_of(CREATED, text_of(1), "thread.run.completed", "done")
        assert second.text == "two"

    def test_what_became_of_a_run_that_waited_for_its_client_is_told(self, story: Story) -> None:
        story.model.says([Call("get_weather", {"city": "Oslo"}), Usage(5, 2)])
        run_path, asked = told_once(story, story.thread("Weather?"), tools=[FUNCTION])
        story.post(f"{run_path}/cancel")
        story.until(run_path, "cancelled")

        rest = rejoined(story, run_path, after=len(frames_of(asked)) - 1)

        assert names_in(rest)[-2:] == ["thread.run.cancelled", "done"]
        assert names_in(rejoined(story, run_path))[-2:] == ["thread.run.cancelled", "done"]

    def test_a_head_request_is_told_nothing(self, story: Story) -> None:
        story.model.says(Say("Hello"))
        run_path, _ = told_once(story, story.thread("Hi"))

        answer = story.http.head(f"{run_path}/stream")

        assert (answer.status_code, answer.content) == (200, b"")


class TestWhenTheLogIsGone:
    """The stream is made of what is stored."""

    @pytest.fixture
    def story(self, database: Database, scripted_models: ScriptedModels) -> Iterator[Story]:
        forgetful = settings_on(database, scripted_models, stream_retention=0)
        with serving(forgetful) as server, Story(server, scripted_models) as story:
            yield story

    def test_a_message_comes_in_one_piece_and_everything_else_is_the_same(self, story: Story) -> None:
        story.model.says([Say("Hel", "lo"), Usage(5, 2)])
        thread = story.thread("Hi")
        run_path, told = told_once(story, thread)

        again = rejoined(story, run_path)

        assert names_in(again) == names_of(CREATED, text_of(1), "thread.run.completed", "done")
        first, second = events_in(told), events_in(again)
        assert [event for event in second if event[0] != "thread.message.delta"] == [
            event for event in first if event[0] != "thread.message.delta"
        ]
        [delta] = [data for name, data in second if name == "thread.message.delta"]
        assert delta["delta"]["content"][0]["text"]["value"] == "Hello"

    def test_ends_have_the_numbers_that_they_had(self, story: Story) -> None:
        story.model.says([Say("Hel", "lo"), Usage(5, 2)])
        run_path, told = told_once(story, story.thread("Hi"))

        again = {name_of(frame): number_of(frame) for frame in frames_of(rejoined(story, run_path))[:-1]}

        before = {name_of(frame): number_of(frame) for frame in frames_of(told)[:-1]}
        for name in (*CREATED, "thread.run.step.completed", "thread.run.completed"):
            assert again[name] == before[name]

    def test_whoever_comes_back_with_any_number_gets_what_he_missed_and_no_step_twice(self, story: Story) -> None:
        story.model.says([Call("get_weather", {"city": "Oslo"}), Usage(5, 2)], [Say("Sun", "ny."), Usage(5, 2)])
        run_path, asked = told_once(story, story.thread("Weather?"), tools=[FUNCTION])
        outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in call_ids(story.get(run_path))]
        body = {"tool_outputs": outputs, "stream": True}
        answered = story.http.post(f"{run_path}/submit_tool_outputs", json=body).content
        frames = frames_of(asked)[:-1] + frames_of(answered)

        for seen in range(len(frames)):
            told = names_in(b"".join(frames[:seen])) if seen else []
            rest = names_in(rejoined(story, run_path, after=seen))
            assert rest[-1] == "done"
            ends = [name for name in (*told, *rest) if name in ("thread.run.step.completed", "thread.run.completed")]
            assert ends == ["thread.run.step.completed", "thread.run.step.completed", "thread.run.completed"]
            # What is gone on with is told from its beginning.
            assert "thread.message.delta" not in rest or "thread.message.created" in rest

    def test_numbers_never_fall_below_the_one_that_a_reader_comes_back_with(self, story: Story) -> None:
        story.model.says([Say("Hel", "lo"), Usage(5, 2)])
        run_path, told = told_once(story, story.thread("Hi"))

        for seen in range(len(frames_of(told)) - 1):
            numbers = [number_of(frame) for frame in frames_of(rejoined(story, run_path, after=seen))[:-1]]
            assert numbers == sorted([seen, *numbers])[1:]

    def test_a_run_that_waits_for_its_client_says_so(self, story: Story) -> None:
        story.model.says([Call("get_weather", {"city": "Oslo"}), Usage(5, 2)])
        run_path, asked = told_once(story, story.thread("Weather?"), tools=[FUNCTION])

        again = rejoined(story, run_path)

        assert names_in(again) == names_of(CREATED, STEP, "thread.run.step.delta", "thread.run.requires_action", "done")
        assert frames_of(again)[-2] == frames_of(asked)[-2]
        assert rejoined(story, run_path, after=len(frames_of(asked)) - 1) == b"event: done\ndata: [DONE]\n\n"

    def test_a_failure_is_told_in_its_order(self, story: Story) -> None:
        story.assistant(model="offline")
        story.model.says([Say("Hel"), Gate()])
        thread = story.thread("Hi")
        with story.streaming_run(thread, model=story.model.name) as first:
            first.until("thread.message.delta")
            story.post(f"{first.run_path}/cancel")
            first.rest()

        again = rejoined(story, first.run_path)

        assert names_in(again) == first.names()

    def test_a_run_that_goes_on_is_told_from_what_is_stored_and_then_as_it_comes(self, story: Story) -> None:
        story.model.says([Call("get_weather", {"city": "Oslo"}), Usage(5, 2)], [Say("Sun"), gate := Gate(), Say("ny.")])
        run_path, asked = told_once(story, story.thread("Weather?"), tools=[FUNCTION])
        story.submit(run_path, dict.fromkeys(call_ids(story.get(run_path)), "sun"))
        gate.wait_reached()

        with story.http.stream("GET", f"{run_path}/stream") as response:
            frames: list[bytes] = []
            told = b""
            for piece in response.iter_raw():
                told += piece
                if b"thread.message.delta" in told:
                    gate.release()
            frames = frames_of(told)

        assert [name_of(frame) for frame in frames] == names_of(
            CREATED,
            (*STEP, "thread.run.step.delta"),
            ("thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"),
            (*text_of(2), "thread.run.completed", "done"),
        )
        assert number_of(frames[6]) == len(frames_of(asked))


def events_in(told: bytes) -> list[tuple[str, Any]]:
    """Name and object of each, checked against the SDK's models."""
    heard: list[tuple[str, Any]] = []
    for frame in frames_of(told)[:-1]:
        data = httpx2.Response(200, content=frame.split(b"\ndata: ", 1)[1]).json()
        check_event(name_of(frame), data)
        heard.append((name_of(frame), data))
    return heard
