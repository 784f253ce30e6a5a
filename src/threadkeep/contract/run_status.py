"""The run status machine: the only place that knows which move is legal.

                   ┌──────────────── tool outputs submitted ───────────────┐
                   ▼                                                       │
(create) ──▶ queued ──▶ in_progress ──▶ requires_action ───────────────────┘
               │            │                 │
               │            ├──▶ completed, incomplete, failed
               │            │                 │
               ├────────────┼─────────────────┼──▶ failed        (nothing can run it)
               ├────────────┼─────────────────┼──▶ expired       (`expires_at` passed)
               └────────────┴─────────────────┴──▶ cancelling ──▶ cancelled
"""

from typing import Final, Literal, get_args

RunStatus = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]

STATUSES: Final[tuple[RunStatus, ...]] = get_args(RunStatus)

LEGAL_MOVES: Final[dict[RunStatus, frozenset[RunStatus]]] = {
    # `in_progress` again is not a move: a run taken over from a dead node simply stays in progress.
    "queued": frozenset({"in_progress", "cancelling", "failed", "expired"}),
    "in_progress": frozenset({"requires_action", "completed", "incomplete", "failed", "cancelling", "expired"}),
    "requires_action": frozenset({"queued", "cancelling", "failed", "expired"}),
    # A cancel that was acknowledged ends cancelled, whatever the model says meanwhile.
    "cancelling": frozenset({"cancelled"}),
    "cancelled": frozenset(),
    "failed": frozenset(),
    "completed": frozenset(),
    "incomplete": frozenset(),
    "expired": frozenset(),
}

TERMINAL: Final[frozenset[RunStatus]] = frozenset(status for status, moves in LEGAL_MOVES.items() if not moves)
ACTIVE: Final[frozenset[RunStatus]] = frozenset(STATUSES) - TERMINAL


def is_legal(was: RunStatus, to: RunStatus) -> bool:
    """Whether a run may move from ``was`` to ``to``."""
    return to in LEGAL_MOVES[was]
