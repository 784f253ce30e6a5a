"""Run steps: list and retrieve.

What a search found is shown only to those who ask for it, and what a step used only once it has ended: while it waits
for the client's outputs, the store already keeps the usage of the model's call with it.
"""

import msgspec
from msgspec import UNSET

from threadkeep.api.call import Call
from threadkeep.contract.errors import NotFound
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.run_steps import (
    FileSearchCall,
    FileSearchToolCall,
    Include,
    RunStep,
    ToolCall,
    ToolCallsDetails,
)
from threadkeep.contract.wire import Request
from threadkeep.storage.store import Transaction


class GetRunStepQuery(Request):
    """``getRunStep``: ``include[]`` names what is left out otherwise."""

    include: list[Include] | None = None


class ListRunStepsQuery(ListQuery):
    """``listRunSteps``."""

    include: list[Include] | None = None


async def list_run_steps(call: Call) -> Page[RunStep]:
    thread_id, run_id = call.path["thread_id"], call.path["run_id"]
    query = call.page(ListRunStepsQuery, "step")

    def read(tx: Transaction) -> Page[RunStep]:
        page = tx.steps.list(thread_id, run_id, query)
        if not page.data:
            _expect_run(tx, thread_id, run_id)
        return page

    page = await call.read(read)
    return msgspec.structs.replace(page, data=[shown(step, query.include) for step in page.data])


async def get_run_step(call: Call) -> RunStep:
    thread_id, run_id, step_id = call.path["thread_id"], call.path["run_id"], call.path["step_id"]
    query = call.query(GetRunStepQuery)

    def read(tx: Transaction) -> RunStep:
        try:
            return tx.steps.get(thread_id, run_id, step_id)
        except NotFound:
            _expect_run(tx, thread_id, run_id)
            raise

    return shown(await call.read(read), query.include)


def _expect_run(tx: Transaction, thread_id: str, run_id: str) -> None:
    """The outermost object that is missing is the one the caller is told of."""
    tx.threads.get(thread_id)
    tx.runs.get(thread_id, run_id)


def shown(step: RunStep, include: list[Include] | None) -> RunStep:
    """The step as clients see it."""
    if step.status == "in_progress" and step.usage is not None:
        step = msgspec.structs.replace(step, usage=None)
    details = step.step_details
    if not isinstance(details, ToolCallsDetails) or not any(
        isinstance(tool_call, FileSearchToolCall) for tool_call in details.tool_calls
    ):
        return step
    calls = [_call_shown(tool_call, with_contents=bool(include)) for tool_call in details.tool_calls]
    return msgspec.structs.replace(step, step_details=msgspec.structs.replace(details, tool_calls=calls))


def _call_shown(tool_call: ToolCall, *, with_contents: bool) -> ToolCall:
    if not isinstance(tool_call, FileSearchToolCall):
        return tool_call
    search = tool_call.file_search
    results = search.results
    if results is not UNSET and not with_contents:
        results = [msgspec.structs.replace(result, content=UNSET) for result in results]
    seen = FileSearchCall(ranking_options=search.ranking_options, results=results)
    return msgspec.structs.replace(tool_call, file_search=seen)
