"""Three nodes on one PostgreSQL: what one has no room for another takes, an interrupt reaches whoever it must, and of
all who move a run at once one wins, whatever node they ask."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from psycopg import sql

from tests.support.databases import Database
from tests.support.server import RunningServer, serving
from tests.support.stories import FUNCTION, ScriptedModels, Story, Stream, call_ids, settings_on
from threadkeep import worker as workers
from threadkeep.upstream.scripted import Call, Gate, Say, Usage

PATIENCE_S = 60
# Longer than a test takes: whoever polls so seldom knows only what he is told.
NEVER_S = 600.0

Answered = tuple[int, str]


class Cluster:
    """Three nodes, and a story told at the first of them."""

    def __init__(self, database: Database, nodes: list[RunningServer], story: Story) -> None:
        self.database = database
        self.nodes = nodes
        self.story = story
        self.clients = [node.client(story.key) for node in nodes]

    def fill(self, *numbers: int) -> None:
        """These nodes have no room."""
        for number in numbers:
            self.nodes[number].parts.worker._max_concurrent = 0

    def post(self, number: int, path: str, body: object = None) -> Answered:
        """The status of the answer of that node, and what it says is wrong."""
        answer = self.clients[number].post(path, json={} if body is None else body)
        return answer.status_code, answer.json().get("error", {}).get("message", "")

    def delete(self, number: int, path: str) -> Answered:
        answer = self.clients[number].delete(path)
        return answer.status_code, answer.json().get("error", {}).get("message", "")

    @contextmanager
    def held_up(self, table: Literal["threads", "runs"], path: str, *, until: int) -> Generator[None, None, None]:
        """While nobody gets at the thread or the run: those who want it come together, and go on when ``until`` of them
        wait for it."""
        assert self.database.url is not None
        with psycopg.connect(self.database.url) as connection:
            row = sql.SQL("SELECT 1 FROM {} WHERE id = %s FOR UPDATE").format(sql.Identifier(table))
            connection.execute(row, [path.rpartition("/")[2]])
            yield
            deadline = time.monotonic() + 4  # before they give up waiting
            waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
            while (count := connection.execute(waiting).fetchone()) is not None and count[0] < until:
                assert time.monotonic() < deadline, f"only {count[0]} came"
                time.sleep(0.01)

    def at_once(self, table: Literal["threads", "runs"], path: str, *asked: Callable[[], Answered]) -> list[Answered]:
        """The answers of all, which compete for the thread or the run."""
        with ThreadPoolExecutor(len(asked)) as pool:
            answers: list[Future[Answered]] = []
            with self.held_up(table, path, until=len(asked)):
                answers += [pool.submit(each) for each in asked]
            return [answer.result(PATIENCE_S) for answer in answers]


@contextmanager
def cluster_on(
    database: Database, models: ScriptedModels, folder: Path, **settings: Any
) -> Generator[Cluster, None, None]:
    with ExitStack() as stack:
        nodes: list[RunningServer] = []
        for number in range(3):
            place = Database(database.url, folder / f"node-{number}")
            nodes.append(stack.enter_context(serving(settings_on(place, models, **settings))))
        for number, hearing in enumerate(nodes):
            heard = threading.Event()
            hearing.parts.notices.on("ready?", lambda _node, _key, _body, heard=heard: heard.set())
            while not heard.wait(0.05):
                nodes[number - 1].parts.notices.tell("ready?")
        story = stack.enter_context(Story(nodes[0], models))
        cluster = Cluster(database, nodes, story)
        yield cluster
        for client in cluster.clients:
            client.close()


@pytest.fixture
def cluster(postgres_database: Database, scripted_models: ScriptedModels, tmp_path: Path) -> Iterator[Cluster]:
    with cluster_on(postgres_database, scripted_models, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def told(
    postgres_database: Database, scripted_models: ScriptedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """Nodes that look at nothing by themselves."""
    monkeypatch.setattr(workers, "POLL_S", NEVER_S)
    monkeypatch.setattr(workers, "RENEW_S", NEVER_S)
    with cluster_on(postgres_database, scripted_models, tmp_path, lease_seconds=60) as cluster:
        yield cluster


@pytest.fixture
def deaf(cluster: Cluster) -> Cluster:
    """Nodes that hear nothing of each other."""
    for node in cluster.nodes:
        node.call(node.parts.notices.close)
    return cluster


def both_ways(*tests: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("nodes", tests)


# --- who takes what, and who hears of what


@both_ways("told", "deaf")
def test_what_two_full_nodes_leave_the_third_takes(request: pytest.FixtureRequest, nodes: str) -> None:
    cluster: Cluster = request.getfixturevalue(nodes)
    story = cluster.story
    cluster.fill(0, 1)
    story.model.says([Say("Hel", "lo"), Usage(5, 2)])

    body = {"assistant_id": story.assistant(), "stream": True}
    with story.http.stream("POST", f"{story.thread('Hi')}/runs", json=body) as response:
        # Where nobody can be asked, it is told from what is stored: steps keep the number before them until their end.
        stream = Stream(response, is_whole=False).rest()

    assert stream.names()[-2:] == ["thread.run.completed", "done"]
    assert stream.text == "Hello"


@both_ways("told", "deaf")
def test_a_cancel_reaches_the_model_and_the_listener_wherever_they_are(
    request: pytest.FixtureRequest, nodes: str
) -> None:
    cluster: Cluster = request.getfixturevalue(nodes)
    story = cluster.story
    story.model.says([Say("Hel"), Gate(), Say("lo")])
    thread = story.thread("Hi")

    with story.streaming_run(thread) as stream:
        stream.until("thread.message.delta")
        cancelled_at = time.monotonic()
        status, _ = cluster.post(2, f"{stream.run_path}/cancel")
        [received] = story.model.book.requests
        received.wait_ended()
        took_s = time.monotonic() - cancelled_at
        stream.rest()

    assert status == 200
    assert received.aborted
    # A second, and what a busy machine takes.
    assert took_s < 15
    assert stream.run["status"] == "cancelled"
    message = story.messages(thread)[-1]
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "run_cancelled"})
    assert message["content"][0]["text"]["value"] == stream.text == "Hel"


@both_ways("told", "deaf")
def test_a_deleted_thread_ends_its_run_wherever_that_is(request: pytest.FixtureRequest, nodes: str) -> None:
    cluster: Cluster = request.getfixturevalue(nodes)
    story = cluster.story
    story.model.says([Say("Hel"), Gate()])
    thread = story.thread("Hi")

    with story.streaming_run(thread) as stream:
        stream.until("thread.message.delta")
        assert cluster.delete(1, thread) == (200, "")
        [received] = story.model.book.requests
        received.wait_ended()
        stream.rest()

    assert received.aborted
    assert stream.names()[-1] == "error"
    thread_id = thread.rpartition("/")[2]
    assert cluster.post(2, f"{stream.run_path}/cancel") == (404, f"No thread found with id '{thread_id}'.")


def test_a_deleted_thread_ends_its_session_at_every_node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    thread, story_project = cluster.story.thread("Hi"), cluster.story.project
    ended: list[int] = []
    for number, each in enumerate(cluster.nodes):

        def end(project: str, thread_id: str, number: int = number) -> None:
            assert (project, thread_id) == (story_project, thread.rpartition("/")[2])
            ended.append(number)

        monkeypatch.setattr(each.parts.sandbox, "end", end)

    assert cluster.delete(1, thread) == (200, "")

    deadline = time.monotonic() + PATIENCE_S
    while sorted(ended) != [0, 1, 2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_that_no_node_has_room_for_is_cancelled_at_once_at_any(told: Cluster) -> None:
    story = told.story
    told.fill(0, 1, 2)
    thread = story.thread("Hi")
    run_path = f"{thread}/runs/{story.create_run(thread)['id']}"

    assert told.post(1, f"{run_path}/cancel") == (200, "")

    assert story.until(run_path)["status"] == "cancelled"
    assert story.model.requests == []


# --- who wins


def test_of_runs_made_at_three_nodes_at_once_one_is_made(cluster: Cluster) -> None:
    story = cluster.story
    story.model.says(gate := Gate(), Say("Hello"))
    thread = story.thread("Hi")
    body = {"assistant_id": story.assistant()}

    answers = cluster.at_once(
        "threads", thread, *(lambda number=number: cluster.post(number, f"{thread}/runs", body) for number in range(3))
    )

    [run] = story.get(f"{thread}/runs")["data"]
    thread_id = thread.rpartition("/")[2]
    refused = (400, f"Thread {thread_id} already has an active run {run['id']}.")
    assert sorted(answers) == [(200, ""), refused, refused]
    gate.release()


def test_of_cancels_at_three_nodes_at_once_one_is_taken(cluster: Cluster) -> None:
    story = cluster.story
    story.model.says([Say("Hel"), Gate()])
    thread = story.thread("Hi")
    with story.streaming_run(thread) as stream:
        stream.until("thread.message.delta")
        path = stream.run_path

        answers = cluster.at_once(
            "runs", path, *(lambda number=number: cluster.post(number, f"{path}/cancel") for number in range(3))
        )
        stream.rest()

    assert sorted(status for status, _ in answers) == [200, 400, 400]
    said = {message for status, message in answers if status == 400}
    assert said <= {f"Cannot cancel run with status '{status}'." for status in ("cancelling", "cancelled")}
    assert stream.run["status"] == "cancelled"


def test_of_tool_outputs_at_three_nodes_at_once_one_set_is_taken(cluster: Cluster) -> None:
    story = cluster.story
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", {"city": "Oslo"})], [Say("Sunny.")])
    asked = story.stream_run(story.thread("Weather?"))
    [call_id] = call_ids(asked.run)

    def submit(number: int) -> Answered:
        outputs = [{"tool_call_id": call_id, "output": f"of {number}"}]
        return cluster.post(number, f"{asked.run_path}/submit_tool_outputs", {"tool_outputs": outputs})

    answers = cluster.at_once("runs", asked.run_path, *(lambda number=number: submit(number) for number in range(3)))

    assert sorted(status for status, _ in answers) == [200, 400, 400]
    assert all(status == 200 or "do not accept tool outputs." in said for status, said in answers)
    assert story.until(asked.run_path)["status"] == "completed"
    winner = next(number for number, (status, _) in enumerate(answers) if status == 200)
    step = story.steps(asked.run_path)[0]
    assert step["step_details"]["tool_calls"][0]["function"]["output"] == f"of {winner}"
    assert len(story.model.requests) == 2
    assert [message["content"] for message in story.model.requests[1]["messages"] if message["role"] == "tool"] == [
        f"of {winner}"
    ]


@pytest.mark.parametrize("_again", range(4))
def test_of_tool_outputs_and_a_cancel_whoever_is_first_is_taken(cluster: Cluster, _again: int) -> None:
    story = cluster.story
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", {"city": "Oslo"})], [Gate()])
    asked = story.stream_run(story.thread("Weather?"))
    outputs = {"tool_outputs": [{"tool_call_id": call_ids(asked.run)[0], "output": "sun"}]}

    submitted, cancelled = cluster.at_once(
        "runs",
        asked.run_path,
        lambda: cluster.post(1, f"{asked.run_path}/submit_tool_outputs", outputs),
        lambda: cluster.post(2, f"{asked.run_path}/cancel"),
    )

    run = story.until(asked.run_path)
    assert (cancelled, run["status"]) == ((200, ""), "cancelled")
    step = story.steps(asked.run_path)[0]
    if submitted[0] == 200:
        # It came first, and what it brought is kept.
        assert (step["status"], step["step_details"]["tool_calls"][0]["function"]["output"]) == ("completed", "sun")
    else:
        assert submitted in [
            (400, f'Runs in status "{status}" do not accept tool outputs.') for status in ("cancelling", "cancelled")
        ]
        assert step["status"] == "cancelled"


@pytest.mark.parametrize("_again", range(4))
def test_of_an_end_and_a_cancel_whoever_is_first_is_taken(cluster: Cluster, _again: int) -> None:
    story = cluster.story
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
    thread = story.thread("Hi")
    with story.streaming_run(thread) as stream, ThreadPoolExecutor(1) as pool:
        stream.until("thread.message.delta")
        with cluster.held_up("runs", stream.run_path, until=2):
            gate.release()
            cancelling = pool.submit(cluster.post, 2, f"{stream.run_path}/cancel")
        answer = cancelling.result(PATIENCE_S)
        stream.rest()

    run, message = story.until(stream.run_path), story.messages(thread)[-1]
    assert stream.run == run
    if answer == (200, ""):
        assert (run["status"], message["status"]) == ("cancelled", "incomplete")
    else:
        assert answer == (400, "Cannot cancel run with status 'completed'.")
        assert (run["status"], message["content"][0]["text"]["value"]) == ("completed", "Hello")
    assert stream.text == message["content"][0]["text"]["value"]
    # The thread is free.
    story.model.says([Say("Again")])
    assert story.run_to_end(thread)["status"] == "completed"


@pytest.mark.parametrize("_again", range(3))
def test_of_a_deletion_and_all_else_whoever_is_first_is_taken(cluster: Cluster, _again: int) -> None:
    story = cluster.story
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", {"city": "Oslo"})], [Gate()])
    thread = story.thread("Weather?")
    asked = story.stream_run(thread)
    outputs = {"tool_outputs": [{"tool_call_id": call_ids(asked.run)[0], "output": "sun"}]}

    deleted, submitted, cancelled = cluster.at_once(
        "runs",
        asked.run_path,
        lambda: cluster.delete(0, thread),
        lambda: cluster.post(1, f"{asked.run_path}/submit_tool_outputs", outputs),
        lambda: cluster.post(2, f"{asked.run_path}/cancel"),
    )

    assert deleted == (200, "")
    thread_id, run_id = thread.rpartition("/")[2], asked.run_path.rpartition("/")[2]
    gone = [(404, f"No thread found with id '{thread_id}'."), (404, f"No run found with id '{run_id}'.")]
    late = [(400, f'Runs in status "{status}" do not accept tool outputs.') for status in ("cancelling", "cancelled")]
    assert submitted in [(200, ""), *gone, *late]
    assert cancelled in [(200, ""), *gone]
    for client in cluster.clients:
        assert client.get(thread).status_code == 404

    def left() -> list[Any]:
        assert cluster.database.url is not None
        with psycopg.connect(cluster.database.url) as connection:
            return connection.execute("SELECT * FROM work WHERE key = %s", [run_id]).fetchall()

    assert left() == []


@pytest.mark.parametrize("_again", range(3))
def test_of_an_expiry_and_tool_outputs_whoever_is_first_is_taken(
    postgres_database: Database, scripted_models: ScriptedModels, tmp_path: Path, _again: int
) -> None:
    with cluster_on(postgres_database, scripted_models, tmp_path, run_expires_seconds=2) as cluster:
        story = cluster.story
        story.assistant(tools=[FUNCTION])
        story.model.says([Call("get_weather", {"city": "Oslo"})], [Say("Sunny.")])
        asked = story.stream_run(story.thread("Weather?"))
        outputs = {"tool_outputs": [{"tool_call_id": call_ids(asked.run)[0], "output": "sun"}]}
        time.sleep(max(0.0, asked.run["expires_at"] - time.time() + 0.05 * (_again - 1)))

        status, said = cluster.post(1, f"{asked.run_path}/submit_tool_outputs", outputs)

        run = story.until(asked.run_path, "completed", "expired")
        step = story.steps(asked.run_path)[0]
        if status == 200:
            # What it brought is kept, whether or not there was time for the answer.
            assert run["status"] in ("completed", "expired")
            assert step["step_details"]["tool_calls"][0]["function"]["output"] == "sun"
        else:
            assert (status, said) == (400, 'Runs in status "expired" do not accept tool outputs.')
            assert (run["status"], step["status"]) == ("expired", "expired")
        assert time.time() < asked.run["expires_at"] + 2


# --- busy threads


def half_way(cluster: Cluster, gate: Gate) -> str:
    """The path of a run at the first node whose model has not answered."""
    thread = cluster.story.thread("Hi")
    run = cluster.story.create_run(thread)
    gate.wait_reached()
    return f"{thread}/runs/{run['id']}"


def enqueue(cluster: Cluster, number: int, path: str, if_active: str = "enqueue") -> Any:
    """The run, asked for at that node."""
    thread, assistant = path.partition("/runs/")[0], cluster.story.get(path)["assistant_id"]
    answer = cluster.clients[number].post(f"{thread}/runs", json={"assistant_id": assistant, "if_active": if_active})
    assert answer.status_code == 200, answer.text
    return answer.json()


@both_ways("told", "deaf")
def test_a_run_that_waited_begins_wherever_there_is_room(request: pytest.FixtureRequest, nodes: str) -> None:
    cluster: Cluster = request.getfixturevalue(nodes)
    cluster.story.model.says([gate := Gate(), Say("Hello")], Say("Again"))
    path = half_way(cluster, gate)
    thread = path.partition("/runs/")[0]
    second = enqueue(cluster, 1, path)
    cluster.fill(0, 1)

    gate.release()

    assert cluster.story.until(f"{thread}/runs/{second['id']}")["status"] == "completed"
    assert [text for _, text in cluster.story.texts(thread)] == ["Hi", "Hello", "Again"]


@pytest.mark.parametrize("if_active", ["enqueue", "interrupt"])
def test_runs_that_are_added_while_the_active_one_ends_have_their_turn(cluster: Cluster, if_active: str) -> None:
    cluster.story.model.says([gate := Gate(), Say("Hello")], *[Say("Again")] * 2)
    path = half_way(cluster, gate)
    thread = path.partition("/runs/")[0]

    with ThreadPoolExecutor(2) as pool:
        with cluster.held_up("runs", path, until=3):
            gate.release()
            asked = [pool.submit(enqueue, cluster, number, path, if_active) for number in (1, 2)]
        runs = [each.result(PATIENCE_S) for each in asked]

    ends = [cluster.story.until(f"{thread}/runs/{run['id']}")["status"] for run in runs]
    assert set(ends) <= ({"completed"} if if_active == "enqueue" else {"completed", "cancelled"})
    assert "completed" in ends
    assert cluster.story.until(path)["status"] in ("completed", "cancelled")
    assert cluster.post(1, f"{thread}/messages", {"role": "user", "content": "free"})[0] == 200


def test_a_message_that_is_enqueued_while_the_run_begins_one_stands_behind_it(cluster: Cluster) -> None:
    cluster.story.model.says([gate := Gate(), Say("Hello")])
    path = half_way(cluster, gate)
    thread = path.partition("/runs/")[0]
    body = {"role": "user", "content": "Wait", "if_active": "enqueue"}

    with ThreadPoolExecutor(1) as pool:
        with cluster.held_up("runs", path, until=2):
            gate.release()
            answer = pool.submit(cluster.post, 1, f"{thread}/messages", body)
        assert answer.result(PATIENCE_S)[0] == 200

    assert cluster.story.until(path)["status"] == "completed"
    assert [text for _, text in cluster.story.texts(thread)] == ["Hi", "Hello", "Wait"]


def test_a_run_that_is_cancelled_while_its_turn_begins_is_cancelled(cluster: Cluster) -> None:
    cluster.story.model.says([gate := Gate(), Say("Hello")], [later := Gate(), Say("Third")], Say("Third"))
    path = half_way(cluster, gate)
    thread = path.partition("/runs/")[0]
    second, third = enqueue(cluster, 1, path), enqueue(cluster, 2, path)
    waiting = f"{thread}/runs/{second['id']}"

    with ThreadPoolExecutor(1) as pool:
        with cluster.held_up("runs", waiting, until=2):
            gate.release()
            answer = pool.submit(cluster.post, 1, f"{waiting}/cancel")
        assert answer.result(PATIENCE_S) == (200, "")

    assert cluster.story.until(path)["status"] == "completed"
    assert cluster.story.until(waiting, "cancelled")["status"] == "cancelled"
    later.release()
    assert cluster.story.until(f"{thread}/runs/{third['id']}")["status"] == "completed"
