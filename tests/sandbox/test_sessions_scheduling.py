"""Who gets a session, who waits and who is closed for it: `Sessions` with boxes that only say what is done to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from threadkeep.sandbox import sessions as sandbox
from threadkeep.sandbox.box import Box, BoxFailed, Ended
from threadkeep.sandbox.environment import DEFAULT, fingerprint_of
from threadkeep.sandbox.limits import Limits
from threadkeep.sandbox.selftest import Off
from threadkeep.sandbox.sessions import Ready, SandboxFull, SandboxOff, Session, Sessions, Starting, State

PATIENCE_S = 30.0
LIMITS = Limits(idle_s=100, life_s=1000)


class Boxes:
    """A way to isolate that isolates nothing and runs nothing."""

    name = "boxes"

    def __init__(self) -> None:
        self.alive: dict[int, StubBox] = {}
        self.started: list[tuple[int, bool]] = []
        self.failure: str | None = None
        # Clear: what starts waits.
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.starting = 0
        self.most_starting = 0

    async def start(self, slot: int, *, warm: bool) -> Box:
        assert slot not in self.alive, "a slot was given to two"
        self.starting += 1
        self.most_starting = max(self.most_starting, self.starting)
        try:
            await self.may_start.wait()
        finally:
            self.starting -= 1
        if self.failure is not None:
            raise BoxFailed(self.failure)
        self.started.append((slot, warm))
        self.alive[slot] = StubBox(self, slot)
        return cast("Box", self.alive[slot])


class StubBox:
    pid = 0

    def __init__(self, boxes: Boxes, slot: int) -> None:
        self.is_alive = True
        self._boxes = boxes
        self._slot = slot

    async def execute(self, code: str, tell: Callable[..., None], *, timeout_s: float) -> Ended:
        return Ended("ok", None)

    def kill(self, why: str) -> None:
        self.is_alive = False

    async def close(self) -> None:
        self.is_alive = False
        await asyncio.sleep(0)
        self._boxes.alive.pop(self._slot, None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def boxes() -> Boxes:
    return Boxes()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where an environment is, as far as can be seen."""
    return make_environment(tmp_path / "environment")


def make_environment(place: Path) -> Path:
    folder = place / fingerprint_of((DEFAULT,))
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.touch(mode=0o755)
    (folder / ".environment.json").write_text(json.dumps({"packages": ["numpy==1.0"]}))
    return place


@asynccontextmanager
async def opened(boxes: Boxes, place: Path, **more: Any) -> AsyncGenerator[Sessions, None]:
    settings: dict[str, Any] = {"pool": 0, "maximum": 2, "total_bytes": 1 << 40, "examine": passes, **more}
    sessions = Sessions(lambda environment: boxes, place, (DEFAULT,), LIMITS, **settings)
    sessions.start()
    try:
        yield sessions
    finally:
        await sessions.close()


async def passes(*of: object) -> Off | None:
    return None


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def run(session: Session) -> Ended:
    return await session.execute("1+1", lambda output: None, timeout_s=10)


class Caller:
    """Somebody who has a session until told to let it go."""

    def __init__(self, sessions: Sessions, thread_id: str, project: str = "p") -> None:
        self.let_go = asyncio.Event()
        self.session: Session | None = None
        self.task = asyncio.create_task(self._use(sessions, project, thread_id))

    async def _use(self, sessions: Sessions, project: str, thread_id: str) -> None:
        async with sessions.session(project, thread_id) as self.session:
            await self.let_go.wait()

    async def has_it(self) -> Session:
        await until(lambda: self.session is not None or self.task.done())
        assert self.session is not None
        return self.session

    async def leave(self) -> None:
        self.let_go.set()
        await self.task


async def test_a_thread_has_its_session_again(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        async with sessions.session("p", "a") as first:
            await run(first)
        async with sessions.session("p", "a") as again:
            assert again is first
            assert not again.is_fresh


async def test_the_same_thread_id_of_another_project_is_another_session(boxes: Boxes, place: Path) -> None:
    async with (
        opened(boxes, place) as sessions,
        sessions.session("p", "a") as ours,
        sessions.session("q", "a") as theirs,
    ):
        assert theirs.box is not ours.box


async def test_a_session_has_one_caller_at_a_time(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        first = Caller(sessions, "a")
        await first.has_it()
        second = Caller(sessions, "a")
        other = Caller(sessions, "b")
        await other.has_it()
        assert second.session is None
        await first.leave()
        assert await second.has_it() is first.session
        await second.leave()
        await other.leave()


async def test_the_session_that_is_idle_for_longest_makes_room(boxes: Boxes, place: Path, clock: Clock) -> None:
    async with opened(boxes, place, clock=clock) as sessions:
        for thread_id in ("a", "b", "a"):
            clock.now += 1
            async with sessions.session("p", thread_id) as session:
                await run(session)
        async with sessions.session("p", "c"):
            assert len(boxes.alive) == 2
        async with sessions.session("p", "a") as kept:
            assert not kept.is_fresh
        async with sessions.session("p", "b") as closed:
            assert closed.is_fresh
            assert closed.lost


async def test_when_all_are_busy_calls_wait_in_their_order(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        busy = [Caller(sessions, name) for name in ("a", "b")]
        for caller in busy:
            await caller.has_it()
        waiting = [Caller(sessions, name) for name in ("c", "d")]
        await until(lambda: len(sessions._waiting) == 2)
        await busy[1].leave()
        await waiting[0].has_it()
        assert waiting[1].session is None
        assert not busy[0].task.done()
        await waiting[0].leave()
        await waiting[1].has_it()
        await waiting[1].leave()
        await busy[0].leave()


async def test_who_waits_for_too_long_is_told_that_it_is_full(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place, maximum=1, wait_s=0.05) as sessions:
        busy = Caller(sessions, "a")
        await busy.has_it()
        with pytest.raises(SandboxFull, match="--sandbox-sessions"):
            async with sessions.session("p", "b"):
                pass
        await busy.leave()
        async with sessions.session("p", "b"):
            pass


async def test_who_stops_waiting_takes_no_place(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place, maximum=1) as sessions:
        busy = Caller(sessions, "a")
        await busy.has_it()
        waiting = Caller(sessions, "b")
        await until(lambda: sessions._waiting)
        waiting.task.cancel()
        await asyncio.wait([waiting.task])
        await busy.leave()
        async with sessions.session("p", "a") as still_there:
            assert still_there is busy.session


async def test_a_box_that_died_is_replaced_before_the_next_call(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        async with sessions.session("p", "a") as session:
            await run(session)
            session.placed["data.csv"] = "file-1"
        session.box.kill("test")
        async with sessions.session("p", "a") as fresh:
            assert fresh.is_alive
            assert fresh.lost
            assert fresh.placed == {}
            await run(fresh)
        async with sessions.session("p", "a") as later:
            assert later is fresh
            assert not later.lost


async def test_nothing_is_lost_with_a_session_in_which_no_code_ran(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        async with sessions.session("p", "a") as session:
            pass
        session.box.kill("test")
        async with sessions.session("p", "a") as fresh:
            assert not fresh.lost


async def test_the_news_of_a_loss_waits_until_code_has_run(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        async with sessions.session("p", "a") as session:
            await run(session)
        for _ in range(2):
            session.box.kill("test")
            async with sessions.session("p", "a") as session:
                assert session.lost


@pytest.mark.parametrize("over_s", [LIMITS.idle_s, LIMITS.life_s])
async def test_a_session_that_is_idle_or_alive_too_long_is_closed(
    boxes: Boxes, place: Path, clock: Clock, over_s: float
) -> None:
    async with opened(boxes, place, clock=clock) as sessions:
        async with sessions.session("p", "a") as session:
            await run(session)
        left_s = over_s
        while left_s > 0:
            step_s = min(left_s, LIMITS.idle_s if over_s == LIMITS.idle_s else LIMITS.idle_s - 1)
            clock.now += step_s
            left_s -= step_s
            if left_s > 0:
                async with sessions.session("p", "a") as same:
                    assert same is session
        sessions.sweep()
        await until(lambda: not boxes.alive)
        async with sessions.session("p", "a") as fresh:
            assert fresh.lost


async def test_a_session_in_use_outlives_its_limits(boxes: Boxes, place: Path, clock: Clock) -> None:
    async with opened(boxes, place, clock=clock) as sessions, sessions.session("p", "a") as session:
        clock.now += 10 * LIMITS.life_s
        sessions.sweep()
        await asyncio.sleep(0)
        assert session.is_alive


async def test_the_session_of_a_deleted_thread_goes_and_nothing_is_said_to_be_lost(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        for _ in range(2):
            async with sessions.session("p", "a") as session:
                assert not session.lost
                await run(session)
            sessions.end("p", "a")
            await until(lambda: not boxes.alive)


async def test_a_thread_deleted_while_code_runs_keeps_its_session_until_then(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        async with sessions.session("p", "a") as session:
            sessions.end("p", "a")
            assert session.is_alive
        await until(lambda: not boxes.alive)


async def test_warm_boxes_are_taken_first_and_made_again_one_at_a_time(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place, pool=2) as sessions:
        await until(lambda: len(sessions._pool) == 2)
        warm = list(sessions._pool)
        async with sessions.session("p", "a") as session:
            assert session.box is warm[0]
        await until(lambda: len(sessions._pool) == 2)
        assert all(is_warm for _, is_warm in boxes.started)
        assert boxes.most_starting == 1


async def test_on_two_processors_nothing_is_warmed_while_code_runs(
    boxes: Boxes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_CPUS", 2)
    async with opened(boxes, place, pool=1) as sessions:
        await until(lambda: sessions._pool)
        async with sessions.session("p", "a") as session:
            assert session.is_alive
            await asyncio.sleep(0.05)
            assert len(boxes.started) == 1
        await until(lambda: sessions._pool)


async def test_a_dead_box_of_the_pool_is_given_to_nobody(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place, pool=1) as sessions:
        await until(lambda: sessions._pool)
        sessions._pool[0].kill("test")
        async with sessions.session("p", "a") as session:
            assert session.is_alive


async def test_a_server_starts_while_the_sandbox_tests_itself_and_a_call_waits_for_it(
    boxes: Boxes, place: Path
) -> None:
    may_pass = asyncio.Event()

    async def examine(*of: object) -> Off | None:
        await may_pass.wait()
        return None

    async with opened(boxes, place, examine=examine) as sessions:
        caller = Caller(sessions, "a")
        await until(lambda: sessions.state == Starting("the sandbox tests itself"))
        may_pass.set()
        await caller.has_it()
        await caller.leave()


async def test_a_call_does_not_wait_for_ever_for_the_self_test(
    boxes: Boxes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "STARTING_S", 0.05)

    async def examine(*of: object) -> Off | None:
        await asyncio.Event().wait()
        raise AssertionError

    async with opened(boxes, place, examine=examine) as sessions:
        with pytest.raises(SandboxOff, match="still starting"):
            async with sessions.session("p", "a"):
                pass


async def test_what_fails_its_self_test_runs_no_code_and_says_why_and_what_helps(boxes: Boxes, place: Path) -> None:
    async def examine(*of: object) -> Off | None:
        return Off("there is a way out", "Close it.")

    async with opened(boxes, place, examine=examine, pool=1) as sessions:
        with pytest.raises(SandboxOff, match=r"there is a way out\. Close it\.") as refused:
            async with sessions.session("p", "a"):
                pass
        assert (refused.value.reason, refused.value.mend) == ("there is a way out", "Close it.")
        assert boxes.started == []


async def test_what_was_mended_is_found_by_a_later_test(
    boxes: Boxes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "AGAIN_S", 0.0)
    monkeypatch.setattr(sandbox, "LOOK_S", 0.01)
    found: list[Off | None] = [Off("bwrap is missing", "Install it."), None]

    async def examine(*of: object) -> Off | None:
        return found.pop(0)

    told: list[State] = []
    async with opened(boxes, place, examine=examine, tell=told.append) as sessions:
        await until(lambda: isinstance(sessions.state, Ready))
        async with sessions.session("p", "a"):
            pass
    assert [type(state) for state in told] == [Starting, Off, Ready]


async def test_the_environment_may_come_and_go_while_the_server_runs(
    boxes: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "LOOK_S", 0.01)
    monkeypatch.setattr(sandbox, "READY_LOOK_S", 0.01)
    place = tmp_path / "later"
    told: list[State] = []
    async with opened(boxes, place, tell=told.append, pool=1) as sessions:
        with pytest.raises(SandboxOff, match="threadkeep sandbox install"):
            async with sessions.session("p", "a"):
                pass
        make_environment(place)
        await until(lambda: isinstance(sessions.state, Ready) and sessions._pool)
        next(place.glob("*/.environment.json")).unlink()
        await until(lambda: isinstance(sessions.state, Off))
        await until(lambda: not boxes.alive)
    assert [type(state) for state in told] == [Off, Starting, Ready, Off]


async def test_a_box_that_does_not_start_is_told_and_makes_the_tier_suspect(boxes: Boxes, place: Path) -> None:
    tests = 0

    async def examine(*of: object) -> Off | None:
        nonlocal tests
        tests += 1
        return None

    async with opened(boxes, place, examine=examine) as sessions:
        boxes.failure = "bubblewrap (bwrap) is not installed."
        for _ in range(3):  # a place that was not given back would be missed
            with pytest.raises(SandboxOff, match=r"is not installed\. .*install bubblewrap"):
                async with sessions.session("p", "a"):
                    pass
        await until(lambda: tests > 1)
        boxes.failure = None
        async with sessions.session("p", "a"):
            pass


async def test_closing_leaves_no_box_whatever_is_under_way(
    boxes: Boxes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_CPUS", 8)
    async with opened(boxes, place, pool=1, maximum=2) as sessions:
        await until(lambda: sessions._pool)
        used = Caller(sessions, "a")
        await used.has_it()
        await until(lambda: sessions._pool)
        boxes.may_start.clear()
        await (taken := Caller(sessions, "b")).has_it()
        waiting = Caller(sessions, "c")
        await until(lambda: boxes.starting and sessions._waiting)
        await sessions.close()
        assert boxes.alive == {}
        assert boxes.starting == 0
        with pytest.raises(SandboxOff):
            await waiting.task
        for caller in (used, taken):
            await caller.leave()


async def test_a_start_that_is_under_way_ends_with_the_server(boxes: Boxes, place: Path) -> None:
    async with opened(boxes, place) as sessions:
        boxes.may_start.clear()
        starting = Caller(sessions, "a")
        await until(lambda: boxes.starting)
        await sessions.close()
        with pytest.raises(SandboxOff):
            await starting.task
        assert boxes.alive == {}


@pytest.mark.parametrize(
    ("gib", "expected"), [(0.5, (0, 1)), (1, (0, 2)), (2, (1, 5)), (4, (2, 10)), (24, (2, 64)), (512, (2, 64))]
)
def test_what_there_is_room_for_follows_the_memory(gib: float, expected: tuple[int, int]) -> None:
    pool, maximum, total_bytes = sandbox.room(int(gib * 1024**3))
    assert (pool, maximum) == expected
    assert total_bytes < gib * 1024**3
