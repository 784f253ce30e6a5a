"""What the tool is given: passages of a file that belong together as one, and stores together."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.server import RunningServer
from tests.support.vector_stores import Stores
from threadkeep.search.query import Found

TEXT = " ".join(f"Lantern {number} hangs over harbour {number}." for number in range(200))
CHUNKING: dict[str, Any] = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def search(server: RunningServer, http: httpx2.Client, stores: list[str], query: str, **fields: Any) -> list[Found]:
    project = server.project_of(http)
    every: dict[str, Any] = {"max_num_results": 50, "joins": True, **fields}
    return server.call(lambda: server.parts.search.search(project, stores, [query], **every))


def test_passages_that_overlap_or_follow_each_other_become_one(server: RunningServer, http: httpx2.Client) -> None:
    store = Stores(http).of({"lanterns.txt": TEXT}, chunking_strategy=CHUNKING)
    (found,) = search(server, http, [store], "lantern")
    assert found.text == TEXT
    assert 0 < found.score < 1


def test_passages_that_lie_apart_stay_apart(server: RunningServer, http: httpx2.Client) -> None:
    store = Stores(http).of({"lanterns.txt": TEXT}, chunking_strategy=CHUNKING)
    found = search(server, http, [store], "3 150")
    assert len(found) == 2
    assert all(each.text in TEXT for each in found)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_no_more_passages_than_asked_for_are_in_what_is_joined(server: RunningServer, http: httpx2.Client) -> None:
    store = Stores(http).of({"lanterns.txt": TEXT}, chunking_strategy=CHUNKING)
    found = search(server, http, [store], "lantern", max_num_results=1)
    assert len(found) == 1
    assert len(found[0].text) < len(TEXT) / 5


def test_two_stores_answer_as_one_and_one_that_is_gone_has_nothing(server: RunningServer, http: httpx2.Client) -> None:
    stores = Stores(http)
    one, other = stores.of({"a.txt": "black tea"}), stores.of({"b.txt": "green tea"})
    found = search(server, http, [one, other, "vs_gone"], "green tea")
    assert [each.filename for each in found] == ["b.txt", "a.txt"]
    assert search(server, http, ["vs_gone"], "tea") == search(server, http, [], "tea") == []


def test_a_stranger_finds_nothing_in_the_store(server: RunningServer, http: httpx2.Client) -> None:
    store = Stores(http).of({"a.txt": "black tea"})
    with server.client() as stranger:
        assert search(server, stranger, [store], "tea") == []
