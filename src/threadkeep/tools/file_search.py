"""File search: what the files of the assistant and of the thread say, found for the model and cited by it.

The model reads each result under a mark, ``【0:3†report.pdf】``: the number of the search within the run, that of the
result within the search, and the file's name. A mark that it repeats becomes a citation.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from threadkeep.contract.errors import LeaseLost, NotFound, ToolFailed
from threadkeep.contract.run_steps import (
    FileSearchCall,
    FileSearchResult,
    FileSearchToolCall,
    FileSearchToolCallDelta,
    FoundText,
    RunStep,
    ToolCall,
    ToolCallsDetails,
    UsedRankingOptions,
)
from threadkeep.contract.runs import Run
from threadkeep.contract.tools import FileSearchOptions, FileSearchTool, FunctionDefinition
from threadkeep.logs import Log
from threadkeep.search.query import Found, Search
from threadkeep.storage.store import Store, Transaction
from threadkeep.tools.toolbox import CallContext, Marks, Tell

log = Log(__name__)

# The contract's: results and their tokens, for the models of its first days and for all others.
_RESULTS: Final = 20
_FEW_RESULTS: Final = 5
_TOKENS: Final = 16_000
_FEW_TOKENS: Final = 4_000
_FIRST_MODELS: Final = "gpt-3.5-turbo"
# How long after it was created a run waits for files of its thread that are still being read.
WAIT_S: Final = 60.0
_LOOK_S: Final = 0.25
# What is taken of a model's arguments.
_MAX_ARGUMENTS: Final = 64_000
_MAX_QUERIES: Final = 10
_MAX_QUERY: Final = 4_096
_KEYS: Final = ("queries", "query", "q")
# What marks are read by, see `runs.annotations`; and what ends a line.
_SIGNS: Final = re.compile(r"[【】†:：\x00-\x1f\x85\u2028\u2029]")  # noqa: RUF001
_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*)"?')

_DESCRIPTION: Final = (
    "Searches the files that were uploaded for this conversation, and returns passages of them. Ask with one or "
    "several short queries that name what is looked for; each passage comes with a mark such as 【0:3†report.pdf】. "
    "When you use a passage in your answer, put its mark, exactly as it stands, right behind the sentence that rests "
    "on it."
)
_NOTHING: Final = "Nothing was found."
_NO_QUERY: Final = 'The call had no query. Send {"queries": ["what to look for"]}.'


class SearchReading:
    """A call while its arguments arrive. Clients are told of a search when it has begun, and of what it found."""

    def __init__(self, index: int, call_id: str) -> None:
        self._index = index
        self._call_id = call_id
        self._arguments: list[str] = []
        self._length = 0

    @property
    def call(self) -> FileSearchToolCall:
        queries = queries_in("".join(self._arguments))
        return FileSearchToolCall(id=self._call_id, file_search=FileSearchCall(queries=queries))

    def begin(self) -> FileSearchToolCallDelta:
        return FileSearchToolCallDelta(index=self._index, id=self._call_id, file_search=FileSearchCall())

    def feed(self, arguments: str) -> None:
        if self._length < _MAX_ARGUMENTS:
            self._length += len(arguments)
            self._arguments.append(arguments)

    def finish(self) -> None:
        return None


class FileSearch:
    """The tool, on the vector stores of one database."""

    name = "file_search"
    aliases = ()

    def __init__(self, store: Store, search: Search) -> None:
        self._store = store
        self._search = search

    async def offer(self, context: CallContext) -> FunctionDefinition:
        """Waits a while for files of the thread that are still being read; a store that has expired is an error."""
        await self._until_read(context)
        return FunctionDefinition(
            name=self.name,
            description=_DESCRIPTION,
            parameters={
                "type": "object",
                "properties": {
                    "queries": {"type": "array", "items": {"type": "string"}, "description": "What to look for."}
                },
                "required": ["queries"],
                "additionalProperties": False,
            },
        )

    def read(self, index: int, call_id: str) -> SearchReading:
        return SearchReading(index, call_id)

    async def call(self, index: int, call: ToolCall, context: CallContext, tell: Tell) -> ToolCall:
        """What was found comes with the step's end; clients are told nothing before."""
        assert isinstance(call, FileSearchToolCall)
        run, queries = context.run, call.file_search.queries or []
        options = _options(run)
        ranking = options.ranking_options or None
        used = UsedRankingOptions(
            ranker=(ranking and ranking.ranker) or "auto", score_threshold=ranking.score_threshold if ranking else 0.0
        )
        is_first = run.model.startswith(_FIRST_MODELS)
        store_ids, before = await self._store.read(
            context.project, lambda tx: (_stores_of(tx, run), _calls_before(tx, run))
        )
        found: list[Found] = []
        if queries and store_ids:
            found = await self._search.search(
                context.project,
                store_ids,
                queries,
                max_num_results=options.max_num_results or (_FEW_RESULTS if is_first else _RESULTS),
                ranker=used.ranker,
                score_threshold=used.score_threshold,
                joins=True,
            )
        results = await asyncio.to_thread(_within, found, _FEW_TOKENS if is_first else _TOKENS)
        made = FileSearchCall(ranking_options=used, results=results, queries=queries, number=before + index)
        return replace(call, file_search=made)

    def asked(self, call: ToolCall) -> str:
        assert isinstance(call, FileSearchToolCall)
        return msgspec.json.encode({"queries": call.file_search.queries or []}).decode()

    def said(self, call: ToolCall) -> str:
        assert isinstance(call, FileSearchToolCall)
        search = call.file_search
        if not search.queries:
            return _NO_QUERY
        if not search.results:
            return _NOTHING
        return "\n\n".join(
            f"【{search.number or 0}:{place}†{_plain(result.file_name)}】\n{_text(result)}"
            for place, result in enumerate(search.results)
        )

    async def marks(self, context: CallContext, steps: Sequence[RunStep]) -> Marks:
        citations: dict[tuple[int, int], tuple[str, str]] = {}
        for call in _calls(steps):
            for place, result in enumerate(call.file_search.results or []):
                citations[call.file_search.number or 0, place] = (result.file_id, "")
        return Marks(citations=citations)

    async def _until_read(self, context: CallContext) -> None:
        while await self._store.read(context.project, lambda tx: _is_being_read(tx, context.run)):
            if time.time() >= context.run.created_at + WAIT_S:
                log.info("searched_while_reading", run_id=context.run.id)
                return
            await asyncio.sleep(_LOOK_S)


def queries_in(arguments: str) -> list[str]:
    """What a call asks for: as it should be written, or nearly so."""
    try:
        given: Any = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        # JSON that breaks off still has its strings; a model that leaves JSON aside writes down what it looks for.
        is_broken = arguments.lstrip().startswith(("{", "["))
        given = [each for each in _STRING.findall(arguments) if each not in _KEYS] if is_broken else arguments
    if isinstance(given, dict):
        fields = cast("dict[str, Any]", given)
        named = [fields[key] for key in _KEYS if key in fields]
        given = next(iter([*named, *fields.values()]), "")
    asked = [given] if isinstance(given, str) else cast("list[Any]", given) if isinstance(given, list) else []
    queries = [query.strip()[:_MAX_QUERY] for query in asked if isinstance(query, str) and query.strip()]
    return list(dict.fromkeys(queries))[:_MAX_QUERIES]


def _options(run: Run) -> FileSearchOptions:
    tools = [tool for tool in run.tools if isinstance(tool, FileSearchTool)]
    return (tools[0].file_search or FileSearchOptions()) if tools else FileSearchOptions()


def _stores_of(tx: Transaction, run: Run) -> list[str]:
    """Those that can be searched. What is left of an expired store is on its way out."""
    if run.tool_resources.file_search is UNSET:
        return []
    stores = [tx.vector_stores.find(store_id) for store_id in run.tool_resources.file_search.vector_store_ids]
    return [store.id for store in stores if store is not None and store.status != "expired"]


def _is_being_read(tx: Transaction, run: Run) -> bool:
    """Of the thread's files; the assistant's are there sooner or later."""
    try:
        search = tx.threads.get(run.thread_id).tool_resources.file_search
    except NotFound:
        # The run went with it.
        raise LeaseLost("run", run.id) from None
    for store_id in search.vector_store_ids if search is not UNSET else ():
        try:
            store = tx.vector_stores.get(store_id)
        except NotFound:
            continue
        if store.status == "expired":
            raise ToolFailed(
                f"The thread's vector store '{store_id}' has expired. Attach the files again.", code="invalid_prompt"
            )
        if store.file_counts.in_progress:
            return True
    return False


def _within(found: Sequence[Found], tokens: int) -> list[FileSearchResult]:
    """The first of what was found, up to so many tokens; the last of them may be cut."""
    from threadkeep.search.tokens import tokenizer  # noqa: PLC0415 - loads a lot, and here in a thread

    results: list[FileSearchResult] = []
    for one in found:
        text = one.text
        counted = tokenizer().count(text)
        if counted > tokens:
            text = tokenizer().beginning(text, tokens)
        if not text:
            break
        tokens -= counted
        content = [FoundText(text=text)]
        results.append(FileSearchResult(file_id=one.file_id, file_name=one.filename, score=one.score, content=content))
        if tokens <= 0:
            break
    return results


def _calls_before(tx: Transaction, run: Run) -> int:
    """How many calls the run's earlier steps hold, of all tools: a call's place in its step counts them all too."""
    steps = [step.step_details for step in tx.steps.all(run.id) if step.status == "completed"]
    return sum(len(details.tool_calls) for details in steps if isinstance(details, ToolCallsDetails))


def _calls(steps: Sequence[RunStep]) -> list[FileSearchToolCall]:
    details = [step.step_details for step in steps if isinstance(step.step_details, ToolCallsDetails)]
    return [call for each in details for call in each.tool_calls if isinstance(call, FileSearchToolCall)]


def _plain(filename: str) -> str:
    """The name as a mark can hold it: nothing in it may look like the mark's own signs, or like another mark."""
    return _SIGNS.sub("_", filename)[:100]


def _text(result: FileSearchResult) -> str:
    return "\n".join(part.text for part in result.content or ())
