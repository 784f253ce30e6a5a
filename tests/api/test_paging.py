"""Lists: limit, order, after, before, and what a page says of itself. Every cursor-paged list goes the same way."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused


@pytest.fixture(params=["/assistants", "/threads", "messages"])
def path(request: pytest.FixtureRequest, client: httpx2.Client) -> str:
    """The path of an empty list, to which a POST adds."""
    if request.param == "messages":
        return f"/threads/{client.post('/threads').json()['id']}/messages"
    return request.param


def fill(client: httpx2.Client, path: str, count: int) -> list[str]:
    """Ids, oldest first."""
    body = {"/assistants": {"model": "offline"}, "/threads": {}}.get(path, {"role": "user", "content": "x"})
    return [client.post(path, json=body).json()["id"] for _ in range(count)]


def page(client: httpx2.Client, path: str, **query: object) -> dict[str, Any]:
    answer = client.get(path, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(page: dict[str, Any]) -> list[str]:
    return [item["id"] for item in page["data"]]


def test_an_empty_list_has_null_ends(client: httpx2.Client, path: str) -> None:
    assert page(client, path) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_page_names_its_ends(client: httpx2.Client, path: str) -> None:
    made = fill(client, path, 3)

    whole = page(client, path)

    assert ids(whole) == made[::-1]
    assert (whole["object"], whole["first_id"], whole["last_id"]) == ("list", made[2], made[0])
    assert whole["has_more"] is False


def test_twenty_unless_asked_otherwise(client: httpx2.Client, path: str) -> None:
    made = fill(client, path, 21)

    assert ids(page(client, path)) == made[:0:-1]
    assert page(client, path)["has_more"] is True
    assert page(client, path, limit=21)["has_more"] is False


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_joined_by_after_are_the_list(client: httpx2.Client, path: str, order: str) -> None:
    made = fill(client, path, 5)

    first = page(client, path, limit=2, order=order)
    second = page(client, path, limit=2, order=order, after=first["last_id"])
    third = page(client, path, limit=2, order=order, after=second["last_id"])

    assert [each["has_more"] for each in (first, second, third)] == [True, True, False]
    assert ids(first) + ids(second) + ids(third) == (made if order == "asc" else made[::-1])


def test_before_is_the_page_that_ends_there(client: httpx2.Client, path: str) -> None:
    made = fill(client, path, 5)

    back = page(client, path, limit=2, before=made[0])

    assert ids(back) == [made[2], made[1]]
    assert back["has_more"] is True


def test_between_two_cursors(client: httpx2.Client, path: str) -> None:
    made = fill(client, path, 5)

    assert ids(page(client, path, after=made[4], before=made[0])) == made[3:0:-1]


def test_a_cursor_may_be_gone(client: httpx2.Client, path: str) -> None:
    made = fill(client, path, 3)
    client.delete(f"{path}/{made[1]}")

    assert ids(page(client, path, after=made[1])) == [made[0]]


def test_an_empty_cursor_is_none(client: httpx2.Client, path: str) -> None:
    made = fill(client, path, 1)

    assert ids(page(client, path, after="", before="", limit="", order="")) == made


def test_a_cursor_of_another_kind_is_refused(client: httpx2.Client, path: str) -> None:
    error = refused(client.get(path, params={"after": "run_x"}), 400)

    assert (error["param"], error["code"]) == ("after", "invalid_value")
    assert refused(client.get(path, params={"before": "1' OR 1=1"}), 400)["param"] == "before"


def test_limits_out_of_range_are_refused(client: httpx2.Client, path: str) -> None:
    assert refused(client.get(f"{path}?limit=101"), 400) == invalid(
        "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead.",
        param="limit",
        code="integer_above_max_value",
    )
    assert refused(client.get(f"{path}?limit=0"), 400) == invalid(
        "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        param="limit",
        code="integer_below_min_value",
    )
    assert refused(client.get(f"{path}?limit=ten"), 400)["code"] == "invalid_type"


def test_an_unknown_order_is_refused(client: httpx2.Client, path: str) -> None:
    error = refused(client.get(f"{path}?order=newest"), 400)

    assert error == invalid(
        "Invalid value: 'newest'. Supported values are: 'asc' and 'desc'.", param="order", code="invalid_value"
    )


def test_too_many_query_parameters_are_refused(client: httpx2.Client) -> None:
    query = "&".join(f"metadata[k{number}]=v" for number in range(200))

    assert "query parameters" in refused(client.get(f"/threads?{query}"), 400)["message"]
