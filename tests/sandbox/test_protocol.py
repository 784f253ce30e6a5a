"""A box that lies. Behind the line is no box but a program of the test's that says what it likes."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.sandbox import inside
from threadkeep.sandbox.box import Box, BoxFailed, Ended, FileRefused, Logs, Output, Picture, SeenFile
from threadkeep.sandbox.inside import Broken, Frame, Frames, frame
from threadkeep.sandbox.limits import Limits

LIMITS = Limits(
    reply_s=1.0,
    start_s=5.0,
    interrupt_s=0.2,
    reset_s=0.2,
    output_bytes=1000,
    images=2,
    image_bytes=1000,
    listed_files=5,
)
PNG = b"\x89PNG\r\n\x1a\n"
DONE = json.dumps({"how": "ok", "why": None, "status": 0, "cut_bytes": 0}).encode()

# After each frame that comes, what was given for it goes out; the rest is silence.
_PROGRAM = """
import os, struct, sys, time
answers = [bytes.fromhex(line) for line in open(int(sys.argv[1])).read().split(",")]
os.write(1, answers.pop(0))
while True:
    header = sys.stdin.buffer.read(9)
    if len(header) < 9:
        break
    sys.stdin.buffer.read(struct.unpack(">BII", header)[2])
    if answers:
        view = memoryview(answers.pop(0))
        while view:
            view = view[os.write(1, view):]
    if not answers and sys.argv[2] == "ends":
        break
"""


@asynccontextmanager
async def liar(
    *answers: bytes, ends: bool = False, hello: bytes | None = None, limits: Limits = LIMITS
) -> AsyncGenerator[Box]:
    """A box that is alive and gives these answers, whatever it is asked."""
    said = [frame(inside.HELLO, 0) if hello is None else hello, *answers]
    with tempfile.TemporaryFile() as script:
        script.write(",".join(each.hex() for each in said).encode())
        script.seek(0)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", _PROGRAM, str(script.fileno()), "ends" if ends else "stays",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[script.fileno()],
        )  # fmt: skip
    box = Box(process, limits, process.pid)
    try:
        await box.meet()
        yield box
    finally:
        await box.close()


async def run(box: Box) -> tuple[Ended, list[Output]]:
    outputs: list[Output] = []
    ended = await box.execute("1", outputs.append, timeout_s=2)
    return ended, outputs


def text_of(outputs: Iterable[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Logs))


async def test_an_honest_box_is_believed() -> None:
    said = frame(inside.TEXT, 1, b"hello\n") + frame(inside.PICTURE, 1, b"\1" + PNG) + frame(inside.ENDED, 1, DONE)
    async with liar(said) as box:
        ended, outputs = await run(box)
        assert (ended, outputs) == (Ended("ok", None), [Logs("hello\n"), Picture("image/png", PNG)])
        assert box.is_alive


LIES: dict[str, bytes] = {
    "a length of four gigabytes": inside.HEADER.pack(inside.TEXT, 1, 0xFFFFFFFF),
    "a text longer than a frame's": frame(inside.TEXT, 1, b"x" * (inside.TEXT_BYTES + 1)),
    "more text than there may be": frame(inside.TEXT, 1, b"x" * 600) * 2,
    "a picture that is too large": frame(inside.PICTURE, 1, b"\1" + PNG + bytes(2000)),
    "more pictures than there may be": frame(inside.PICTURE, 1, b"\1" + PNG) * 3,
    "a picture of no kind": frame(inside.PICTURE, 1, b"\7abc"),
    "an empty picture": frame(inside.PICTURE, 1),
    "a kind that there is not": frame(99, 1),
    "a command": frame(inside.EXECUTE, 1, b"1"),
    "another's number": frame(inside.TEXT, 7, b"x"),
    "a second hello": frame(inside.HELLO, 0),
    "an answer to something else": frame(inside.ANSWER, 1, b"null"),
    "an end that is no JSON": frame(inside.ENDED, 1, b"{"),
    "an end that is no end": frame(inside.ENDED, 1, b'{"how": "great", "why": null, "status": 0, "cut_bytes": 0}'),
    "an end of many brackets": frame(inside.ENDED, 1, b"[" * 60_000),
    "more frames than a call has": frame(inside.TEXT, 1) * 30_000,
    "half a frame": inside.HEADER.pack(inside.TEXT, 1, 100) + b"x",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_during_a_call_ends_the_box(lie: str) -> None:
    async with liar(LIES[lie], ends=lie == "half a frame") as box:
        ended, _ = await run(box)
        assert ended.how == "died"
        assert not box.is_alive
        with pytest.raises(BoxFailed):
            await run(box)


async def test_words_after_the_end_end_the_box() -> None:
    async with liar(frame(inside.ENDED, 1, DONE) + frame(inside.TEXT, 1, b"more")) as box:
        assert (await run(box))[0].how == "ok"
        with pytest.raises(BoxFailed):
            await box.files()
        assert not box.is_alive


async def test_a_picture_that_is_none_is_not_told() -> None:
    said = frame(inside.PICTURE, 1, b"\1<svg onload=alert(1)>") + frame(inside.ENDED, 1, DONE)
    async with liar(said) as box:
        assert await run(box) == (Ended("ok", None), [])


async def test_silence_ends_at_the_limit() -> None:
    async with liar() as box:
        started = time.monotonic()
        ended = await box.execute("1", lambda _: None, timeout_s=0.1)
        assert ended.how == "timeout"
        assert not box.is_alive
        assert time.monotonic() - started < 20


async def test_a_box_that_does_not_answer_is_given_up() -> None:
    async with liar() as box:
        with pytest.raises(BoxFailed):
            await box.files()
        assert not box.is_alive


@pytest.mark.parametrize("hello", [inside.HEADER.pack(inside.HELLO, 0, 1 << 31), b"bwrap: what?" * 10])
async def test_a_box_that_never_says_hello_is_given_up(hello: bytes) -> None:
    with pytest.raises(BoxFailed):
        async with liar(hello=hello):
            pass


async def test_a_box_that_says_nothing_is_given_up_at_the_limit() -> None:
    with pytest.raises(BoxFailed):
        async with liar(hello=b"", limits=Limits(start_s=0.2)):
            pass


@pytest.mark.parametrize(
    "files",
    [
        [["../../etc/passwd", 1, 1, 1]],
        [["/etc/passwd", 1, 1, 1]],
        [["a//b", 1, 1, 1]],
        [["a\0b", 1, 1, 1]],
        [["x" * 300, 1, 1, 1]],
        [["/".join("d" * 40), 1, 1, 1]],
        [["a", -1, 1, 1]],
        [["a", 1 << 60, 1, 1]],
        [["a", "1", 1, 1]],
        [["a", 1, 1]],
        [["a", 1, 1, 1]] * 6,
        {"a": 1},
    ],
)
async def test_files_that_cannot_be_end_the_box(files: object) -> None:
    async with liar(frame(inside.ANSWER, 1, json.dumps(files).encode())) as box:
        with pytest.raises(BoxFailed):
            await box.files()
        assert not box.is_alive


@pytest.mark.parametrize("length", [0, 1, 99, 101])
async def test_a_piece_of_another_length_ends_the_box(length: int) -> None:
    async with liar(frame(inside.PIECE, 1, bytes(length))) as box:
        with pytest.raises(BoxFailed):
            _ = [piece async for piece in box.read(SeenFile("a", 100, 1, 1))]
        assert not box.is_alive


async def test_a_refusal_is_short_clean_and_no_failure() -> None:
    async with liar(frame(inside.REFUSED, 1, b"\x1b[31mno\0\xff" + b"x" * 1000)) as box:
        with pytest.raises(FileRefused) as refused:
            await box.link("a", "b")
        assert refused.value.message.startswith("no\ufffd\ufffdx")
        assert len(refused.value.message) <= 200
        assert box.is_alive


async def test_an_answer_that_comes_after_its_asker_left_is_dropped() -> None:
    async with liar(b"", frame(inside.ANSWER, 1, b"[]") + frame(inside.ANSWER, 2, b'[["a", 1, 2, 3]]')) as box:
        asking = asyncio.create_task(box.files())
        # It starts, asks, and waits.
        await asyncio.sleep(0)
        assert box._answer is not None
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await box.files() == [SeenFile("a", 1, 2, 3)]


async def test_text_is_clean_however_it_is_cut() -> None:
    said = "a\x1b[1;31mred\x1b[0m \N{SNOWMAN}\0 \x1b]0;title\x07b".encode() + b"\xff\xed\xa0\x80!"
    pieces = b"".join(frame(inside.TEXT, 1, said[at : at + 1]) for at in range(len(said)))
    async with liar(pieces + frame(inside.ENDED, 1, DONE)) as box:
        _, outputs = await run(box)
        assert text_of(outputs) == "ared \N{SNOWMAN}\ufffd b\ufffd\ufffd\ufffd\ufffd!"


async def test_a_flood_of_frames_leaves_everybody_else_their_turn() -> None:
    longest = 0.0
    is_over = False

    async def others() -> None:
        nonlocal longest
        before = time.monotonic()
        while not is_over:
            await asyncio.sleep(0)
            now = time.monotonic()
            longest = max(longest, now - before)
            before = now

    async with liar(frame(inside.TEXT, 1) * 19_000 + frame(inside.ENDED, 1, DONE)) as box:
        watching = asyncio.create_task(others())
        ended, _ = await run(box)
        is_over = True
        await watching
        assert ended.how == "ok"
        assert longest < 0.25


async def test_what_the_listener_raises_reaches_the_caller() -> None:
    def tell(_: Output) -> None:
        raise LookupError("mine")

    async with liar(frame(inside.TEXT, 1, b"x") + frame(inside.ENDED, 1, DONE)) as box:
        with pytest.raises(LookupError, match="mine"):
            await box.execute("1", tell, timeout_s=2)
        assert not box.is_alive


ASKS: list[Callable[[Box], Awaitable[object]]] = [lambda box: box.files(), lambda box: box.link("a", "b"), run]


@pytest.mark.parametrize("ask", ASKS)
async def test_a_box_that_ends_is_noticed_by_whoever_waits(ask: Callable[[Box], Awaitable[object]]) -> None:
    async with liar(b"", ends=True) as box:
        try:
            result = await ask(box)
        except BoxFailed:
            result = None
        assert result is None or result == (Ended("died", "The session ended unexpectedly."), [])
        assert not box.is_alive


# --- the frames themselves, as the first process in the box reads them


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 2**32 - 1), st.binary(max_size=50))), st.data())
def test_frames_are_the_same_however_their_bytes_come(said: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    whole = b"".join(frame(*each) for each in said)
    frames = Frames({1: 50, 2: 50})
    found: list[Frame] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += frames.feed(whole[:size])
        whole = whole[size:]
    assert found == said


@given(st.binary(min_size=9, max_size=200))
def test_noise_is_frames_or_broken_and_never_kept_beyond_the_longest(noise: bytes) -> None:
    frames = Frames({1: 10})
    try:
        for _ in frames.feed(noise):
            pass
    except Broken:
        return
    assert len(frames._bytes) < inside.HEADER.size + 10


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a\0", "x" * 256, "é" * 128, "a/b/c"])
def test_a_path_that_could_mean_another_place_is_refused(path: str) -> None:
    with pytest.raises(inside.Refusal):
        inside.parts_of(path, 2)
