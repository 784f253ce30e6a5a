"""The run status machine, as its whole table."""

from typing import get_args

import pytest

from threadkeep.contract.events import MESSAGE_EVENTS, RUN_EVENTS, STEP_EVENTS, EventName
from threadkeep.contract.messages import MessageStatus
from threadkeep.contract.run_status import ACTIVE, LEGAL_MOVES, STATUSES, TERMINAL, RunStatus, is_legal
from threadkeep.contract.run_steps import StepStatus

# Rows: from; columns: to, in the order of the rows.
TABLE = """
                 queued progress action cancelling cancelled failed completed incomplete expired
queued           .      x        .      x          .         x      .         .          x
in_progress      .      .        x      x          .         x      x         x          x
requires_action  x      .        .      x          .         x      .         .          x
cancelling       .      .        .      .          x         .      .         .          .
cancelled        .      .        .      .          .         .      .         .          .
failed           .      .        .      .          .         .      .         .          .
completed        .      .        .      .          .         .      .         .          .
incomplete       .      .        .      .          .         .      .         .          .
expired          .      .        .      .          .         .      .         .          .
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]
NAMES = [name for name, *_ in ROWS]
MOVES = [(was, to, mark == "x") for was, *marks in ROWS for to, mark in zip(NAMES, marks, strict=True)]


@pytest.mark.parametrize(("was", "to", "legal"), MOVES)
def test_a_run_makes_exactly_the_moves_of_the_table(was: RunStatus, to: RunStatus, legal: bool) -> None:
    assert is_legal(was, to) is legal


def test_the_table_covers_every_status() -> None:
    assert len(MOVES) == 81
    assert set(NAMES) == set(STATUSES) == set(LEGAL_MOVES)


def test_every_status_is_either_active_or_terminal() -> None:
    assert {"cancelled", "failed", "completed", "incomplete", "expired"} == TERMINAL
    assert {"queued", "in_progress", "requires_action", "cancelling"} == ACTIVE


def test_a_terminal_status_can_be_reached_from_every_active_one() -> None:
    reachable = {was: set(moves) for was, moves in LEGAL_MOVES.items()}
    for _ in STATUSES:
        for moves in reachable.values():
            moves |= {further for to in moves for further in LEGAL_MOVES[to]}

    assert all(reachable[status] & TERMINAL for status in ACTIVE)


def test_every_status_has_its_event() -> None:
    assert set(RUN_EVENTS) == set(get_args(RunStatus))
    assert set(STEP_EVENTS) == set(get_args(StepStatus))
    assert set(MESSAGE_EVENTS) == set(get_args(MessageStatus))
    assert {*RUN_EVENTS.values(), *STEP_EVENTS.values(), *MESSAGE_EVENTS.values()} < set(get_args(EventName))
