"""The code interpreter as a tool: what a call tells, and what becomes of files. Boxes are real where code runs."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import msgspec
import pytest
import pytest_asyncio
from openai.lib.streaming._assistants import accumulate_delta

from tests.support.databases import Database
from tests.support.objects import a_run, a_step, a_thread
from tests.support.sandbox import PLACE
from threadkeep.contract.errors import LeaseLost, ToolFailed, Unavailable
from threadkeep.contract.files import ListFilesQuery
from threadkeep.contract.run_steps import (
    CodeInterpreterCall,
    CodeInterpreterToolCall,
    CodeOutput,
    CodeOutputImage,
    CodeOutputLogs,
    OutputImage,
    ToolCallDelta,
    ToolCallsDetails,
)
from threadkeep.contract.tools import CodeInterpreterResources, ToolResources
from threadkeep.files.contents import Contents
from threadkeep.files.files import create_file, delete_file
from threadkeep.sandbox.box import BoxFailed, Ended, FileRefused, Logs, Output, Picture, SeenFile
from threadkeep.sandbox.bubblewrap import Bubblewrap
from threadkeep.sandbox.environment import DEFAULT
from threadkeep.sandbox.limits import MIB, Limits
from threadkeep.sandbox.sessions import Off, Sessions
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction, open_blobs, open_store
from threadkeep.tools.code_interpreter import CodeInterpreter
from threadkeep.tools.code_interpreter.outcome import MAX_LOGS_BYTES, MAX_RUN_LOGS_BYTES
from threadkeep.tools.code_interpreter.tool import shortened
from threadkeep.tools.toolbox import CallContext

T = TypeVar("T")

LIMITS = Limits(memory_bytes=600 * MIB, disk_bytes=100 * MIB, call_s=60.0, files_out=5)


class ScriptedSession:
    """A session whose code does what the test says, and writes ``writes``; its files are a dictionary."""

    def __init__(self, execute: Callable[[str, Callable[[Output], None]], Any] | None = None) -> None:
        self.writes: dict[str, bytes] = {}
        self.is_fresh = True
        self.lost = False
        self.placed: dict[str, str] = {}
        self.seen: dict[str, SeenFile] = {}
        self.contents: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.is_stopped = False
        self._execute = execute

    async def execute(self, code: str, tell: Callable[[Output], None], *, timeout_s: float) -> Ended:
        self.is_fresh = False
        try:
            ended = self._execute(code, tell) if self._execute is not None else None
            if asyncio.iscoroutine(ended):
                ended = await ended
        finally:
            self.is_stopped = True
        self.contents.update(self.writes)
        return ended or Ended("ok", None)

    async def put(self, path: str, size: int, pieces: AsyncIterator[bytes]) -> None:
        content = b"".join([piece async for piece in pieces])
        assert len(content) == size
        self.puts.append(path)
        self.contents[path] = content

    async def link(self, path: str, other: str) -> None:
        self.contents[other] = self.contents[path]

    async def files(self) -> list[SeenFile]:
        return [SeenFile(path, len(content), hash(content), hash(path)) for path, content in self.contents.items()]

    async def read(self, file: SeenFile) -> AsyncGenerator[bytes, None]:
        yield self.contents[file.path]


class ScriptedSessions:
    state = Off("these are scripted", "")

    def __init__(self, *sessions: Any) -> None:
        self._sessions = list(sessions)

    @asynccontextmanager
    async def session(self, project: str, thread_id: str) -> AsyncGenerator[Any, None]:
        yield self._sessions[0] if len(self._sessions) == 1 else self._sessions.pop(0)


class Desk:
    """A thread with a run, and the tool."""

    def __init__(self, store: Store, contents: Contents) -> None:
        self.store = store
        self.contents = contents
        self.thread = a_thread()
        self.run = a_run(self.thread.id)
        self.told: list[ToolCallDelta] = []
        self.lease_is_lost = False
        self.tool = self.with_sessions(ScriptedSessions(ScriptedSession()))

    def with_sessions(self, sessions: Any, limits: Limits = LIMITS) -> CodeInterpreter:
        self.tool = CodeInterpreter(cast("Sessions", sessions), self.store, self.contents, limits)
        return self.tool

    @property
    def context(self) -> CallContext:
        return CallContext(DEFAULT_PROJECT_ID, self.run, self._write)

    async def begin(self, *file_ids: str) -> None:
        resources = ToolResources(code_interpreter=CodeInterpreterResources(file_ids=list(file_ids)))
        self.run = a_run(self.thread.id, tool_resources=resources)

        def write(tx: Transaction) -> None:
            if tx.threads.find(self.thread.id) is None:
                tx.threads.insert(self.thread)
            if (active := tx.runs.active(self.thread.id)) is not None:
                tx.runs.replace(a_run(self.thread.id, id=active.id, status="failed"), was=active.status)
            tx.runs.insert(self.run)

        await self.write(write)

    async def write(self, change: Callable[[Transaction], T]) -> T:
        return await self.store.write(DEFAULT_PROJECT_ID, change)

    async def _write(self, change: Callable[[Transaction], T]) -> T:
        if self.lease_is_lost:
            raise LeaseLost("run", self.run.id)
        return await self.write(change)

    async def upload(self, name: str, content: bytes) -> str:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield content

        blob = await self.contents.write(DEFAULT_PROJECT_ID, pieces())
        made = await self.contents.commit(
            DEFAULT_PROJECT_ID, blob, lambda tx: create_file(tx, filename=name, purpose="assistants", blobs=[blob])
        )
        return made.id

    async def read(self, file_id: str) -> bytes:
        found = await self.store.read(DEFAULT_PROJECT_ID, lambda tx: tx.files.content(file_id))
        assert found is not None
        return b"".join([piece async for piece in self.contents.read(found[1])])

    async def made(self) -> dict[str, str]:
        """The files that code made, by name."""
        query = ListFilesQuery(purpose="assistants_output")
        page = await self.store.read(DEFAULT_PROJECT_ID, lambda tx: tx.files.list(query))
        return {file.filename: file.id for file in page.data}

    async def links(self) -> dict[str, str]:
        return dict((await self.tool.marks(self.context, [])).links)

    async def call(self, code: str) -> list[CodeOutput]:
        """What a call of this code comes to; what was told of it adds up to the same."""
        reading = self.tool.read(0, "call_1")
        read = [reading.begin(), reading.feed(json.dumps({"code": code})), reading.finish()]
        self.told = []
        finished = await self.tool.call(0, reading.call, self.context, self.told.append)
        assert added_up([*filter(None, read), *self.told]) == plain(finished)
        return finished.code_interpreter.outputs

    async def logs(self, code: str) -> str:
        return "".join(output.logs for output in await self.call(code) if isinstance(output, CodeOutputLogs))


def plain(value: object) -> Any:
    return msgspec.to_builtins(value)


def added_up(deltas: list[ToolCallDelta]) -> Any:
    """The call that a client of the SDK has in the end, without the indices that only deltas have."""
    whole: dict[object, object] = {}
    for delta in deltas:
        whole = accumulate_delta(whole, {"calls": [plain(delta)]})
    call = cast("Any", whole)["calls"][0]
    assert call.pop("index") == 0
    assert [output.pop("index") for output in call["code_interpreter"]["outputs"]] == list(
        range(len(call["code_interpreter"]["outputs"]))
    )
    return call


@asynccontextmanager
async def real_sessions(limits: Limits = LIMITS) -> AsyncGenerator[Sessions, None]:
    sessions = Sessions(
        lambda environment: Bubblewrap(environment, limits), PLACE, (DEFAULT,), limits,
        pool=0, maximum=4, total_bytes=4096 * MIB,
    )  # fmt: skip
    sessions.start()
    try:
        yield sessions
    finally:
        await sessions.close()


@pytest_asyncio.fixture
async def desk(database: Database) -> AsyncGenerator[Desk, None]:
    """On either database, with scripted sessions."""
    store = await open_store(database.url, database.data_dir)
    blobs = await open_blobs(None, database.data_dir)
    desk = Desk(store, Contents(store, blobs))
    await desk.begin()
    yield desk
    await store.close()
    await blobs.close()


@pytest_asyncio.fixture
async def real(sqlite_database: Database, sandbox_environment: object, bubblewrap: str) -> AsyncGenerator[Desk, None]:
    """With real boxes."""
    store = await open_store(None, sqlite_database.data_dir)
    blobs = await open_blobs(None, sqlite_database.data_dir)
    desk = Desk(store, Contents(store, blobs))
    await desk.begin()
    async with real_sessions() as sessions:
        desk.with_sessions(sessions)
        yield desk
    await store.close()
    await blobs.close()


# --- with real boxes


async def test_printed_text_last_expression_and_traceback_are_logs_and_variables_stay(real: Desk) -> None:
    assert await real.call("x = 20\nprint('text')\nx + 1") == [CodeOutputLogs(logs="text\n21\n")]
    assert await real.call("y = x + 1") == []
    logs = await real.logs("x / 0")
    assert "ZeroDivisionError: division by zero" in logs
    assert await real.logs("x + y") == "41\n"


async def test_picture_between_two_prints_stays_between_them_and_is_a_file(real: Desk) -> None:
    code = (
        "import matplotlib.pyplot as plt\nprint('before')\nplt.plot([1, 2])\n"
        "plt.savefig('chart.png')\nplt.show()\nprint('after')"
    )
    match await real.call(code):
        case [CodeOutputLogs(logs="before\n"), CodeOutputImage(image=image), CodeOutputLogs(logs="after\n")]:
            pass
        case outputs:
            pytest.fail(str(outputs))
    made = await real.made()
    shown = {file_id: name for name, file_id in made.items()}[image.file_id]
    assert shown.endswith(".png")
    assert (await real.read(image.file_id)).startswith(b"\x89PNG")
    # Saved as well, it is a file of its own.
    assert set(made) == {"chart.png", shown}
    assert await real.links() == {"chart.png": made["chart.png"]}


async def test_files_of_the_run_are_there_under_id_and_name_and_later_ones_come_to_the_same_session(real: Desk) -> None:
    first = await real.upload("sales.csv", b"a\n1\n")
    second = await real.upload("sales.csv", b"b\n2\n")
    await real.begin(first, second)
    code = f"[open(p).read() for p in ('sales.csv', 'sales (2).csv', '{first}', '{second}')]"
    assert await real.logs(code) == "['a\\n1\\n', 'b\\n2\\n', 'a\\n1\\n', 'b\\n2\\n']\n"
    third = await real.upload("more.txt", b"new")
    await real.begin(first, second, third)
    assert await real.logs("kept = 1; open('/mnt/data/more.txt').read()") == "'new'\n"
    assert await real.made() == {}


async def test_written_and_changed_files_become_files_once(real: Desk) -> None:
    given = await real.upload("sales.csv", b"a\n")
    await real.begin(given)
    code = (
        "import os\nos.makedirs('out/__pycache__'); os.makedirs('.ipynb_checkpoints')\n"
        "for p in ('out/report.csv', 'out/__pycache__/x.pyc', '.ipynb_checkpoints/y', '.hidden'):\n"
        "    open(p, 'w').write('1')\n"
        "open('sales.csv', 'a').write('b\\n')\nNone"
    )
    assert await real.call(code) == []
    made = await real.made()
    assert set(made) == {"report.csv", "sales.csv"}
    assert await real.read(made["sales.csv"]) == b"a\nb\n"
    assert await real.links() == {"out/report.csv": made["report.csv"], "sales.csv": made["sales.csv"]}
    links = await real.links()
    assert await real.call("print(end='')") == []
    assert await real.links() == links
    await real.call("open('out/report.csv', 'w').write('22')")
    newest = await real.links()
    assert await real.read(newest["out/report.csv"]) == b"22"
    assert await real.read(made["report.csv"]) == b"1"


async def test_session_that_ended_is_followed_by_one_with_its_files_and_the_model_is_told(real: Desk) -> None:
    given = await real.upload("sales.csv", b"a\n")
    await real.begin(given)
    await real.call(
        "x = 1; open('sales.csv', 'a').write('b\\n'); import os; os.mkdir('d'); open('d/f', 'wb').write(b'\\x00')"
    )
    async with real_sessions() as sessions:
        # Another node, or this server after it was started again.
        real.with_sessions(sessions)
        logs = await real.logs(
            f"print(open('sales.csv').read(), open('{given}').read(), open('d/f').read() == chr(0), 'x' in dir())"
        )
        assert logs == (
            "The session was restarted: variables are lost; files under /mnt/data were restored.\n"
            "a\nb\n a\n True False\n"
        )
        made = await real.links()
        assert await real.logs("1") == "1\n"
        assert await real.links() == made


async def test_code_that_takes_too_long_is_stopped_with_news_and_its_files_are_kept(real: Desk) -> None:
    limits = Limits(memory_bytes=600 * MIB, disk_bytes=100 * MIB, call_s=1.0)
    async with real_sessions(limits) as sessions:
        real.with_sessions(sessions, limits)
        logs = await real.logs("open('early.txt', 'w').write('x')\nprint('begun')\nwhile True: pass")
        assert logs.startswith("begun\n")
        assert "stopped after 1 s" in logs
        assert set(await real.made()) == {"early.txt"}


async def test_cancelled_call_has_stopped_the_code(real: Desk) -> None:
    begun = asyncio.Event()
    reading = real.tool.read(0, "call_1")
    reading.feed("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    reading.finish()
    calling = asyncio.create_task(real.tool.call(0, reading.call, real.context, lambda delta: begun.set()))
    async with asyncio.timeout(60):
        await begun.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert await real.logs("1 + 1") == "2\n"


async def test_more_files_than_a_call_may_leave_are_news(real: Desk) -> None:
    logs = await real.logs("for n in range(7): open(f'{n}.txt', 'w').write('x')")
    assert len(await real.made()) == 5
    assert "Not kept" in logs
    assert "6.txt: a call may leave 5 files" in logs


async def test_file_that_does_not_fit_is_news_and_no_failure(real: Desk) -> None:
    limits = Limits(memory_bytes=600 * MIB, disk_bytes=2 * MIB, file_bytes=4 * MIB)
    large, larger = await real.upload("large.bin", bytes(3 * MIB)), await real.upload("larger.bin", bytes(5 * MIB))
    await real.begin(large, larger)
    async with real_sessions(limits) as sessions:
        real.with_sessions(sessions, limits)
        logs = await real.logs("print('ran')")
        assert "Not available in /mnt/data" in logs
        assert large in logs
        assert larger in logs
        assert logs.endswith("ran\n")
        assert await real.logs("print('again')") == "again\n"


# --- with a session that does what the test says


async def test_logs_are_told_while_the_code_runs(desk: Desk) -> None:
    heard = asyncio.Event()

    async def execute(code: str, tell: Callable[[Output], None]) -> None:
        tell(Logs("one "))
        await heard.wait()
        tell(Logs("two"))

    desk.with_sessions(ScriptedSessions(ScriptedSession(execute)))
    reading = desk.tool.read(0, "call_1")
    reading.feed("print()")
    reading.finish()
    calling = asyncio.create_task(desk.tool.call(0, reading.call, desk.context, lambda delta: heard.set()))
    async with asyncio.timeout(60):
        finished = await calling
    assert finished.code_interpreter.outputs == [CodeOutputLogs(logs="one two")]


async def test_logs_beyond_the_budget_are_cut_with_a_note(desk: Desk) -> None:
    def execute(code: str, tell: Callable[[Output], None]) -> None:
        for _ in range(3):
            tell(Logs("é" * (MAX_LOGS_BYTES // 4)))

    desk.with_sessions(ScriptedSessions(ScriptedSession(execute)))
    logs = await desk.logs("print()")
    assert logs.count("é") == MAX_LOGS_BYTES // 2
    assert logs.endswith(f"\nThe output was cut: more than {MAX_LOGS_BYTES} bytes are not kept.\n")


async def test_calls_have_the_session_in_their_order_whatever_the_store_does(desk: Desk) -> None:
    asked: list[int] = []

    class Orderly(ScriptedSessions):
        @asynccontextmanager
        async def session(self, project: str, thread_id: str) -> AsyncGenerator[Any, None]:
            asked.append(len(asked))
            async with super().session(project, thread_id) as session:
                yield session

    desk.with_sessions(Orderly(ScriptedSession()))
    reading = desk.tool.read(0, "call_1")
    reading.feed(json.dumps({"code": "1"}))
    reading.finish()
    calling = asyncio.create_task(desk.tool.call(0, reading.call, desk.context, lambda delta: None))
    # One turn of the loop: no answer of the store can have come.
    await asyncio.sleep(0)
    assert asked
    await calling


async def test_a_run_that_has_kept_much_keeps_less_of_a_further_call(desk: Desk) -> None:
    def execute(code: str, tell: Callable[[Output], None]) -> None:
        tell(Logs("x" * MAX_LOGS_BYTES))

    desk.with_sessions(ScriptedSessions(ScriptedSession(execute)))
    await desk.begin()
    kept: list[CodeOutput] = [CodeOutputLogs(logs="é" * ((MAX_RUN_LOGS_BYTES - 100_000) // 2))]
    call = CodeInterpreterToolCall(id="call_0", code_interpreter=CodeInterpreterCall(input="x", outputs=kept))
    step = a_step(desk.run, type="tool_calls", status="completed", step_details=ToolCallsDetails(tool_calls=[call]))
    await desk.write(lambda tx: tx.steps.insert(step))

    assert "more than 100000 bytes are not kept" in await desk.logs("print()")

    more = msgspec.structs.replace(a_step(desk.run, type="tool_calls"), step_details=step.step_details)
    await desk.write(lambda tx: tx.steps.insert(more))
    assert (await desk.logs("print()")).count("x") == 64 * 1024


async def test_no_code_is_answered_with_how_to_send_it_and_needs_no_session(desk: Desk) -> None:
    desk.with_sessions(ScriptedSessions())
    [output] = await desk.call(" \n")
    assert isinstance(output, CodeOutputLogs)
    assert '{"code": "print(1 + 1)"}' in output.logs


async def test_deleted_file_is_news_once(desk: Desk) -> None:
    file_id = await desk.upload("a.txt", b"a")
    await desk.begin(file_id)
    await desk.write(lambda tx: delete_file(tx, file_id))
    assert await desk.logs("1") == f"Not available in /mnt/data: {file_id}: it was deleted.\n"
    assert await desk.logs("1") == ""


async def test_files_that_are_there_are_not_sent_again(desk: Desk) -> None:
    session = ScriptedSession()
    desk.with_sessions(ScriptedSessions(session))
    first, second = await desk.upload("a.txt", b"a"), await desk.upload("b.txt", b"b")
    await desk.begin(first)
    await desk.call("1")
    await desk.begin(first, second)
    await desk.call("1")
    assert session.puts == [first, second]
    assert session.contents == {first: b"a", "a.txt": b"a", second: b"b", "b.txt": b"b"}


async def test_what_code_wrote_is_not_overwritten_by_a_later_attachment_of_that_name(desk: Desk) -> None:
    session = ScriptedSession()
    session.writes = {"a.txt": b"written"}
    desk.with_sessions(ScriptedSessions(session))
    await desk.call("1")
    file_id = await desk.upload("a.txt", b"attached")
    await desk.begin(file_id)
    assert await desk.logs("1") == f"Another file is called /mnt/data/a.txt: the attached one is /mnt/data/{file_id}.\n"
    assert session.contents == {"a.txt": b"written", file_id: b"attached"}
    # Known by now.
    assert await desk.logs("1") == ""


async def test_changed_file_of_the_run_is_restored_over_what_was_given(desk: Desk) -> None:
    file_id = await desk.upload("a.txt", b"given")
    await desk.begin(file_id)
    first, second = ScriptedSession(), ScriptedSession()
    first.writes = {"a.txt": b"changed"}
    desk.with_sessions(ScriptedSessions(first, second))
    await desk.call("1")
    assert (
        await desk.logs("1") == "The session was restarted: variables are lost; files under /mnt/data were restored.\n"
    )
    assert second.contents == {"a.txt": b"changed", file_id: b"given"}


async def test_earlier_session_without_files_is_known_from_the_steps(desk: Desk) -> None:
    call = CodeInterpreterToolCall(id="call_1", code_interpreter=CodeInterpreterCall(input="x = 1", outputs=[]))
    step = a_step(desk.run, type="tool_calls", status="completed", step_details=ToolCallsDetails(tool_calls=[call]))
    await desk.write(lambda tx: tx.steps.insert(step))
    assert await desk.logs("x") == "The session was restarted: variables are lost.\n"
    assert await desk.logs("x") == ""


async def test_file_whose_path_cannot_be_kept_is_news(desk: Desk) -> None:
    session = ScriptedSession()
    long = "/".join(["x" * 200] * 6)
    session.writes = {long: b"1", "\udce9": b"2", "good": b"3"}
    desk.with_sessions(ScriptedSessions(session))
    logs = await desk.logs("1")
    assert set(await desk.made()) == {"good"}
    assert logs.count("its name is too long, or no text") == 2
    assert logs.isprintable() or logs.replace("\n", "").isprintable()


async def test_file_that_changes_while_it_is_read_is_news(desk: Desk) -> None:
    class Changing(ScriptedSession):
        async def read(self, file: SeenFile) -> AsyncGenerator[bytes, None]:
            if file.path == "log":
                raise FileRefused("it has changed")
            yield self.contents[file.path]

    session = Changing()
    session.writes = {"log": b"1", "good": b"3"}
    desk.with_sessions(ScriptedSessions(session))
    assert await desk.logs("1") == "Not kept, so nobody can download it: log: it has changed.\n"
    assert set(await desk.made()) == {"good"}


async def test_two_names_of_one_file_are_one_file(desk: Desk) -> None:
    class Linked(ScriptedSession):
        async def files(self) -> list[SeenFile]:
            return [file._replace(inode=7) for file in await super().files()]

    session = Linked()
    session.writes = {"a": b"1", "d/b": b"1"}
    desk.with_sessions(ScriptedSessions(session))
    await desk.call("1")
    made = await desk.made()
    assert set(made) == {"a"}
    assert await desk.links() == {"a": made["a"], "d/b": made["a"]}


async def test_run_that_is_another_node_s_leaves_no_picture(desk: Desk) -> None:
    desk.with_sessions(ScriptedSessions(ScriptedSession(lambda code, tell: tell(Picture("image/png", b"\x89PNG")))))
    desk.lease_is_lost = True
    with pytest.raises(LeaseLost):
        await desk.call("1")
    assert desk.told == []
    assert await desk.made() == {}


async def test_run_that_is_another_node_s_leaves_no_file_until_a_call_may(desk: Desk) -> None:
    session = ScriptedSession()
    session.writes = {"a": b"1"}
    desk.with_sessions(ScriptedSessions(session))
    desk.lease_is_lost = True
    with pytest.raises(LeaseLost):
        await desk.call("1")
    assert await desk.made() == {}
    desk.lease_is_lost = False
    await desk.call("1")
    assert set(await desk.made()) == {"a"}


async def test_picture_that_cannot_be_stored_stops_the_code(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def execute(code: str, tell: Callable[[Output], None]) -> None:
        tell(Picture("image/png", b"\x89PNG"))
        await asyncio.Event().wait()

    async def refuse(*_: object) -> None:
        raise Unavailable

    session = ScriptedSession(execute)
    desk.with_sessions(ScriptedSessions(session))
    monkeypatch.setattr(desk.contents, "write", refuse)
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable):
            await desk.call("1")
    assert session.is_stopped


async def test_code_has_stopped_when_a_call_ends_that_was_cancelled_twice(desk: Desk) -> None:
    stopping, begun, may_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def execute(code: str, tell: Callable[[Output], None]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await may_stop.wait()

    session = ScriptedSession(execute)
    desk.with_sessions(ScriptedSessions(session))
    async with asyncio.timeout(60):
        calling = asyncio.create_task(desk.call("1"))
        await begun.wait()
        calling.cancel()
        await stopping.wait()
        calling.cancel()
        await asyncio.wait({calling}, timeout=0.05)
        assert not calling.done()
        may_stop.set()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert session.is_stopped


async def test_session_that_died_while_idle_is_replaced(desk: Desk) -> None:
    class Dead(ScriptedSession):
        async def execute(self, code: str, tell: Callable[[Output], None], *, timeout_s: float) -> Ended:
            raise BoxFailed("it has ended")

    desk.with_sessions(ScriptedSessions(Dead(), ScriptedSession(lambda code, tell: tell(Logs("ran")))))
    assert await desk.logs("1") == "ran"
    desk.with_sessions(ScriptedSessions(Dead()))
    with pytest.raises(ToolFailed):
        await desk.call("1")


async def test_session_that_dies_with_the_code_is_news(desk: Desk) -> None:
    class Dying(ScriptedSession):
        async def files(self) -> list[SeenFile]:
            raise BoxFailed("it has ended")

    desk.with_sessions(ScriptedSessions(Dying(lambda code, tell: Ended("died", "The session ended unexpectedly."))))
    assert await desk.logs("1") == (
        "The session ended unexpectedly.\nThe session is gone: files that the code wrote are lost.\n"
    )


async def test_offer_names_the_files_of_the_run(desk: Desk) -> None:
    first, second = await desk.upload("a.csv", b""), await desk.upload("a.csv", b"")
    await desk.begin(first, second, "file-gone")
    definition = await desk.tool.offer(desk.context)
    assert definition.name == "code_interpreter"
    assert isinstance(definition.description, str)
    assert f"/mnt/data/a.csv = {first}\n/mnt/data/a (2).csv = {second}" in definition.description
    assert "sandbox:/mnt/data/" in definition.description


async def test_offer_is_bounded(desk: Desk) -> None:
    files = [await desk.upload("x" * 240 + f"{number}.csv", b"") for number in range(40)]
    await desk.begin(*files)
    description = (await desk.tool.offer(desk.context)).description
    assert isinstance(description, str)
    assert len(description) < 6_000
    assert description.endswith(" more")


# --- what the model reads


def finished(*outputs: CodeOutput) -> CodeInterpreterToolCall:
    called = CodeInterpreterCall(input='print("é")\n', outputs=list(outputs))
    return CodeInterpreterToolCall(id="call_1", code_interpreter=called)


async def test_model_reads_logs_and_that_pictures_were_shown(desk: Desk) -> None:
    picture = CodeOutputImage(image=OutputImage(file_id="file-1"))
    said = desk.tool.said(finished(CodeOutputLogs(logs="a"), picture, CodeOutputLogs(logs="b\n"), picture))
    assert said == "a\n[image shown: file-1]\nb\n[image shown: file-1]\n"
    assert desk.tool.said(finished()) == "(no output)"
    assert desk.tool.said(finished(CodeOutputLogs(logs=" \n"))) == "(no output)"
    assert json.loads(desk.tool.asked(finished())) == {"code": 'print("é")\n'}


@pytest.mark.parametrize(("character", "kept"), [("a", 64_000), ("é", 16_000)])
def test_model_reads_beginning_and_end_of_long_logs(character: str, kept: int) -> None:
    exact = character * kept
    assert shortened(exact) == exact
    said = shortened("BEGIN" + character * kept * 2 + "END")
    assert said.startswith("BEGIN" + character)
    assert said.endswith(character + "END")
    assert "characters are left out here" in said
    assert kept - 10 < said.count(character) <= kept + 10
