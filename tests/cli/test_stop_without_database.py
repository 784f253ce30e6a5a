"""A server that is told to stop while its database is away."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from tests.support.postgres import PostgresServer
from tests.support.process import Program, serving

KEY = {"authorization": "Bearer any"}


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


def freeze(postgres: PostgresServer, url: str) -> list[int]:
    """The processes of the database: connections stay, and nothing answers."""
    with psycopg.connect(postgres.url()) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
        rows = connection.execute(query, [urlsplit(url).path[1:]]).fetchall()
    frozen = [postgres.pid, *(row[0] for row in rows)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    return frozen


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_it_stops_all_the_same(own_postgres: PostgresServer, tmp_path: Path, how: Literal["stopped", "frozen"]) -> None:
    url = own_postgres.create_database()
    flags = ("--database-url", url, "--grace-seconds", "1", "--code-interpreter", "off")
    frozen: list[int] = []
    with serving(*flags, folder=tmp_path) as server:
        with httpx2.Client(base_url=f"{server.url}/v1", headers=KEY) as http:
            assistant = http.post("/assistants", json={"model": "offline-slow"}).json()["id"]
            hello = {"messages": [{"role": "user", "content": "count to 1000"}]}
            http.post("/threads/runs", json={"assistant_id": assistant, "thread": hello})
        try:
            if how == "stopped":
                own_postgres.stop()
            else:
                frozen = freeze(own_postgres, url)
            status = server.stop()
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)

    # Within the bounds of its phases: else it would have given up, and said so.
    assert status == 0
    assert "stopped_unfinished" not in server.errors


@pytest.mark.parametrize("signals", [2, 3])
def test_told_again_it_does_not_wait_for_the_database(
    own_postgres: PostgresServer, tmp_path: Path, signals: int
) -> None:
    url = own_postgres.create_database()
    flags = ("--database-url", url, "--grace-seconds", "600", "--code-interpreter", "off")
    with serving(*flags, folder=tmp_path) as server:
        with httpx2.Client(base_url=f"{server.url}/v1", headers=KEY) as http:
            assistant = http.post("/assistants", json={"model": "offline-slow"}).json()["id"]
            hello = {"messages": [{"role": "user", "content": "count to 1000"}]}
            http.post("/threads/runs", json={"assistant_id": assistant, "thread": hello})
        frozen = freeze(own_postgres, url)
        try:
            for said in ["draining", "stopping_at_once", "a third signal"][:signals]:
                server.terminate()
                until_said(server, said)
            status = server.wait()
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)

    # What it was at is stored, or was never acknowledged; whoever looks at the status learns that it was cut short.
    assert (status, "stopped_unfinished" in server.errors) == (1, True)


def until_said(server: Program, word: str) -> None:
    deadline = time.monotonic() + 60
    while word not in server.errors:
        assert time.monotonic() < deadline, server.errors
        time.sleep(0.01)
