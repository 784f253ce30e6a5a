"""A database that goes away under a run: the model goes on, what it says is written when the database is back, and the
server says meanwhile that it cannot answer."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.nodes import LEASE_S, Node, begun, node
from tests.support.postgres import PostgresServer
from tests.support.stories import FUNCTION, ScriptedModel, ScriptedModels, call_ids
from threadkeep.upstream.scripted import Call, Gate, Say

PATIENCE_S = 60
# What a client is promised.
# Ten, and what a busy machine takes.
ANSWERED_WITHIN_S = 15


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that the test may break."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def own_database(own_server: PostgresServer, tmp_path: Path) -> Database:
    return Database(own_server.create_database(), tmp_path)


@contextmanager
def stopped(server: PostgresServer) -> Generator[None, None, None]:
    server.stop()
    yield
    server.start()


@contextmanager
def killed(server: PostgresServer) -> Generator[None, None, None]:
    server.kill()
    yield
    server.start()


@contextmanager
def frozen(server: PostgresServer) -> Generator[None, None, None]:
    with server.frozen():
        yield


@contextmanager
def cut(server: PostgresServer) -> Generator[None, None, None]:
    """Every connection is ended, over and over."""
    has_ended = threading.Event()

    def cut_all() -> None:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            while not has_ended.wait(0.005):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )

    cutting = threading.Thread(target=cut_all)
    cutting.start()
    yield
    has_ended.set()
    cutting.join()


Outage = Callable[[PostgresServer], AbstractContextManager[None]]
GONE: list[Outage] = [stopped, killed, frozen]


def ask_for(at: Node, path: str, seconds: float) -> list[tuple[int, float]]:
    """The statuses with which the node answers for so long, and how long each took."""
    answers: list[tuple[int, float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        asked_at = time.monotonic()
        answer = at.http.get(path)
        answers.append((answer.status_code, time.monotonic() - asked_at))
        if answer.status_code == 503:
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["type"] == "server_error"
        time.sleep(0.1)
    return answers


@pytest.mark.parametrize("outage", [*GONE, cut])
def test_a_run_goes_on_when_its_database_is_back(
    own_server: PostgresServer,
    own_database: Database,
    scripted_models: ScriptedModels,
    model: ScriptedModel,
    outage: Outage,
) -> None:
    """Also beside a node that has room: it was away for that one too."""
    model.says([Say("Hel"), gate := Gate(), Say("lo"), last := Gate()])
    with (
        node(own_database, scripted_models) as here,
        node(own_database, scripted_models) as beside,
        begun(here, model) as stream,
    ):
        stream.until("thread.message.delta")
        run_path, thread = stream.run_path, stream.run_path.partition("/runs/")[0]
        with outage(own_server):
            gate.release()
            answers = ask_for(here, run_path, 2 * LEASE_S + 1)
            last.release()

        assert max(took for _, took in answers) < ANSWERED_WITHIN_S
        if outage is not cut:
            assert answers[-1][0] == 503
        assert beside.until_ended(run_path) == "completed"
        stream.rest()
        messages = beside.http.get(f"{thread}/messages?order=asc").json()["data"]
        [step] = beside.http.get(f"{run_path}/steps").json()["data"]

        assert stream.names()[-2:] == ["thread.run.completed", "done"]
        assert stream.text == "Hello"
        assert [message["content"][0]["text"]["value"] for message in messages] == ["Hi", "Hello"]
        assert step["status"] == "completed"
        # Nobody asked the model again, and nobody took the run for lost.
        assert len(model.requests) == 1
        for each in (here, beside):
            said = each.program.errors
            assert said.count('"database_away"') == said.count('"database_back"')
            assert outage is cut or said.count('"database_away"') == 1
            assert len(said.splitlines()) < 200


@pytest.mark.parametrize("outage", GONE)
def test_what_was_acknowledged_is_there_when_the_database_is_back(
    own_server: PostgresServer, own_database: Database, scripted_models: ScriptedModels, outage: Outage
) -> None:
    acknowledged: list[str] = []
    has_ended = threading.Event()

    with node(own_database, scripted_models) as here:
        thread = here.http.post("/threads", json={}).json()["id"]

        def write() -> None:
            number = 0
            while not has_ended.is_set():
                number += 1
                message = {"role": "user", "content": str(number)}
                answer = here.http.post(
                    f"/threads/{thread}/messages", json=message, headers={"idempotency-key": f"key-{number}"}
                )
                while answer.status_code == 503:
                    time.sleep(0.1)
                    answer = here.http.post(
                        f"/threads/{thread}/messages", json=message, headers={"idempotency-key": f"key-{number}"}
                    )
                assert answer.status_code == 200, answer.text
                acknowledged.append(answer.json()["id"])

        writing = threading.Thread(target=write)
        writing.start()
        wait_until(lambda: len(acknowledged) > 20)
        for _ in range(2):
            with outage(own_server):
                time.sleep(1)
            enough = len(acknowledged) + 20
            wait_until(lambda enough=enough: len(acknowledged) > enough)
        has_ended.set()
        writing.join(PATIENCE_S)

        stored = [message["id"] for message in every_message(here, thread)]
        assert stored == acknowledged
        assert here.http.get("/../health/ready").json()["status"] == "ok"


@pytest.mark.parametrize("outage", [stopped, frozen])
def test_tool_outputs_that_come_while_the_database_is_away_can_be_sent_again(
    own_server: PostgresServer,
    own_database: Database,
    scripted_models: ScriptedModels,
    model: ScriptedModel,
    outage: Outage,
) -> None:
    model.says([Call("get_weather", {"city": "Oslo"})], Say("Sunny."))
    with node(own_database, scripted_models) as here, begun(here, model, tools=[FUNCTION]) as stream:
        stream.rest()
        outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in call_ids(stream.run)]
        path = f"{stream.run_path}/submit_tool_outputs"
        with outage(own_server):
            assert here.http.post(path, json={"tool_outputs": outputs}).status_code == 503
        until = time.monotonic() + PATIENCE_S
        while (answer := here.http.post(path, json={"tool_outputs": outputs})).status_code == 503:
            assert time.monotonic() < until
            time.sleep(0.1)

        assert answer.status_code == 200
        assert here.until_ended(stream.run_path) == "completed"
        steps = here.http.get(f"{stream.run_path}/steps?order=asc").json()["data"]
        assert [(step["type"], step["status"]) for step in steps] == [
            ("tool_calls", "completed"),
            ("message_creation", "completed"),
        ]


def test_a_node_told_to_stop_does_not_wait_for_its_database(
    own_server: PostgresServer, own_database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], Say("whole"))
    with node(own_database, scripted_models, "--grace-seconds", "0") as here, begun(here, model) as stream:
        stream.until("thread.message.delta")
        run_path = stream.run_path
        own_server.stop()
        stopped_at = time.monotonic()
        assert here.program.stop() == 0
        assert time.monotonic() - stopped_at < 30
        own_server.start()

    with node(own_database, scripted_models) as other:
        assert other.until_ended(run_path) == "completed"


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def every_message(at: Node, thread: str) -> list[dict[str, str]]:
    """Oldest first."""
    found: list[dict[str, str]] = []
    while True:
        after = f"&after={found[-1]['id']}" if found else ""
        page = at.http.get(f"/threads/{thread}/messages?order=asc&limit=100{after}").json()
        found += page["data"]
        if not page["has_more"]:
            return found
