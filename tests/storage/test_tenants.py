"""Tenants never meet: not by id, not by search, not by a method that somebody adds later."""

import re
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from tests.support.objects import (
    a_batch,
    a_file,
    a_message,
    a_run,
    a_step,
    a_store_file,
    a_thread,
    a_vector_store,
    an_assistant,
    an_upload,
)
from threadkeep.contract.assistants import Assistant
from threadkeep.contract.errors import IllegalMove, NotFound
from threadkeep.contract.files import File, ListFilesQuery
from threadkeep.contract.messages import Message
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.run_steps import RunStep
from threadkeep.contract.runs import Run
from threadkeep.contract.threads import Thread
from threadkeep.contract.uploads import Upload
from threadkeep.contract.vector_stores import (
    Equals,
    FileCounts,
    ListVectorStoreFilesQuery,
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
    VectorStoreFileError,
)
from threadkeep.storage import (
    Blob,
    Once,
    Transaction,
    assistants,
    code_files,
    contents,
    files,
    messages,
    outcomes,
    passages,
    run_steps,
    runs,
    threads,
    uploads,
    vector_store_files,
    vector_stores,
    vectors,
)
from threadkeep.storage.contents import NewPassage
from threadkeep.storage.filters import compiled
from threadkeep.storage.paging import Listing
from threadkeep.storage.runs import Line
from threadkeep.storage.statements import Statement
from threadkeep.storage.tables import metadata

BOUND: dict[str, ModuleType] = {
    "assistants": assistants,
    "code_files": code_files,
    "files": files,
    "outcomes": outcomes,
    "uploads": uploads,
    "threads": threads,
    "messages": messages,
    "runs": runs,
    "steps": run_steps,
    "contents": contents,
    "passages": passages,
    "vectors": vectors,
    "vector_stores": vector_stores,
    "vector_store_files": vector_store_files,
    "vector_store_batches": vector_store_files,
}
# Tables that belong to no project's view, and the collections they have instead.
UNBOUND = {"projects", "keys", "work"}
# Tables of the engine itself, which nobody above it sees.
ENGINES = {"commits"}
PART_OF = {
    "thread_metadata": "threads",
    "run_steps": "steps",
    "upload_parts": "uploads",
    "vector_store_attributes": "vector_store_files",
    "vector_store_spans": "passages",
    "vector_store_blocks": "passages",
    "vector_store_postings": "passages",
}
# Tables that name no project but the number of a store or a content, and what must stand in each of their statements.
# A number is given out only by a statement that compares the project, or is asked for by one in the same statement.
NUMBERED = {
    "passages": "content",
    "vectors": "content",
    "vector_store_attributes": "store",
    "vector_store_spans": "store",
    "vector_store_blocks": "store",
    "vector_store_postings": "store",
}


def statements_of(module: ModuleType) -> Iterator[tuple[str, Statement]]:
    for name, value in vars(module).items():
        match value:
            case Statement():
                yield name, value
            case Listing():
                yield name, value.up
                yield name, value.down
            case _:
                pass


def test_every_table_has_its_collection() -> None:
    for table in metadata.tables.keys() - ENGINES:
        assert hasattr(Transaction, PART_OF.get(table, table)), f"the table {table} has no collection"
    bound = {PART_OF.get(table, table) for table in metadata.tables.keys() - ENGINES} - UNBOUND
    assert bound == set(BOUND), "name the collection in this file, so that its statements are watched"


def built() -> Iterator[tuple[str, Statement]]:
    """Statements that are made when they are first asked for."""
    listing = threads.listing(2, True)
    yield from (("listing up", listing.up), ("listing down", listing.down))
    shape = compiled(Equals(key="user", value="ada")).shape
    yield from (("spans_of", passages.spans_of(shape)), ("nearest", vectors.nearest(shape)))


def is_numbered(sql: str) -> bool:
    """Whether it speaks of no table but such as name no project."""
    named = {table for table in metadata.tables if re.search(rf"\b(FROM|UPDATE|INTO) {table}\b", sql)}
    return bool(named) and named <= set(NUMBERED)


@pytest.mark.parametrize("collection", BOUND)
def test_every_statement_names_the_project(collection: str) -> None:
    found = dict(statements_of(BOUND[collection]))
    assert found
    found.pop("IS_AVAILABLE", None)
    for name, statement in [*found.items(), *built()]:
        if is_numbered(statement.sqlite):
            continue
        for sql in (statement.sqlite, statement.postgres):
            is_insert = sql.startswith("INSERT")
            assert ":project" in sql or "%(project)s" in sql, f"{name} does not mention the project"
            assert is_insert or "project_id = " in sql, f"{name} does not compare the project"


@pytest.mark.parametrize("collection", BOUND)
def test_every_table_of_a_statement_is_compared_with_the_project(collection: str) -> None:
    for name, statement in [*statements_of(BOUND[collection]), *built()]:
        sql = statement.sqlite
        for table in metadata.tables:
            for alias in {
                *re.findall(rf"\b(?:FROM|UPDATE) ({table})\b(?! AS)", sql),
                *re.findall(rf"\b{table} AS (\w+)", sql),
            }:
                column = NUMBERED.get(table, "project_id")
                wanted = rf"{alias}\.{column} = (:project\b|:store_number|:content|\(SELECT)"
                assert re.search(wanted, sql), f"{name} reads {table} of all projects"


def test_a_number_is_given_out_by_the_project_alone() -> None:
    for statement in (passages.NUMBER, passages.LOCK, vector_store_files.STORE_NUMBER, contents.FIND, contents.GET):
        assert "project_id = :project" in statement.sqlite


class Objects(NamedTuple):
    assistant: Assistant
    file: File
    upload: Upload
    thread: Thread
    message: Message
    run: Run
    # Behind the other.
    waiting: Run
    step: RunStep
    store: VectorStore
    store_file: VectorStoreFile
    batch: VectorStoreFileBatch
    # The number of what the file holds, in the project whose these are.
    content: int


# What a stranger does with ids that it knows: every method of every collection.
Attempt = Callable[[Transaction, Objects], Any]
A_FAILURE = VectorStoreFileError(code="server_error", message="stolen")
REFUSED: dict[str, Attempt] = {
    "assistants.get": lambda tx, o: tx.assistants.get(o.assistant.id),
    "assistants.lock": lambda tx, o: tx.assistants.lock(o.assistant.id),
    "assistants.replace": lambda tx, o: tx.assistants.replace(replace(o.assistant, name="stolen")),
    "files.get": lambda tx, o: tx.files.get(o.file.id),
    "uploads.get": lambda tx, o: tx.uploads.get(o.upload.id),
    "uploads.lock": lambda tx, o: tx.uploads.lock(o.upload.id),
    "uploads.replace": lambda tx, o: tx.uploads.replace(replace(o.upload, status="cancelled")),
    "threads.get": lambda tx, o: tx.threads.get(o.thread.id),
    "threads.lock": lambda tx, o: tx.threads.lock(o.thread.id),
    "threads.replace": lambda tx, o: tx.threads.replace(replace(o.thread, metadata={"stolen": "yes"})),
    "messages.get": lambda tx, o: tx.messages.get(o.thread.id, o.message.id),
    "messages.lock": lambda tx, o: tx.messages.lock(o.thread.id, o.message.id),
    "messages.replace": lambda tx, o: tx.messages.replace(replace(o.message, metadata={"stolen": "yes"})),
    "runs.get": lambda tx, o: tx.runs.get(o.thread.id, o.run.id),
    "runs.lock": lambda tx, o: tx.runs.lock(o.thread.id, o.run.id),
    "runs.replace": lambda tx, o: tx.runs.replace(replace(o.run, status="failed"), was=o.run.status),
    "runs.end": lambda tx, o: tx.runs.end(replace(o.waiting, status="failed"), was=o.waiting.status),
    "messages.place_for": lambda tx, o: tx.messages.place_for(o.thread.id, o.run.id),
    "steps.get": lambda tx, o: tx.steps.get(o.thread.id, o.run.id, o.step.id),
    "steps.replace": lambda tx, o: tx.steps.replace(replace(o.step, status="failed")),
    "steps.end": lambda tx, o: tx.steps.end(replace(o.step, status="failed"), told=7),
    "contents.get": lambda tx, o: tx.contents.get(o.content),
    "contents.append": lambda tx, o: tx.contents.append(o.content, 1, [NewPassage("stolen", 0, 6, 1)], None),
    "contents.finish": lambda tx, o: tx.contents.finish(o.content),
    "contents.fail": lambda tx, o: tx.contents.fail(o.content, A_FAILURE),
    "passages.index": lambda tx, o: tx.passages.index(o.store.id, o.store_file.id, 1, [{"stolen": 1}]),
    "passages.remove": lambda tx, o: tx.passages.remove(o.store.id, o.store_file.id),
    "vectors.put": lambda tx, o: tx.vectors.put(o.content, "model", 0, [[0.0, 1.0]]),
    "vector_stores.get": lambda tx, o: tx.vector_stores.get(o.store.id),
    "vector_stores.lock": lambda tx, o: tx.vector_stores.lock(o.store.id),
    "vector_stores.replace": lambda tx, o: tx.vector_stores.replace(replace(o.store, name="stolen")),
    "vector_stores.touch": lambda tx, o: tx.vector_stores.touch(o.store.id, 1),
    "vector_stores.model": lambda tx, o: tx.vector_stores.model(o.store.id),
    "vector_stores.set_model": lambda tx, o: tx.vector_stores.set_model(o.store.id, None),
    "vector_store_files.insert": lambda tx, o: tx.vector_store_files.insert(o.store.id, [a_store_file(o.store.id)]),
    "vector_store_files.get": lambda tx, o: tx.vector_store_files.get(o.store.id, o.store_file.id),
    "vector_store_files.set_attributes": lambda tx, o: tx.vector_store_files.set_attributes(
        o.store.id, o.store_file.id, {"user": "stolen"}
    ),
    "vector_store_files.set_content": lambda tx, o: tx.vector_store_files.set_content(
        o.store.id, o.store_file.id, o.content
    ),
    "vector_store_files.end": lambda tx, o: tx.vector_store_files.end(o.store.id, o.store_file.id, "cancelled"),
    "vector_store_files.delete": lambda tx, o: tx.vector_store_files.delete(o.store.id, o.store_file.id),
    "vector_store_batches.insert": lambda tx, o: tx.vector_store_batches.insert(a_batch(o.store.id)),
    "vector_store_batches.get": lambda tx, o: tx.vector_store_batches.get(o.store.id, o.batch.id),
    "vector_store_batches.cancel": lambda tx, o: tx.vector_store_batches.cancel(o.store.id, o.batch.id),
}
EMPTY: dict[str, Attempt] = {
    "assistants.find": lambda tx, o: tx.assistants.find(o.assistant.id),
    "assistants.delete": lambda tx, o: tx.assistants.delete(o.assistant.id),
    "assistants.naming": lambda tx, o: tx.assistants.naming(o.assistant.id),
    "assistants.list": lambda tx, o: tx.assistants.list(ListQuery()).data,
    "code_files.newest": lambda tx, o: tx.code_files.newest(o.thread.id),
    "code_files.forget": lambda tx, o: tx.code_files.forget(o.thread.id, "notes.txt"),
    "files.find": lambda tx, o: tx.files.find(o.file.id),
    "files.content": lambda tx, o: tx.files.content(o.file.id),
    "files.delete": lambda tx, o: tx.files.delete(o.file.id),
    "files.delete_expired": lambda tx, o: tx.files.delete_expired(o.file.id),
    "files.list": lambda tx, o: tx.files.list(ListFilesQuery()).data,
    "outcomes.find": lambda tx, o: tx.outcomes.find("key"),
    "outcomes.delete": lambda tx, o: tx.outcomes.delete("key"),
    "uploads.find": lambda tx, o: tx.uploads.find(o.upload.id),
    "uploads.delete": lambda tx, o: tx.uploads.delete(o.upload.id),
    "uploads.parts": lambda tx, o: tx.uploads.parts(o.upload.id),
    "uploads.received": lambda tx, o: tx.uploads.received(o.upload.id).parts,
    "uploads.delete_parts": lambda tx, o: tx.uploads.delete_parts(o.upload.id),
    "threads.find": lambda tx, o: tx.threads.find(o.thread.id),
    "threads.delete": lambda tx, o: tx.threads.delete(o.thread.id),
    "threads.idle": lambda tx, o: tx.threads.idle(time.time() + 60, after=o.thread.id[:-1])[1],
    "threads.is_idle": lambda tx, o: tx.threads.is_idle(o.thread.id, time.time() + 60),
    "threads.naming": lambda tx, o: tx.threads.naming(o.thread.id),
    "threads.list": lambda tx, o: tx.threads.list(ListQuery(), {}, None).data,
    "messages.delete": lambda tx, o: tx.messages.delete(o.thread.id, o.message.id),
    "messages.list": lambda tx, o: tx.messages.list(o.thread.id, ListQuery()).data,
    "messages.last_id": lambda tx, o: tx.messages.last_id(o.thread.id),
    "messages.seen_by": lambda tx, o: list(tx.messages.seen_by(o.thread.id, o.run.id)),
    "runs.find": lambda tx, o: tx.runs.find(o.thread.id, o.run.id),
    "runs.lock_line": lambda tx, o: tx.runs.lock_line(o.thread.id),
    "runs.rewrite": lambda tx, o: tx.runs.rewrite(replace(o.run, metadata={"stolen": "yes"})),
    "runs.put_ahead_of": lambda tx, o: tx.runs.put_ahead_of(Line(o.run, []), o.message.id),
    "runs.put_all_ahead_of": lambda tx, o: tx.runs.put_all_ahead_of(Line(o.run, []), o.message.id),
    "runs.next": lambda tx, o: tx.runs.next(o.thread.id),
    "runs.is_waiting": lambda tx, o: tx.runs.is_waiting(o.thread.id, o.waiting.id),
    "runs.begin_turn": lambda tx, o: tx.runs.begin_turn(o.thread.id, o.waiting.id),
    "runs.active": lambda tx, o: tx.runs.active(o.thread.id),
    "runs.told": lambda tx, o: tx.runs.told(o.thread.id, o.run.id),
    "runs.last_id": lambda tx, o: tx.runs.last_id(o.thread.id),
    "runs.list": lambda tx, o: tx.runs.list(o.thread.id, ListQuery()).data,
    "steps.list": lambda tx, o: tx.steps.list(o.thread.id, o.run.id, ListQuery()).data,
    "steps.all": lambda tx, o: tx.steps.all(o.run.id),
    "steps.told": lambda tx, o: tx.steps.told(o.run.id),
    "steps.last_id": lambda tx, o: tx.steps.last_id(o.run.id),
    "contents.find": lambda tx, o: tx.contents.find(o.content),
    "contents.passages": lambda tx, o: tx.contents.passages(o.content),
    "contents.read": lambda tx, o: tx.contents.read([(o.content, 0)]),
    "contents.unused": lambda tx, o: tx.contents.unused(),
    # Nothing is to be done: there is no such content.
    "contents.drop": lambda tx, o: not tx.contents.drop(o.content),
    "passages.numbers": lambda tx, o: tx.passages.numbers(o.store.id),
    "passages.alive": lambda tx, o: tx.passages.alive(o.store.id, None),
    "passages.tidy": lambda tx, o: not tx.passages.tidy(o.store.id),
    "passages.search": lambda tx, o: tx.passages.search([o.store.id], ["secret"], None, 10),
    "vectors.covered": lambda tx, o: tx.vectors.covered(o.content, "model"),
    "vectors.forget": lambda tx, o: tx.vectors.forget(o.content, "model"),
    "vectors.forget_unsearched": lambda tx, o: tx.vectors.forget_unsearched(o.content, "other"),
    "vectors.search": lambda tx, o: tx.vectors.search([o.store.id], "model", [1.0, 0.0], None, 10),
    "vector_stores.find": lambda tx, o: tx.vector_stores.find(o.store.id),
    "vector_stores.list": lambda tx, o: tx.vector_stores.list(ListQuery()).data,
    "vector_stores.count": lambda tx, o: tx.vector_stores.count(o.store.id, {"completed": 1}),
    "vector_stores.adopt_model": lambda tx, o: tx.vector_stores.adopt_model(o.store.id, "model"),
    "vector_stores.stale": lambda tx, o: tx.vector_stores.stale("model"),
    "vector_stores.delete": lambda tx, o: tx.vector_stores.delete(o.store.id),
    # Nothing is left of what is not there.
    "vector_stores.clear": lambda tx, o: not tx.vector_stores.clear(o.store.id),
    "vector_store_files.find": lambda tx, o: tx.vector_store_files.find(o.store.id, o.store_file.id),
    "vector_store_files.list": lambda tx, o: (
        tx.vector_store_files.list(o.store.id, ListVectorStoreFilesQuery()).data
        + tx.vector_store_files.list(o.store.id, ListVectorStoreFilesQuery(filter="in_progress"), o.batch.id).data
    ),
    "vector_store_files.stores_of": lambda tx, o: tx.vector_store_files.stores_of(o.store_file.id, 10),
    "vector_store_files.contents_of": lambda tx, o: tx.vector_store_files.contents_of(o.store.id),
    "vector_store_files.in_progress": lambda tx, o: tx.vector_store_files.in_progress(o.store.id),
    "vector_store_files.waiting_for": lambda tx, o: tx.vector_store_files.waiting_for(o.content),
    "vector_store_batches.find": lambda tx, o: tx.vector_store_batches.find(o.store.id, o.batch.id),
}
# Writing the same ids into one's own project is nobody else's concern, see below.
OWN = (
    {
        f"{collection}.insert"
        for collection in BOUND
        if collection != "code_files" and not collection.startswith("vector_store_")
    }
    - {"contents.insert", "passages.insert", "vectors.insert"}
) | {"runs.insert_waiting", "uploads.insert_part", "outcomes.keep", "code_files.put", "contents.ensure"}
# It asks the database, and `passages.hits` is given numbers by the two searches alone.
OF_NOBODY = {"vectors.is_available", "passages.hits"}
SEARCHES: dict[str, Attempt] = {
    "by metadata": lambda tx, o: tx.threads.list(ListQuery(), {"user": "ada"}, None).data,
    "by words": lambda tx, o: tx.threads.list(ListQuery(), {}, "secret").data,
    "by both": lambda tx, o: tx.threads.list(ListQuery(), {"user": "ada"}, "secret").data,
    "by purpose": lambda tx, o: tx.files.list(ListFilesQuery(purpose=o.file.purpose)).data,
    "by run": lambda tx, o: tx.messages.list(o.thread.id, ListQuery(), run_id=o.run.id).data,
}


def insert_all(tx: Transaction, objects: Objects) -> Objects:
    tx.assistants.insert(objects.assistant)
    tx.files.insert(objects.file, [Blob("a", 5)])
    tx.outcomes.insert(Once("key", "request"))
    tx.uploads.insert(objects.upload)
    tx.uploads.insert_part(objects.upload.id, "part_1", Blob("b", 5))
    tx.threads.insert(objects.thread)
    tx.code_files.put(objects.thread.id, "notes.txt", objects.file.id)
    tx.runs.insert(objects.run)
    tx.runs.insert_waiting(objects.waiting, Line(objects.run, []), 1, ahead_of=None)
    tx.messages.insert(objects.message)
    tx.steps.insert(objects.step)
    tx.vector_stores.insert(objects.store)
    tx.vector_store_batches.insert(objects.batch)
    tx.vector_store_files.insert(objects.store.id, [objects.store_file], objects.batch.id)
    content = tx.contents.ensure("key").number
    tx.contents.append(content, 0, [NewPassage("secret", 0, 6, 1)], None)
    tx.vector_store_files.set_content(objects.store.id, objects.store_file.id, content)
    tx.vectors.put(content, "model", 0, [[1.0, 0.0]])
    tx.passages.index(objects.store.id, objects.store_file.id, 0, [{"secret": 1}])
    counts = FileCounts(in_progress=1, completed=0, failed=0, cancelled=0, total=1)
    return objects._replace(
        store=replace(objects.store, file_counts=counts, status="in_progress"),
        batch=replace(objects.batch, file_counts=counts),
        content=content,
    )


def read_all(tx: Transaction, objects: Objects) -> Objects:
    return Objects(
        tx.assistants.get(objects.assistant.id),
        tx.files.get(objects.file.id),
        tx.uploads.get(objects.upload.id).upload,
        tx.threads.get(objects.thread.id),
        tx.messages.get(objects.thread.id, objects.message.id),
        tx.runs.get(objects.thread.id, objects.run.id),
        tx.runs.get(objects.thread.id, objects.waiting.id),
        tx.steps.get(objects.thread.id, objects.run.id, objects.step.id),
        tx.vector_stores.get(objects.store.id),
        tx.vector_store_files.get(objects.store.id, objects.store_file.id).file,
        tx.vector_store_batches.get(objects.store.id, objects.batch.id),
        tx.passages.search([objects.store.id], ["secret"], None, 1)[0].content,
    )


@pytest.fixture
def objects(tx: Transaction) -> Objects:
    thread = a_thread(user="ada")
    run = a_run(thread.id)
    store = a_vector_store()
    objects = Objects(
        an_assistant(),
        a_file(),
        an_upload(),
        thread,
        a_message(thread.id, "secret", run_id=run.id),
        run,
        a_run(thread.id),
        a_step(run),
        store,
        a_store_file(store.id, attributes={"user": "ada"}),
        a_batch(store.id),
        0,
    )
    return insert_all(tx, objects)


@pytest.fixture
def stranger(tx: Transaction) -> Transaction:
    return Transaction(tx._connection, tx.projects.ensure("stranger"))


def test_every_method_is_attempted_below() -> None:
    methods: set[str] = set()
    for collection in BOUND:
        kind: Any = getattr(Transaction, collection).fget.__annotations__["return"]
        names: list[str] = [name for name in dir(kind) if not name.startswith("_")]
        methods |= {f"{collection}.{name}" for name in names}
    assert methods == set(REFUSED) | set(EMPTY) | OWN | OF_NOBODY


@pytest.mark.parametrize("attempt", REFUSED)
def test_stranger_with_the_id_is_told_there_is_nothing(
    tx: Transaction, stranger: Transaction, objects: Objects, attempt: str
) -> None:
    with pytest.raises((NotFound, IllegalMove)):
        REFUSED[attempt](stranger, objects)
    assert read_all(tx, objects) == objects


@pytest.mark.parametrize("attempt", EMPTY | SEARCHES)
def test_stranger_with_the_id_sees_nothing(
    tx: Transaction, stranger: Transaction, objects: Objects, attempt: str
) -> None:
    assert not (EMPTY | SEARCHES)[attempt](stranger, objects)
    assert read_all(tx, objects) == objects


@pytest.mark.parametrize("attempt", SEARCHES)
def test_owner_finds_what_the_stranger_does_not(tx: Transaction, objects: Objects, attempt: str) -> None:
    assert SEARCHES[attempt](tx, objects)


def test_the_same_ids_in_two_projects_are_two_sets_of_objects(
    tx: Transaction, stranger: Transaction, objects: Objects
) -> None:
    theirs = objects._replace(assistant=replace(objects.assistant, name="theirs"))
    insert_all(stranger, theirs)
    stranger.threads.delete(theirs.thread.id)
    stranger.assistants.replace(replace(theirs.assistant, name="changed"))
    assert read_all(tx, objects) == objects
