"""The code interpreter: reads the model's code, runs it in the thread's session, and tells what comes of it.

Code runs isolated or not at all. What is told of a call is all in its outputs: news for the model, of limits and of
lost sessions, are logs like any other.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from threadkeep.contract.errors import ToolFailed
from threadkeep.contract.run_steps import (
    CodeInterpreterCall,
    CodeInterpreterCallDelta,
    CodeInterpreterToolCall,
    CodeInterpreterToolCallDelta,
    CodeOutputLogs,
    RunStep,
    ToolCall,
)
from threadkeep.contract.tools import FunctionDefinition
from threadkeep.files.contents import Contents
from threadkeep.logs import Log
from threadkeep.sandbox.box import BoxFailed, Logs, Output, Picture
from threadkeep.sandbox.limits import Limits
from threadkeep.sandbox.sessions import Ready, Session, Sessions
from threadkeep.storage.store import Store, Transaction
from threadkeep.tools.code_interpreter.arguments import Arguments
from threadkeep.tools.code_interpreter.files import Given, SessionFiles, given
from threadkeep.tools.code_interpreter.outcome import Outcome, logs_left
from threadkeep.tools.toolbox import CallContext, Marks, Tell

log = Log(__name__)

# What a model reads of one call, in quarters of an estimated token: an ASCII character is one, any other is four.
_SAID: Final = 16_000 * 4
# How much of the files' names is offered.
_LISTED_CHARS: Final = 4_000
_PACKAGES_CHARS: Final = 1_500
_DESCRIPTION: Final = (
    "Runs Python in a stateful session, as a notebook does: variables, imports and files last from call to call. What "
    "the code prints and the value of its last expression are returned; figures are shown to the user. There is no "
    "access to the internet, and nothing can be installed."
)
_NO_CODE: Final = (
    'No code arrived, so nothing was run. Call code_interpreter with JSON arguments that have one string, "code": '
    '{"code": "print(1 + 1)"}.'
)
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg"}


class CodeReading:
    """A call while the model writes it: the input is what was read of the arguments, and nothing else ever is."""

    def __init__(self, index: int, call_id: str) -> None:
        self._index = index
        self._call_id = call_id
        self._arguments = Arguments()
        self._input: list[str] = []

    @property
    def call(self) -> CodeInterpreterToolCall:
        called = CodeInterpreterCall(input="".join(self._input), outputs=[])
        return CodeInterpreterToolCall(id=self._call_id, code_interpreter=called)

    def begin(self) -> CodeInterpreterToolCallDelta:
        opened = CodeInterpreterCallDelta(input="", outputs=[])
        return CodeInterpreterToolCallDelta(index=self._index, id=self._call_id, code_interpreter=opened)

    def feed(self, arguments: str) -> CodeInterpreterToolCallDelta | None:
        return self._read(self._arguments.feed(arguments))

    def finish(self) -> CodeInterpreterToolCallDelta | None:
        return self._read(self._arguments.finish())

    def _read(self, code: str) -> CodeInterpreterToolCallDelta | None:
        if not code:
            return None
        self._input.append(code)
        return CodeInterpreterToolCallDelta(index=self._index, code_interpreter=CodeInterpreterCallDelta(input=code))


class CodeInterpreter:
    """The tool, on the sessions of this node. ``limits`` are those of the sessions."""

    name = "code_interpreter"
    aliases = ("python",)

    def __init__(self, sessions: Sessions, store: Store, contents: Contents, limits: Limits) -> None:
        self._sessions = sessions
        self._store = store
        self._limits = limits
        self._files = SessionFiles(store, contents, limits)

    async def offer(self, context: CallContext) -> FunctionDefinition:
        files = await self._store.read(context.project, lambda tx: given(tx, context))
        return FunctionDefinition(
            name=self.name,
            description=self._description(files),
            parameters={
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The Python code to run."}},
                "required": ["code"],
                "additionalProperties": False,
            },
        )

    def read(self, index: int, call_id: str) -> CodeReading:
        return CodeReading(index, call_id)

    async def call(self, index: int, call: ToolCall, context: CallContext, tell: Tell) -> CodeInterpreterToolCall:
        assert isinstance(call, CodeInterpreterToolCall)
        outcome = Outcome(index, call, tell)
        if not call.code_interpreter.input.strip():
            outcome.tell_news(_NO_CODE)
            return outcome.call
        for _ in range(2):
            # Nothing is waited for ahead of it: the calls of one reply have the session in their order.
            async with self._sessions.session(context.project, context.run.thread_id) as session:
                outcome.keep_at_most(await self._store.read(context.project, lambda tx: _logs_left(tx, context)))
                try:
                    await self._files.place(session, context, outcome)
                    await self._run(session, call.code_interpreter.input, context, outcome)
                except BoxFailed as failure:
                    # It had died before the code ran. A new one will do.
                    log.warning("sandbox_died_idle", error=failure)
                    continue
                try:
                    await self._files.collect(session, context, outcome)
                except BoxFailed:
                    outcome.tell_news("The session is gone: files that the code wrote are lost.")
                return outcome.call
        raise ToolFailed("The code interpreter's sandbox ended before it could run the code. Try again later.")

    def asked(self, call: ToolCall) -> str:
        assert isinstance(call, CodeInterpreterToolCall)
        return msgspec.json.encode({"code": call.code_interpreter.input}).decode()

    def said(self, call: ToolCall) -> str:
        assert isinstance(call, CodeInterpreterToolCall)
        said: list[str] = []
        for output in call.code_interpreter.outputs:
            if isinstance(output, CodeOutputLogs):
                said.append(output.logs)
            else:
                line_break = "\n" if said and not said[-1].endswith("\n") else ""
                said.append(f"{line_break}[image shown: {output.image.file_id}]\n")
        return shortened("".join(said)) if any(map(str.strip, said)) else "(no output)"

    async def marks(self, context: CallContext, steps: Sequence[RunStep]) -> Marks:
        return Marks(
            links=await self._store.read(context.project, lambda tx: tx.code_files.newest(context.run.thread_id))
        )

    def _description(self, files: Sequence[Given]) -> str:
        said = [f"{_DESCRIPTION} A call may take {self._limits.call_s:g} seconds."]
        if isinstance(state := self._sessions.state, Ready):
            said.append(f"Installed: {_joined(_distributions(state.environment.packages), _PACKAGES_CHARS)}.")
        said.append(
            "Files are in /mnt/data. To give the user a file, write it to /mnt/data and link it in your answer: "
            "[name](sandbox:/mnt/data/name)."
        )
        if files:
            listed = _joined([f"/mnt/data/{file.name} = {file.file_id}" for file in files], _LISTED_CHARS, "\n")
            said.append(f"Files of the user, which are also there under their ids:\n{listed}")
        return "\n".join(said)

    async def _run(self, session: Session, code: str, context: CallContext, outcome: Outcome) -> None:
        outputs: deque[Output] = deque()
        arrived = asyncio.Event()

        def take(output: Output) -> None:
            outputs.append(output)
            arrived.set()

        executing = asyncio.create_task(session.execute(code, take, timeout_s=self._limits.call_s))
        executing.add_done_callback(lambda _: arrived.set())
        try:
            # Outputs are told in their order: what comes behind a picture waits until the picture is a file.
            while not executing.done() or outputs:
                await arrived.wait()
                arrived.clear()
                while outputs:
                    await self._tell(outputs, context, outcome)
            ended = await executing
        finally:
            await _stopped(executing)
        if ended.note:
            outcome.tell_news(ended.note)

    async def _tell(self, outputs: deque[Output], context: CallContext, outcome: Outcome) -> None:
        """The next output; text that came in pieces is one."""
        match outputs.popleft():
            case Logs(text):
                texts = [text]
                while outputs and isinstance(following := outputs[0], Logs):
                    texts.append(following.text)
                    outputs.popleft()
                outcome.log("".join(texts))
            case Picture(media_type, content):
                filename = f"{uuid.uuid4()}.{_EXTENSIONS.get(media_type, 'bin')}"
                outcome.show(await self._files.keep_picture(context, filename, content))


def _logs_left(tx: Transaction, context: CallContext) -> int:
    return logs_left(tx.steps.all(context.run.id))


async def _stopped(task: asyncio.Task[Any]) -> None:
    """Returns when the task has ended, whoever is cancelled meanwhile."""
    task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        # What it raised was told, or comes second to why it was stopped.
        task.exception()
    if cancelled is not None:
        raise cancelled


def shortened(text: str) -> str:
    """``text``, or its beginning and end where it is longer than a model is told."""
    if len(text) + 3 * (len(text) - len(text.encode("ascii", "ignore"))) <= _SAID:
        return text
    head, tail = _length_within(text), _length_within(reversed(text))
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[{left_out} characters are left out here]\n{text[-tail:]}"


def _length_within(text: Iterable[str]) -> int:
    """How many of the characters half of the budget holds."""
    left = _SAID // 2
    length = 0
    for character in text:
        left -= 1 if character.isascii() else 4
        if left < 0:
            break
        length += 1
    return length


def _distributions(packages: Sequence[str]) -> list[str]:
    return [package.partition("==")[0] for package in packages]


def _joined(items: Sequence[str], most_chars: int, between: str = ", ") -> str:
    shown: list[str] = []
    for item in items:
        most_chars -= len(item) + len(between)
        if most_chars < 0:
            return between.join((*shown, f"and {len(items) - len(shown)} more"))
        shown.append(item)
    return between.join(shown)
