"""Servers are broken under load, and nothing that they acknowledged is missing or there twice: a short campaign on each
database. `./run chaos` is the long one."""

from pathlib import Path

import pytest

from tests.chaos.campaign import Terms, run_campaign
from tests.support.postgres import PostgresServer

# Each kind of blow once at least; what is drawn beside it (who is struck, for how long) is the seed's.
ON_SQLITE = (("kill", "freeze"), ("terminate", "kill-twice"))
ON_POSTGRES = (("kill", "freeze"), ("kill-database", "cut-connections"), ("kill-node-and-database", "terminate"))


@pytest.mark.timeout(600)
def test_a_node_on_sqlite_loses_and_doubles_nothing_whatever_happens_to_it(tmp_path: Path) -> None:
    report = run_campaign(Terms("sqlite", seed=6, rounds=len(ON_SQLITE), clients=6, blows=ON_SQLITE), tmp_path)

    assert report.faults == [], f"\n{report}"
    assert report.checked > 30, f"\n{report}"


@pytest.mark.timeout(600)
def test_nodes_on_postgres_lose_and_double_nothing_whatever_happens_to_them(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    # The server of the session is asked for only because it says what is missing where there can be none.
    report = run_campaign(Terms("postgres", seed=6, rounds=len(ON_POSTGRES), clients=6, blows=ON_POSTGRES), tmp_path)

    assert report.faults == [], f"\n{report}"
    assert report.checked > 30, f"\n{report}"
