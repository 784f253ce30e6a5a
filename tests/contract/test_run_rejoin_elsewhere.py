"""A run's stream is joined at another node than the one that executes the run, or that did."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.contract.test_run_rejoin import frames_of, name_of, names_in, number_of, rejoined, told_once
from tests.support.databases import Database
from tests.support.nodes import begun, node, successor
from tests.support.server import RunningServer, serving
from tests.support.stories import (
    CREATED,
    FUNCTION,
    MESSAGE,
    ScriptedModel,
    ScriptedModels,
    Story,
    Stream,
    call_ids,
    names_of,
    settings_on,
    text_of,
)
from threadkeep.upstream.scripted import Call, Gate, Say, Usage


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


class Elsewhere(Story):
    """The same project, at another node."""

    def __init__(self, server: RunningServer, models: ScriptedModels, story: Story) -> None:
        super().__init__(server, models)
        self.http.close()
        self.http = server.client(story.key)


class TestOnThreeNodes:
    @pytest.fixture
    def nodes(self, postgres_database: Database, scripted_models: ScriptedModels) -> Iterator[list[RunningServer]]:
        with ExitStack() as running:
            servers: list[RunningServer] = []
            for number in range(3):
                folder = postgres_database.data_dir / f"node-{number}"
                folder.mkdir()
                settings = settings_on(Database(postgres_database.url, folder), scripted_models)
                servers.append(running.enter_context(serving(settings)))
            yield servers

    @pytest.fixture
    def here(self, nodes: list[RunningServer], scripted_models: ScriptedModels) -> Iterator[Story]:
        with Story(nodes[0], scripted_models) as story:
            yield story

    @pytest.fixture
    def there(self, nodes: list[RunningServer], scripted_models: ScriptedModels, here: Story) -> Iterator[Story]:
        with Elsewhere(nodes[1], scripted_models, here) as story:
            yield story

    @pytest.fixture
    def beyond(self, nodes: list[RunningServer], scripted_models: ScriptedModels, here: Story) -> Iterator[Story]:
        with Elsewhere(nodes[2], scripted_models, here) as story:
            yield story

    def test_a_run_that_goes_on_is_followed_word_for_word(self, here: Story, there: Story, beyond: Story) -> None:
        here.model.says([Say("Hel"), gate := Gate(), Say("lo"), Usage(5, 2)])
        with here.streaming_run(here.thread("Hi")) as first:
            first.until("thread.message.delta")
            path = f"{first.run_path}/stream"
            with there.http.stream("GET", path) as one, beyond.http.stream("GET", f"{path}?after=5") as other:
                second, third = Stream(one), Stream(other)
                second.until("thread.message.delta")
                third.until("thread.message.delta")
                gate.release()
                second.rest()
                third.rest()
            first.rest()

        assert second.events == first.events
        assert third.events == first.events[5:]

    def test_cut_and_joined_again_elsewhere_is_the_same_as_uncut(self, here: Story, there: Story) -> None:
        words = [f"w{number} " for number in range(40)]
        here.model.says([Say(*words[:20]), gate := Gate(), Say(*words[20:]), Usage(5, 2)])
        with here.streaming_run(here.thread("Hi")) as cut:
            cut.until("thread.message.delta", count=7)
        seen = cut.last_id
        assert seen is not None
        with there.http.stream("GET", f"{cut.run_path}/stream", headers={"Last-Event-ID": str(seen)}) as response:
            pieces = response.iter_raw()
            rest = next(pieces)
            gate.release()
            rest += b"".join(pieces)

        uncut = frames_of(rejoined(here, cut.run_path))
        assert rest == b"".join(uncut[seen:])
        assert names_in(b"".join(uncut)) == names_of(CREATED, text_of(40), "thread.run.completed", "done")

    def test_a_run_that_has_ended_is_told_word_for_word_by_the_node_that_has_its_log(
        self, here: Story, there: Story
    ) -> None:
        here.model.says([Say("Hel", "lo"), Usage(5, 2)])
        run_path, told = told_once(here, here.thread("Hi"))

        assert rejoined(there, run_path) == told
        assert rejoined(there, run_path, after=9) == b"".join(frames_of(told)[9:])

    def test_parts_of_a_run_at_several_nodes_are_one_stream(self, here: Story, there: Story, beyond: Story) -> None:
        here.model.says([Call("get_weather", {"city": "Oslo"}), Usage(5, 2)], [Say("Sun", "ny."), Usage(5, 2)])
        run_path, asked = told_once(here, here.thread("Weather?"), tools=[FUNCTION])
        outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in call_ids(there.get(run_path))]
        body = {"tool_outputs": outputs, "stream": True}
        answered = there.http.post(f"{run_path}/submit_tool_outputs", json=body).content

        whole = b"".join(frames_of(asked)[:-1]) + answered
        for node_ in (here, there, beyond):
            assert rejoined(node_, run_path) == whole

    def test_fifty_readers_elsewhere_are_told_the_same(self, here: Story, there: Story) -> None:
        words = [f"w{number} " for number in range(200)]
        here.model.says([Say(*words[:100]), gate := Gate(), Say(*words[100:])])
        with here.streaming_run(here.thread("Hi")) as first:
            first.until("thread.message.delta")
            path = f"{first.run_path}/stream"
            readers = [there.http.send(there.http.build_request("GET", path), stream=True) for _ in range(50)]
            gate.release()
            told = {reader.read() for reader in readers}
            first.rest()

        [same] = told
        assert names_in(same) == first.names()

    def test_a_number_that_a_run_has_not_come_to_is_refused(self, here: Story, there: Story) -> None:
        here.model.says([Say("Hel"), gate := Gate(), Say("lo")])
        with here.streaming_run(here.thread("Hi")) as first:
            first.until("thread.message.delta")
            refused = there.http.get(f"{first.run_path}/stream?after=9")
            gate.release()

        assert refused.status_code == 400
        assert "has the number 8" in refused.json()["error"]["message"]

    def test_a_large_stream_arrives_whole(self, here: Story, there: Story) -> None:
        here.model.says([*(Say("x" * 20_000) for _ in range(150)), gate := Gate(), Usage(5, 2)])
        with here.streaming_run(here.thread("Hi")) as first:
            first.until("thread.message.delta", count=150)
            with there.http.stream("GET", f"{first.run_path}/stream") as response:
                pieces = response.iter_raw()
                told = next(pieces)
                gate.release()
                told += b"".join(pieces)

        assert told == rejoined(here, first.run_path)


def test_a_reader_elsewhere_goes_on_with_the_successor_of_a_node_that_was_killed(
    postgres_database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], [Say("whole "), gate := Gate(), Say("answer")])
    with node(postgres_database, scripted_models) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        with (
            node(postgres_database, scripted_models) as second,
            second.http.stream("GET", f"{stream.run_path}/stream") as response,
        ):
            followed = Stream(response, is_whole=False)
            followed.until("thread.message.delta")
            first.kill()
            followed.until("thread.message.delta", count=2)
            gate.release()
            followed.rest()

    half = names_of(CREATED, MESSAGE, "thread.message.delta")
    assert followed.names() == [*half, "thread.run.in_progress", *text_of(2), "thread.run.completed", "done"]
    assert followed.every("thread.message.completed")[0]["content"][0]["text"]["value"] == "whole answer"


def test_whoever_left_before_his_node_died_is_told_the_message_anew(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], Say("whole"))
    with node(database, scripted_models) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        with successor(database, scripted_models, first) as second:
            answer = second.http.get(f"{stream.run_path}/stream", headers={"Last-Event-ID": str(stream.last_id)})

    frames = frames_of(answer.content.replace(b": keep-alive\n", b""))
    assert [name_of(frame) for frame in frames] == [
        "thread.run.in_progress",
        *text_of(1),
        "thread.run.completed",
        "done",
    ]
    numbers = [number_of(frame) for frame in frames[:-1]]
    # Never one that the dead node may have given to something else.
    assert numbers == list(range(1_000_001, 1_000_001 + len(numbers)))


def test_a_run_handed_over_goes_on_in_the_streams_of_other_nodes(
    postgres_database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], Say("whole"))
    with node(postgres_database, scripted_models, "--grace-seconds", "0") as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        with (
            node(postgres_database, scripted_models) as second,
            second.http.stream("GET", f"{stream.run_path}/stream?after={stream.last_id}") as response,
        ):
            first.program.terminate()
            rest = Stream(response).rest()
            stream.rest()

    assert rest.names() == ["thread.run.in_progress", *text_of(1), "thread.run.completed", "done"]
    assert rest.last_id == (stream.last_id or 0) + len(rest.events) - 1
    assert "join its stream again" in stream.events[-1].data["error"]["message"]


def test_a_stream_begun_where_there_was_no_room_outlives_the_node_that_executes_the_run(
    postgres_database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    full = scripted_models.new_model()
    full.says([Say("busy"), held := Gate()])
    model.says([Say("half "), Gate()], Say("whole"))
    with node(postgres_database, scripted_models, "--max-concurrent-runs", "1") as first, begun(first, full) as other:
        other.until("thread.message.delta")
        with node(postgres_database, scripted_models, "--grace-seconds", "0") as second, begun(first, model) as stream:
            stream.until("thread.message.delta")
            with node(postgres_database, scripted_models):
                second.program.terminate()
                stream.rest()
        held.release()
        other.rest()

    assert stream.names()[-2:] == ["thread.run.completed", "done"]
    assert stream.every("thread.message.completed")[0]["content"][0]["text"]["value"] == "whole"
