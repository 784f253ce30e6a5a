"""When a server that fails is left alone, and when it is asked again."""

import asyncio
import re

import pytest

from tests.upstream.answers import ask, asking, connected
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream import breaker as breakers
from threadkeep.upstream.breaker import LONGEST_PAUSE_S, OPENS_AFTER, OPENS_AFTER_S, PAUSE_S, Breaker
from threadkeep.upstream.scripted import Chunk, Cut, Hang, Raw, Received, Say, ScriptedUpstream, Status, Step
from threadkeep.upstream.upstreams import Upstream


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def fail(breaker: Breaker, clock: Clock, times: int, *, each_s: float) -> list[bool]:
    """So many calls, one after the other, that fail after so long; which of them opened the breaker."""
    opened: list[bool] = []
    for _ in range(times):
        began_at = breaker.begin()
        clock.now += each_s
        opened.append(breaker.failed(began_at, "why"))
    return opened


def test_failures_in_a_row_over_some_time_open_it_once(breaker: Breaker, clock: Clock) -> None:
    assert fail(breaker, clock, OPENS_AFTER + 2, each_s=3) == [False] * (OPENS_AFTER - 1) + [True, False, False]
    assert (breaker.failing_s, breaker.reason) == (3 * (OPENS_AFTER + 2), "why")


def test_failures_that_have_not_lasted_do_not_open_it(breaker: Breaker, clock: Clock) -> None:
    assert not any(fail(breaker, clock, 100, each_s=OPENS_AFTER_S / 101))


def test_few_failures_do_not_open_it_however_long_they_take(breaker: Breaker, clock: Clock) -> None:
    assert not any(fail(breaker, clock, OPENS_AFTER - 1, each_s=1000))


def test_calls_that_hang_at_once_open_it_when_they_end_at_once(breaker: Breaker, clock: Clock) -> None:
    began = [breaker.begin() for _ in range(OPENS_AFTER)]
    clock.now += 300
    assert [breaker.failed(at, "why") for at in began][-1]


def test_an_answer_between_them_begins_the_count_anew(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker, clock, OPENS_AFTER - 1, each_s=60)
        breaker.answered()
    assert not breaker.is_open


def test_what_began_before_an_answer_counts_from_the_answer_on(breaker: Breaker, clock: Clock) -> None:
    began = [breaker.begin() for _ in range(OPENS_AFTER)]
    clock.now += 300
    breaker.answered()
    assert not any(breaker.failed(at, "why") for at in began)


def test_while_open_one_call_a_pause_goes_through_and_pauses_grow(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, clock, OPENS_AFTER, each_s=10)
    pauses: list[float] = []
    for _ in range(5):
        pauses.append(breaker.wait_s)
        clock.now += breaker.wait_s
        assert breaker.wait_s == 0
        breaker.begin()
        assert breaker.wait_s > 0
    assert pauses == [PAUSE_S, 10, 20, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_an_answer_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, clock, OPENS_AFTER, each_s=10)
    assert breaker.answered()
    assert (breaker.is_open, breaker.wait_s) == (False, 0)
    assert not breaker.answered()


# ---------------------------------------------------------------- of an upstream


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breakers that open at the fifth failure, however soon it comes."""
    monkeypatch.setattr(breakers, "OPENS_AFTER_S", 0.0)


async def failed(upstream: Upstream, model: str = "m", times: int = 1) -> UpstreamFailed:
    """The last of so many failures."""
    failures: list[UpstreamFailed] = []
    for _ in range(times):
        with pytest.raises(UpstreamFailed) as failure:
            await ask(upstream, asking(model=model))
        failures.append(failure.value)
    return failures[-1]


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_is_away_is_left_alone_and_asked_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breakers, "PAUSE_S", 0.5)
    server = ScriptedUpstream([Say("back")] * 2)
    server.start()
    server.stop()
    async with connected(server, max_retries=0) as up:
        away = await failed(up, times=OPENS_AFTER)
        assert "could not be reached" in away.message

        spared = await failed(up, "another")

        assert "has failed since 20" in spared.message
        assert "try again in 1 second." in spared.message
        assert "could not be reached" in spared.message
        assert spared.code == "server_error"
        [trouble] = up.troubles
        assert re.fullmatch(r"'scripted' has failed for \d+ s, and is asked again in 1 s", trouble)
        async with ScriptedUpstream([Say("back")] * 2, port=server.port):
            await asyncio.sleep(0.6)
            [trouble] = up.troubles
            assert trouble.endswith(" s, and is asked again with the next run")
            assert (await ask(up)).text == "back"
            assert (await ask(up)).text == "back"
        assert up.troubles == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("bad", [Status(503), Hang(), Cut(), Raw(b"data: {oops}\n\n")])
async def test_a_model_that_fails_is_left_alone_and_the_others_are_not(bad: Step) -> None:
    def entry(request: Received) -> Step:
        return bad if request.body["model"] == "bad" else Say("ok")

    async with (
        ScriptedUpstream([entry], repeat=True) as server,
        connected(server, max_retries=0, first_byte_timeout_s=0.2) as up,
    ):
        await failed(up, "bad", OPENS_AFTER)
        spared = await failed(up, "bad")
        assert "left alone" in spared.message
        assert (await ask(up, asking(model="good"))).text == "ok"
        assert len(server.requests) == OPENS_AFTER + 1
        [trouble] = up.troubles
        assert trouble.startswith("'scripted' has failed for 'bad' for ")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "refusal",
    [
        *map(Status, (400, 401, 403, 404, 429)),
        Chunk({"error": {"message": "Too long", "code": "context_length_exceeded"}}),
        Chunk({"error": {"message": "Too fast", "code": 429}}),
    ],
)
async def test_what_is_refused_is_no_failure_of_the_server(refusal: Step) -> None:
    async with ScriptedUpstream([refusal], repeat=True) as server, connected(server, max_retries=0) as up:
        await failed(up, times=3 * OPENS_AFTER)
        assert len(server.requests) == 3 * OPENS_AFTER


@pytest.mark.usefixtures("hasty")
async def test_a_call_that_is_tried_again_gives_up_when_the_server_is_left_alone() -> None:
    async with (
        ScriptedUpstream([Status(503, headers={"retry-after-ms": "1"})], repeat=True) as server,
        connected(server, max_retries=20) as up,
    ):
        assert "left alone" in (await failed(up)).message
        assert len(server.requests) == OPENS_AFTER


async def test_calls_are_counted_by_what_came_of_them() -> None:
    script = [Say("ok"), Status(400), Status(429), Status(503), Say("ok")]
    async with ScriptedUpstream(script) as server, connected(server, max_retries=0) as up:
        await ask(up)
        await failed(up, times=3)
        await ask(up)
        assert up.outcomes == {"answered": 2, "refused": 1, "limited": 1, "failed": 1}
