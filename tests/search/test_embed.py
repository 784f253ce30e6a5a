"""The semantic half: vectors of passages and queries from a server of embeddings, on both databases."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.databases import Database, execute
from tests.support.embeddings import EmbeddingServer
from tests.support.server import RunningServer, serving
from tests.support.vector_stores import Stores
from threadkeep.search import embed, ingest
from threadkeep.settings import Settings

PATIENCE_S = 60
CAR = "The automobile stands in the yard."
BOAT = "The boat lies in the yard."
TREE = "A tree grows."


@pytest.fixture
def model() -> Iterator[EmbeddingServer]:
    with EmbeddingServer({"car": "automobile"}) as server:
        yield server


@contextmanager
def searching(
    database: Database, model: EmbeddingServer | None, name: str = "meaning", **fields: Any
) -> Generator[RunningServer]:
    every: dict[str, Any] = {"data_dir": database.data_dir, "database_url": database.url, "grace_seconds": 0}
    if model is not None:
        every |= {"embedding_url": model.url, "embedding_model": name}
    with serving(Settings(**(every | fields))) as server:
        yield server


@contextmanager
def stores_of(server: RunningServer, key: str) -> Generator[Stores]:
    with server.client(key) as http:
        yield Stores(http)


@pytest.fixture
def stores(database: Database, model: EmbeddingServer) -> Iterator[Stores]:
    with searching(database, model) as server, server.client() as http:
        yield Stores(http)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def models(server: RunningServer) -> dict[str, int]:
    """How many passages have vectors of which models."""
    rows = server.read(
        None,
        lambda tx: execute(
            tx,
            "SELECT model, sum(count) FROM vectors GROUP BY model"
            if server.settings.database_url is None
            else "SELECT model, count(*) FROM passage_vectors GROUP BY model",
        ),
    )
    return {model: int(count) for model, count in rows}


def test_a_passage_is_found_by_what_it_means(stores: Stores) -> None:
    store = stores.of({"car.txt": CAR, "boat.txt": BOAT, "tree.txt": TREE})
    found = stores.search(store, "car")
    assert found[0]["filename"] == "car.txt"
    assert found[0]["score"] > found[-1]["score"] >= 0


def test_both_halves_together_find_what_either_finds(stores: Stores) -> None:
    store = stores.of({"car.txt": CAR, "boat.txt": BOAT, "tree.txt": TREE})
    assert set(stores.names(store, "car boat", max_num_results=2)) == {"car.txt", "boat.txt"}


def test_filters_hold_for_both_halves(stores: Stores) -> None:
    store = stores.of({"boat.txt": BOAT})
    file_id = stores.upload("car.txt", CAR)
    answer = stores.http.post(f"/vector_stores/{store}/files", json={"file_id": file_id, "attributes": {"wheels": 4}})
    assert answer.status_code == 200
    stores.until_completed(store, 2)
    wheels = {"type": "eq", "key": "wheels", "value": 4}
    assert stores.names(store, "car yard", filters=wheels) == ["car.txt"]
    assert stores.names(store, "car yard", filters={**wheels, "value": 2}) == []


def test_what_is_there_already_is_not_embedded_again(stores: Stores, model: EmbeddingServer) -> None:
    stores.of({"car.txt": CAR})
    stores.of({"copy.txt": CAR, "boat.txt": BOAT})
    assert sorted(model.texts()) == sorted([CAR, BOAT])


def test_a_long_file_is_embedded_in_batches_of_what_the_server_takes(stores: Stores, model: EmbeddingServer) -> None:
    model.most_texts = 8
    words = [f"Lamp {number} shines." for number in range(3_000)]
    chunking = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    store = stores.of({"lamps.txt": " ".join(words)}, chunking_strategy=chunking)
    accepted = [each["input"] for each in model.asked if len(each["input"]) <= 8]
    texts = [text for some in accepted for text in some]
    assert len(texts) == len(set(texts)) > 100
    # Learnt: only what was under way when it was first refused was too much.
    assert len(model.asked) - len(accepted) <= 4 * 3
    assert "Lamp 2718 " in stores.search(store, "lamp 2718")[0]["content"][0]["text"]


def test_a_passage_that_is_too_long_for_the_model_is_embedded_by_its_parts(
    stores: Stores, model: EmbeddingServer
) -> None:
    model.longest_text = 600
    text = " ".join(f"Lamp {number} shines on the automobile." for number in range(60))
    store = stores.of({"lamps.txt": text, "tree.txt": TREE})
    assert stores.names(store, "car")[0] == "lamps.txt"


def test_a_server_that_is_busy_is_asked_again(stores: Stores, model: EmbeddingServer) -> None:
    left = [429, 503, 500]
    model.refuses = lambda _: left.pop(0) if left else None
    store = stores.of({"car.txt": CAR, "tree.txt": TREE})
    assert stores.names(store, "car")[0] == "car.txt"


def test_while_the_server_is_away_words_find_what_there_is(
    stores: Stores, model: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_QUERY_S", 0.2)
    store = stores.of({"car.txt": CAR, "boat.txt": BOAT})
    model.refuses = lambda _: 503
    assert stores.names(store, "automobile") == ["car.txt"]
    assert stores.names(store, "car") == []
    model.refuses = lambda _: None
    assert stores.names(store, "car")[0] == "car.txt"


def test_files_wait_for_a_server_that_is_away(
    stores: Stores, model: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_PASSAGES_S", 0.2)
    monkeypatch.setattr(ingest, "_AGAIN_S", 0.05)
    model.refuses = lambda _: 503
    store = stores.of({})
    stores.add(store, "car.txt", CAR)
    until(lambda: len(model.asked) > 3)
    assert stores.counts(store)["in_progress"] == 1
    model.refuses = lambda _: None
    stores.until_completed(store, 1)
    assert stores.names(store, "car") == ["car.txt"]


def test_a_changed_model_embeds_everything_anew_while_the_old_vectors_serve(
    database: Database, model: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_RENEW_AGAIN_S", 0.05)
    with searching(database, model, "old") as server:
        key = server.new_key()
        with stores_of(server, key) as stores:
            store = stores.of({"car.txt": CAR, "tree.txt": TREE})
            other = stores.of({"copy.txt": CAR})
    model.refuses = lambda asked: 403 if asked["model"] == "new" else None
    with searching(database, model, "new") as server, stores_of(server, key) as stores:
        until(lambda: any(asked["model"] == "new" for asked in model.asked))
        assert stores.names(store, "car")[0] == "car.txt"
        assert models(server) == {"old": 2}
        model.refuses = lambda asked: 403 if asked["model"] == "old" else None
        until(lambda: models(server) == {"new": 2})
        assert stores.names(store, "a car in the yard")[0] == "car.txt"
        assert stores.names(other, "a car in the yard") == ["copy.txt"]
    assert sorted(model.texts("old")) == sorted([CAR, TREE, "car"])


def test_what_was_ingested_without_a_model_is_embedded_when_there_is_one(
    database: Database, model: EmbeddingServer
) -> None:
    with searching(database, None) as server:
        key = server.new_key()
        with stores_of(server, key) as stores:
            store = stores.of({"car.txt": CAR})
            assert stores.names(store, "car") == []
    with searching(database, model) as server, stores_of(server, key) as stores:
        until(lambda: stores.names(store, "car") == ["car.txt"])
    with searching(database, None) as server, stores_of(server, key) as stores:
        assert stores.names(store, "car") == []
        stores.add(store, "boat.txt", BOAT)
        stores.until_completed(store, 2)
    with searching(database, model) as server, stores_of(server, key) as stores:
        until(lambda: set(stores.names(store, "car")) == {"car.txt", "boat.txt"})


def test_a_file_that_was_read_without_a_model_is_embedded_for_the_next_store(
    database: Database, model: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_RENEW_AGAIN_S", 0.05)
    with searching(database, None) as server:
        key = server.new_key()
        with stores_of(server, key) as stores:
            # Nothing of it is due: it has no completed file when the model comes.
            empty = stores.of({})
            stores.of({"car.txt": CAR})
    model.refuses = lambda _: 403
    with searching(database, model) as server, stores_of(server, key) as stores:
        stores.add(empty, "copy.txt", CAR)
        stores.until_completed(empty, 1)
        model.refuses = lambda _: None
        until(lambda: stores.names(empty, "car") == ["copy.txt"])


def test_vectors_of_another_length_are_another_models(database: Database, model: EmbeddingServer) -> None:
    with searching(database, model) as server:
        key = server.new_key()
        with stores_of(server, key) as stores:
            store = stores.of({"car.txt": CAR, "tree.txt": TREE})
    with searching(database, model, embedding_dimensions=32) as server, stores_of(server, key) as stores:
        until(lambda: models(server) == {"meaning#32": 2})
        assert stores.names(store, "car")[0] == "car.txt"
    assert model.asked[-1]["dimensions"] == 32


# ── a second look ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ranks_texts", [False, True], ids=["cohere", "text-embeddings-inference"])
def test_a_second_look_puts_the_answer_first(database: Database, model: EmbeddingServer, ranks_texts: bool) -> None:
    model.ranks_texts = ranks_texts
    with searching(database, None, rerank_url=model.url, rerank_model="judge") as server, server.client() as http:
        stores = Stores(http)
        store = stores.of({"yards.txt": "Yard, yard, yard.", "car.txt": CAR, "tree.txt": TREE})
        assert stores.names(store, "car yard", ranking_options={"ranker": "none"}) == ["yards.txt", "car.txt"]
        found = stores.search(store, "car yard")
        assert [(hit["filename"], hit["score"]) for hit in found] == [("car.txt", 1.0), ("yards.txt", 0.5)]
        assert model.asked[-1]["model"] == "judge"
        model.refuses = lambda _: 400
        assert stores.names(store, "car yard") == ["yards.txt", "car.txt"]
