"""Tool resources of assistants, threads and runs: how requests make and change them."""

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
from msgspec import UNSET, UnsetType

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.messages import Attachment, AttachmentTool, SharedAttachment
from threadkeep.contract.runs import Run
from threadkeep.contract.tools import (
    MAX_CODE_FILES,
    CodeInterpreterResources,
    CodeInterpreterTool,
    CreateToolResources,
    FileSearchResources,
    FileSearchTool,
    FileSearchToolTypeOnly,
    ModifyToolResources,
    NewVectorStore,
    SharedFileResources,
    Tool,
    ToolResources,
)
from threadkeep.contract.vector_stores import VectorStoreExpirationAfter
from threadkeep.search import stores
from threadkeep.storage.store import Transaction


def created(
    tx: Transaction,
    request: CreateToolResources | None,
    *,
    tools: Sequence[Tool] = (),
    stores_expire: VectorStoreExpirationAfter | None = None,
) -> ToolResources:
    """The resources that a create request asks for. Stores that it asks for are made, and those it names are there."""
    if request is None:
        return ToolResources()
    code, search = request.code_interpreter, request.file_search
    store_ids = [] if search is None else search.vector_store_ids or []
    _check_stores(tx, store_ids)
    if search is not None and search.vector_stores:
        store_ids = [stores.create_for_tool(tx, new, expires_after=stores_expire).id for new in search.vector_stores]
    made = ToolResources(
        code_interpreter=CodeInterpreterResources(file_ids=code.file_ids or []) if code else UNSET,
        file_search=FileSearchResources(vector_store_ids=store_ids) if search else UNSET,
    )
    return _shared(tx, made, tools, before=[]) if isinstance(code, SharedFileResources) else made


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


def use_stores(tx: Transaction, run: Run) -> None:
    """The run is going to search these stores, which therefore expire later."""
    if run.tool_resources.file_search and any(isinstance(tool, FileSearchTool) for tool in run.tools):
        for store_id in sorted(run.tool_resources.file_search.vector_store_ids):
            stores.use_if_there(tx, store_id)


def _each_once(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(lists)))


def with_attached(tx: Transaction, current: ToolResources, attachments: Sequence[Attachment]) -> ToolResources:
    """``current`` with the files that messages bring for the tools, each once. Files to be searched go to the thread's
    store, which is made for the first of them.
    """
    for_code = [one.file_id for one in attachments if _names(one, CodeInterpreterTool)]
    for_search = [one.file_id for one in attachments if _names(one, FileSearchToolTypeOnly) and _is_for_search(tx, one)]
    if for_code:
        current = _with_code_files(current, for_code)
    if for_search:
        current = _with_searched_files(tx, current, for_search)
    return current


def _names(attachment: Attachment, tool: type[AttachmentTool]) -> bool:
    return any(isinstance(each, tool) for each in attachment.tools or ())


def _is_for_search(tx: Transaction, attachment: Attachment) -> bool:
    """A client of the first beta cannot say for which tool it means a file: what can't be searched is not refused."""
    if not isinstance(attachment, SharedAttachment):
        return True
    file = tx.files.find(attachment.file_id)
    return file is not None and stores.is_searchable(file.filename)


def _with_code_files(current: ToolResources, brought: Sequence[str]) -> ToolResources:
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


def _with_searched_files(tx: Transaction, current: ToolResources, file_ids: Sequence[str]) -> ToolResources:
    if (store_id := _usable_store(tx, current)) is not None:
        stores.add_missing(tx, store_id, file_ids, param="attachments")
        return current
    new = NewVectorStore(file_ids=list(file_ids))
    store = stores.create_for_tool(tx, new, expires_after=stores.HELPERS_EXPIRE, param="attachments")
    return msgspec.structs.replace(current, file_search=FileSearchResources(vector_store_ids=[store.id]))


def _shared(
    tx: Transaction, resources: ToolResources, tools: Sequence[Tool], *, before: Sequence[str]
) -> ToolResources:
    """``resources`` of an assistant whose files are for all its tools: its store holds them too, if it has search.
    ``before`` are those that it had until now.
    """
    file_ids = [] if resources.code_interpreter is UNSET else resources.code_interpreter.file_ids
    # As for code: nobody asks whether a file is there before it is used.
    searched = [file_id for file_id in file_ids if tx.files.find(file_id) is not None]
    has_search = any(isinstance(tool, FileSearchTool) for tool in tools)
    if (store_id := _usable_store(tx, resources)) is not None:
        for file_id in before:
            if file_id not in file_ids and tx.vector_store_files.find(store_id, file_id) is not None:
                stores.detach(tx, store_id, file_id)
        if has_search:
            stores.add_missing(tx, store_id, searched)
    elif has_search and searched:
        store = stores.create_for_tool(tx, NewVectorStore(file_ids=searched), expires_after=None)
        return msgspec.structs.replace(resources, file_search=FileSearchResources(vector_store_ids=[store.id]))
    return resources


def _usable_store(tx: Transaction, resources: ToolResources) -> str | None:
    """The store that files can be added to; one whose time is over, or that was deleted, is none."""
    if resources.file_search is UNSET or not resources.file_search.vector_store_ids:
        return None
    store = tx.vector_stores.find(resources.file_search.vector_store_ids[0])
    return None if store is None or store.status == "expired" else store.id


def _check_stores(tx: Transaction, store_ids: Sequence[str]) -> None:
    for store_id in store_ids:
        tx.vector_stores.get(store_id)


def modified(
    tx: Transaction,
    current: ToolResources,
    request: ModifyToolResources | UnsetType | None,
    *,
    tools: Sequence[Tool] = (),
) -> ToolResources:
    """``current`` with what the request names in place of it. Null resources empty all; null inside leaves a tool's."""
    if request is UNSET:
        return current
    if request is None:
        return ToolResources()
    code, search = request.code_interpreter, request.file_search
    if search and search.vector_store_ids is not None:
        there = [] if current.file_search is UNSET else current.file_search.vector_store_ids
        _check_stores(tx, [store_id for store_id in search.vector_store_ids if store_id not in there])
    made = ToolResources(
        code_interpreter=CodeInterpreterResources(file_ids=code.file_ids)
        if code and code.file_ids is not None
        else current.code_interpreter,
        file_search=FileSearchResources(vector_store_ids=search.vector_store_ids)
        if search and search.vector_store_ids is not None
        else current.file_search,
    )
    if isinstance(code, SharedFileResources):
        before = [] if current.code_interpreter is UNSET else current.code_interpreter.file_ids
        return _shared(tx, made, tools, before=before)
    return made
