"""The tools of one run, as the model is offered them: everything is a function with a name to the model.

A tool that runs here is one file: a ``HostedTool``. All that is ever known of a call is the call as the step holds it:
clients read it there, and what the model is told of it is derived from it, in this turn and in every later one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from threadkeep.contract.run_steps import (
    CodeInterpreterToolCall,
    FileSearchToolCall,
    FunctionToolCall,
    RunStep,
    ToolCall,
    ToolCallDelta,
)
from threadkeep.contract.runs import Run
from threadkeep.contract.tools import (
    CodeInterpreterTool,
    FileSearchTool,
    FunctionDefinition,
    FunctionTool,
    NamedToolChoice,
)
from threadkeep.storage.store import Transaction
from threadkeep.tools.function import FUNCTION

T = TypeVar("T")

HostedToolCall = CodeInterpreterToolCall | FileSearchToolCall
Tell = Callable[[ToolCallDelta], None]


class Write(Protocol):
    """A transaction of the run's project that fails with ``LeaseLost`` once the run is another node's."""

    async def __call__(self, change: Callable[[Transaction], T]) -> T: ...


class CallContext(NamedTuple):
    """The run that a tool works for: its thread, its tools with their options, and the resources that they work on."""

    project: str
    run: Run
    write: Write


class Marks(NamedTuple):
    """What marks in the text of an answer may stand for."""

    # By path under /mnt/data: the id of the file that code wrote there.
    links: Mapping[str, str] = {}
    # By the two numbers of a citation: the id of the file cited, and the quoted text.
    citations: Mapping[tuple[int, int], tuple[str, str]] = {}


class Reading(Protocol):
    """A call while the model writes its arguments. What the deltas add up to is the call."""

    @property
    def call(self) -> ToolCall:
        """The call as far as it was read."""
        ...

    def begin(self) -> ToolCallDelta:
        """The delta that opens the call."""
        ...

    def feed(self, arguments: str) -> ToolCallDelta | None:
        """More of the arguments; what that adds to the call."""
        ...

    def finish(self) -> ToolCallDelta | None:
        """The arguments are complete; what was held back until now."""
        ...


class HostedTool(Protocol):
    """A tool that runs here. The model calls it by ``name``; its calls never wait for the client."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> Sequence[str]:
        """Other names under which models call such a tool unasked."""
        ...

    async def offer(self, context: CallContext) -> FunctionDefinition:
        """The tool as this run's model is offered it."""
        ...

    def read(self, index: int, call_id: str) -> Reading:
        """A call that the model begins: the one at ``index`` of its step."""
        ...

    async def call(self, index: int, call: ToolCall, context: CallContext, tell: Tell) -> ToolCall:
        """Carries the call out and returns it with its outcome, which is what it told in deltas.

        Cancelled, it stops what it does before it returns. What the model can mend is part of the outcome; raises
        ``ToolFailed`` for what it can't.
        """
        ...

    def asked(self, call: ToolCall) -> str:
        """The arguments of the call, as JSON."""
        ...

    def said(self, call: ToolCall) -> str:
        """What the model reads of the finished call, within the tool's budget."""
        ...

    async def marks(self, context: CallContext, steps: Sequence[RunStep]) -> Marks:
        """What the answer may point to, after the run's ``steps`` so far."""
        ...


class Tools:
    """The hosted tools of this server."""

    def __init__(self, *, code_interpreter: HostedTool, file_search: HostedTool) -> None:
        self._hosted: dict[type[CodeInterpreterTool | FileSearchTool], HostedTool] = {
            CodeInterpreterTool: code_interpreter,
            FileSearchTool: file_search,
        }
        self._by_call: dict[type[ToolCall], HostedTool] = {
            CodeInterpreterToolCall: code_interpreter,
            FileSearchToolCall: file_search,
        }

    async def of(self, context: CallContext) -> "Toolbox":
        """What the run of ``context`` offers its model."""
        tools = context.run.tools
        functions = {tool.function.name for tool in tools if isinstance(tool, FunctionTool)}
        names: dict[HostedTool, str] = {}
        definitions: list[FunctionDefinition] = []
        for tool in tools:
            if isinstance(tool, FunctionTool):
                definitions.append(tool.function)
            elif (runs_here := self._hosted[type(tool)]) not in names:
                # A client's function has the name that the client gave it.
                names[runs_here] = next(name for name in _spellings(runs_here.name) if name not in functions)
                offered = await runs_here.offer(context)
                definitions.append(msgspec.structs.replace(offered, name=names[runs_here]))
        hosted = {alias: tool for tool in names for alias in tool.aliases if alias not in functions}
        hosted.update((name, tool) for tool, name in names.items())
        return Toolbox(context, definitions, hosted, self._by_call, names)


def _spellings(name: str) -> Iterator[str]:
    return (name + "_" * number for number in count())


class Toolbox:
    """What one run offers its model, and what it does with a call."""

    def __init__(
        self,
        context: CallContext,
        definitions: list[FunctionDefinition],
        hosted: Mapping[str, HostedTool],
        by_call: Mapping[type[ToolCall], HostedTool],
        names: Mapping[HostedTool, str],
    ) -> None:
        self.definitions = definitions
        self._names = names
        self._context = context
        self._hosted = hosted
        self._by_call = by_call

    def read(self, name: str, index: int, call_id: str) -> Reading:
        """A call that the model begins. What does not run here is the client's, also under a name nobody knows."""
        hosted = self._hosted.get(name)
        return FUNCTION.read(index, call_id, name) if hosted is None else hosted.read(index, call_id)

    async def call(self, index: int, call: HostedToolCall, tell: Tell) -> ToolCall:
        """Carries out a call of a tool that runs here."""
        return await self._by_call[type(call)].call(index, call, self._context, tell)

    def name(self, call: ToolCall) -> str:
        """The function that the model called."""
        return call.function.name if isinstance(call, FunctionToolCall) else self._name(self._by_call[type(call)])

    def chosen(self, choice: NamedToolChoice) -> str:
        """The function that a ``tool_choice`` means."""
        if choice.function:
            return choice.function.name
        return next((name for tool, name in self._names.items() if tool.name == choice.type), choice.type)

    def asked(self, call: ToolCall) -> str:
        """With which arguments, as JSON."""
        return FUNCTION.asked(call) if isinstance(call, FunctionToolCall) else self._by_call[type(call)].asked(call)

    def said(self, call: ToolCall) -> str:
        """What the model reads of it."""
        return FUNCTION.said(call) if isinstance(call, FunctionToolCall) else self._by_call[type(call)].said(call)

    async def marks(self, steps: Sequence[RunStep]) -> Marks:
        """What the answer may point to."""
        links: dict[str, str] = {}
        citations: dict[tuple[int, int], tuple[str, str]] = {}
        for tool in self._names:
            marks = await tool.marks(self._context, steps)
            links.update(marks.links)
            citations.update(marks.citations)
        return Marks(links, citations)

    def _name(self, tool: HostedTool) -> str:
        return self._names.get(tool, tool.name)
