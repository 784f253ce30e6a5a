"""Object ids: unique, plain, and in the order in which they were made."""

import re
import threading
import time
from itertools import pairwise
from statistics import median
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadkeep.contract import ids
from threadkeep.contract.ids import Prefix, id_after, id_apart, id_between, new_id, time_of

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("prefix", get_args(Prefix))
def test_an_id_is_its_prefix_and_24_plain_alphanumerics(prefix: Prefix) -> None:
    joint = "-" if prefix == "file" else "_"

    assert re.fullmatch(f"{prefix}{joint}[0-9A-Za-z]{{24}}", new_id(prefix))


def test_ids_sort_as_bytes_in_the_order_they_were_made() -> None:
    made = [new_id("msg") for _ in range(20_000)]

    assert [each.encode() for each in made] == sorted(each.encode() for each in made)
    assert len(set(made)) == len(made)


def test_ids_made_in_many_threads_differ_and_each_thread_sees_them_rise() -> None:
    made: list[list[str]] = [[] for _ in range(8)]
    together = threading.Barrier(len(made))

    def make(into: list[str]) -> None:
        together.wait()
        into.extend(new_id("run") for _ in range(3_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(each == sorted(each) for each in made)
    assert len({identifier for each in made for identifier in each}) == 24_000


def test_ids_rise_while_the_clock_goes_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([time.time_ns() + 10**12 - second * 10**9 for second in range(100)])
    monkeypatch.setattr(ids, "_last", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(clock))

    made = [new_id("msg") for _ in range(100)]

    assert made == sorted(set(made))


def test_an_id_follows_one_from_a_clock_that_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as ahead:
        ahead.setattr(ids, "_last", 0)
        ahead.setattr(ids.time, "time_ns", lambda: 2**42 * 10**6)
        future = new_id("msg")

    after = id_after("msg", future)
    further = id_after("msg", after)

    assert new_id("msg") < future < after < further


def test_an_id_after_an_older_one_is_simply_a_new_one() -> None:
    older = new_id("step")

    assert id_after("step", older) > older
    assert id_after("step", None) > older


@settings(deadline=None)
@given(st.text(DIGITS, min_size=24, max_size=24).filter(lambda digits: digits < "zzzzzzzzzz"))
def test_id_after_sorts_after_any_id(digits: str) -> None:
    assert id_after("msg", f"msg_{digits}") > f"msg_{digits}"


def test_neighbouring_ids_can_not_be_guessed_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(ids.time, "time_ns", lambda: now)

    made = [ids._value(new_id("thread")) for _ in range(1_000)]

    assert median(after - before for before, after in pairwise(made)) > 2**60


def test_between_two_ids_that_are_apart_there_is_room_for_thousands() -> None:
    first = new_id("msg")
    end = id_apart("msg", first)
    made = [first]
    for _ in range(20_000):
        made.append(id_between("msg", made[-1], end))

    assert made == sorted(set(made))
    assert made[-1] < end


def test_ahead_of_an_id_between_two_there_is_room_too() -> None:
    first = new_id("msg")
    end = id_apart("msg", first)
    inner = id_between("msg", first, end)

    made = [first]
    for _ in range(1_000):
        made.append(id_between("msg", made[-1], inner))

    assert made == sorted(set(made))
    assert made[-1] < inner


def test_an_id_ahead_of_another_tells_about_its_time() -> None:
    end = new_id("msg")

    assert time_of(end) - 1 <= time_of(id_between("msg", None, end)) <= time_of(end)
    assert abs(time_of(end) - time.time()) < 60
