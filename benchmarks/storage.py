"""What each operation of the store costs: CPU of the whole process, in microseconds, and the wall time beside it.

    .venv/bin/python -m benchmarks.storage [--postgres URL]

"one caller" has one call in flight, so it pays for two thread wake-ups and, when it writes, for a sync of its own.
"16 callers" is what a busy server sees.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.objects import a_message, a_run, a_step, a_thread
from threadkeep.contract.ids import id_after, new_id
from threadkeep.contract.paging import ListQuery
from threadkeep.storage import DEFAULT_PROJECT_ID as PROJECT
from threadkeep.storage import Store, Transaction, open_store

TEXT = "The quick brown fox jumps over the lazy dog, and then it thinks about what to say to it. " * 4


async def measure(store: Store, name: str, make: Callable[[], Callable[[Transaction], Any]], *, write: bool) -> None:
    call = store.write if write else store.read
    columns: list[str] = []
    for callers, count in ((1, 600), (16, 4000)):
        functions = [make() for _ in range(count)]

        async def caller(mine: list[Callable[[Transaction], Any]]) -> None:
            for fn in mine:
                await call(PROJECT, fn)

        shares = [functions[number::callers] for number in range(callers)]
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller(share) for share in shares))
        columns += [
            f"{(time.process_time() - cpu) / count * 1e6:8.0f}",
            f"{(time.perf_counter() - wall) / count * 1e6:8.0f}",
        ]
    print(f"{name:34}" + "".join(columns))


async def measure_all(store: Store) -> None:
    thread = a_thread()
    await store.write(PROJECT, lambda tx: tx.threads.insert(thread))

    def fill(tx: Transaction) -> None:
        for _ in range(1000):
            tx.messages.insert(a_message(thread.id, TEXT))

    await store.write(PROJECT, fill)
    run = a_run(thread.id)
    step = a_step(run)
    await store.write(PROJECT, lambda tx: tx.runs.insert(run))
    await store.write(PROJECT, lambda tx: tx.steps.insert(step))
    await store.write(PROJECT, lambda tx: tx.work.insert("run", run.id, lease=("token", "node", 60)))
    page = ListQuery()

    def insert_thread() -> Callable[[Transaction], Any]:
        item = a_thread()
        return lambda tx: tx.threads.insert(item)

    def insert_thread_with_metadata() -> Callable[[Transaction], Any]:
        item = a_thread(user="somebody", tier="gold", topic="billing")
        return lambda tx: tx.threads.insert(item)

    def add_message(text: str) -> Callable[[Transaction], Any]:
        message = a_message(thread.id, text)

        def add(tx: Transaction) -> None:
            tx.threads.lock(thread.id)
            identifier = id_after("msg", tx.messages.last_id(thread.id))
            assert identifier > "msg_"
            tx.messages.insert(message)

        return add

    def create_run() -> Callable[[Transaction], Any]:
        item = a_thread()
        new = a_run(item.id)

        def create(tx: Transaction) -> None:
            tx.threads.insert(item)
            tx.threads.lock(item.id)
            tx.messages.insert(a_message(item.id, "Hello there"))
            tx.runs.insert(new)
            tx.work.insert("run", new.id, thread=item.id, lease=("token", "other", 60))

        return create

    def journal() -> Callable[[Transaction], Any]:
        def write(tx: Transaction) -> None:
            tx.work.fence("run", run.id, "token", 60)
            tx.steps.replace(step)
            tx.runs.replace(run, run.status)

        return write

    await measure(store, "nothing (read)", lambda: lambda tx: None, write=False)
    await measure(store, "nothing (write)", lambda: lambda tx: None, write=True)
    await measure(store, "get a thread", lambda: lambda tx: tx.threads.get(thread.id), write=False)
    await measure(store, "get a run", lambda: lambda tx: tx.runs.get(thread.id, run.id), write=False)
    await measure(store, "list 20 of 1,000 messages", lambda: lambda tx: tx.messages.list(thread.id, page), write=False)
    await measure(store, "insert a thread", insert_thread, write=True)
    await measure(store, "insert a thread, 3 metadata", insert_thread_with_metadata, write=True)
    await measure(store, "add a message (5 words)", lambda: add_message("What is the weather today"), write=True)
    await measure(store, "add a message (350 characters)", lambda: add_message(TEXT), write=True)
    await measure(store, "create thread, message, run, work", create_run, write=True)
    await measure(store, "journal: fence, step, run", journal, write=True)
    await measure(store, "new id", lambda: lambda tx: new_id("msg"), write=False)


async def main(url: str | None) -> None:
    places = [("SQLite, synchronous=FULL", None)] + ([("PostgreSQL", url)] if url else [])
    for name, place in places:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            store = await open_store(place, Path(folder))
            print(f"{name:34}{'one caller':>16}{'16 callers':>16}")
            print(f"{'':34}" + f"{'CPU µs':>8}{'wall':>8}" * 2)
            await measure_all(store)
            await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", metavar="URL", help="an empty database that may be written to")
    asyncio.run(main(parser.parse_args().postgres))
