"""Object ids: a prefix the contract fixes, then 24 plain alphanumerics that sort by time of creation.

Clients parse ids with ``[a-zA-Z0-9]+`` out of error texts, so nothing else may follow the prefix. The digits are
in ASCII order: comparing ids as bytes (SQLite's BINARY, PostgreSQL's collation C) orders objects as they were made.
"""

import secrets
import threading
import time
from typing import Final, Literal

Prefix = Literal[
    "asst", "thread", "msg", "run", "step", "call", "file", "upload", "part", "vs", "vsfb", "key", "proj", "req"
]

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_LENGTH: Final = 24
# 62**24 is a little over 2**142: 48 bits of milliseconds above 94 bits that are random at first.
_RANDOM_BITS: Final = 94
# How far one id lies behind the one before it in the same millisecond: large enough not to be guessed from it,
# small enough that the random part does not overflow into the clock within any burst.
_STEP_BITS: Final = 64
# What `id_apart` leaves: a millisecond, of which each id in between takes up one or two parts in so many.
_ROOM: Final = 1 << _RANDOM_BITS
_STEPS_BETWEEN: Final = 4096

_lock = threading.Lock()
_last = 0


def new_id(prefix: Prefix) -> str:
    """A fresh id, greater than every id this process made before."""
    return _with_prefix(prefix, _next())


def id_after(prefix: Prefix, last: str | None) -> str:
    """A fresh id that sorts after ``last``, even when another node's clock, ahead of ours, made ``last``."""
    value = _next()
    if last is not None and (floor := _value(last)) >= value:
        value = floor + 1 + secrets.randbits(_STEP_BITS)
    return _with_prefix(prefix, value)


def first_id(prefix: Prefix, at: float) -> str:
    """Sorts before every id made at that moment, in unix seconds, or later, and after those made before."""
    return _with_prefix(prefix, int(max(0.0, at) * 1000) << _RANDOM_BITS)


def id_apart(prefix: Prefix, last: str | None) -> str:
    """As ``id_after``, and with room for ids between the two, see ``id_between``."""
    return id_after(prefix, None if last is None else _with_prefix(prefix, _value(last) + _ROOM))


def id_between(prefix: Prefix, last: str | None, end: str) -> str:
    """A fresh id after ``last``, near to it, and before ``end``: thousands more fit in behind it, and ahead of it.

    ``end`` was made with room before it, by ``id_apart``, or is one of these.
    """
    # A little before `end` at most, so that the id still tells about when it was made.
    floor = max(0 if last is None else _value(last), _value(end) - _ROOM)
    step = (_value(end) - floor) // _STEPS_BETWEEN
    return _with_prefix(prefix, floor + 1 + step + secrets.randbelow(step))


def time_of(identifier: str) -> int:
    """When the id was made, in unix seconds: of one made between others it is about their time."""
    return (_value(identifier) >> _RANDOM_BITS) // 1000


def created_at() -> int:
    """The time now as the contract writes it: unix seconds."""
    return int(time.time())


def _next() -> int:
    global _last  # noqa: PLW0603 the last id is the process's, and the lock below guards it
    value = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    with _lock:
        if value <= _last or value >> _RANDOM_BITS == _last >> _RANDOM_BITS:
            value = _last + 1 + secrets.randbits(_STEP_BITS)
        _last = value
    return value


def _with_prefix(prefix: Prefix, value: int) -> str:
    digits: list[str] = []
    for _ in range(_LENGTH):
        value, rest = divmod(value, 62)
        digits.append(_DIGITS[rest])
    digits.reverse()
    return f"{prefix}{'-' if prefix == 'file' else '_'}{''.join(digits)}"


def _value(identifier: str) -> int:
    value = 0
    for digit in identifier[-_LENGTH:]:
        value = value * 62 + _VALUES[digit]
    return value
