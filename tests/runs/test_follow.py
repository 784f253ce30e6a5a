"""The event log: a reader is a position in it."""

import asyncio

from tests.support.objects import a_run, a_thread
from threadkeep.contract.events import Event
from threadkeep.runs.follow import EventLog


def events(count: int) -> list[Event]:
    run = a_run(a_thread().id)
    return [Event("thread.run.queued", run) for _ in range(count)]


def test_a_late_reader_reads_from_the_start() -> None:
    log, told = EventLog(), events(3)
    log.append(told)

    assert log.since(0) == told
    assert log.since(2) == told[2:]
    assert log.since(3) == []


async def test_one_reader_takes_nothing_from_another() -> None:
    log, told = EventLog(), events(100)

    async def read() -> list[Event]:
        position, heard = 0, list[Event]()
        while not (log.closed and position == len(heard) == 100):
            await log.wait(position)
            new = log.since(position)
            heard += new
            position += len(new)
        return heard

    readers = [asyncio.create_task(read()) for _ in range(3)]
    for event in told:
        log.append([event])
        await asyncio.sleep(0)
    log.close()

    assert await asyncio.gather(*readers) == [told] * 3


async def test_waiting_ends_at_the_next_event() -> None:
    log = EventLog()
    waiting = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    assert not waiting.done()

    log.append(events(1))

    await asyncio.wait_for(waiting, 10)


async def test_waiting_ends_when_the_log_is_closed() -> None:
    log = EventLog()
    waiting = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)

    log.close("It went elsewhere.")

    await asyncio.wait_for(waiting, 10)
    assert (log.closed, log.failure) == (True, "It went elsewhere.")


async def test_nobody_waits_for_what_is_there() -> None:
    log = EventLog()
    log.append(events(2))

    await asyncio.wait_for(log.wait(1), 10)


async def test_a_reader_that_leaves_is_forgotten() -> None:
    log = EventLog()
    waiting = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert log._waiting == []


def test_what_a_run_says_at_length_counts_whatever_says_it() -> None:
    run = a_run(a_thread().id, instructions="x" * 100_000)
    log = EventLog()
    log.append([Event("thread.run.created", run), Event("thread.run.queued", run)])
    assert log.size > 200_000
