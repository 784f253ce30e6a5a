"""Rounds of load and blows on one cluster, and the reckoning after each: what was acknowledged against what is there.

A round: clients work, at moments that the seed says something is struck, all is mended, the clients stop, every run
ends, and all that the round made is compared. At the end everything of all rounds is compared once more.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.clients import PATIENCE_S, Balancer, Client, Stage, Tally, new_session, set_stage
from tests.chaos.cluster import LEASE_S, ON_POSTGRES, ON_SQLITE, Blow, Cluster, Kind
from tests.chaos.ledger import (
    Fault,
    Record,
    RunRecord,
    ThreadRecord,
    check_objects,
    check_prompts,
    check_store_files,
    check_thread,
)
from tests.chaos.model import Model

# The load ahead of the first blow, and after the last.
_CALM_S: Final = 1.0
# Of so many objects a report says what is wrong with them.
_SHOWN: Final = 30


@dataclass(frozen=True)
class Terms:
    """What a campaign is to be."""

    kind: Kind
    seed: int
    rounds: int
    clients: int = 12
    # The blows of each round; fewer than rounds: they begin again. None: drawn by the seed.
    blows: Sequence[Sequence[str]] | None = None
    # How long a round's clients work when nothing takes longer.
    load_s: float = 5.0
    # Whether a round with faults is followed by others.
    goes_on: bool = False


@dataclass
class Report:
    terms: Terms
    rounds: int = 0
    blows: list[Blow] = field(default_factory=list[Blow])
    checked: int = 0
    runs: int = 0
    tally: Tally = field(default_factory=Tally)
    # From a node's death, or from when a single one listens again, to the model being asked by its successor.
    takeovers_s: list[float] = field(default_factory=list[float])
    faults: list[Fault] = field(default_factory=list[Fault])
    # Of what the faults are about.
    histories: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def kills(self) -> int:
        return self.struck("kill")

    def struck(self, name: str) -> int:
        """How many blows have a name that begins so."""
        return sum(blow.name.startswith(name) for blow in self.blows)

    def count(self, kind: str) -> int:
        return sum(fault.kind == kind for fault in self.faults)

    def __str__(self) -> str:
        tally, taken = self.tally, self.takeovers_s
        took = f"median {statistics.median(taken):.2f} s, max {max(taken):.2f} s of {len(taken)}" if taken else "none"
        lines = [
            f"{self.terms.kind}: seed {self.terms.seed}, {self.rounds} rounds, {len(self.blows)} blows",
            f"  kills of a node {self.kills}, freezes {self.struck('freeze')}, of the database {self.struck('data')}",
            f"  acknowledged writes {tally.acknowledged}, changes compared {self.checked}, runs {self.runs}",
            f"  refused {tally.refused}, unanswered {tally.unanswered}, 5xx {tally.away}, repeated {tally.repeated}",
            f"  streams {tally.streams}, cut {tally.cut}, re-joined {tally.rejoined}",
            "  " + ", ".join(f"{kind} {self.count(kind)}" for kind in ("lost", "duplicated", "wrong", "stuck")),
            f"  takeover: {took} (lease {LEASE_S:g} s)",
        ]
        lines += ["  what was struck:", *(f"    {blow}" for blow in self.blows)]
        by_object: dict[str, list[Fault]] = {}
        for fault in self.faults:
            by_object.setdefault(fault.about, []).append(fault)
        for about, faults in list(by_object.items())[:_SHOWN]:
            lines += [f"  {fault}" for fault in faults]
            lines += [f"    {line}" for line in self.histories.get(about, [])]
        if len(by_object) > _SHOWN:
            lines.append(f"  … and of {len(by_object) - _SHOWN} objects more")
        return "\n".join(lines)


def run_campaign(terms: Terms, folder: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """Carries it out; the faults stand in the report."""
    with Model() as model:
        nodes = 1 if terms.kind == "sqlite" else 3
        with Cluster(terms.kind, folder, model, nodes=nodes) as cluster:
            return asyncio.run(_Campaign(terms, cluster, model, say).run())


class _Campaign:
    def __init__(self, terms: Terms, cluster: Cluster, model: Model, say: Callable[[str], None]) -> None:
        self._terms = terms
        self._cluster = cluster
        self._model = model
        self._say = say
        self._report = Report(terms)
        self._clients: list[Client] = []

    async def run(self) -> Report:
        report, terms = self._report, self._terms
        async with new_session() as session:
            balancer = Balancer(self._cluster.urls, session, report.tally)
            stage = await set_stage(balancer)
            for number in range(1, terms.rounds + 1):
                await self._round(number, balancer, stage)
                report.rounds = number
                if self._faults and not terms.goes_on:
                    break
            await self._reckon(self._clients, balancer, is_last=True)
        report.blows = list(self._cluster.blows)
        report.faults = self._faults
        report.takeovers_s = self._takeovers()
        self._add_histories()
        return report

    @property
    def _faults(self) -> list[Fault]:
        exits = [Fault("wrong", "exit", words) for words in self._cluster.bad_exits]
        return list(dict.fromkeys([*self._report.faults, *self._report.tally.faults, *exits]))

    async def _round(self, number: int, balancer: Balancer, stage: Stage) -> None:
        terms = self._terms
        seed = f"{terms.seed}/{number}"
        chance = random.Random(f"{seed}/blows")
        stopping = asyncio.Event()
        clients = [
            Client(f"r{number}c{index}", f"{seed}/{index}", balancer, stage, stopping) for index in range(terms.clients)
        ]
        self._clients += clients
        began = time.monotonic()
        struck = self._blows(number, chance)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.work())
            try:
                await asyncio.sleep(_CALM_S)
                for name in struck:
                    await asyncio.sleep(chance.uniform(0, 1.5))
                    await asyncio.to_thread(self._cluster.strike, name, chance)
                await asyncio.sleep(max(_CALM_S, terms.load_s - (time.monotonic() - began)))
            finally:
                stopping.set()
        await self._reckon(clients, balancer, is_last=False)
        self._say(
            f"{terms.kind} round {number}: {', '.join(struck)}; {self._report.tally.acknowledged} acknowledged so far, "
            f"{len(self._faults)} faults, {time.monotonic() - began:.1f} s"
        )

    def _blows(self, number: int, chance: random.Random) -> Sequence[str]:
        if (given := self._terms.blows) is not None:
            return given[(number - 1) % len(given)]
        drawn = ON_SQLITE if self._terms.kind == "sqlite" else ON_POSTGRES
        more = [chance.choice(drawn) for _ in range(chance.randint(0, 2))]
        struck = ["kill", *more]
        chance.shuffle(struck)
        return struck

    # The reckoning.

    async def _reckon(self, clients: Sequence[Client], balancer: Balancer, *, is_last: bool) -> None:
        """Every run has ended, and what these clients did is there."""
        chance = random.Random(0)
        await self._find_unknown(clients, balancer, chance)
        gate = asyncio.Semaphore(8)

        async def reckon(client: Client) -> int:
            async with gate:
                try:
                    return await self._reckon_client(client, balancer)
                except (TimeoutError, AssertionError) as error:
                    self._report.faults.append(Fault("stuck", client.name, str(error)))
                    return 0

        checked = await asyncio.gather(*(reckon(client) for client in clients))
        if is_last:
            self._report.checked = sum(checked)
            self._report.runs = sum(
                run.made == "done" for client in clients for thread in client.threads for run in thread.runs.values()
            )

    async def _find_unknown(self, clients: Sequence[Client], balancer: Balancer, chance: random.Random) -> None:
        """Threads whose creation got no answer; and none is there twice."""
        mine = {thread.token: thread for client in clients for thread in client.threads}
        seen = await balancer.pages("/threads", chance) or []
        tokens = [thread["metadata"].get("token", "") for thread in seen]
        ours = [token for token in tokens if token in mine]
        self._report.faults += check_objects(mine.values(), ours, "thread")
        for token, thread in zip(tokens, seen, strict=True):
            if token in mine and mine[token].id is None:
                mine[token].id = thread["id"]

    async def _reckon_client(self, client: Client, balancer: Balancer) -> int:
        """How many acknowledged writes were compared."""
        report, chance = self._report, client.chance
        deaths = [blow.at for blow in self._cluster.blows]
        for thread in client.threads:
            if thread.id is None:
                continue
            if thread.deleted is None:
                await client.settle(thread)
            seen = await balancer.thread(thread.id, chance, with_steps=thread.deleted is None)
            if thread.deleted == "unknown":
                continue
            report.faults += check_thread(thread, seen, deaths=deaths)
            if seen is not None:
                for run in thread.runs.values():
                    report.faults += check_prompts(run, self._model.asked(run.token), thread.messages)
            await self._until_nobody_listens(thread)
        await self._reckon_files(client, balancer)
        gone = {id(each) for thread in client.threads if thread.deleted is not None for each in _within(thread)}
        return sum(_writes(record) for record in _records(client) if id(record) not in gone)

    async def _until_nobody_listens(self, thread: ThreadRecord) -> None:
        """A run that has ended, wherever that was, has no call to its model left, on whatever node."""
        until = time.monotonic() + PATIENCE_S
        for run in thread.runs.values():
            while listeners := self._model.still_asked(run.token):
                if time.monotonic() >= until:
                    words = f"the run has ended, and {listeners} still listen to its model"
                    self._report.faults.append(Fault("stuck", run.token, words))
                    return
                await asyncio.sleep(0.1)

    async def _reckon_files(self, client: Client, balancer: Balancer) -> None:
        report, chance = self._report, client.chance
        for file in client.files:
            if file.id is None or file.deleted == "unknown":
                continue
            answer = await balancer.read(f"/files/{file.id}/content", chance)
            if file.deleted == "done":
                if answer.status != 404:
                    report.faults.append(Fault("lost", file.token, "the file was deleted, and is there"))
            elif answer.status != 200:
                report.faults.append(Fault("lost", file.token, f"its content is gone: {answer.status}"))
            elif answer.raw != file.content:
                report.faults.append(Fault("wrong", file.token, "its content is another"))
        for store in client.stores:
            if store.id is None:
                continue
            listed = await balancer.pages(f"/vector_stores/{store.id}/files", chance)
            if listed is None:
                report.faults.append(Fault("lost", store.token, "the vector store is gone"))
                continue
            report.faults += check_store_files(store, [each["id"] for each in listed])
            until = time.monotonic() + PATIENCE_S
            while any(each["status"] == "in_progress" for each in listed):
                if time.monotonic() >= until:
                    report.faults.append(Fault("stuck", store.token, "its files stay in_progress"))
                    break
                await asyncio.sleep(0.2)
                listed = await balancer.pages(f"/vector_stores/{store.id}/files", chance) or []
            if failed := [each["last_error"] for each in listed if each["status"] == "failed"]:
                report.faults.append(Fault("wrong", store.token, f"files failed: {failed}"))

    def _takeovers(self) -> list[float]:
        """How long runs stood still whose node was killed or froze past its lease."""
        blows = self._cluster.blows
        taken: list[float] = []
        for client in self._clients:
            for thread in client.threads:
                for run in thread.runs.values():
                    for left, taken_up in self._model.cut_off(run.token):
                        between = [blow for blow in blows if left.at <= blow.at <= taken_up.at]
                        deaths = [b for b in between if b.node == left.node and b.name in ("kill", "freeze")]
                        # Where something else was broken meanwhile, that is what is measured.
                        if len(deaths) != 1 or len(between) != 1:
                            continue
                        [death] = deaths
                        alone = self._terms.kind == "sqlite"
                        taken.append(max(0.0, taken_up.at - (death.whole_at if alone else death.at)))
        return taken

    def _add_histories(self) -> None:
        faulty = {fault.about for fault in self._report.faults}
        for client in self._clients:
            for record in _records(client):
                if record.token in faulty:
                    asked = self._model.asked(record.token) if isinstance(record, RunRecord) else []
                    turns = [
                        f"{time.strftime('%H:%M:%S', time.gmtime(a.at))} the model was asked by {a.node}" for a in asked
                    ]
                    self._report.histories[record.token] = [*record.history, *turns]


def _records(client: Client) -> list[Record]:
    records: list[Record] = [*client.threads, *client.files, *client.stores]
    for thread in client.threads:
        records += _within(thread)
    return records


def _within(thread: ThreadRecord) -> list[Record]:
    return [*thread.messages.values(), *thread.runs.values()]


def _writes(record: Record) -> int:
    """Acknowledged writes of which the reckoning would see that they are missing. Of several changes of metadata that
    is the last; of what was deleted, the deletion."""
    if record.made != "done":
        return 0
    if record.deleted is not None:
        return 2 if record.deleted == "done" else 1
    count = 1 + ("changed" in record.metadata)
    if isinstance(record, RunRecord):
        count += (record.outputs_came == "done") + (record.cancel == "done")
    return count
