"""The time of an outcome (see ``storage/outcomes.py``) is over: it is forgotten."""

from threadkeep.storage.outcomes import OUTCOME
from threadkeep.storage.store import Store, Transaction
from threadkeep.worker import Held


class OutcomeExpiry:
    """The handler of due work of kind ``outcome``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle(self, held: Held) -> None:
        item, token = held.lease.item, held.lease.token
        _, _, outcome_id = item.key.rpartition("/")

        def expire(tx: Transaction) -> None:
            tx.work.finish(OUTCOME, item.key, token)
            tx.outcomes.delete(outcome_id)

        held.settled = True
        await self._store.write(item.project, expire)
