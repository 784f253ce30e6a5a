"""Tenants never meet: not by id, not by search, not by a method that somebody adds later."""

import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from tests.support.objects import a_file, a_message, a_run, a_step, a_thread, an_assistant, an_upload
from threadkeep.contract.assistants import Assistant
from threadkeep.contract.errors import IllegalMove, NotFound
from threadkeep.contract.files import File, ListFilesQuery
from threadkeep.contract.messages import Message
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.run_steps import RunStep
from threadkeep.contract.runs import Run
from threadkeep.contract.threads import Thread
from threadkeep.contract.uploads import Upload
from threadkeep.storage import (
    Blob,
    Once,
    Transaction,
    assistants,
    code_files,
    files,
    messages,
    outcomes,
    run_steps,
    runs,
    threads,
    uploads,
)
from threadkeep.storage.paging import Listing
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
}
# Tables that belong to no project's view, and the collections they have instead.
UNBOUND = {"projects", "keys", "work"}
PART_OF = {"thread_metadata": "threads", "run_steps": "steps", "upload_parts": "uploads"}


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
    for table in metadata.tables:
        assert hasattr(Transaction, PART_OF.get(table, table)), f"the table {table} has no collection"
    bound = {PART_OF.get(table, table) for table in metadata.tables} - UNBOUND
    assert bound == set(BOUND), "name the collection in this file, so that its statements are watched"


@pytest.mark.parametrize("collection", BOUND)
def test_every_statement_names_the_project(collection: str) -> None:
    found = dict(statements_of(BOUND[collection]))
    assert found
    built = threads.listing(2, True)
    for name, statement in [*found.items(), ("listing", built.up), ("listing", built.down)]:
        for sql in (statement.sqlite, statement.postgres):
            is_insert = sql.startswith("INSERT")
            assert ":project" in sql or "%(project)s" in sql, f"{name} does not mention the project"
            assert is_insert or "project_id = " in sql, f"{name} does not compare the project"


@pytest.mark.parametrize("collection", BOUND)
def test_every_table_of_a_statement_is_compared_with_the_project(collection: str) -> None:
    built = threads.listing(2, True)
    for name, statement in [*statements_of(BOUND[collection]), ("listing", built.down)]:
        sql = statement.sqlite
        for table in metadata.tables:
            if f"FROM {table}" in sql or f"UPDATE {table}" in sql:
                assert f"{table}.project_id = :project" in sql, f"{name} reads {table} of all projects"
            for alias in re.findall(rf"\b{table} AS (\w+)", sql):
                assert f"{alias}.project_id = :project" in sql, f"{name} reads {table} of all projects"


class Objects(NamedTuple):
    assistant: Assistant
    file: File
    upload: Upload
    thread: Thread
    message: Message
    run: Run
    step: RunStep


# What a stranger does with ids that it knows: every method of every collection.
Attempt = Callable[[Transaction, Objects], Any]
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
    "steps.get": lambda tx, o: tx.steps.get(o.thread.id, o.run.id, o.step.id),
    "steps.replace": lambda tx, o: tx.steps.replace(replace(o.step, status="failed")),
}
EMPTY: dict[str, Attempt] = {
    "assistants.find": lambda tx, o: tx.assistants.find(o.assistant.id),
    "assistants.delete": lambda tx, o: tx.assistants.delete(o.assistant.id),
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
    "threads.list": lambda tx, o: tx.threads.list(ListQuery(), {}, None).data,
    "messages.delete": lambda tx, o: tx.messages.delete(o.thread.id, o.message.id),
    "messages.list": lambda tx, o: tx.messages.list(o.thread.id, ListQuery()).data,
    "messages.last_id": lambda tx, o: tx.messages.last_id(o.thread.id),
    "messages.newest_first": lambda tx, o: list(tx.messages.newest_first(o.thread.id)),
    "runs.find": lambda tx, o: tx.runs.find(o.thread.id, o.run.id),
    "runs.active": lambda tx, o: tx.runs.active(o.thread.id),
    "runs.last_id": lambda tx, o: tx.runs.last_id(o.thread.id),
    "runs.list": lambda tx, o: tx.runs.list(o.thread.id, ListQuery()).data,
    "steps.list": lambda tx, o: tx.steps.list(o.thread.id, o.run.id, ListQuery()).data,
    "steps.all": lambda tx, o: tx.steps.all(o.run.id),
    "steps.last_id": lambda tx, o: tx.steps.last_id(o.run.id),
}
# Writing the same ids into one's own project is nobody else's concern, see below.
OWN = {f"{collection}.insert" for collection in BOUND if collection != "code_files"} | {
    "uploads.insert_part",
    "outcomes.keep",
    "code_files.put",
}
SEARCHES: dict[str, Attempt] = {
    "by metadata": lambda tx, o: tx.threads.list(ListQuery(), {"user": "ada"}, None).data,
    "by words": lambda tx, o: tx.threads.list(ListQuery(), {}, "secret").data,
    "by both": lambda tx, o: tx.threads.list(ListQuery(), {"user": "ada"}, "secret").data,
    "by purpose": lambda tx, o: tx.files.list(ListFilesQuery(purpose=o.file.purpose)).data,
    "by run": lambda tx, o: tx.messages.list(o.thread.id, ListQuery(), run_id=o.run.id).data,
}


def insert_all(tx: Transaction, objects: Objects) -> None:
    tx.assistants.insert(objects.assistant)
    tx.files.insert(objects.file, [Blob("a", 5)])
    tx.outcomes.insert(Once("key", "request"))
    tx.uploads.insert(objects.upload)
    tx.uploads.insert_part(objects.upload.id, "part_1", Blob("b", 5))
    tx.threads.insert(objects.thread)
    tx.code_files.put(objects.thread.id, "notes.txt", objects.file.id)
    tx.runs.insert(objects.run)
    tx.messages.insert(objects.message)
    tx.steps.insert(objects.step)


def read_all(tx: Transaction, objects: Objects) -> Objects:
    return Objects(
        tx.assistants.get(objects.assistant.id),
        tx.files.get(objects.file.id),
        tx.uploads.get(objects.upload.id).upload,
        tx.threads.get(objects.thread.id),
        tx.messages.get(objects.thread.id, objects.message.id),
        tx.runs.get(objects.thread.id, objects.run.id),
        tx.steps.get(objects.thread.id, objects.run.id, objects.step.id),
    )


@pytest.fixture
def objects(tx: Transaction) -> Objects:
    thread = a_thread(user="ada")
    run = a_run(thread.id)
    objects = Objects(
        an_assistant(), a_file(), an_upload(), thread, a_message(thread.id, "secret", run_id=run.id), run, a_step(run)
    )
    insert_all(tx, objects)
    return objects


@pytest.fixture
def stranger(tx: Transaction) -> Transaction:
    return Transaction(tx._connection, tx.projects.ensure("stranger"))


def test_every_method_is_attempted_below() -> None:
    methods: set[str] = set()
    for collection in BOUND:
        kind: Any = getattr(Transaction, collection).fget.__annotations__["return"]
        names: list[str] = [name for name in dir(kind) if not name.startswith("_")]
        methods |= {f"{collection}.{name}" for name in names}
    assert methods == set(REFUSED) | set(EMPTY) | OWN


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
