import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.support.databases import execute
from tests.support.objects import a_store_file, a_vector_store
from threadkeep.contract.errors import NotFound
from threadkeep.contract.ids import new_id
from threadkeep.contract.metadata import Attributes
from threadkeep.contract.vector_stores import Equals, VectorStoreFileError
from threadkeep.storage import Transaction, passages
from threadkeep.storage.contents import NewPassage


@pytest.fixture
def tx(tx: Transaction) -> Iterator[Transaction]:
    """Everything in one transaction: without, each statement would be waited for on the disk."""
    execute(tx, "BEGIN")
    yield tx
    execute(tx, "COMMIT")


def a_store(tx: Transaction) -> str:
    store = a_vector_store()
    tx.vector_stores.insert(store)
    return store.id


def counted(text: str) -> dict[str, int]:
    return dict(Counter(text.split()))


def add(
    tx: Transaction,
    store_id: str,
    *texts: str,
    attributes: Attributes | None = None,
    end: bool = True,
    at_once: int = 512,
) -> str:
    """A file of so many passages; its id."""
    file = a_store_file(store_id, attributes=attributes or {})
    tx.vector_store_files.insert(store_id, [file])
    content = tx.contents.ensure(new_id("file"))
    tx.contents.append(content.number, 0, [NewPassage(text, 0, len(text), 1) for text in texts], None)
    tx.contents.finish(content.number)
    tx.vector_store_files.set_content(store_id, file.id, content.number)
    for position in range(0, len(texts), at_once):
        part = [counted(text) for text in texts[position : position + at_once]]
        tx.passages.index(store_id, file.id, position, part)
    if end:
        tx.vector_store_files.end(store_id, file.id, "completed")
    return file.id


def found(tx: Transaction, store_id: str, words: str, limit: int = 50) -> list[tuple[str, int]]:
    return [(hit.file_id, hit.position) for hit in tx.passages.search([store_id], words.split(), None, limit)]


def test_passage_is_found_by_any_of_its_words(tx: Transaction) -> None:
    store = a_store(tx)
    tea, coffee = add(tx, store, "black tea"), add(tx, store, "black coffee")
    assert found(tx, store, "tea") == [(tea, 0)]
    assert found(tx, store, "tea milk") == [(tea, 0)]
    assert sorted(found(tx, store, "black")) == sorted([(tea, 0), (coffee, 0)])
    assert found(tx, store, "black coffee")[0] == (coffee, 0)
    assert found(tx, store, "milk") == found(tx, store, "") == []


def test_a_hit_says_where_its_text_is(tx: Transaction) -> None:
    store = a_store(tx)
    add(tx, store, "zero")
    file = add(tx, store, *(f"word{number}" for number in range(1200)), at_once=500)
    for position in (0, 1, 499, 500, 511, 512, 1023, 1024, 1199):
        (hit,) = tx.passages.search([store], [f"word{position}"], None, 10)
        assert (hit.store_id, hit.file_id, hit.position) == (store, file, position)
        (passage,) = tx.contents.read([(hit.content, hit.position)])
        assert passage.text == f"word{position}"


def reference(texts: Sequence[Mapping[str, int]], words: Sequence[str]) -> dict[int, float]:
    """BM25 as the books have it, as a share of what no passage reaches."""
    most = 0.0
    for word in words:
        having = sum(word in other for other in texts)
        most += 1.9 * math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
    mean = sum(sum(text.values()) for text in texts) / len(texts)
    scores: dict[int, float] = {}
    for place, text in enumerate(texts):
        score = 0.0
        for word in words:
            having = sum(word in other for other in texts)
            often = text.get(word, 0)
            rarity = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            score += rarity * often * 1.9 / (often + 0.9 * (0.6 + 0.4 * sum(text.values()) / mean))
        if score:
            scores[place] = score / most
    return scores


def test_scores_are_those_of_bm25_over_the_store(tx: Transaction) -> None:
    chance = random.Random(7)
    texts = [" ".join(chance.choices("abcdefghij", k=chance.randint(1, 30))) for _ in range(1100)]
    store = a_store(tx)
    add(tx, a_store(tx), *("a" for _ in range(20)))
    file = add(tx, store, *texts)
    hits = tx.passages.search([store], ["a", "b", "b", "missing"], None, 20)
    expected = reference([counted(text) for text in texts], ["a", "b", "b", "missing"])
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True)[:20], rel=1e-4)
    for hit in hits:
        assert hit.file_id == file
        assert hit.score == pytest.approx(expected[hit.position], rel=1e-4)


def test_several_stores_are_searched_as_one(tx: Transaction) -> None:
    one, other = a_store(tx), a_store(tx)
    texts = ["tea", "tea milk milk", "milk", "water", "tea water"]
    add(tx, one, *texts[:2])
    add(tx, other, *texts[2:])
    hits = tx.passages.search([one, other, one], ["tea", "milk"], None, 10)
    expected = reference([counted(text) for text in texts], ["tea", "milk"])
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True))
    assert {hit.store_id for hit in hits} == {one, other}


def test_removed_passages_are_not_found_and_not_counted(tx: Transaction) -> None:
    store = a_store(tx)
    texts = ["tea", "milk", "tea milk"]
    gone = add(tx, store, *(["tea"] * 600))
    add(tx, store, *texts)
    tx.vector_store_files.delete(store, gone)
    expected = sorted(reference([counted(text) for text in texts], ["tea"]).values(), reverse=True)
    for _ in range(2):
        assert [hit.score for hit in tx.passages.search([store], ["tea"], None, 10)] == pytest.approx(expected)
        while not tx.passages.tidy(store, 1):
            pass


def test_tidying_leaves_the_postings_of_what_is_there(tx: Transaction) -> None:
    store = a_store(tx)
    files = [add(tx, store, f"common rare{number}", f"common other{number}") for number in range(300)]
    for file in files[::2]:
        tx.vector_store_files.delete(store, file)
    assert tx.passages.tidy(store)
    number = tx.passages.numbers(store)
    assert number is not None
    terms: set[str] = set()
    for block in range(2):
        rows = tx.passages._bound.rows(passages.POSTINGS_OF_BLOCK, store_number=number.store, block=block)
        terms |= {row[0] for row in rows}
    assert terms == {"common"} | {f"{word}{at}" for at in range(1, 300, 2) for word in ("rare", "other")}
    assert len(found(tx, store, "common", 1000)) == 300
    assert found(tx, store, "rare7") == [(files[7], 0)]


def test_store_that_was_emptied_and_tidied_is_filled_again(tx: Transaction) -> None:
    store = a_store(tx)
    tx.vector_store_files.delete(store, add(tx, store, "tea"))
    assert tx.passages.tidy(store)
    assert found(tx, store, "tea") == []
    file = add(tx, store, "tea")
    assert found(tx, store, "tea") == [(file, 0)]
    assert tx.passages.tidy(store)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_file_that_fails_half_way_is_not_found(tx: Transaction, status: str) -> None:
    store = a_store(tx)
    file = add(tx, store, "tea", end=False)
    assert found(tx, store, "tea") == [(file, 0)]
    error = VectorStoreFileError(code="server_error", message="no")
    assert tx.vector_store_files.end(store, file, "failed" if status == "failed" else "cancelled", last_error=error)
    assert found(tx, store, "tea") == []


def test_passages_come_in_order_and_each_once(tx: Transaction) -> None:
    store = a_store(tx)
    file = add(tx, store, "one", "two", end=False)
    for position in (0, 1, 3):
        with pytest.raises(NotFound):
            tx.passages.index(store, file, position, [{"three": 1}])
    tx.passages.index(store, file, 2, [{"three": 1}])
    tx.vector_store_files.end(store, file, "completed")
    with pytest.raises(NotFound):
        tx.passages.index(store, file, 3, [{"four": 1}])
    assert found(tx, store, "three four") == [(file, 2)]


def test_filter_lets_through_only_its_files(tx: Transaction) -> None:
    store = a_store(tx)
    mine = add(tx, store, "tea", "tea", attributes={"user": "ada"})
    add(tx, store, "tea", attributes={"user": "bob"})
    hits = tx.passages.search([store], ["tea"], Equals(key="user", value="ada"), 10)
    assert [(hit.file_id, hit.position) for hit in hits] == [(mine, 0), (mine, 1)]


def test_words_and_counts_of_any_kind_are_kept(tx: Transaction) -> None:
    store = a_store(tx)
    file = a_store_file(store)
    tx.vector_store_files.insert(store, [file])
    tx.vector_store_files.set_content(store, file.id, tx.contents.ensure("key").number)
    odd = ["'", '"', "%s", ":x", "\\", "自転", "\U0001f600", "x" * 100]
    tx.passages.index(store, file.id, 0, [{}, dict.fromkeys(odd, 1000), {"long": 100_000}])
    for word in odd:
        assert [hit.position for hit in tx.passages.search([store], [word], None, 10)] == [1]
    assert [hit.position for hit in tx.passages.search([store], ["long"], None, 10)] == [2]


def test_deleted_store_is_not_searched_and_leaves_nothing(tx: Transaction) -> None:
    store, other = a_store(tx), a_store(tx)
    for _ in range(3):
        add(tx, store, *(f"tea w{number}" for number in range(400)), attributes={"user": "ada", "year": 2020})
    kept = add(tx, other, "tea")
    assert tx.vector_stores.delete(store)
    assert not tx.vector_stores.delete(store)
    assert tx.passages.search([store, other], ["tea"], None, 1000)[0].file_id == kept
    rounds = 0
    while not tx.vector_stores.clear(store, 300):
        rounds += 1
    assert rounds >= 2
    for content in tx.contents.unused():
        while not tx.contents.drop(content, 100):
            pass
    assert tx.contents.unused() == []
    assert found(tx, other, "tea") == [(kept, 0)]
    assert rows_of(tx) == {
        "contents": 1,
        "passages": 1,
        "vector_stores": 1,
        "vector_store_files": 1,
        "vector_store_attributes": 0,
        "vector_store_spans": 1,
        "vector_store_blocks": 1,
        "vector_store_postings": 1,
        "vectors": 0,
    }


def rows_of(tx: Transaction) -> dict[str, int]:
    return {
        "contents": execute(tx, "SELECT count(*) FROM contents")[0][0],
        "passages": execute(tx, "SELECT count(*) FROM passages")[0][0],
        "vector_stores": execute(tx, "SELECT count(*) FROM vector_stores")[0][0],
        "vector_store_files": execute(tx, "SELECT count(*) FROM vector_store_files")[0][0],
        "vector_store_attributes": execute(tx, "SELECT count(*) FROM vector_store_attributes")[0][0],
        "vector_store_spans": execute(tx, "SELECT count(*) FROM vector_store_spans")[0][0],
        "vector_store_blocks": execute(tx, "SELECT count(*) FROM vector_store_blocks")[0][0],
        "vector_store_postings": execute(tx, "SELECT count(*) FROM vector_store_postings")[0][0],
        "vectors": execute(tx, "SELECT count(*) FROM vectors")[0][0],
    }
