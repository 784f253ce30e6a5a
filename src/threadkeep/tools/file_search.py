"""File search, as the model sees it: one function that takes queries.

There is no index to search in this version, so a call is refused, which fails the run.
"""

from collections.abc import Sequence
from typing import Final

from threadkeep.contract.errors import ToolFailed
from threadkeep.contract.run_steps import FileSearchCall, FileSearchToolCall, FileSearchToolCallDelta, RunStep, ToolCall
from threadkeep.contract.tools import FunctionDefinition
from threadkeep.tools.toolbox import CallContext, Marks, Tell

DEFINITION: Final = FunctionDefinition(
    name="file_search",
    description="Searches the files that belong to this conversation.",
    parameters={
        "type": "object",
        "properties": {"queries": {"type": "array", "items": {"type": "string"}, "description": "What to look for."}},
        "required": ["queries"],
        "additionalProperties": False,
    },
)


class Reading:
    """What a step shows of a search does not depend on its arguments."""

    def __init__(self, index: int, call_id: str) -> None:
        self._index = index
        self.call = FileSearchToolCall(id=call_id, file_search=FileSearchCall())

    def begin(self) -> FileSearchToolCallDelta:
        return FileSearchToolCallDelta(index=self._index, id=self.call.id, file_search=FileSearchCall())

    def feed(self, arguments: str) -> None: ...

    def finish(self) -> None: ...


class FileSearch:
    name = DEFINITION.name
    aliases = ()

    async def offer(self, context: CallContext) -> FunctionDefinition:
        return DEFINITION

    def read(self, index: int, call_id: str) -> Reading:
        return Reading(index, call_id)

    async def call(self, index: int, call: ToolCall, context: CallContext, tell: Tell) -> ToolCall:
        raise ToolFailed(
            "The model asked for the file_search tool, which this server cannot run: it keeps no vector stores. "
            "Remove the tool from the assistant, or offer a function of your own."
        )

    def asked(self, call: ToolCall) -> str:
        return "{}"

    def said(self, call: ToolCall) -> str:
        return ""

    async def marks(self, context: CallContext, steps: Sequence[RunStep]) -> Marks:
        return Marks()
