"""The tools of one run, as the model is offered them: everything is a function with a name to the model."""

from collections.abc import Iterable
from typing import Final, Protocol

from threadkeep.contract.tools import CodeInterpreterTool, FileSearchTool, FunctionDefinition, FunctionTool, Tool
from threadkeep.tools import code_interpreter, file_search


class HostedTool(Protocol):
    """A tool that runs here. The model calls it by ``definition.name``; its calls never wait for the client."""

    @property
    def definition(self) -> FunctionDefinition: ...

    @property
    def unavailable(self) -> str:
        """Why a call cannot be answered, in words for the client; such a call fails the run."""
        ...


HOSTED: Final[dict[type[CodeInterpreterTool | FileSearchTool], HostedTool]] = {
    CodeInterpreterTool: code_interpreter.TOOL,
    FileSearchTool: file_search.TOOL,
}


class Toolbox:
    """What one run offers its model."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._hosted: dict[str, HostedTool] = {}
        self.definitions: list[FunctionDefinition] = []
        for tool in tools:
            if isinstance(tool, FunctionTool):
                self.definitions.append(tool.function)
            else:
                hosted = HOSTED[type(tool)]
                self._hosted[hosted.definition.name] = hosted
                self.definitions.append(hosted.definition)

    def hosted(self, name: str) -> HostedTool | None:
        """The tool behind ``name`` when it runs here; None means the client answers the call."""
        return self._hosted.get(name)
