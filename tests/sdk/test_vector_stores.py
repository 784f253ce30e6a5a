"""Vector stores through the unmodified openai SDK: what programs do that keep files to search in."""

# The SDK's methods of assistants are deprecated; that they work is what is tested.
# pyright: reportDeprecated=false

import time
from collections.abc import Iterator

import openai
import pytest
import sqlalchemy as sa
from openai import OpenAI
from openai.types import VectorStore
from openai.types.vector_stores import VectorStoreFile

from tests.support.server import RunningServer
from threadkeep.storage import hash_of
from threadkeep.storage.statements import Statement, number, text
from threadkeep.storage.tables import vector_stores

PATIENCE_S = 60
DAY_S = 24 * 3600
POEM = b"The tide came in at night and took the lanterns with it."
RECIPE = b"Whisk the eggs with sugar, then fold in the flour."

_AGE = Statement(
    sa.update(vector_stores)
    .where(vector_stores.c.project_id == text("project"), vector_stores.c.id == text("store"))
    .values(
        last_active_at=vector_stores.c.last_active_at - number("seconds"),
        expires_at=vector_stores.c.expires_at - number("seconds"),
    )
)


class Owner:
    """A project with an SDK client, on a server whose clock can be moved for one store."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.key = server.new_key()
        self.sdk = OpenAI(base_url=server.base_url, api_key=self.key, max_retries=0, timeout=60)
        found = server.read(None, lambda tx: tx.keys.find(hash_of(self.key)))
        assert found is not None
        self.project = found[1]

    def let_pass(self, store_id: str, seconds: int) -> None:
        """As if the store had been used so much longer ago."""
        values = {"project": self.project, "store": store_id, "seconds": seconds}
        self.server.write(self.project, lambda tx: tx._connection.run(_AGE, dict(values)))
        self.server.write(self.project, lambda tx: tx.work.touch("vector_store", store_id))
        self.server.parts.ingester.wake()


@pytest.fixture
def owner(server: RunningServer) -> Iterator[Owner]:
    owner = Owner(server)
    yield owner
    owner.sdk.close()


@pytest.fixture
def client(owner: Owner) -> OpenAI:
    return owner.sdk


@pytest.fixture
def store(client: OpenAI) -> VectorStore:
    return client.vector_stores.create(name="Shelf")


def upload(client: OpenAI, store: VectorStore, name: str, content: bytes) -> VectorStoreFile:
    return client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=(name, content), poll_interval_ms=20
    )


def found(client: OpenAI, store: VectorStore, query: str) -> list[str]:
    return [each.filename for each in client.vector_stores.search(store.id, query=query)]


def until_counted(client: OpenAI, store: VectorStore, **counts: int) -> VectorStore:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = client.vector_stores.retrieve(store.id)
        if counts.items() <= seen.file_counts.to_dict().items():
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)


def test_a_file_is_uploaded_ingested_and_found(client: OpenAI, store: VectorStore) -> None:
    file = upload(client, store, "poem.txt", POEM)

    assert (file.status, file.last_error) == ("completed", None)
    assert file.usage_bytes == len(POEM)
    assert file.chunking_strategy is not None
    assert file.chunking_strategy.to_dict() == {
        "type": "static",
        "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
    }
    [hit] = client.vector_stores.search(store.id, query="lantern at night").data
    assert (hit.file_id, hit.filename, hit.content[0].text) == (file.id, "poem.txt", POEM.decode())
    assert 0 < hit.score <= 1
    seen = client.vector_stores.retrieve(store.id)
    assert (seen.status, seen.usage_bytes, seen.file_counts.completed, seen.file_counts.total) == (
        "completed",
        len(POEM),
        1,
        1,
    )


def test_a_store_made_with_files_ingests_them(client: OpenAI) -> None:
    file_ids = [
        client.files.create(file=(f"{name}.md", text), purpose="assistants").id
        for name, text in (("poem", POEM), ("recipe", RECIPE))
    ]

    store = client.vector_stores.create(file_ids=file_ids, metadata={"shelf": "top"})

    assert (store.status, store.file_counts.in_progress) == ("in_progress", 2)
    seen = until_counted(client, store, completed=2, in_progress=0)
    assert (seen.status, seen.metadata) == ("completed", {"shelf": "top"})
    assert found(client, store, "sugar and eggs") == ["recipe.md"]


def test_a_batch_is_uploaded_and_each_file_tells_how_it_ended(client: OpenAI, store: VectorStore) -> None:
    files = [(f"note {number}.txt", f"This is note number {number}.".encode()) for number in range(8)]

    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=[*files, ("empty.txt", b"")], poll_interval_ms=20
    )

    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 8, 1)
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, limit=4)
    assert len(list(listed)) == 9
    [failed] = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="failed")
    assert failed.last_error is not None
    assert failed.last_error.to_dict() == {
        "code": "invalid_file",
        "message": "The file is empty.",
    }
    assert client.vector_stores.retrieve(store.id).file_counts.failed == 1


def test_files_of_a_batch_have_settings_of_their_own(client: OpenAI, store: VectorStore) -> None:
    first, second = (client.files.create(file=("a.txt", POEM), purpose="assistants").id for _ in range(2))

    client.vector_stores.file_batches.create_and_poll(
        store.id,
        files=[
            {"file_id": first, "attributes": {"year": 1990, "draft": True}},
            {
                "file_id": second,
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
                },
            },
        ],
        poll_interval_ms=20,
    )

    one = client.vector_stores.files.retrieve(first, vector_store_id=store.id)
    other = client.vector_stores.files.retrieve(second, vector_store_id=store.id)
    assert (one.status, one.attributes) == ("completed", {"year": 1990, "draft": True})
    assert other.attributes == {}
    assert other.chunking_strategy is not None
    assert other.chunking_strategy.to_dict()["static"] == {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}


def test_attributes_choose_what_is_searched(client: OpenAI, store: VectorStore) -> None:
    old, new = upload(client, store, "old.txt", POEM), upload(client, store, "new.txt", POEM + b" Again.")
    client.vector_stores.files.update(old.id, vector_store_id=store.id, attributes={"year": 1990, "kind": "poem"})
    client.vector_stores.files.update(new.id, vector_store_id=store.id, attributes={"year": 2020, "kind": "poem"})

    recent = client.vector_stores.search(
        store.id,
        query="lanterns",
        filters={
            "type": "and",
            "filters": [
                {"type": "gte", "key": "year", "value": 2000},
                {"type": "eq", "key": "kind", "value": "poem"},
            ],
        },
    )

    assert [(hit.filename, hit.attributes) for hit in recent] == [("new.txt", {"year": 2020, "kind": "poem"})]
    assert sorted(found(client, store, "lanterns")) == ["new.txt", "old.txt"]


def test_the_content_of_a_file_is_its_text_once_however_it_was_cut(client: OpenAI, store: VectorStore) -> None:
    whole = "".join(f"Line {number} of a long file about nothing in particular.\n" for number in range(2_000))
    file_id = client.files.create(file=("long.txt", whole.encode()), purpose="assistants").id
    client.vector_stores.files.create_and_poll(file_id, vector_store_id=store.id, poll_interval_ms=20)

    [part] = client.vector_stores.files.content(file_id, vector_store_id=store.id).data

    assert part.text == whole


def test_a_file_taken_out_is_not_found_and_stays_a_file(client: OpenAI, store: VectorStore) -> None:
    file = upload(client, store, "poem.txt", POEM)

    deleted = client.vector_stores.files.delete(file.id, vector_store_id=store.id)

    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "vector_store.file.deleted")
    assert found(client, store, "lanterns") == []
    assert client.vector_stores.retrieve(store.id).usage_bytes == 0
    assert client.files.content(file.id).read() == POEM
    with pytest.raises(openai.NotFoundError, match=f"No file found with id '{file.id}' in vector store '{store.id}'"):
        client.vector_stores.files.retrieve(file.id, vector_store_id=store.id)


def test_a_file_that_is_deleted_is_in_no_store_any_more(client: OpenAI, store: VectorStore) -> None:
    other = client.vector_stores.create()
    file = upload(client, store, "poem.txt", POEM)
    client.vector_stores.files.create_and_poll(file.id, vector_store_id=other.id, poll_interval_ms=20)

    client.files.delete(file.id)

    for each in (store, other):
        assert list(client.vector_stores.files.list(each.id)) == []
        assert found(client, each, "lanterns") == []
        assert client.vector_stores.retrieve(each.id).file_counts.total == 0


def test_a_store_that_is_deleted_is_not_found(client: OpenAI, store: VectorStore) -> None:
    upload(client, store, "poem.txt", POEM)

    assert client.vector_stores.delete(store.id).deleted

    with pytest.raises(openai.NotFoundError, match=f"No vector store found with id '{store.id}'"):
        client.vector_stores.retrieve(store.id)
    assert list(client.vector_stores.list()) == []


def test_a_store_expires_when_nobody_used_it_for_its_days(owner: Owner) -> None:
    client = owner.sdk
    store = client.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 2})
    upload(client, store, "poem.txt", POEM)

    owner.let_pass(store.id, DAY_S)
    assert found(client, store, "lanterns") == ["poem.txt"]
    used = client.vector_stores.retrieve(store.id)
    assert used.expires_at is not None
    # Searching it was using it.
    assert used.expires_at > time.time() + 2 * DAY_S - PATIENCE_S
    owner.let_pass(store.id, 2 * DAY_S + PATIENCE_S)

    expired = client.vector_stores.retrieve(store.id)
    assert expired.status == "expired"
    until_counted(client, store, total=0)
    assert client.vector_stores.retrieve(store.id).usage_bytes == 0
    with pytest.raises(openai.BadRequestError, match="has expired"):
        client.vector_stores.search(store.id, query="lanterns")
    with pytest.raises(openai.BadRequestError, match="has expired"):
        upload(client, store, "poem.txt", POEM)
    with pytest.raises(openai.BadRequestError, match="has expired"):
        client.vector_stores.update(store.id, expires_after={"anchor": "last_active_at", "days": 9})
    assert client.vector_stores.delete(store.id).deleted


def test_an_expiry_can_be_changed_and_taken_away(client: OpenAI, store: VectorStore) -> None:
    assert store.expires_at is None

    longer = client.vector_stores.update(store.id, expires_after={"anchor": "last_active_at", "days": 3})
    assert longer.last_active_at is not None
    assert longer.expires_at == longer.last_active_at + 3 * DAY_S
    never = client.vector_stores.update(store.id, expires_after=None, name="Other", metadata={"a": "b"})

    assert (never.expires_at, never.expires_after, never.name, never.metadata) == (None, None, "Other", {"a": "b"})


def test_an_assistants_store_is_made_with_it(client: OpenAI) -> None:
    file_id = client.files.create(file=("poem.txt", POEM), purpose="assistants").id

    assistant = client.beta.assistants.create(
        model="offline",
        tools=[{"type": "file_search"}],
        tool_resources={"file_search": {"vector_stores": [{"file_ids": [file_id]}]}},
    )

    assert assistant.tool_resources is not None
    assert assistant.tool_resources.file_search is not None
    [store_id] = assistant.tool_resources.file_search.vector_store_ids or []
    store = client.vector_stores.retrieve(store_id)
    assert store.expires_at is None
    until_counted(client, store, completed=1)
    assert found(client, store, "lanterns") == ["poem.txt"]
