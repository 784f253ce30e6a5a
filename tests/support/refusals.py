"""How the contract words a refusal: for tests to compare answers with."""

from typing import Any

import httpx2

INVALID = "invalid_request_error"


def refused(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The error in the envelope, which has all its keys and nothing beside them."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    return body["error"]


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": INVALID, "param": param, "code": code}
