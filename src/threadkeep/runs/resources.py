"""Tool resources of assistants, threads and runs: how requests make and change them."""

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
from msgspec import UNSET, UnsetType

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.messages import MessageAttachment
from threadkeep.contract.tools import (
    MAX_CODE_FILES,
    CodeInterpreterResources,
    CodeInterpreterTool,
    CreateToolResources,
    FileSearchResources,
    ModifyToolResources,
    ToolResources,
)


def created(request: CreateToolResources | None, *, param: str = "tool_resources") -> ToolResources:
    """The resources that a create request asks for; ``param`` is where in the body it asks."""
    if request is None:
        return ToolResources()
    code, search = request.code_interpreter, request.file_search
    if search is not None and search.vector_stores:
        raise InvalidRequest(
            "This server keeps no vector stores: leave out 'vector_stores'.",
            param=f"{param}.file_search.vector_stores",
            code="unsupported_parameter",
        )
    return ToolResources(
        code_interpreter=CodeInterpreterResources(file_ids=code.file_ids or []) if code else UNSET,
        file_search=FileSearchResources(vector_store_ids=search.vector_store_ids or []) if search else UNSET,
    )


def together(first: ToolResources, second: ToolResources) -> ToolResources:
    """What both name, each once: a run works on its assistant's resources and on its thread's."""
    code = [one.code_interpreter for one in (first, second) if one.code_interpreter]
    search = [one.file_search for one in (first, second) if one.file_search]
    return ToolResources(
        code_interpreter=CodeInterpreterResources(file_ids=_each_once(one.file_ids for one in code)) if code else UNSET,
        file_search=FileSearchResources(vector_store_ids=_each_once(one.vector_store_ids for one in search))
        if search
        else UNSET,
    )


def _each_once(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(lists)))


def with_attached(current: ToolResources, attachments: Sequence[MessageAttachment]) -> ToolResources:
    """``current`` with the files that messages bring for the code interpreter, each once.

    What is attached for file search is kept with its message only: this server keeps no vector stores.
    """
    brought = [
        attachment.file_id
        for attachment in attachments
        if any(isinstance(tool, CodeInterpreterTool) for tool in attachment.tools)
    ]
    if not brought:
        return current
    there = [] if current.code_interpreter is UNSET else current.code_interpreter.file_ids
    file_ids = list(dict.fromkeys([*there, *brought]))
    if len(file_ids) > MAX_CODE_FILES:
        raise InvalidRequest(
            f"Invalid 'attachments': a thread's code interpreter takes at most {MAX_CODE_FILES} files, but with these "
            f"it would have {len(file_ids)}.",
            param="attachments",
            code="array_above_max_length",
        )
    if len(file_ids) == len(there):
        return current
    return msgspec.structs.replace(current, code_interpreter=CodeInterpreterResources(file_ids=file_ids))


def modified(current: ToolResources, request: ModifyToolResources | UnsetType | None) -> ToolResources:
    """``current`` with what the request names in place of it. Null resources empty all; null inside leaves a tool's."""
    if request is UNSET:
        return current
    if request is None:
        return ToolResources()
    code, search = request.code_interpreter, request.file_search
    return ToolResources(
        code_interpreter=CodeInterpreterResources(file_ids=code.file_ids)
        if code and code.file_ids is not None
        else current.code_interpreter,
        file_search=FileSearchResources(vector_store_ids=search.vector_store_ids)
        if search and search.vector_store_ids is not None
        else current.file_search,
    )
