"""Servers that start: several at once on an empty database, beside another, on a database from the future."""

import json
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.support.databases import Database
from tests.support.postgres import PostgresServer
from tests.support.process import Program, run, started
from threadkeep.storage.schema import REVISIONS

NODES = 6
KEY = {"authorization": "Bearer any"}


def test_six_nodes_that_start_together_on_an_empty_database_all_serve(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create_database()
    with ExitStack() as stack:

        def start(number: int) -> Program:
            folder = tmp_path / str(number)
            folder.mkdir()
            flags = ("--port", "0", "--data-dir", str(folder), "--database-url", url, "--code-interpreter", "off")
            return stack.enter_context(started("serve", *flags, folder=folder))

        nodes = [start(number) for number in range(NODES)]
        made = [httpx2.post(f"{node.url}/v1/threads", headers=KEY).json()["id"] for node in nodes]
        seen = [
            httpx2.get(f"{node.url}/v1/threads/{thread}", headers=KEY)
            for node, thread in zip(nodes, reversed(made), strict=True)
        ]
        statuses = [node.stop() for node in nodes]
        complaints = [line for node in nodes for line in node.errors.splitlines() if '"level":"info"' not in line]
    with psycopg.connect(url) as connection:
        revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    postgres.drop_database(url)

    assert [answer.status_code for answer in seen] == [200] * NODES
    assert statuses == [0] * NODES
    assert complaints == []
    assert revisions == [(REVISIONS[-1],)]


def test_a_database_from_a_newer_version_is_refused_in_one_line_and_left_alone(database: Database) -> None:
    advance(database)
    where = ["--database-url", database.url] if database.url else []

    refused = run(*("serve", "--port", "0", "--data-dir", str(database.data_dir), *where), folder=database.data_dir)
    migrated = run("migrate", "--data-dir", str(database.data_dir), *where, folder=database.data_dir)

    for command in (refused, migrated):
        assert command.status == 1
        assert command.errors.startswith("threadkeep: The database is at revision 9999, which this version")
        assert command.errors.count("\n") == 1
        assert "Run that version, or restore a backup from before." in command.errors
    assert revision(database) == "9999"


def test_a_node_that_runs_goes_on_beside_a_newer_one_that_migrates_the_database(database: Database) -> None:
    """The newer one brings columns and keys that this one does not know. It refuses only to start again."""
    folder, where = database.data_dir, ["--database-url", database.url] if database.url else []
    flags = ("serve", "--port", "0", "--data-dir", str(folder), *where, "--code-interpreter", "off")
    with started(*flags, folder=folder) as node, httpx2.Client(base_url=f"{node.url}/v1", headers=KEY) as http:
        thread = http.post("/threads").json()["id"]
        change(database, "ALTER TABLE threads ADD COLUMN from_the_future integer NOT NULL DEFAULT 7")
        change(database, "ALTER TABLE work ADD COLUMN from_the_future integer")
        advance(database)
        assistant = http.post("/assistants", json={"model": "offline"}).json()["id"]
        body = {"assistant_id": assistant, "thread": {"messages": [{"role": "user", "content": "Hi"}]}, "stream": True}
        stream = http.post("/threads/runs", json=body).text
        changed = http.post(f"/threads/{thread}", json={"metadata": {"still": "works"}})
        status = node.stop()
    again = run(*flags, folder=folder)

    assert "event: thread.run.completed" in stream
    assert (changed.status_code, json.loads(changed.text)["metadata"]) == (200, {"still": "works"})
    assert (status, again.status) == (0, 1)
    assert "at revision 9999" in again.errors


def advance(database: Database) -> None:
    change(database, "UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize("second", ["", "other"], ids=["the same folder", "by another name"])
def test_two_servers_on_one_folder_the_second_names_the_first(tmp_path: Path, second: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if second:
        (tmp_path / second).symlink_to(folder)
    with started("serve", "--port", "0", "--data-dir", str(folder), folder=tmp_path) as first:
        assert first.url
        refused = run("serve", "--port", "0", "--data-dir", str(tmp_path / (second or "data")), folder=tmp_path)
        answered = httpx2.post(f"{first.url}/v1/threads", headers=KEY).status_code

    assert (refused.status, answered) == (1, 200)
    assert f"process {first.pid} on " in refused.errors
    assert refused.errors.count("\n") == 1


def change(database: Database, sql: str) -> None:
    if database.url is None:
        with sqlite3.connect(database.data_dir / "threadkeep.db", timeout=30) as connection:
            connection.execute(sql)
        connection.close()
    else:
        with psycopg.connect(database.url) as postgres:
            postgres.execute(sql.encode())


def revision(database: Database) -> str:
    if database.url is None:
        with sqlite3.connect(database.data_dir / "threadkeep.db") as connection:
            return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    with psycopg.connect(database.url) as postgres:
        row = postgres.execute("SELECT version_num FROM alembic_version").fetchone()
        assert row is not None
        return row[0]
