"""Tool resources of assistants, threads and runs: how requests make and change them."""

from msgspec import UNSET, UnsetType

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.tools import (
    CodeInterpreterResources,
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
