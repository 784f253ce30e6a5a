"""A second look at what was found: a model that reads the query and each passage together puts them in order."""

import time
from collections.abc import Sequence
from typing import Final

from threadkeep.contract.errors import UpstreamFailed
from threadkeep.logs import Log
from threadkeep.upstream.retrieval import RerankServer

log = Log(__name__)

# For a request and all its repetitions: somebody waits.
_PATIENCE_S: Final = 10.0


class Reranker:
    def __init__(self, server: RerankServer) -> None:
        self._server = server

    async def scores(self, query: str, texts: Sequence[str]) -> list[float] | None:
        """How well each text answers, from 0 to 1. None: the model can't say; then the order stays as it is."""
        try:
            return await self._server.relevance(query, texts, deadline=time.monotonic() + _PATIENCE_S)
        except UpstreamFailed as error:
            log.warning("not_reranked", error=error)
            return None
