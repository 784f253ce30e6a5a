"""How well the search finds what was meant, measured as by the public sets (nDCG@10), on a small set of its own.

What the figures are on public sets is for `benchmarks/search_quality.py`: those are not in this repository. This set
only guards against what would break any: terms that are lost, lengths that count wrongly, ranks that are mixed up.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.support.databases import Database
from tests.support.embeddings import EmbeddingServer
from tests.support.server import serving
from tests.support.vector_stores import Stores
from threadkeep.settings import Settings

DOCUMENTS = {
    "lighthouse": "The lighthouse keeper lights the lamp each evening and writes the weather into a book. The lamp "
    "turns once a minute; ships know the rock by it.",
    "ferry": "Ferries cross the strait every hour. In storms they stay in the harbour, and passengers wait.",
    "whale": "Blue whales are the largest animals that ever lived. They feed on krill and sing across whole oceans.",
    "krill": "Krill are small crustaceans that swarm in cold seas. Penguins, seals and fish feed on them.",
    "bridge": "The suspension bridge over the strait was opened in 1973. Its cables are inspected by night.",
    "bread": "Sourdough needs flour, water, salt and patience. The starter is fed with flour for a week before baking.",
    "oven": "An oven of stone holds its heat for hours. Bakers sweep the ashes out before the loaves go in.",
    "violin": "The violin maker chooses spruce for the top and maple for the back. Varnish takes years to harden.",
    "forest": "Spruce and maple grow on the northern slope. In autumn the forest turns red, and deer come down.",
    "deer": "Deer browse on young trees. Without wolves their numbers rise, and forests cease to renew themselves.",
    "wolf": "Wolves returned to the valley after a century. Farmers keep dogs again, and fences have become higher.",
    "night": "Bats hunt moths at night by echo. Some moths answer with clicks that confuse them.",
    "clock": "The clock of the town hall strikes every hour, but is four minutes late since the storm.",
    "glacier": "The glacier loses a metre of ice each year. Meltwater fills the reservoir and drives the turbines.",
    "turbine": "Wind turbines stand on the ridge. Their blades are heated in winter, so that no ice forms on them.",
    "vaccine": "The vaccine is given twice, four weeks apart. Fever after the second dose is common and harmless.",
    "fever": "Doctors treat malaria with artemisinin. The illness brings chills and fever in a rhythm of days.",
    "law": "The tenancy act gives tenants three months' notice. Deposits are returned within thirty days.",
    "loan": "A loan for a house runs for decades. Banks ask for a deposit of a fifth of the price.",
    "tax": "Income is taxed by brackets. Whoever works from home deducts a part of the rent.",
}
# By words of the documents, and a few by words that only mean the same.
QUERIES: dict[str, dict[str, int]] = {
    "who lights the lamp of the lighthouse": {"lighthouse": 2},
    "what do whales feed on": {"whale": 2, "krill": 1},
    "swarming crustaceans in cold seas": {"krill": 2, "whale": 1},
    "inspecting the cables of a bridge": {"bridge": 2},
    "crossing the strait": {"ferry": 2, "bridge": 2},
    "feeding a sourdough starter before baking": {"bread": 2, "oven": 1},
    "wood for a violin": {"violin": 2, "forest": 1},
    "deer and wolves in the forest": {"deer": 2, "wolf": 1, "forest": 1},
    "bats hunting moths": {"night": 2},
    "ice on the blades of wind turbines": {"turbine": 2, "glacier": 1},
    "fever after a dose of the vaccine": {"vaccine": 2, "fever": 1},
    "when is a tenant's deposit returned": {"law": 2, "loan": 1},
    "mortgage": {"loan": 2},
    "physicians": {"fever": 2},
    "timepiece": {"clock": 2},
    "cetaceans": {"whale": 2},
}
MEANT = {"mortgage": "loan", "physicians": "doctors", "timepiece": "clock", "cetaceans": "whales"}


@pytest.fixture
def model() -> Iterator[EmbeddingServer]:
    with EmbeddingServer(MEANT) as server:
        yield server


def ndcg(found: Sequence[str], judged: Mapping[str, int]) -> float:
    gained = sum(judged.get(name, 0) / math.log2(rank + 1) for rank, name in enumerate(found[:10], 1))
    best = sorted(judged.values(), reverse=True)
    return gained / sum(worth / math.log2(rank + 1) for rank, worth in enumerate(best, 1))


def measured(stores: Stores) -> float:
    store = stores.of({f"{name}.txt": text for name, text in DOCUMENTS.items()})
    return sum(
        ndcg([name.removesuffix(".txt") for name in stores.names(store, query)], judged)
        for query, judged in QUERIES.items()
    ) / len(QUERIES)


def test_words_alone_find_most_of_what_was_meant_and_with_a_model_nearly_everything(
    database: Database, model: EmbeddingServer
) -> None:
    plain = Settings(data_dir=database.data_dir, database_url=database.url, grace_seconds=0)
    with serving(plain) as server, server.client() as http:
        words = measured(Stores(http))
    both = Settings(
        data_dir=database.data_dir,
        database_url=database.url,
        embedding_url=model.url,
        embedding_model="meaning",
        grace_seconds=0,
    )
    with serving(both) as server, server.client() as http:
        hybrid = measured(Stores(http))
    assert words > 0.7
    assert hybrid > max(words, 0.9)
