"""``GET /metrics``: what Prometheus reads. Nothing in it is anybody's: neither projects nor what they say."""

from typing import Annotated

from threadkeep import metrics as counted
from threadkeep.api.answers import Document
from threadkeep.api.call import Context


async def scrape(context: Context) -> Annotated[Document, "text/plain"]:
    """The server's metrics in Prometheus' text format; their names are in `docs/how-to/metrics.md`."""
    return Document(counted.CONTENT_TYPE, await counted.text(context.gauges))
