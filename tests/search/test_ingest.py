"""Ingestion as due work: what files share, how it is stopped, and that nothing is left of what nobody wants."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.support.databases import Database, execute
from tests.support.refusals import refused
from tests.support.server import RunningServer, serving
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.search import ingest
from threadkeep.search.ingest import Fenced
from threadkeep.settings import Settings
from threadkeep.storage import Transaction

PATIENCE_S = 30
TEXT = "".join(f"Lantern {number} hangs over the harbour at night.\n" for number in range(3_000)).encode()


class Place:
    """A server with a database to itself, and a client of it."""

    def __init__(self, server: RunningServer, http: httpx2.Client) -> None:
        self.server = server
        self.http = http

    def upload(self, content: bytes = TEXT, name: str = "a.txt") -> str:
        answer = self.http.post("/files", data={"purpose": "assistants"}, files={"file": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def store(self, *file_ids: str, **fields: Any) -> str:
        return self.post("/vector_stores", file_ids=list(file_ids), **fields)["id"]

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def counts(self, store_id: str) -> dict[str, int]:
        return self.get(f"/vector_stores/{store_id}")["file_counts"]

    def until_ended(self, store_id: str) -> dict[str, int]:
        until(lambda: self.counts(store_id)["in_progress"] == 0)
        return self.counts(store_id)

    def found(self, store_id: str) -> list[str]:
        hits = self.post(f"/vector_stores/{store_id}/search", query="lantern")["data"]
        return sorted({hit["file_id"] for hit in hits})

    def rows(self) -> dict[str, int]:
        """How many rows there are of all that ingestion writes; those without any are left out."""
        counted = self.server.read(
            None,
            lambda tx: {
                "contents": execute(tx, "SELECT count(*) FROM contents")[0][0],
                "passages": execute(tx, "SELECT count(*) FROM passages")[0][0],
                "vector_stores": execute(tx, "SELECT count(*) FROM vector_stores")[0][0],
                "files": execute(tx, "SELECT count(*) FROM vector_store_files")[0][0],
                "batches": execute(tx, "SELECT count(*) FROM vector_store_batches")[0][0],
                "attributes": execute(tx, "SELECT count(*) FROM vector_store_attributes")[0][0],
                "spans": execute(tx, "SELECT count(*) FROM vector_store_spans")[0][0],
                "blocks": execute(tx, "SELECT count(*) FROM vector_store_blocks")[0][0],
                "postings": execute(tx, "SELECT count(*) FROM vector_store_postings")[0][0],
                "work": execute(tx, "SELECT count(*) FROM work WHERE kind <> 'outcome'")[0][0],
            },
        )
        return {name: count for name, count in counted.items() if count}

    def until_rows(self, **rows: int) -> None:
        """Until there are exactly so many, and no others."""
        until(lambda: self.rows() == rows, lambda: self.rows())


def until(is_so: Callable[[], bool], told: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    settings = Settings(data_dir=database.data_dir, database_url=database.url, grace_seconds=0)
    with serving(settings) as server, server.client() as http:
        yield Place(server, http)


class NoVectors:
    """What stands where vectors are made, and makes none."""

    name = "none"

    def has_all(self, tx: Transaction, content: int, passages: int) -> bool:
        return True

    async def renew(self, project: str, store_id: str, file_id: str | None, write: Fenced) -> None: ...


class Gate(NoVectors):
    """Stands where vectors are made: a content whose passages are all read waits here."""

    def __init__(self, place: Place) -> None:
        self._open = asyncio.Event()
        self._place = place
        self.waiting = 0
        self.name = "gate"
        place.server.parts.ingestion._embed = self

    def has_all(self, tx: Transaction, content: int, passages: int) -> bool:
        return True

    async def renew(self, project: str, store_id: str, file_id: str | None, write: Fenced) -> None:
        raise AssertionError("nothing is to be embedded anew")

    async def __call__(self, project: str, content: int, write: Fenced) -> None:
        self.waiting += 1
        await self._open.wait()

    def until_reached(self, count: int = 1) -> None:
        until(lambda: self.waiting >= count)

    def open(self) -> None:
        async def set_() -> None:
            self._open.set()

        self._place.server.call(set_)


# ── what is shared ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_that_hold_the_same_are_read_once_and_shared(place: Place) -> None:
    files = [place.upload(b"One lantern.") for _ in range(4)]
    first, second = place.store(*files[:2]), place.store(*files[2:])

    assert place.until_ended(first)["completed"] == place.until_ended(second)["completed"] == 2
    assert place.rows()["contents"] == 1
    assert (place.found(first), place.found(second)) == (sorted(files[:2]), sorted(files[2:]))


def test_files_that_are_cut_in_another_way_share_nothing(place: Place) -> None:
    static = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 0}}
    file_id = place.upload()

    place.until_ended(place.store(file_id))
    place.until_ended(place.store(file_id, chunking_strategy=static))

    assert place.rows()["contents"] == 2


def test_projects_never_share(place: Place) -> None:
    place.until_ended(place.store(place.upload()))
    with place.server.client() as http:
        other = Place(place.server, http)
        other.until_ended(other.store(other.upload()))

    assert place.rows()["contents"] == 2


def test_a_content_stays_as_long_as_one_file_has_it(place: Place) -> None:
    first, second = place.upload(), place.upload()
    store_id = place.store(first, second)
    place.until_ended(store_id)
    passages = place.rows()["passages"]

    place.http.delete(f"/vector_stores/{store_id}/files/{first}").raise_for_status()
    until(lambda: place.rows().get("work", 0) == 0)

    assert (place.rows()["contents"], place.rows()["passages"]) == (1, passages)
    assert place.found(store_id) == [second]
    place.http.delete(f"/vector_stores/{store_id}/files/{second}").raise_for_status()
    place.until_rows(vector_stores=1)


# ── that nothing is left ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_store_leaves_nothing(place: Place) -> None:
    store_id = place.store(place.upload(), place.upload(b"Something else.", "b.md"))
    place.post(f"/vector_stores/{store_id}/files", file_id=place.upload(b"More."), attributes={"a": "b"})
    place.until_ended(store_id)

    place.http.delete(f"/vector_stores/{store_id}").raise_for_status()

    place.until_rows()


@pytest.mark.parametrize("how", ["detach", "delete the file", "delete the store", "cancel the batch"])
def test_whoever_stops_it_in_the_midst_leaves_nothing(place: Place, how: str) -> None:
    gate = Gate(place)
    file_id, store_id = place.upload(), place.store()
    batch = place.post(f"/vector_stores/{store_id}/file_batches", files=[{"file_id": file_id, "attributes": {"a": 1}}])
    gate.until_reached()
    assert place.rows()["passages"] > 0

    match how:
        case "detach":
            place.http.delete(f"/vector_stores/{store_id}/files/{file_id}").raise_for_status()
            place.until_rows(vector_stores=1, batches=1)
        case "delete the file":
            place.http.delete(f"/files/{file_id}").raise_for_status()
            place.until_rows(vector_stores=1, batches=1)
        case "delete the store":
            place.http.delete(f"/vector_stores/{store_id}").raise_for_status()
            place.until_rows()
        case _:
            cancelled = place.post(f"/vector_stores/{store_id}/file_batches/{batch['id']}/cancel")
            assert (cancelled["status"], cancelled["file_counts"]["cancelled"]) == ("cancelled", 1)
            assert place.get(f"/vector_stores/{store_id}/files/{file_id}")["status"] == "cancelled"
            assert place.counts(store_id) == {
                "in_progress": 0,
                "completed": 0,
                "failed": 0,
                "cancelled": 1,
                "total": 1,
            }
            place.until_rows(vector_stores=1, batches=1, files=1, attributes=1)
    if how in ("detach", "delete the file"):
        ended = place.get(f"/vector_stores/{store_id}/file_batches/{batch['id']}")
        assert ended["file_counts"]["in_progress"] == 0


def test_a_file_that_was_taken_out_in_the_midst_can_be_put_in_again(place: Place) -> None:
    gate = Gate(place)
    file_id = place.upload()
    store_id = place.store(file_id)
    gate.until_reached()

    place.http.delete(f"/vector_stores/{store_id}/files/{file_id}").raise_for_status()
    place.post(f"/vector_stores/{store_id}/files", file_id=file_id)
    gate.open()

    assert place.until_ended(store_id) == {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0, "total": 1}
    assert place.found(store_id) == [file_id]


def test_a_batch_that_is_cancelled_keeps_what_is_completed(place: Place) -> None:
    store_id, done = place.store(), place.upload(b"One lantern.")
    place.post(f"/vector_stores/{store_id}/files", file_id=done)
    place.until_ended(store_id)
    gate = Gate(place)
    files = [place.upload(f"Lantern {number}".encode()) for number in range(5)]
    # What the last one holds is known already: it can be completed while the others wait.
    batch = place.post(f"/vector_stores/{store_id}/file_batches", file_ids=[*files, place.upload(b"One lantern.")])
    path = f"/vector_stores/{store_id}/file_batches/{batch['id']}"
    gate.until_reached(2)

    cancelled = place.post(f"{path}/cancel")["file_counts"]
    gate.open()

    assert cancelled["in_progress"] == 0
    assert cancelled["completed"] + cancelled["cancelled"] == 6
    assert place.get(path)["file_counts"] == cancelled
    until(lambda: place.rows().get("work", 0) == 0)
    assert place.found(store_id)[0] == done


# ── runs and files ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_in_any_number_never_hold_up_a_run(place: Place) -> None:
    gate = Gate(place)
    files = [place.upload(f"Lantern {number}".encode()) for number in range(30)]
    store_id = place.store(*files)
    gate.until_reached(2)
    assistant = place.post("/assistants", model="offline")
    thread = {"messages": [{"role": "user", "content": "say: hello"}]}

    run = place.post("/threads/runs", assistant_id=assistant["id"], thread=thread)
    until(lambda: place.get(f"/threads/{run['thread_id']}/runs/{run['id']}")["status"] == "completed")

    assert place.counts(store_id)["in_progress"] == 30
    gate.open()
    assert place.until_ended(store_id)["completed"] == 30


# ── the model of embeddings ─────────────────────────────────────────────────────────────────────────────────────────


class Moody(NoVectors):
    """Fails so often, then makes no vectors and is content."""

    def __init__(self, place: Place, failures: int) -> None:
        self.left = failures
        self.calls = 0
        place.server.parts.ingestion._embed = self

    async def __call__(self, project: str, content: int, write: Fenced) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise UpstreamFailed("server_error", "The model server is away.")


def test_a_model_that_is_away_is_asked_again_and_nothing_is_read_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_AGAIN_S", 0.01)
    model = Moody(place, failures=3)
    store_id = place.store(place.upload())

    assert place.until_ended(store_id)["completed"] == 1
    assert model.calls == 4


def test_a_model_that_stays_away_fails_the_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_AGAIN_S", 0.01)
    monkeypatch.setattr(ingest, "_MAX_TRIES", 2)
    Moody(place, failures=1000)
    file_id = place.upload()
    store_id = place.store(file_id)

    assert place.until_ended(store_id)["failed"] == 1
    failed = place.get(f"/vector_stores/{store_id}/files/{file_id}")
    assert failed["last_error"] == {
        "code": "server_error",
        "message": "The embedding model failed: The model server is away.",
    }
    place.until_rows(vector_stores=1, files=1)


# ── files that cannot be read ───────────────────────────────────────────────────────────────────────────────────────


def test_a_broken_file_fails_alone_and_so_does_every_copy(place: Place) -> None:
    broken = [place.upload(b"%PDF-1.7 and nothing more", "a.pdf") for _ in range(2)]
    store_id = place.store(*broken, place.upload())

    counts = place.until_ended(store_id)

    assert (counts["failed"], counts["completed"]) == (2, 1)
    for file_id in broken:
        failed = place.get(f"/vector_stores/{store_id}/files/{file_id}")
        assert (failed["status"], failed["last_error"]["code"]) == ("failed", "invalid_file")
        assert place.get(f"/vector_stores/{store_id}/files/{file_id}/content")["data"] == []
    until(lambda: place.rows().get("work", 0) == 0)
    assert place.rows()["contents"] == 1


def test_a_file_that_failed_can_be_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_MAX_TRIES", 1)
    model = Moody(place, failures=1)
    file_id = place.upload()
    store_id = place.store(file_id)
    assert place.until_ended(store_id)["failed"] == 1

    place.post(f"/vector_stores/{store_id}/files", file_id=file_id)

    assert place.until_ended(store_id) == {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0, "total": 1}
    assert model.calls == 2


def test_a_file_whose_bytes_are_lost_fails(place: Place) -> None:
    file_id = place.upload()
    for blob in (place.server.settings.data_dir / "blobs").glob("*/*"):
        blob.unlink()

    store_id = place.store(file_id)

    assert place.until_ended(store_id)["failed"] == 1
    error = place.get(f"/vector_stores/{store_id}/files/{file_id}")["last_error"]
    assert error == {"code": "server_error", "message": "The content of the file is missing."}


def test_a_file_of_which_nobody_knows_how_to_read_it_is_refused_at_once(place: Place) -> None:
    file_id, store_id = place.upload(name="a.bin"), place.store()

    error = refused(place.http.post(f"/vector_stores/{store_id}/files", json={"file_id": file_id}), 400)

    assert (error["code"], error["param"]) == ("unsupported_file", "file_ids")
    assert place.counts(store_id)["total"] == 0


# ── what else names a file ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_file_is_on_no_list_of_a_code_interpreter(place: Place) -> None:
    gone, kept = place.upload(), place.upload()
    resources = {"code_interpreter": {"file_ids": [gone, kept]}}
    paths = [
        f"/assistants/{place.post('/assistants', model='offline', tool_resources=resources)['id']}",
        f"/threads/{place.post('/threads', tool_resources=resources, metadata={'named': gone})['id']}",
    ]

    place.http.delete(f"/files/{gone}").raise_for_status()

    until(lambda: place.rows().get("work", 0) == 0)
    for path in paths:
        assert place.get(path)["tool_resources"] == {"code_interpreter": {"file_ids": [kept]}}


def test_a_file_in_very_many_stores_is_forgotten_by_all(place: Place) -> None:
    file_id = place.upload(b"One lantern.")
    store_ids = [place.store(file_id) for _ in range(45)]
    for store_id in store_ids:
        place.until_ended(store_id)

    place.http.delete(f"/files/{file_id}").raise_for_status()

    place.until_rows(vector_stores=45)
