"""Vectors of passages: what is near is found, on SQLite by numpy and on PostgreSQL by pgvector."""

import math
import random
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.databases import Database, execute
from tests.support.objects import a_store_file, a_vector_store
from tests.support.postgres import PostgresServer
from threadkeep.contract.errors import NotFound
from threadkeep.contract.ids import new_id
from threadkeep.contract.metadata import Attributes
from threadkeep.contract.vector_stores import Equals
from threadkeep.storage import DEFAULT_PROJECT_ID, Transaction, migrate, open_store, vectors
from threadkeep.storage.contents import NewPassage

Vector = list[float]


@pytest.fixture
def tx(tx: Transaction) -> Iterator[Transaction]:
    execute(tx, "BEGIN")
    yield tx
    execute(tx, "COMMIT")


def a_store(tx: Transaction) -> str:
    store = a_vector_store()
    tx.vector_stores.insert(store)
    return store.id


def add(
    tx: Transaction, store: str, several: list[Vector], attributes: Attributes | None = None, key: str | None = None
) -> tuple[str, int]:
    """A file whose passages have these vectors; its id and its content."""
    file = a_store_file(store, attributes=attributes or {})
    tx.vector_store_files.insert(store, [file])
    content = tx.contents.ensure(key or new_id("file"))
    if content.passages == 0:
        tx.contents.append(content.number, 0, [NewPassage("text", 0, 4, 1)] * len(several), None)
        for position in range(0, len(several), vectors.MOST_AT_ONCE):
            part = several[position : position + vectors.MOST_AT_ONCE]
            tx.vectors.put(content.number, "model", position, part)
    tx.vector_store_files.set_content(store, file.id, content.number)
    for position in range(0, len(several), 512):
        tx.passages.index(store, file.id, position, [{"text": 1}] * len(several[position : position + 512]))
    tx.vector_store_files.end(store, file.id, "completed")
    return file.id, content.number


def nearest(tx: Transaction, store: str, vector: Vector, limit: int = 10) -> list[tuple[str, int]]:
    return [(hit.file_id, hit.position) for hit in tx.vectors.search([store], "model", vector, None, limit)]


def some(count: int, seed: int) -> list[Vector]:
    chance = random.Random(seed)
    return [[chance.gauss(0, 1) for _ in range(8)] for _ in range(count)]


def cosine(one: Vector, other: Vector) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


def test_nearest_passages_come_first_with_their_cosines(tx: Transaction) -> None:
    store = a_store(tx)
    several, asked = some(700, 1), some(1, 2)[0]
    file, content = add(tx, store, several)
    hits = tx.vectors.search([store], "model", asked, None, 20)
    expected = sorted(((cosine(vector, asked), place) for place, vector in enumerate(several)), reverse=True)[:20]
    assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected], abs=2e-3)
    assert {hit.position for hit in hits[:10]} <= {place for _, place in expected}
    assert {(hit.store_id, hit.file_id, hit.content) for hit in hits} == {(store, file, content)}


def test_what_comes_and_goes_is_seen_by_the_next_search(tx: Transaction) -> None:
    store = a_store(tx)
    first, _ = add(tx, store, [[1.0, 0.0]])
    assert nearest(tx, store, [1, 0]) == [(first, 0)]
    second, _ = add(tx, store, [[0.9, 0.1], [0.0, 1.0]])
    assert nearest(tx, store, [1, 0]) == [(first, 0), (second, 0), (second, 1)]
    tx.vector_store_files.delete(store, first)
    assert nearest(tx, store, [1, 0]) == [(second, 0), (second, 1)]
    assert tx.passages.tidy(store)
    third, _ = add(tx, store, [[1.0, 0.0]])
    assert nearest(tx, store, [1, 0]) == [(third, 0), (second, 0), (second, 1)]


def test_many_small_files_are_found_like_one(tx: Transaction) -> None:
    store = a_store(tx)
    several = some(90, 3)
    files = [add(tx, store, [vector])[0] for vector in several[:60]]
    assert nearest(tx, store, several[7], 1) == [(files[7], 0)]
    files += [add(tx, store, [vector])[0] for vector in several[60:]]
    for place in (0, 7, 59, 60, 89):
        assert nearest(tx, store, several[place], 1) == [(files[place], 0)]


def test_content_of_several_stores_is_found_in_each(tx: Transaction) -> None:
    one, other = a_store(tx), a_store(tx)
    add(tx, other, [[0.0, 1.0]] * 3)
    mine, content = add(tx, one, [[1.0, 0.0], [0.9, 0.1]], key="same")
    theirs, same = add(tx, other, [[1.0, 0.0], [0.9, 0.1]], key="same")
    assert content == same
    assert nearest(tx, one, [1, 0], 2) == [(mine, 0), (mine, 1)]
    assert nearest(tx, other, [1, 0], 2) == [(theirs, 0), (theirs, 1)]
    hits = tx.vectors.search([one, other], "model", [1, 0], None, 2)
    assert {hit.store_id for hit in hits} == {one, other}


def test_filter_lets_through_only_its_files(tx: Transaction) -> None:
    store = a_store(tx)
    add(tx, store, [[1.0, 0.0]], {"user": "bob"})
    mine, _ = add(tx, store, [[0.0, 1.0]], {"user": "ada"})
    hits = tx.vectors.search([store], "model", [1, 0], Equals(key="user", value="ada"), 10)
    assert [hit.file_id for hit in hits] == [mine]


def test_passage_is_found_by_the_vectors_of_the_model_asked_for(tx: Transaction) -> None:
    store = a_store(tx)
    file, content = add(tx, store, [[1.0, 0.0], [0.0, 1.0]])
    assert tx.vectors.search([store], "other", [0, 1], None, 10) == []
    tx.vectors.put(content, "other", 0, [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    tx.vector_stores.set_model(store, "other")
    assert tx.vector_stores.model(store) == "other"
    hits = tx.vectors.search([store], "other", [0, 1, 0], None, 1)
    assert [(hit.file_id, hit.position) for hit in hits] == [(file, 0)]
    assert nearest(tx, store, [1, 0], 1) == [(file, 0)]
    tx.vectors.forget(content, "model")
    assert tx.vectors.covered(content, "model") == 0
    assert tx.vectors.covered(content, "other") == 2


def test_embedding_goes_on_where_it_ended(tx: Transaction) -> None:
    content = tx.contents.ensure("key").number
    tx.contents.append(content, 0, [NewPassage("text", 0, 4, 1)] * 10, None)
    assert tx.vectors.covered(content, "model") == 0
    tx.vectors.put(content, "model", 0, [[1.0, 0.0]] * 3)
    tx.vectors.put(content, "model", 5, [[1.0, 0.0]] * 3)
    assert tx.vectors.covered(content, "model") == 3
    tx.vectors.put(content, "model", 3, [[1.0, 0.0]] * 2)
    assert tx.vectors.covered(content, "model") == 8
    with pytest.raises(NotFound):
        tx.vectors.put(content + 1, "model", 0, [[1.0, 0.0]])


def test_vectors_go_with_their_content(tx: Transaction) -> None:
    store = a_store(tx)
    file, content = add(tx, store, [[1.0, 0.0]] * 300)
    tx.vector_store_files.delete(store, file)
    assert tx.contents.unused() == [content]
    rounds = 0
    while not tx.contents.drop(content, 100):
        rounds += 1
    assert rounds >= 3
    assert tx.vectors.covered(content, "model") == 0
    assert tx.contents.find(content) is None


def test_vector_of_zeros_is_near_to_nothing(tx: Transaction) -> None:
    store = a_store(tx)
    add(tx, store, [[0.0, 0.0], [1.0, 0.0]])
    assert [hit.score for hit in tx.vectors.search([store], "model", [1, 0], None, 10)] == pytest.approx([1, 0])
    assert [hit.score for hit in tx.vectors.search([store], "model", [0, 0], None, 10)] == pytest.approx([0, 0])


def test_store_larger_than_the_memory_for_it_is_searched_too(
    sqlite_database: Database, tx: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "CACHED_BYTES", 2000)
    store, small = a_store(tx), a_store(tx)
    several = some(600, 4)
    file, _ = add(tx, store, several)
    other, _ = add(tx, small, several[:10])
    for place in (3, 255, 256, 599):
        assert nearest(tx, store, several[place], 1) == [(file, place)]
        assert nearest(tx, small, several[3], 1) == [(other, 3)]


async def test_vectors_are_made_possible_when_pgvector_comes_later(
    postgres: PostgresServer, database: Database
) -> None:
    if database.url is None:
        store = await open_store(None, database.data_dir)
        assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.vectors.is_available())
        await store.close()
        return
    with psycopg.connect(database.url) as connection:
        connection.execute("DROP TABLE passage_vectors")
        connection.execute("DROP EXTENSION vector")
        connection.execute("CREATE ROLE guest LOGIN NOSUPERUSER")
        connection.execute("GRANT ALL ON SCHEMA public TO guest")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guest")
    try:
        as_guest = database.url.replace("postgres@", "guest@", 1)
        store = await open_store(as_guest, database.data_dir)
        assert not await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.vectors.is_available())
        # Words are found, and everything else about stores works.
        held = await store.write(DEFAULT_PROJECT_ID, words_only)
        assert len(await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.passages.search([held], ["tea"], None, 5))) == 1
        await store.close()
        migrate(database.url, database.data_dir)
        with psycopg.connect(database.url) as connection:
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
        store = await open_store(as_guest, database.data_dir)
        assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.vectors.is_available())
        await store.close()
    finally:
        with psycopg.connect(database.url) as connection:
            connection.execute("DROP OWNED BY guest")
            connection.execute("DROP ROLE guest")


def words_only(tx: Transaction) -> str:
    store = a_store(tx)
    file = a_store_file(store)
    tx.vector_store_files.insert(store, [file])
    content = tx.contents.ensure("key").number
    tx.contents.append(content, 0, [NewPassage("tea", 0, 3, 1)], None)
    tx.vector_store_files.set_content(store, file.id, content)
    tx.passages.index(store, file.id, 0, [{"tea": 1}])
    return store
