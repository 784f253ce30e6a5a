"""A run told again while it goes on: each statement sees what is committed when it begins."""

import pytest
from msgspec.structs import replace

from tests.support.objects import a_run, a_step, a_thread
from threadkeep.contract.run_steps import ToolCallsDetails
from threadkeep.contract.runs import RequiredAction, SubmitToolOutputsAction
from threadkeep.runs.follow import KIND
from threadkeep.runs.retelling import Retold, retell
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction
from threadkeep.storage.run_steps import RunSteps


async def test_a_client_may_answer_while_its_run_is_told_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = a_thread()
    awaited = RequiredAction(submit_tool_outputs=SubmitToolOutputsAction(tool_calls=[]))
    run = a_run(thread.id, status="requires_action", required_action=awaited)
    step = a_step(run, type="tool_calls", step_details=ToolCallsDetails(tool_calls=[]))

    def write(tx: Transaction) -> None:
        tx.threads.insert(thread)
        tx.runs.insert(run)
        tx.steps.insert(step)
        tx.work.insert(KIND, run.id, thread=thread.id, told=6)

    await store.write(DEFAULT_PROJECT_ID, write)

    def tell(tx: Transaction) -> Retold:
        told = RunSteps.told

        def answered_just_now(steps: RunSteps, run_id: str) -> dict[str, int]:
            tx.steps.end(replace(step, status="completed"), told=7)
            return told(steps, run_id)

        monkeypatch.setattr(RunSteps, "told", answered_just_now)
        return retell(tx, thread.id, run.id, 0)

    retold = await store.write(DEFAULT_PROJECT_ID, tell)
    assert [each.event.name for each in retold.events if each.event.object.id == step.id] == [
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.completed",
    ]
