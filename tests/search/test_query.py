"""What is found, in which order and with which scores: over HTTP, on both databases."""

import httpx2
import pytest

from tests.support.vector_stores import Stores
from threadkeep.search.query import fused, rewritten
from threadkeep.storage.passages import Hit

HARBOUR = "Lanterns hang over the old harbour."
MARKET = "The market opens at dawn, and the harbour sleeps."
LIBRARY = "A library keeps maps of every coast."


@pytest.fixture
def stores(client: httpx2.Client) -> Stores:
    return Stores(client)


def test_the_best_answer_comes_first_with_a_score_between_0_and_1(stores: Stores) -> None:
    store = stores.of({"harbour.txt": HARBOUR, "market.txt": MARKET, "library.txt": LIBRARY})
    found = stores.search(store, "lanterns of the harbour")
    assert [hit["filename"] for hit in found] == ["harbour.txt", "market.txt"]
    assert 1 > found[0]["score"] > found[1]["score"] > 0
    assert found[0]["content"] == [{"type": "text", "text": HARBOUR}]


def test_a_threshold_cuts_off_what_has_little_of_the_query(stores: Stores) -> None:
    store = stores.of({"harbour.txt": HARBOUR, "market.txt": MARKET, "library.txt": LIBRARY})
    high, low = (hit["score"] for hit in stores.search(store, "lanterns of the harbour"))
    between = (high + low) / 2
    found = stores.search(store, "lanterns of the harbour", ranking_options={"score_threshold": between})
    assert [(hit["filename"], hit["score"]) for hit in found] == [("harbour.txt", high)]
    assert stores.search(store, "lanterns", ranking_options={"score_threshold": 1}) == []


def test_a_score_says_how_much_of_the_query_is_there_whatever_else_was_found(stores: Stores) -> None:
    store = stores.of({"harbour.txt": HARBOUR, "market.txt": MARKET, "library.txt": LIBRARY})
    whole = stores.search(store, "lanterns hang over the old harbour")[0]["score"]
    hardly = stores.search(store, "submarine cables and a harbour of glass")[0]["score"]
    assert whole > 0.5 > hardly


def test_several_queries_are_answered_together(stores: Stores) -> None:
    store = stores.of({"harbour.txt": HARBOUR, "market.txt": MARKET, "library.txt": LIBRARY})
    found = stores.search(store, ["lanterns", "maps"])
    assert {hit["filename"] for hit in found} == {"harbour.txt", "library.txt"}


def test_no_more_results_than_asked_for(stores: Stores) -> None:
    store = stores.of({f"{number}.txt": f"Lantern {number}" for number in range(12)})
    assert len(stores.search(store, "lantern")) == 10
    assert len(stores.search(store, "lantern", max_num_results=3)) == 3


def test_a_rewritten_query_is_told(stores: Stores) -> None:
    store = stores.of({"harbour.txt": HARBOUR})
    asked = "Could you please tell me where the lanterns hang?"
    assert stores.answer(store, asked)["search_query"] == [asked]
    answer = stores.answer(store, asked, rewrite_query=True)
    assert answer["search_query"] == ["lanterns hang"]
    assert [hit["filename"] for hit in answer["data"]] == ["harbour.txt"]


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ("What is the capital of France?", "capital of France"),
        ("Hi! Can you please find information about solar panels, thanks", "solar panels"),
        ("I'd like to know how photosynthesis works", "photosynthesis works"),
        ("Tell me about the return policy.", "return policy"),
        ("does vitamin D lower the risk of fractures", "does vitamin D lower the risk of fractures"),
        ("capital of France", "capital of France"),
        ("Is the harbour open?", "harbour open"),
        ("who are you?", "who are you?"),
        ("Can opener", "Can opener"),
        ("Wie hoch ist der Eiffelturm?", "Wie hoch ist der Eiffelturm"),
        ("東京の天気は?", "東京の天気は"),
        ("", ""),
    ],
)
def test_a_query_is_left_what_is_searched_for(asked: str, left: str) -> None:
    assert rewritten(asked) == left


# ── by meaning ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_halves_have_their_say() -> None:
    def hit(position: int, score: float) -> Hit:
        return Hit("vs", "file", 1, position, score)

    words = [hit(1, 0.5), hit(2, 0.4), hit(3, 0.3)]
    meaning = [hit(2, 0.8), hit(4, 0.7), hit(1, 0.2)]
    order = fused([words, meaning])
    assert [each.position for each in order] == [2, 1, 4, 3]
    scores = [each.score for each in order]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([0.8, 0.6, 0.6, 0.3])
    assert [each.position for each in fused([words])] == [1, 2, 3]


def test_a_file_in_two_stores_is_found_once() -> None:
    both = [Hit("vs_a", "file", 1, 0, 0.9), Hit("vs_b", "file", 1, 0, 0.9), Hit("vs_a", "other", 2, 0, 0.1)]

    assert [hit.file_id for hit in fused([both])] == ["file", "other"]


def test_a_query_that_is_no_question_is_left_as_it_is_and_takes_no_time() -> None:
    # The patterns would take the square of its length.
    query = "x" + ", " * 40_000 + "y"

    assert rewritten(query) == query
