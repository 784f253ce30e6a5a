"""An event log as server-sent events, read by clients that are quick, slow, or gone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from openai._streaming import SSEDecoder
from starlette.types import Message

from threadkeep.api.event_stream import LAST_WORDS, PIECE_BYTES, EventStream
from threadkeep.contract.events import Event
from threadkeep.contract.messages import MessageDelta, MessageDeltaContent, TextContentDelta, TextDelta
from threadkeep.contract.threads import Thread
from threadkeep.contract.tools import ToolResources
from threadkeep.runs.follow import EventLog

PATIENCE_S = 60
PATH = "/v1/threads/thread_a/runs/run_a/stream"


def delta(text: str) -> Event:
    part = TextContentDelta(index=0, text=TextDelta(value=text))
    return Event("thread.message.delta", MessageDelta(id="msg_a", delta=MessageDeltaContent(content=[part])))


def frame(number: int, text: str) -> str:
    return (
        f"id: {number}\nevent: thread.message.delta\n"
        'data: {"id":"msg_a","object":"thread.message.delta",'
        f'"delta":{{"content":[{{"type":"text","index":0,"text":{{"value":"{text}"}}}}]}}}}\n\n'
    )


DONE = "event: done\ndata: [DONE]\n\n"


class Client:
    """The far end of a stream. It takes a piece when it is let to, and leaves when it is told to."""

    def __init__(self, *, is_slow: bool = False) -> None:
        self.started: Message | None = None
        self.pieces: list[str] = []
        self.is_ended = False
        self.left = asyncio.Event()
        self.asked = asyncio.Event()
        self.takes = asyncio.Event()
        if not is_slow:
            self.takes.set()
        self._came = asyncio.Condition()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = message
            return
        self.asked.set()
        await self.takes.wait()
        async with self._came:
            self.pieces.append(message["body"].decode())
            self.is_ended = not message.get("more_body", False)
            self._came.notify_all()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_S), self._came:
            await self._came.wait_for(lambda: text in self.text)


@asynccontextmanager
async def streaming(
    events: EventLog,
    client: Client,
    *,
    keep_alive_s: float = PATIENCE_S,
    stalled_s: float = PATIENCE_S,
    position: int = 0,
) -> AsyncGenerator[asyncio.Task[None], None]:
    stream = EventStream(events, keep_alive_s=keep_alive_s, stalled_s=stalled_s, position=position, path=PATH)
    extensions = {LAST_WORDS: {"prepare": client.takes.set}}
    task = asyncio.create_task(stream.answer(client.receive, client.send, "req_a", extensions=extensions))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read(events: EventLog, client: Client, *, position: int = 0) -> None:
    """The stream to its end."""
    async with streaming(events, client, position=position) as task, asyncio.timeout(PATIENCE_S):
        await task


async def test_events_are_numbered_and_named_and_done_is_last() -> None:
    events, client = EventLog(), Client()
    events.append(
        [Event("thread.created", Thread(id="thread_a", created_at=1, metadata={}, tool_resources=ToolResources()))]
    )
    events.append([delta("Hello"), delta(" you")])
    events.close()

    await read(events, client)

    assert client.text == (
        'id: 1\nevent: thread.created\ndata: {"id":"thread_a","object":"thread","created_at":1,"metadata":{},'
        '"tool_resources":{}}\n\n' + frame(2, "Hello") + frame(3, " you") + DONE
    )
    assert client.is_ended


async def test_the_answer_says_that_it_is_a_stream_that_nobody_may_hold_back() -> None:
    events, client = EventLog(), Client()
    events.close()

    await read(events, client)

    assert client.started is not None
    assert client.started["status"] == 200
    assert dict(client.started["headers"]) == {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
    }


async def test_what_has_come_already_goes_out_in_one_piece() -> None:
    events, client = EventLog(), Client()
    events.append([delta(str(number)) for number in range(100)])
    events.close()

    await read(events, client)

    assert len(client.pieces) == 1


async def test_what_comes_goes_out_at_once() -> None:
    events, client = EventLog(), Client()

    async with streaming(events, client):
        events.append([delta("one")])
        await client.until("one")
        events.append([delta("two")])
        await client.until("two")

    assert client.text == frame(1, "one") + frame(2, "two")


async def test_a_reader_begins_behind_its_position() -> None:
    events, client = EventLog(), Client()
    events.append([delta("one"), delta("two")])
    events.close()

    await read(events, client, position=1)

    assert client.text == frame(2, "two") + DONE


async def test_a_slow_reader_misses_nothing_and_holds_up_nobody() -> None:
    events, slow, quick = EventLog(), Client(is_slow=True), Client()

    async with streaming(events, slow) as slow_task, streaming(events, quick):
        events.append([delta("one")])
        async with asyncio.timeout(PATIENCE_S):
            await slow.asked.wait()
        events.append([delta("two")])
        events.append([delta("three")])
        events.close()
        await quick.until(DONE)
        assert slow.pieces == []

        slow.takes.set()
        async with asyncio.timeout(PATIENCE_S):
            await slow_task

    assert slow.text == quick.text == frame(1, "one") + frame(2, "two") + frame(3, "three") + DONE
    # What came while it was busy is one piece: nothing was queued for it.
    assert len(slow.pieces) == 2


async def test_a_silent_stream_is_kept_alive() -> None:
    events, client = EventLog(), Client()

    async with streaming(events, client, keep_alive_s=0.01):
        await client.until(": keep-alive\n: keep-alive\n")
        events.append([delta("one")])
        await client.until(frame(1, "one"))

    assert client.text.replace(": keep-alive\n", "") == frame(1, "one")


async def test_keeping_a_stream_alive_is_no_event_to_the_sdk() -> None:
    events, client = EventLog(), Client()

    async with streaming(events, client, keep_alive_s=0.01):
        events.append([delta("one")])
        await client.until(frame(1, "one") + ": keep-alive\n: keep-alive\n")
        events.append([delta("two")])
        await client.until(frame(2, "two"))

    heard = SSEDecoder().iter_bytes(iter([client.text.encode()]))
    assert [(event.id, event.event) for event in heard] == [
        ("1", "thread.message.delta"),
        ("2", "thread.message.delta"),
    ]


async def test_a_client_that_leaves_takes_its_reader_with_it_and_not_the_log() -> None:
    events, gone, stays = EventLog(), Client(), Client()

    async with streaming(events, gone) as task, streaming(events, stays):
        events.append([delta("one")])
        await gone.until("one")
        gone.left.set()
        async with asyncio.timeout(PATIENCE_S):
            await task
        events.append([delta("two")])
        await stays.until("two")

    assert gone.text == frame(1, "one")
    assert not events._waiting


async def test_a_log_that_fails_ends_with_an_error_and_without_done() -> None:
    events, client = EventLog(), Client()
    events.append([delta("one")])
    events.close(failure="The run goes on elsewhere.")

    await read(events, client)

    assert client.text == frame(1, "one") + (
        'event: error\ndata: {"error":{"message":"The run goes on elsewhere.","type":"server_error","param":null,'
        '"code":null}}\n\n'
    )
    assert client.is_ended


async def test_a_piece_is_bounded_however_far_behind_a_reader_is() -> None:
    events, client = EventLog(), Client()
    events.append([delta("x" * 1000) for _ in range(1000)])
    events.close()

    await read(events, client)

    assert max(map(len, client.pieces)) < PIECE_BYTES + 2000
    assert client.text == "".join(frame(number, "x" * 1000) for number in range(1, 1001)) + DONE


def cut_with(reason: str, last: int) -> str:
    message = f"{reason} To go on, GET {PATH} with the header Last-Event-ID: {last}."
    error = f'{{"message":"{message}","type":"server_error","param":null,"code":null}}'
    return f'event: error\ndata: {{"error":{error}}}\n\n'


async def test_a_reader_that_takes_nothing_is_cut_and_told_how_to_come_back() -> None:
    events, client = EventLog(), Client()

    async with streaming(events, client, stalled_s=0.05) as task:
        events.append([delta("one")])
        await client.until("one")
        client.takes.clear()
        events.append([delta("two")])
        async with asyncio.timeout(PATIENCE_S):
            await task

    # The number of what the server took, not of what was on its way.
    assert client.text == frame(1, "one") + cut_with("The connection took nothing for 0.05 seconds.", 1)
    assert client.is_ended
    assert not events._waiting


async def test_a_reader_that_takes_nothing_of_a_silent_stream_is_cut_too() -> None:
    events, client = EventLog(), Client()

    async with streaming(events, client, keep_alive_s=0.01, stalled_s=0.05) as task:
        events.append([delta("one")])
        await client.until("one")
        client.takes.clear()
        async with asyncio.timeout(PATIENCE_S):
            await task

    assert client.text.replace(": keep-alive\n", "").startswith(frame(1, "one") + "event: error\n")
    assert client.is_ended


async def test_a_reader_that_takes_the_rest_too_slowly_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threadkeep.api.event_stream.REST_S", 0.05)
    events, client = EventLog(), Client()
    events.append([delta("x" * PIECE_BYTES) for _ in range(100)])
    events.close()

    async def crawl(message: Message) -> None:
        await asyncio.sleep(0.02)
        await Client.send(client, message)

    client.send = crawl
    async with streaming(events, client, stalled_s=0.04) as task, asyncio.timeout(PATIENCE_S):
        await task

    assert "The connection did not take the rest of the stream within 0.05 seconds." in client.text
    assert DONE not in client.text


class BrokenLog(EventLog):
    async def wait(self, position: int) -> None:
        raise ValueError("a secret")


async def test_a_bug_amid_the_stream_is_told_without_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    events, client = BrokenLog(), Client()
    events.append([delta("one")])

    await read(events, client)

    assert client.text.startswith(frame(1, "one") + 'event: error\ndata: {"error":{"message":"The server had an error')
    assert "req_a" in client.text
    assert "secret" not in client.text
    assert DONE not in client.text
    assert client.is_ended
    assert [record for record in caplog.records if record.__dict__.get("action") == "stream_failed"]
