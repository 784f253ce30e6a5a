"""Clients under load: each does what its seed says, one thing after the other, and writes down what came of it.

A client knows nothing of what is broken at the moment. It goes to any node, as through a balancer; where it gets no
answer it asks another, if that is safe, and waits for its runs as long as it takes.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import aiohttp

from tests.chaos.ledger import (
    ACTIVE,
    Came,
    Fault,
    FileRecord,
    Heard,
    MessageRecord,
    Plan,
    Record,
    RunKind,
    RunRecord,
    StoreRecord,
    ThreadRecord,
    ThreadSeen,
    check_while_busy,
)
from tests.chaos.model import FUNCTION, instructions_of

# A node that is frozen answers no more: by then the client gives up on it.
_ANSWER_S: Final = 12.0
# How long a client goes on asking before it gives up on everything, which is a fault.
PATIENCE_S: Final = 120.0
_POLL_S: Final = 0.15


class Answer(NamedTuple):
    status: int
    body: Any
    raw: bytes = b""


class NoAnswer(Exception):
    """The connection broke, or nothing came in time. Whether the request was carried out nobody knows."""


class NeverSent(Exception):
    """Nobody listened at that address."""


@dataclass
class Tally:
    """What the clients of a campaign went through."""

    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    away: int = 0
    repeated: int = 0
    streams: int = 0
    cut: int = 0
    rejoined: int = 0
    faults: list[Fault] = field(default_factory=list[Fault])


def new_session() -> aiohttp.ClientSession:
    """As many connections as there are requests at once; each request is sent once."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": "Bearer any", "OpenAI-Beta": "assistants=v2"},
    )
    # aiohttp repeats a DELETE whose kept connection broke, without a word: the first one may have been carried out.
    session._retry_connection = False
    return session


class Balancer:
    """One way to all nodes."""

    def __init__(self, urls: list[str], session: aiohttp.ClientSession, tally: Tally) -> None:
        self.urls = urls
        self.tally = tally
        self.session = session

    async def ask(
        self,
        url: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        form: Callable[[], aiohttp.FormData] | None = None,
    ) -> Answer:
        """One request to one node."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        try:
            async with self.session.request(
                method,
                f"{url}/v1{path}",
                json=body if form is None else None,
                data=form() if form is not None else None,
                headers=headers,
                timeout=timeout,
            ) as response:
                raw = await response.read()
                is_json = response.content_type == "application/json"
                answer = Answer(response.status, json.loads(raw) if is_json else None, raw)
                self._judge(answer, response.headers, f"{method} {path}")
                return answer
        except aiohttp.ClientConnectorError as error:
            raise NeverSent from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            self.tally.unanswered += 1
            raise NoAnswer(f"{type(error).__name__}: {error}") from error

    def _judge(self, answer: Answer, headers: Any, what: str) -> None:
        """Whatever is broken, an answer is one that clients can act on."""
        if answer.status < 500:
            return
        self.tally.away += 1
        error = answer.body and answer.body.get("error")
        if answer.status != 503 or not error or "Retry-After" not in headers:
            said = f"{what} was answered {answer.status} {dict(headers)} {answer.raw[:500]!r}"
            self.tally.faults.append(Fault("wrong", what, said))

    async def read(self, path: str, chance: random.Random) -> Answer:
        """A request that may be repeated, until it is answered."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = await self.ask(chance.choice(self.urls), "GET", path)
                if answer.status < 500:
                    return answer
            except (NoAnswer, NeverSent):
                pass
            if time.monotonic() >= until:
                raise TimeoutError(f"GET {path} was not answered within {PATIENCE_S:g} s")
            await asyncio.sleep(chance.uniform(0.05, 0.3))

    async def pages(self, path: str, chance: random.Random) -> list[Any] | None:
        """All of a list, oldest first; None: what it is a list of is not there."""
        found: list[Any] = []
        after = ""
        while True:
            mark = "&" if "?" in path else "?"
            answer = await self.read(f"{path}{mark}order=asc&limit=100{after}", chance)
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise AssertionError(f"GET {path} was answered {answer.status} {answer.raw!r}")
            found += answer.body["data"]
            if not answer.body["has_more"]:
                return found
            after = f"&after={answer.body['last_id']}"

    async def thread(self, thread_id: str, chance: random.Random, *, with_steps: bool) -> ThreadSeen | None:
        """A thread with all that is in it. Deleted meanwhile, it is not there."""
        thread = await self.read(f"/threads/{thread_id}", chance)
        messages = await self.pages(f"/threads/{thread_id}/messages", chance)
        runs = await self.pages(f"/threads/{thread_id}/runs", chance)
        if thread.status == 404 or messages is None or runs is None:
            return None
        steps: dict[str, list[Any]] = {}
        for run in runs if with_steps else ():
            steps[run["id"]] = await self.pages(f"/threads/{thread_id}/runs/{run['id']}/steps", chance) or []
        return ThreadSeen(thread.body, messages, runs, steps)


@dataclass
class Stage:
    """What all clients share: assistants by what their runs may do, made before anything is broken."""

    assistants: dict[RunKind, str]


async def set_stage(balancer: Balancer) -> Stage:
    chance = random.Random(0)

    async def made(path: str, body: Any) -> str:
        answer = await balancer.ask(chance.choice(balancer.urls), "POST", path, body)
        assert answer.status == 200, answer
        return answer.body["id"]

    text = b"The lighthouse of Eddystone stands on rocks. " * 20
    answer = await balancer.ask(balancer.urls[0], "POST", "/files", form=lambda: _file_form("lighthouse.txt", text))
    store = await made("/vector_stores", {"name": "stage", "file_ids": [answer.body["id"]]})
    plain = await made("/assistants", {"model": "chaos"})
    calling = await made("/assistants", {"model": "chaos", "tools": [FUNCTION]})
    searching = await made(
        "/assistants",
        {
            "model": "chaos",
            "tools": [{"type": "file_search"}],
            "tool_resources": {"file_search": {"vector_store_ids": [store]}},
        },
    )
    return Stage({"say": plain, "call": calling, "say_and_call": calling, "search": searching})


class Client:
    """One of many. ``name`` is the beginning of every token that it makes."""

    def __init__(self, name: str, seed: str, balancer: Balancer, stage: Stage, stopping: asyncio.Event) -> None:
        self.name = name
        self.chance = random.Random(seed)
        self.balancer = balancer
        self.stage = stage
        self.stopping = stopping
        self.threads: list[ThreadRecord] = []
        self.files: list[FileRecord] = []
        self.stores: list[StoreRecord] = []
        self._count = 0

    async def work(self) -> None:
        """Does one thing after the other until it is told to stop."""
        try:
            while not self.stopping.is_set():
                await self._one_thing()
        except (TimeoutError, AssertionError) as error:
            self.balancer.tally.faults.append(Fault("stuck", self.name, str(error)))

    async def _one_thing(self) -> None:
        do: list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = [
            (6, self._create_thread),
            (34, self._add_messages),
            (5, self._modify_thread),
            (4, self._modify_message),
            (4, self._delete_message),
            (30, self._run),
            (3, self._race),
            (3, self._queue_up),
            (3, self._create_thread_and_run),
            (3, self._look),
            (2, self._delete_thread),
            (3, self._upload),
            (2, self._delete_file),
            (2, self._create_store),
            (2, self._attach),
        ]
        weights, things = zip(*do, strict=True)
        await self.chance.choices(things, weights)[0]()

    # Writing.

    def _token(self, kind: str) -> str:
        self._count += 1
        return f"{self.name}-{kind}{self._count}"

    def _key(self) -> str | None:
        return f"key-{self.name}-{self._count}-{self.chance.random()}" if self.chance.random() < 0.6 else None

    async def _write(
        self,
        record: Record,
        what: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        form: Callable[[], aiohttp.FormData] | None = None,
    ) -> tuple[Came, Answer | None]:
        """A request that writes. With a key, and where it was not even sent, it is repeated until it is answered."""
        chance, is_unsure = self.chance, False
        until = time.monotonic() + PATIENCE_S
        while True:
            url = chance.choice(self.balancer.urls)
            try:
                answer = await self.balancer.ask(url, method, path, body, key=key, form=form)
            except NeverSent:
                pass
            except NoAnswer as error:
                record.note(f"{what} at {url}: {error}")
                if key is None:
                    return "unknown", None
                is_unsure = True
            else:
                said = answer.body.get("id") if answer.status < 400 and answer.body else answer.raw[:200]
                record.note(f"{what} at {url}: {answer.status} {said}")
                if answer.status < 300:
                    self.balancer.tally.acknowledged += 1
                    return "done", answer
                if answer.status < 500:
                    self.balancer.tally.refused += 1
                    return ("unknown" if is_unsure else "refused"), answer
                if key is None:
                    return "unknown", answer
                is_unsure = True
            if time.monotonic() >= until:
                raise TimeoutError(f"{what} of {record.token} was not answered within {PATIENCE_S:g} s")
            self.balancer.tally.repeated += 1
            await asyncio.sleep(chance.uniform(0.05, 0.4))

    def _unexpected(self, record: Record, what: str, answer: Answer | None) -> None:
        """A refusal that nothing explains."""
        if answer is not None:
            self.balancer.tally.faults.append(
                Fault("wrong", record.token, f"{what} was refused: {answer.status} {answer.raw[:300]!r}")
            )

    # Threads and messages.

    async def _create_thread(self) -> None:
        if sum(thread.deleted is None for thread in self.threads) >= 4:
            await self._add_messages()
        else:
            await self._new_thread()

    async def _new_thread(self) -> ThreadRecord:
        record = ThreadRecord(self._token("thread"))
        record.metadata = {"token": record.token}
        self.threads.append(record)
        messages = [self._new_message(record) for _ in range(self.chance.randint(0, 2))]
        body = {
            "metadata": record.metadata,
            "messages": [{"role": "user", "content": message.text} for message in messages],
        }
        record.made, answer = await self._write(record, "create thread", "POST", "/threads", body, key=self._key())
        for message in messages:
            message.made = record.made
        if answer is not None and record.made == "done":
            record.id = answer.body["id"]
        elif record.made == "refused":
            self._unexpected(record, "creating the thread", answer)
        return record

    async def _thread(self) -> ThreadRecord:
        """A thread of this client that is there for sure."""
        known = [thread for thread in self.threads if thread.id is not None and thread.deleted is None]
        while not known:
            thread = await self._new_thread()
            known = [thread] if thread.id is not None else []
            if self.stopping.is_set() and not known:
                raise TimeoutError("no thread could be made")
        return self.chance.choice(known)

    def _new_message(self, thread: ThreadRecord) -> MessageRecord:
        token = self._token("message")
        record = MessageRecord(token, text=f"{token} {'word ' * self.chance.randint(0, 12)}end")
        thread.messages[token] = record
        for run in thread.runs.values():
            if run.made == "done":
                run.must_not_see.append(token)
        return record

    async def _add_messages(self) -> None:
        thread = await self._thread()
        for _ in range(self.chance.randint(1, 5)):
            record = self._new_message(thread)
            path, body = f"/threads/{thread.id}/messages", {"role": "user", "content": record.text}
            record.made, answer = await self._write(record, "create message", "POST", path, body, key=self._key())
            if record.made == "refused" and answer is not None and b"active" in answer.raw:
                # A run that this client left alone, or one whose creation it got no answer to.
                await self._until_free(thread)
            elif record.made == "done" and answer is not None:
                record.id = answer.body["id"]
            elif record.made == "refused":
                self._unexpected(record, "creating the message", answer)

    async def _modify_thread(self) -> None:
        record = await self._thread()
        await self._modify(record, f"/threads/{record.id}", {"token": record.token})

    async def _modify_message(self) -> None:
        thread = await self._thread()
        if (record := self._some_message(thread)) is not None:
            await self._modify(record, f"/threads/{thread.id}/messages/{record.id}", {})

    async def _modify(self, record: Record, path: str, kept: dict[str, str]) -> None:
        wanted = {**kept, "changed": self._token("change")}
        came, answer = await self._write(
            record, f"modify to {wanted}", "POST", path, {"metadata": wanted}, key=self._key()
        )
        record.wrote_metadata(wanted, came)
        if came == "refused":
            self._unexpected(record, "modifying it", answer)

    def _some_message(self, thread: ThreadRecord) -> MessageRecord | None:
        known = [each for each in thread.messages.values() if each.id is not None and each.deleted is None]
        return self.chance.choice(known) if known else None

    async def _delete_message(self) -> None:
        thread = await self._thread()
        if (record := self._some_message(thread)) is not None:
            path = f"/threads/{thread.id}/messages/{record.id}"
            record.deleted, answer = await self._write(record, "delete", "DELETE", path)
            if record.deleted == "refused":
                self._unexpected(record, "deleting it", answer)

    async def _delete_thread(self) -> None:
        record = await self._thread()
        record.deleted, answer = await self._write(record, "delete", "DELETE", f"/threads/{record.id}")
        if record.deleted == "refused":
            self._unexpected(record, "deleting it", answer)

    async def _look(self) -> None:
        record = await self._thread()
        seen = await self.balancer.thread(record.id or "", self.chance, with_steps=False)
        self.balancer.tally.faults += check_while_busy(record, seen)

    # Runs.

    def _new_run(self, thread: ThreadRecord) -> tuple[RunRecord, dict[str, Any]]:
        token = self._token("run")
        kind: RunKind = self.chance.choices(("say", "call", "say_and_call", "search"), (5, 3, 2, 2))[0]
        # Mostly quick; some go on for seconds, so that something is always under way when a blow falls.
        pause_ms = self.chance.choice((0, 0, 5, 20, 60, 150))
        plan = Plan(token, kind, pieces=self.chance.randint(1, 12), pause_ms=pause_ms)
        record = RunRecord(token, plan=plan, metadata={"token": token})
        record.must_see = [each.token for each in thread.messages.values() if each.is_sure]
        thread.runs[token] = record
        body = {
            "assistant_id": self.stage.assistants[kind],
            "instructions": instructions_of(plan),
            "metadata": {"token": token},
        }
        return record, body

    async def _run(self) -> None:
        thread = await self._thread()
        if not any(message.is_sure for message in thread.messages.values()):
            await self._add_messages()
        if thread.deleted is not None:
            return
        record, body = self._new_run(thread)
        extra: MessageRecord | None = None
        if self.chance.random() < 0.2:
            extra = self._new_message(thread)
            body["additional_messages"] = [{"role": "user", "content": extra.text}]
            record.must_see.append(extra.token)
        record.note(f"plan {record.plan}")
        if self.chance.random() < 0.5:
            await self._create_streamed(thread, record, body)
        else:
            record.made, answer = await self._write(
                record, "create run", "POST", f"/threads/{thread.id}/runs", body, key=self._key()
            )
            if record.made == "done" and answer is not None:
                record.id = answer.body["id"]
            elif record.made == "refused":
                await self._refused_run(thread, record, answer)
        if extra is not None:
            extra.made = record.made
        if record.id is None:
            return
        match self.chance.random():
            case luck if luck < 0.15:
                await asyncio.sleep(self.chance.uniform(0, 1))
                await self._cancel(thread, record)
                await self._accompany(thread, record)
            case luck if luck < 0.25:
                # Left alone: it ends without anybody who listens.
                pass
            case _:
                await self._accompany(thread, record)

    async def _refused_run(self, thread: ThreadRecord, record: RunRecord, answer: Answer | None) -> None:
        if answer is not None and b"active run" in answer.raw:
            await self._until_free(thread)
        else:
            self._unexpected(record, "creating the run", answer)

    async def _create_thread_and_run(self) -> None:
        thread = ThreadRecord(self._token("thread"))
        thread.metadata = {"token": thread.token}
        self.threads.append(thread)
        message = self._new_message(thread)
        record, body = self._new_run(thread)
        record.must_see = [message.token]
        body["thread"] = {
            "metadata": thread.metadata,
            "messages": [{"role": "user", "content": message.text}],
        }
        came, answer = await self._write(
            record, "create thread and run", "POST", "/threads/runs", body, key=self._key()
        )
        thread.made = record.made = message.made = came
        thread.history = record.history
        if came == "done" and answer is not None:
            thread.id, record.id = answer.body["thread_id"], answer.body["id"]
            await self._accompany(thread, record)
        elif came == "refused":
            self._unexpected(record, "creating the thread and the run", answer)

    async def _race(self) -> None:
        """Several runs at once on one thread, at different nodes: at most one of them at a time is active."""
        thread = await self._thread()
        begun = [self._new_run(thread) for _ in range(3)]
        if self.chance.random() < 0.5:
            thread.has_line = True
            for _, body in begun:
                body["if_active"] = "enqueue"
        path = f"/threads/{thread.id}/runs"
        outcomes = await asyncio.gather(
            *(self._write(record, "create run in a race", "POST", path, body) for record, body in begun)
        )
        for (record, _), (came, answer) in zip(begun, outcomes, strict=True):
            record.made = came
            if came == "done" and answer is not None:
                record.id = answer.body["id"]
            elif came == "refused" and answer is not None and b"active run" not in answer.raw:
                self._unexpected(record, "creating a run in a race", answer)
        seen = await self.balancer.thread(thread.id or "", self.chance, with_steps=False)
        self.balancer.tally.faults += check_while_busy(thread, seen)
        await self._until_free(thread)

    async def _queue_up(self) -> None:
        """A user who goes on writing while the assistant answers: messages and runs behind the active run; in the end
        perhaps a run that takes the place of the active one."""
        thread = await self._thread()
        thread.has_line = True
        path = f"/threads/{thread.id}/runs"
        for _ in range(self.chance.randint(2, 4)):
            message = self._new_message(thread)
            body = {"role": "user", "content": message.text, "if_active": "enqueue"}
            message.made, answer = await self._write(
                message, "enqueue message", "POST", f"/threads/{thread.id}/messages", body, key=self._key()
            )
            if message.made == "done" and answer is not None:
                message.id = answer.body["id"]
            elif message.made == "refused":
                self._unexpected(message, "enqueuing the message", answer)
            record, asked = self._new_run(thread)
            await self._line_up(record, "enqueue run", path, {**asked, "if_active": "enqueue"})
            if record.id is not None and self.chance.random() < 0.15:
                await self._cancel(thread, record)
        if self.chance.random() < 0.3:
            record, asked = self._new_run(thread)
            # It comes ahead of those that wait, and of what stands between them.
            record.must_see = []
            for earlier in thread.runs.values():
                if earlier is not record and earlier.cancel != "done":
                    earlier.cancel = "unknown"
            await self._line_up(record, "interrupt with a run", path, {**asked, "if_active": "interrupt"})
        await self._until_free(thread)

    async def _line_up(self, record: RunRecord, what: str, path: str, body: dict[str, Any]) -> None:
        record.made, answer = await self._write(record, what, "POST", path, body, key=self._key())
        if record.made == "done" and answer is not None:
            record.id = answer.body["id"]
        elif record.made == "refused":
            self._unexpected(record, what, answer)

    async def _cancel(self, thread: ThreadRecord, record: RunRecord) -> None:
        path = f"/threads/{thread.id}/runs/{record.id}/cancel"
        came, answer = await self._write(record, "cancel", "POST", path, {})
        if record.cancel != "done":
            record.cancel = came
        if came == "refused" and answer is not None and b"Cannot cancel run with status" not in answer.raw:
            self._unexpected(record, "cancelling it", answer)

    async def _accompany(self, thread: ThreadRecord, record: RunRecord) -> None:
        """Until the run has ended: its calls are answered."""
        until = time.monotonic() + PATIENCE_S
        while True:
            answer = await self.balancer.read(f"/threads/{thread.id}/runs/{record.id}", self.chance)
            if answer.status != 200:
                self._unexpected(record, "reading it", answer)
                return
            status = answer.body["status"]
            if status == "requires_action":
                await self._submit(thread, record, answer.body)
            elif status not in ACTIVE:
                record.note(f"is seen {status}")
                break
            if time.monotonic() >= until:
                raise TimeoutError(f"the run {record.token} stays {status}:\n" + "\n".join(record.history))
            await asyncio.sleep(_POLL_S)
        if self.chance.random() < 0.15:
            await self._modify(record, f"/threads/{thread.id}/runs/{record.id}", {"token": record.token})

    async def _submit(self, thread: ThreadRecord, record: RunRecord, run: Any) -> None:
        [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        record.output = record.output or f"output-{record.token}"
        body = {"tool_outputs": [{"tool_call_id": call["id"], "output": record.output}]}
        path = f"/threads/{thread.id}/runs/{record.id}/submit_tool_outputs"
        if self.chance.random() < 0.4:
            heard = Heard()
            record.heard.append(heard)
            came = await self._stream(thread, record, heard, "submit", path, body)
            if came == "done":
                record.outputs_came = "done"
            return
        came, answer = await self._write(record, "submit", "POST", path, body, key=self._key())
        if came == "done":
            record.outputs_came = "done"
        elif came == "refused" and answer is not None and b"do not accept tool outputs" not in answer.raw:
            self._unexpected(record, "submitting outputs", answer)

    async def _until_free(self, thread: ThreadRecord) -> None:
        """Until no run is active on the thread, whoever began it. Its calls are answered."""
        until = time.monotonic() + PATIENCE_S
        while True:
            runs = await self.balancer.pages(f"/threads/{thread.id}/runs", self.chance)
            active = [run for run in runs or () if run["status"] in ACTIVE]
            if not active:
                return
            for run in active:
                record = thread.runs.get(run["metadata"].get("token", ""))
                if run["status"] == "requires_action" and record is not None:
                    record.id = run["id"]
                    await self._submit(thread, record, run)
            if time.monotonic() >= until:
                stays = [(run["id"], run["status"], run["metadata"]) for run in active]
                raise TimeoutError(f"the thread {thread.token} is not free: {stays}")
            await asyncio.sleep(_POLL_S)

    async def settle(self, thread: ThreadRecord) -> None:
        """Until nothing goes on in the thread."""
        await self._until_free(thread)

    # Streams.

    async def _create_streamed(self, thread: ThreadRecord, record: RunRecord, body: dict[str, Any]) -> None:
        heard = Heard()
        record.heard.append(heard)
        record.made = await self._stream(
            thread, record, heard, "create run, streamed,", f"/threads/{thread.id}/runs", body
        )

    async def _stream(
        self, thread: ThreadRecord, record: RunRecord, heard: Heard, what: str, path: str, body: dict[str, Any]
    ) -> Came:
        """Asks for a stream and reads it; cut, it is joined again at any node, or the client leaves it at that."""
        self.balancer.tally.streams += 1
        url, until = self.chance.choice(self.balancer.urls), time.monotonic() + PATIENCE_S
        # Some leave in the midst.
        leaves_after = self.chance.randint(3, 12) if self.chance.random() < 0.1 else None
        while True:
            try:
                status, raw = await self._listen(
                    url, "POST", path, {**body, "stream": True}, record, heard, leaves_after
                )
                break
            except NeverSent:
                if time.monotonic() >= until:
                    raise TimeoutError(f"{what} of {record.token}: nobody listens") from None
                await asyncio.sleep(self.chance.uniform(0.05, 0.4))
                url = self.chance.choice(self.balancer.urls)
        record.note(f"{what} at {url}: {status}, {len(heard.events)} events{'' if heard.is_done else ', cut'}")
        if status == 200 and heard.events:
            self.balancer.tally.acknowledged += 1
            if self.chance.random() < 0.15:
                # Another reader, who comes late and hears all of it.
                again = Heard()
                record.heard.append(again)
                await self._rejoin(thread, record, again)
            if not heard.is_done and leaves_after is None:
                await self._rejoin(thread, record, heard)
            return "done"
        if status is None or status >= 500 or status == 200:
            return "unknown"
        self.balancer.tally.refused += 1
        answer = Answer(status, None, raw)
        if b"active run" in raw:
            await self._until_free(thread)
        elif b"do not accept tool outputs" not in raw:
            self._unexpected(record, what, answer)
        return "refused"

    async def _rejoin(self, thread: ThreadRecord, record: RunRecord, heard: Heard) -> None:
        """Goes on where the stream was cut, at whatever node."""
        until = time.monotonic() + PATIENCE_S
        path = f"/threads/{thread.id}/runs/{record.id}/stream"
        while not heard.is_done:
            last = next((number for number, _, _ in reversed(heard.events) if number is not None), 0)
            url = self.chance.choice(self.balancer.urls)
            try:
                status, raw = await self._listen(url, "GET", path, None, record, heard, None, after=last)
                record.note(f"re-join after {last} at {url}: {status}, {len(heard.events)} events by now")
                if status is not None and status < 500 and status != 200:
                    # It is gone with its thread, or this is wrong.
                    if status != 404 or thread.deleted is None:
                        self._unexpected(record, "re-joining its stream", Answer(status, None, raw))
                    return
                if status == 200:
                    self.balancer.tally.rejoined += 1
            except NeverSent:
                pass
            if time.monotonic() >= until:
                raise TimeoutError(f"the stream of {record.token} could not be re-joined")
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))

    async def _listen(
        self,
        url: str,
        method: str,
        path: str,
        body: Any,
        record: RunRecord,
        heard: Heard,
        leaves_after: int | None,
        *,
        after: int | None = None,
    ) -> tuple[int | None, bytes]:
        """Reads one connection into ``heard``; the status, and the body of a refusal. None: no answer came."""
        tally, heard_before = self.balancer.tally, len(heard.events)
        headers = {"Last-Event-ID": str(after)} if after is not None else {}
        # Between two pieces a frozen node is given this long.
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S, sock_read=_ANSWER_S)
        try:
            async with self.balancer.session.request(
                method, f"{url}/v1{path}", json=body, headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    raw = await response.read()
                    is_json = response.content_type == "application/json"
                    self.balancer._judge(
                        Answer(response.status, json.loads(raw) if is_json else None, raw), response.headers, path
                    )
                    return response.status, raw
                async with aclosing(_events(response)) as events:
                    async for number, name, data in events:
                        if name == "done":
                            heard.is_done = True
                            return 200, b""
                        if name == "error":
                            record.note(f"the stream says {data}")
                            heard.cuts += 1
                            tally.cut += 1
                            return 200, b""
                        heard.events.append((number, name, data))
                        if name == "thread.run.created":
                            record.id = data["id"]
                        if leaves_after is not None and len(heard.events) >= leaves_after:
                            return 200, b""
                heard.ended_silently = True
                return 200, b""
        except aiohttp.ClientConnectorError as error:
            raise NeverSent from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            record.note(f"the stream broke: {type(error).__name__}: {error}")
            heard.cuts += 1
            tally.cut += 1
            return (200 if len(heard.events) > heard_before else None), b""

    # Files.

    async def _upload(self) -> None:
        record = FileRecord(self._token("file"))
        size = self.chance.choice((10, 1_000, 70_000))
        record.content = (record.token.encode() + b" ") * (size // len(record.token) + 1)
        self.files.append(record)
        name = f"{record.token}.txt"
        record.made, answer = await self._write(
            record, "upload", "POST", "/files", form=lambda: _file_form(name, record.content)
        )
        if record.made == "done" and answer is not None:
            record.id = answer.body["id"]
        elif record.made == "refused":
            self._unexpected(record, "uploading it", answer)

    def _some_file(self) -> FileRecord | None:
        known = [each for each in self.files if each.id is not None and each.deleted is None]
        return self.chance.choice(known) if known else None

    async def _delete_file(self) -> None:
        record = self._some_file()
        # What a vector store lists of a file that is gone is another matter.
        if record is None or any(record.id in store.files for store in self.stores):
            await self._upload()
            return
        record.deleted, answer = await self._write(record, "delete", "DELETE", f"/files/{record.id}")
        if record.deleted == "refused":
            self._unexpected(record, "deleting it", answer)

    async def _create_store(self) -> None:
        if len(self.stores) >= 2:
            await self._attach()
            return
        record = StoreRecord(self._token("store"))
        record.metadata = {"token": record.token}
        self.stores.append(record)
        body = {"name": record.token, "metadata": record.metadata}
        record.made, answer = await self._write(
            record, "create vector store", "POST", "/vector_stores", body, key=self._key()
        )
        if record.made == "done" and answer is not None:
            record.id = answer.body["id"]
        elif record.made == "refused":
            self._unexpected(record, "creating it", answer)

    async def _attach(self) -> None:
        known = [store for store in self.stores if store.id is not None]
        file = self._some_file()
        if not known or file is None or file.id is None:
            await self._upload()
            return
        record = self.chance.choice(known)
        if file.id in record.files:
            return
        # Before it is sent: a file that may be in a store is not deleted.
        record.files[file.id] = "unknown"
        record.files[file.id], answer = await self._write(
            record, f"attach {file.id}", "POST", f"/vector_stores/{record.id}/files", {"file_id": file.id}
        )
        if record.files[file.id] == "refused":
            self._unexpected(record, "attaching a file", answer)


def _file_form(name: str, content: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("purpose", "assistants")
    form.add_field("file", content, filename=name, content_type="text/plain")
    return form


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[tuple[int | None, str, Any], None]:
    """The records of a stream: id, name, data."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if not line:
            if "event" in fields:
                data = fields.get("data", "")
                number = int(fields["id"]) if "id" in fields else None
                yield number, fields["event"], None if data == "[DONE]" else json.loads(data)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
