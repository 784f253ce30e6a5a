from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from tests.storage.conftest import Open
from tests.support.databases import execute
from tests.support.objects import CREATED_AT, a_batch, a_store_file, a_vector_store
from threadkeep.contract.errors import NotFound
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.vector_stores import (
    FileCounts,
    IndexingStatus,
    ListVectorStoreFilesQuery,
    VectorStoreExpirationAfter,
    VectorStoreFileError,
)
from threadkeep.storage import DEFAULT_PROJECT_ID, Transaction
from threadkeep.storage.contents import NewPassage

DAY_S = 24 * 3600
FAR_S = 4_000_000_000


@pytest.fixture
def tx(tx: Transaction) -> Iterator[Transaction]:
    execute(tx, "BEGIN")
    yield tx
    execute(tx, "COMMIT")


def a_store(tx: Transaction, files: int = 0) -> tuple[str, list[str]]:
    """A store with so many files in progress."""
    store = a_vector_store()
    tx.vector_stores.insert(store)
    return store.id, tx.vector_store_files.insert(store.id, [a_store_file(store.id) for _ in range(files)])


def counts(in_progress: int = 0, completed: int = 0, failed: int = 0, cancelled: int = 0) -> FileCounts:
    total = in_progress + completed + failed + cancelled
    return FileCounts(in_progress=in_progress, completed=completed, failed=failed, cancelled=cancelled, total=total)


def test_store_is_what_was_stored(tx: Transaction) -> None:
    store = a_vector_store(description="about tea", metadata={"user": "ada"})
    tx.vector_stores.insert(store)
    assert tx.vector_stores.get(store.id) == tx.vector_stores.lock(store.id) == store
    changed = replace(store, name="tea", metadata={})
    tx.vector_stores.replace(changed)
    assert tx.vector_stores.find(store.id) == changed


def test_counts_and_size_move_with_the_files(tx: Transaction) -> None:
    store, (one, two, three, four) = a_store(tx, 4)
    tx.vector_store_files.end(store, one, "completed", usage_bytes=100)
    tx.vector_store_files.end(store, two, "failed", last_error=VectorStoreFileError(code="invalid_file", message="x"))
    tx.vector_store_files.end(store, three, "cancelled")
    found = tx.vector_stores.get(store)
    assert (found.file_counts, found.usage_bytes, found.status) == (counts(1, 1, 1, 1), 100, "in_progress")
    tx.vector_store_files.end(store, four, "completed", usage_bytes=11)
    found = tx.vector_stores.get(store)
    assert (found.file_counts, found.usage_bytes, found.status) == (counts(0, 2, 1, 1), 111, "completed")
    for file in (one, two, three):
        assert tx.vector_store_files.delete(store, file) is not None
    found = tx.vector_stores.get(store)
    assert (found.file_counts, found.usage_bytes) == (counts(0, 1), 11)


def test_file_ends_once(tx: Transaction) -> None:
    store, (file,) = a_store(tx, 1)
    assert tx.vector_store_files.end(store, file, "completed", usage_bytes=5)
    assert not tx.vector_store_files.end(store, file, "failed")
    assert not tx.vector_store_files.end(store, "file-none", "failed")
    assert tx.vector_stores.get(store).file_counts == counts(0, 1)
    stored = tx.vector_store_files.get(store, file)
    assert (stored.file.status, stored.file.usage_bytes, stored.file.last_error) == ("completed", 5, None)


def test_file_that_failed_says_why(tx: Transaction) -> None:
    store, (file,) = a_store(tx, 1)
    error = VectorStoreFileError(code="unsupported_file", message="no such format")
    tx.vector_store_files.end(store, file, "failed", last_error=error)
    assert tx.vector_store_files.get(store, file).file.last_error == error


def test_file_that_is_in_the_store_already_stays_as_it_is(tx: Transaction) -> None:
    store, (file,) = a_store(tx, 1)
    tx.vector_store_files.end(store, file, "completed", usage_bytes=5)
    again, new = a_store_file(store, id=file, attributes={"new": True}), a_store_file(store)
    assert tx.vector_store_files.insert(store, [again, new, new]) == [new.id]
    assert tx.vector_store_files.get(store, file).file.status == "completed"
    assert tx.vector_stores.get(store).file_counts == counts(1, 1)


def test_files_are_listed_by_status_and_batch_and_in_pages(tx: Transaction) -> None:
    store, alone = a_store(tx, 3)
    batch = a_batch(store)
    tx.vector_store_batches.insert(batch)
    several = tx.vector_store_files.insert(store, [a_store_file(store) for _ in range(5)], batch.id)
    for file in (alone[0], *several[:2]):
        tx.vector_store_files.end(store, file, "completed")

    def listed(status: IndexingStatus | None = None, of: str | None = None, limit: int = 20) -> list[str]:
        ids: list[str] = []
        after = None
        while True:
            query = ListVectorStoreFilesQuery(order="asc", limit=limit, after=after, filter=status)
            page = tx.vector_store_files.list(store, query, of)
            ids += [file.id for file in page.data]
            after = page.last_id
            if not page.has_more:
                return ids

    assert listed() == listed(limit=3) == [*alone, *several]
    assert listed("completed") == [alone[0], *several[:2]]
    assert listed("in_progress", limit=2) == [*alone[1:], *several[2:]]
    assert listed(of=batch.id, limit=2) == several
    assert listed("completed", batch.id) == several[:2]
    assert listed("failed") == []


def test_batch_counts_its_files_and_ends_with_them(tx: Transaction) -> None:
    store, _ = a_store(tx, 1)
    batch = a_batch(store)
    tx.vector_store_batches.insert(batch)
    one, two, three = tx.vector_store_files.insert(store, [a_store_file(store) for _ in range(3)], batch.id)
    assert tx.vector_store_batches.get(store, batch.id) == replace(batch, file_counts=counts(3))
    tx.vector_store_files.end(store, one, "completed")
    tx.vector_store_files.end(store, two, "failed")
    assert tx.vector_store_batches.get(store, batch.id).status == "in_progress"
    # Taken out of the store: whoever waits for the batch sees it end.
    tx.vector_store_files.delete(store, three)
    assert tx.vector_store_batches.get(store, batch.id) == replace(
        batch, status="completed", file_counts=counts(0, 1, 1, 1)
    )
    tx.vector_store_files.delete(store, one)
    assert tx.vector_store_batches.get(store, batch.id).file_counts == counts(0, 1, 1, 1)


def test_cancelled_batch_stays_cancelled(tx: Transaction) -> None:
    store, (alone,) = a_store(tx, 1)
    batch = a_batch(store)
    tx.vector_store_batches.insert(batch)
    several = tx.vector_store_files.insert(store, [a_store_file(store) for _ in range(3)], batch.id)
    tx.vector_store_files.end(store, several[0], "completed")
    assert tx.vector_store_batches.cancel(store, batch.id).status == "cancelled"
    assert tx.vector_store_files.in_progress(store, batch.id, 1) == several[1:2]
    for file in tx.vector_store_files.in_progress(store, batch.id):
        tx.vector_store_files.end(store, file, "cancelled")
    assert tx.vector_store_files.in_progress(store) == [alone]
    assert tx.vector_store_batches.get(store, batch.id) == replace(
        batch, status="cancelled", file_counts=counts(0, 1, 0, 2)
    )


def test_batch_that_has_ended_is_not_cancelled(tx: Transaction) -> None:
    store, _ = a_store(tx)
    batch = a_batch(store)
    tx.vector_store_batches.insert(batch)
    (file,) = tx.vector_store_files.insert(store, [a_store_file(store)], batch.id)
    tx.vector_store_files.end(store, file, "completed")
    assert tx.vector_store_batches.cancel(store, batch.id).status == "completed"
    assert tx.vector_store_batches.get(store, batch.id).status == "completed"


def test_store_expires_so_long_after_its_last_use(tx: Transaction) -> None:
    after = VectorStoreExpirationAfter(anchor="last_active_at", days=2)
    store = a_vector_store(expires_after=after, expires_at=FAR_S)
    tx.vector_stores.insert(store)
    assert tx.vector_stores.get(store.id).status == "completed"
    now = FAR_S + 10
    assert tx.vector_stores.touch(store.id, now) == now + 2 * DAY_S
    found = tx.vector_stores.get(store.id)
    assert (found.last_active_at, found.expires_at) == (now, now + 2 * DAY_S)
    tx.vector_stores.replace(replace(found, expires_at=CREATED_AT))
    assert tx.vector_stores.get(store.id).status == "expired"
    assert tx.vector_stores.touch(store.id, now) == CREATED_AT
    assert tx.vector_stores.get(store.id).status == "expired"
    assert [found.status for found in tx.vector_stores.list(ListQuery()).data] == ["expired"]


def test_store_without_expiry_stays(tx: Transaction) -> None:
    store, _ = a_store(tx)
    assert tx.vector_stores.touch(store, FAR_S) is None
    assert tx.vector_stores.get(store).last_active_at == FAR_S


def test_stores_are_listed_in_pages_newest_first(tx: Transaction) -> None:
    stores = [a_store(tx)[0] for _ in range(5)]
    page = tx.vector_stores.list(ListQuery(limit=3))
    assert [store.id for store in page.data] == stores[:1:-1]
    rest = tx.vector_stores.list(ListQuery(limit=3, after=page.last_id))
    assert [store.id for store in rest.data] == stores[1::-1]
    assert not rest.has_more


def test_deleted_store_is_there_for_nobody(tx: Transaction) -> None:
    store, (file,) = a_store(tx, 1)
    batch = a_batch(store)
    tx.vector_store_batches.insert(batch)
    assert tx.vector_stores.delete(store)
    assert tx.vector_stores.find(store) is None
    assert tx.vector_stores.list(ListQuery()).data == []
    assert tx.vector_store_files.find(store, file) is None
    assert tx.vector_store_files.list(store, ListVectorStoreFilesQuery()).data == []
    assert tx.vector_store_files.stores_of(file, 10) == []
    assert tx.vector_store_batches.find(store, batch.id) is None
    with pytest.raises(NotFound):
        tx.vector_store_files.insert(store, [a_store_file(store)])
    assert tx.passages.tidy(store)
    assert tx.vector_stores.clear(store)
    assert tx.vector_stores.clear(store)
    assert execute(tx, "SELECT count(*) FROM vector_store_files")[0][0] == 0


def test_store_that_is_there_is_not_cleared(tx: Transaction) -> None:
    store, (file,) = a_store(tx, 1)
    tx.vector_stores.clear(store)
    assert tx.vector_store_files.find(store, file) is not None


def test_file_is_found_in_all_its_stores(tx: Transaction) -> None:
    stores = [a_store(tx)[0] for _ in range(4)]
    file = a_store_file(stores[0])
    for store in stores[:3]:
        tx.vector_store_files.insert(store, [replace(file, vector_store_id=store)])
    assert sorted(tx.vector_store_files.stores_of(file.id, 10)) == sorted(stores[:3])
    for _ in range(3):
        (store,) = tx.vector_store_files.stores_of(file.id, 1)
        tx.vector_store_files.delete(store, file.id)
    assert tx.vector_store_files.stores_of(file.id, 10) == []


def test_content_is_shared_by_key_and_read_from_where_it_ended(tx: Transaction) -> None:
    content = tx.contents.ensure("key")
    assert tx.contents.ensure("key") == content
    assert tx.contents.ensure("other").number != content.number
    tx.contents.append(content.number, 0, [NewPassage("ä", 0, 1, 1), NewPassage("b\0c", 1, 4, 2)], "half")
    found = tx.contents.get(content.number)
    assert (found.status, found.passages, found.bytes, found.progress) == ("in_progress", 2, 5, "half")
    # Two that read the same: the slower one writes nothing.
    with pytest.raises(NotFound):
        tx.contents.append(content.number, 0, [NewPassage("ä", 0, 1, 1)], "half")
    tx.contents.append(content.number, 2, [NewPassage("d", 4, 5, 1)], None)
    tx.contents.finish(content.number)
    with pytest.raises(NotFound):
        tx.contents.append(content.number, 3, [NewPassage("e", 5, 6, 1)], None)
    texts = [
        (passage.text, passage.start, passage.end, passage.tokens) for passage in tx.contents.passages(found.number)
    ]
    assert texts == [("ä", 0, 1, 1), ("b c", 1, 4, 2), ("d", 4, 5, 1)]
    assert [passage.position for passage in tx.contents.passages(found.number, 1, 1)] == [1]
    read = tx.contents.read([(found.number, 2), (found.number, 9), (found.number, 0)])
    assert [passage.position for passage in read] == [2, 0]


def test_content_in_use_is_kept_and_one_of_nobody_goes(tx: Transaction) -> None:
    store, (file, other) = a_store(tx, 2)
    content = tx.contents.ensure("key").number
    tx.contents.append(content, 0, [NewPassage("x", 0, 1, 1)] * 50, None)
    for one in (file, other):
        assert tx.vector_store_files.set_content(store, one, content)
    assert sorted(tx.vector_store_files.waiting_for(content)) == sorted([(store, file), (store, other)])
    assert tx.contents.unused() == []
    assert tx.contents.drop(content)
    assert tx.contents.get(content).passages == 50
    for one in (file, other):
        tx.vector_store_files.delete(store, one)
    assert tx.contents.unused() == [content]
    assert not tx.contents.drop(content, 20)
    # Somebody comes with the same while it goes: that is another one.
    assert tx.contents.ensure("key").number != content
    while not tx.contents.drop(content, 20):
        pass
    assert tx.contents.find(content) is None
    assert tx.contents.passages(content) == []


def test_writers_that_meet_leave_counts_that_add_up(open_connection: Open) -> None:
    first = Transaction(open_connection(), DEFAULT_PROJECT_ID)
    store, files = a_store(first, 24)
    content = first.contents.ensure("key").number
    first.contents.append(content, 0, [NewPassage("tea", 0, 3, 1)] * 2, None)

    def work(transaction: Transaction, mine: list[str]) -> None:
        for file in mine:
            execute(transaction, "BEGIN" if not transaction._connection.is_sqlite else "BEGIN IMMEDIATE")
            transaction.vector_store_files.set_content(store, file, content)
            transaction.passages.index(store, file, 0, [{"tea": 1}, {"tea": 1, "milk": 1}])
            transaction.vector_store_files.end(store, file, "completed", usage_bytes=7)
            execute(transaction, "COMMIT")

    several = [Transaction(open_connection(), DEFAULT_PROJECT_ID) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work, transaction, files[place::3]) for place, transaction in enumerate(several)]
        for one in done:
            one.result()
    found = first.vector_stores.get(store)
    assert (found.file_counts, found.usage_bytes) == (counts(0, 24), 168)
    hits = first.passages.search([store], ["milk"], None, 100)
    assert sorted(hit.file_id for hit in hits) == sorted(files)
    assert {hit.position for hit in hits} == {1}
