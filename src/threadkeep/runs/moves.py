"""Whatever moves a run from status to status, and what each move writes down."""

from typing import Final

import msgspec

from threadkeep.contract.errors import IllegalMove
from threadkeep.contract.ids import created_at
from threadkeep.contract.run_status import TERMINAL, RunStatus, is_legal
from threadkeep.contract.runs import LastError, RequiredAction, Run, RunIncompleteDetails, Usage
from threadkeep.runs.follow import KIND
from threadkeep.runs.line import move_up
from threadkeep.storage.store import Transaction

_STAMPS: Final[dict[RunStatus, str]] = {
    "in_progress": "started_at",
    "cancelled": "cancelled_at",
    "failed": "failed_at",
    "completed": "completed_at",
}

NO_USAGE: Final = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)


def advance(
    tx: Transaction,
    run: Run,
    to: RunStatus,
    *,
    required_action: RequiredAction | None = None,
    last_error: LastError | None = None,
    incomplete_details: RunIncompleteDetails | None = None,
    told: int | None = None,
) -> Run:
    """Moves ``run``, locked in this transaction, and returns it moved; ``IllegalMove`` when the table says no.

    ``told``: the number of the event that tells its end.
    """
    if not is_legal(run.status, to):
        raise IllegalMove(run.id, run.status, to)
    moved = msgspec.structs.replace(
        run,
        status=to,
        required_action=required_action,
        last_error=last_error,
        incomplete_details=incomplete_details,
        **({_STAMPS[to]: created_at()} if to in _STAMPS else {}),
        **({"expires_at": None, "usage": used_so_far(tx, run)} if to in TERMINAL else {}),
    )
    if to not in TERMINAL:
        tx.runs.replace(moved, was=run.status)
    elif tx.runs.end(moved, was=run.status, told=told):
        move_up(tx, run.thread_id)
    return moved


def cancel_waiting(tx: Transaction, run: Run) -> Run:
    """Cancels a run, locked in this transaction, whose turn has not come: it is over at once, as nobody works on it.
    What comes back is the first of its two moves, for whoever asked.
    """
    cancelling = msgspec.structs.replace(run, status="cancelling")
    cancelled = msgspec.structs.replace(
        cancelling, status="cancelled", cancelled_at=created_at(), expires_at=None, usage=total([])
    )
    # Two events, which nobody tells live: those of readers are made from what is stored.
    tx.runs.end(cancelled, was="queued", told=tx.work.tell(KIND, run.id, events=2) + 2)
    tx.work.remove(KIND, run.id)
    return cancelling


def used_so_far(tx: Transaction, run: Run) -> Usage:
    """The usage of all model calls of the run; each call's stands on the last step that it led to."""
    return total([step.usage for step in tx.steps.all(run.id) if step.usage is not None])


def total(usages: list[Usage]) -> Usage:
    if len(usages) == 1:
        return usages[0]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
        prompt_token_details=msgspec.structs.replace(
            NO_USAGE.prompt_token_details,
            cached_tokens=sum(usage.prompt_token_details.cached_tokens for usage in usages),
        ),
        completion_tokens_details=msgspec.structs.replace(
            NO_USAGE.completion_tokens_details,
            reasoning_tokens=sum(usage.completion_tokens_details.reasoning_tokens for usage in usages),
        ),
    )
