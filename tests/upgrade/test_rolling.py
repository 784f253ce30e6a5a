"""A rolling upgrade as it is done: three nodes behind a load balancer are replaced one after the other, under load.

The clients are the real SDK, told to try nothing again.
"""

# pyright: reportDeprecated=false

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.support.balancer import Balancer, balancing
from tests.support.databases import Database
from tests.support.nodes import KEY, Node, node
from tests.support.stories import ScriptedModels

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

NODES = 3
COUNT = 60
EXPECTED = " ".join(str(number) for number in range(1, COUNT + 1))


class Load:
    """Clients that hold conversations, one turn after the other, until they are told to stop."""

    def __init__(self, balancer: Balancer, *, polling: int, streaming: int, posting: int) -> None:
        self._balancer = balancer
        self._stop = threading.Event()
        self.turns: deque[str] = deque()
        self.failures: deque[BaseException] = deque()
        mains = [self._talk(self._poll)] * polling + [self._talk(self._stream)] * streaming + [self._post] * posting
        self._threads = [threading.Thread(target=self._main, args=(main,), daemon=True) for main in mains]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def until_more(self, turns: int) -> None:
        """Waits until so many more turns were had."""
        wanted, deadline = len(self.turns) + turns, time.monotonic() + 120
        while len(self.turns) < wanted and not self.failures:
            assert time.monotonic() < deadline, f"{len(self.turns)} of {wanted} turns"
            time.sleep(0.05)

    def _main(self, work: Callable[[OpenAI], None]) -> None:
        with OpenAI(base_url=f"{self._balancer.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
            try:
                work(client)
            except BaseException as failure:
                self.failures.append(failure)

    def _talk(self, turn: Callable[[OpenAI, str, str], None]) -> Callable[[OpenAI], None]:
        def talk(client: OpenAI) -> None:
            assistant = client.beta.assistants.create(model="offline-5ms").id
            while not self._stop.is_set():
                thread = client.beta.threads.create().id
                for length in (2, 4):
                    client.beta.threads.messages.create(thread, role="user", content=f"count to {COUNT}")
                    turn(client, thread, assistant)
                    found = client.beta.threads.messages.list(thread).data
                    assert len(found) == length
                    [part] = found[0].content
                    assert part.type == "text"
                    assert part.text.value == EXPECTED
                    self.turns.append(thread)

        return talk

    def _post(self, client: OpenAI) -> None:
        """One request after the other that no balancer may send twice."""
        while not self._stop.is_set():
            client.beta.threads.create()

    def _poll(self, client: OpenAI, thread: str, assistant: str) -> None:
        run = client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant, poll_interval_ms=50)
        assert run.status == "completed", run

    def _stream(self, client: OpenAI, thread: str, assistant: str) -> None:
        with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant) as stream:
            said = "".join(stream.text_deltas)
            status = stream.get_final_run().status
        assert (said, status) == (EXPECTED, "completed")


# With a delay the balancer sees in time that a node stops; without, it finds out by connections that are refused.
@pytest.mark.parametrize("delay_s", ["0.5", "0"])
def test_no_request_fails_while_three_nodes_are_replaced(postgres_database: Database, delay_s: str) -> None:
    flags = ("--drain-delay-seconds", delay_s, "--code-interpreter", "off")
    with ExitStack() as stack, balancing() as balancer:
        models = stack.enter_context(ScriptedModels())

        def start() -> Node:
            started = stack.enter_context(node(postgres_database, models, *flags))
            balancer.urls.append(started.program.url)
            return started

        old = [start() for _ in range(NODES)]
        balancer.until_ready(*balancer.urls)
        statuses: list[int] = []
        with Load(balancer, polling=3, streaming=3, posting=2) as load:
            load.until_more(6)
            for leaving in old:
                coming = start()
                balancer.until_ready(*balancer.urls)
                leaving.program.terminate()
                statuses.append(leaving.program.wait())
                balancer.urls.remove(leaving.program.url)
                load.until_more(6)
                assert balancer.answered[coming.program.url]
        failures, counts = list(load.failures), balancer.counts

    assert failures == []
    assert statuses == [0] * NODES
    # A client that stops hangs up; nothing else is anything but an answer, or was made good by the balancer.
    assert set(counts) <= {"200", "refused", "no answer", "client gone"}, counts


class Joining:
    """A reader of one run's stream through the balancer, who comes back as often as the stream is cut."""

    def __init__(self, url: str, assistant: str) -> None:
        self._url = f"{url}/v1"
        self._assistant = assistant
        self.ids: list[int] = []
        # Since the message was told from its beginning.
        self.text = ""
        self.final = ""
        self.cuts: list[str] = []
        self.is_done = False

    def read(self) -> None:
        with httpx2.Client(base_url=self._url, headers=KEY, timeout=60, trust_env=False) as http:
            hello = {"messages": [{"role": "user", "content": f"count to {COUNT}"}]}
            thread = http.post("/threads", json=hello).json()["id"]
            runs = f"/threads/{thread}/runs"
            with http.stream("POST", runs, json={"assistant_id": self._assistant, "stream": True}) as response:
                run = self._take(response)
            while not self.is_done:
                last = {"Last-Event-ID": str(self.ids[-1])}
                with http.stream("GET", f"{runs}/{run}/stream", headers=last) as response:
                    self._take(response)
            [answer, _] = http.get(f"/threads/{thread}/messages").json()["data"]
            self.final = answer["content"][0]["text"]["value"]

    def _take(self, response: httpx2.Response) -> str:
        """Reads to the end, whichever it is; the run's id."""
        assert response.status_code == 200, response.read()
        name = run = ""
        try:
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "id":
                    self.ids.append(int(value))
                elif field == "event":
                    name = value
                elif field == "data" and name == "done":
                    self.is_done = True
                elif field == "data":
                    run = self._hear(name, json.loads(value)) or run
        except httpx2.TransportError as error:
            self.cuts.append(f"{type(error).__name__}")
        return run

    def _hear(self, name: str, data: dict[str, Any]) -> str:
        match name:
            case "error":
                self.cuts.append(data["error"]["message"])
            case "thread.run.created":
                return data["id"]
            case "thread.message.created":
                self.text = ""
            case "thread.message.delta":
                self.text += data["delta"]["content"][0]["text"]["value"]
            case _:
                pass
        return ""


def test_streams_that_are_handed_over_are_joined_again_and_say_everything_once(postgres_database: Database) -> None:
    flags = ("--grace-seconds", "0", "--drain-delay-seconds", "0.3", "--code-interpreter", "off")
    with ExitStack() as stack, balancing() as balancer:
        models = stack.enter_context(ScriptedModels())

        def start() -> Node:
            started = stack.enter_context(node(postgres_database, models, *flags))
            balancer.urls.append(started.program.url)
            return started

        nodes = [start() for _ in range(NODES)]
        balancer.until_ready(*balancer.urls)
        assistant = nodes[0].http.post("/assistants", json={"model": "offline-100ms"}).json()["id"]
        readers = [Joining(balancer.url, assistant) for _ in range(2 * NODES)]
        with ThreadPoolExecutor(len(readers)) as pool:
            reading = [pool.submit(reader.read) for reader in readers]
            for leaving in nodes[1:]:
                # Every one of them reads, until it has ended.
                until(lambda: all(len(reader.ids) > 5 for reader in readers))
                leaving.program.terminate()
                assert leaving.program.wait() == 0
                balancer.urls.remove(leaving.program.url)
            for each in reading:
                each.result(120)

    for reader in readers:
        assert (reader.text, reader.final) == (EXPECTED, EXPECTED)
        assert reader.ids == sorted(set(reader.ids))
        assert all("The run goes on" in cut for cut in reader.cuts), reader.cuts
    # Two nodes of three went: somebody was cut.
    assert any(reader.cuts for reader in readers)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
