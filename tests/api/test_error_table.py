"""Every refusal that clients are known to match on, word for word: one row each.

Rows of features that are not here yet (vector stores, file types of a search) come with them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.support.refusals import invalid, refused
from tests.support.server import RunningServer, serving
from threadkeep.settings import Settings

NO_BETA = (
    "You must provide the 'OpenAI-Beta' header to access the Assistants API. Please try again by setting the header "
    "'OpenAI-Beta: assistants=v2'."
)
MALFORMED_BETA = (
    "Invalid beta header provided: 'v1'. The header should be in the format 'OpenAI-Beta: example_beta=v1'."
)
TOO_MANY_PAIRS = (
    "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object with 17 "
    "properties instead."
)
PAIRS_TOO_LONG = (
    "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a string with length "
    "513 instead."
)
KEY_TOO_LONG = (
    f"Invalid property name in 'metadata': '{'k' * 64}…' is too long. Expected a string with maximum length 64, but "
    "got a string with length 70 instead."
)
CONTENT_TOO_LONG = (
    "Invalid 'content': string too long. Expected a string with maximum length 256000, but got a string with length "
    "256001 instead."
)
ABOVE = "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead."
BELOW = "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead."
ROLES = "Invalid value: 'human'. Supported values are: 'user' and 'assistant'."
TOOLS = "Invalid value: 'retrieval'. Supported values are: 'code_interpreter', 'function', and 'file_search'."
NO_UPLOADED = "Not allowed to download files of purpose: assistants"


class Place:
    """What the paths of the rows are about."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http
        self.assistant: str = http.post("/assistants", json={"model": "offline"}).json()["id"]
        self.thread = f"/threads/{http.post('/threads').json()['id']}"
        form: Any = {"files": {"file": ("a.txt", b"text")}, "data": {"purpose": "assistants"}}
        self.file: str = http.post("/files", **form).json()["id"]


class Row(NamedTuple):
    ask: Callable[[Place], httpx2.Response]
    status: int
    message: str
    param: str | None = None
    code: str | None = None


def get(path: str, **headers: str) -> Callable[[Place], httpx2.Response]:
    return lambda place: place.http.get(path, headers=headers)


def in_thread(path: str) -> Callable[[Place], httpx2.Response]:
    return lambda place: place.http.get(place.thread + path)


def post(path: str, body: object) -> Callable[[Place], httpx2.Response]:
    return lambda place: place.http.post(path, json=body)


def message(**fields: object) -> Callable[[Place], httpx2.Response]:
    return lambda place: place.http.post(f"{place.thread}/messages", json={"role": "user", "content": "x", **fields})


def metadata(given: object) -> Callable[[Place], httpx2.Response]:
    return post("/threads", {"metadata": given})


def run_without_assistant(place: Place) -> httpx2.Response:
    return place.http.post(f"{place.thread}/runs", json={})


def run_of_a_strange_thread(place: Place) -> httpx2.Response:
    body = {"assistant_id": place.assistant, "thread": UNKNOWN_IN_THREAD}
    return place.http.post("/threads/runs", json=body)


def download(place: Place) -> httpx2.Response:
    return place.http.get(f"/files/{place.file}/content")


UNKNOWN_IN_THREAD: dict[str, list[dict[str, object]]] = {"messages": [{"role": "user", "content": "x", "file_ids": []}]}
SEARCH_FILES: dict[str, dict[str, list[str]]] = {"file_search": {"file_ids": []}}

TABLE: dict[str, Row] = {
    "unknown beta": Row(
        get("/threads", **{"openai-beta": "vector_stores=v1"}),
        400,
        "Unknown beta requested: 'vector_stores'.",
        code="invalid_beta",
    ),
    "malformed beta": Row(get("/threads", **{"openai-beta": "v1"}), 400, MALFORMED_BETA, code="invalid_beta"),
    "unknown assistant": Row(get("/assistants/asst_x"), 404, "No assistant found with id 'asst_x'."),
    "unknown thread": Row(get("/threads/thread_x"), 404, "No thread found with id 'thread_x'."),
    "unknown run": Row(in_thread("/runs/run_x"), 404, "No run found with id 'run_x'."),
    "unknown message": Row(in_thread("/messages/msg_x"), 404, "No message found with id 'msg_x'."),
    "unknown file": Row(get("/files/file-x"), 404, "No such File object: file-x", "id"),
    "malformed id": Row(
        get("/threads/undefined"),
        400,
        "Invalid 'thread_id': 'undefined'. Expected an ID that begins with 'thread'.",
        "thread_id",
        "invalid_value",
    ),
    "missing field": Row(
        run_without_assistant,
        400,
        "Missing required parameter: 'assistant_id'.",
        "assistant_id",
        "missing_required_parameter",
    ),
    "unknown field": Row(message(file_ids=[]), 400, "Unknown parameter: 'file_ids'.", "file_ids", "unknown_parameter"),
    "unknown field in a list": Row(
        run_of_a_strange_thread,
        400,
        "Unknown parameter: 'thread.messages[0].file_ids'.",
        "thread.messages[0].file_ids",
        "unknown_parameter",
    ),
    "unknown field in an object": Row(
        post("/assistants", {"model": "m", "tool_resources": SEARCH_FILES}),
        400,
        "Unknown parameter: 'tool_resources.file_search.file_ids'.",
        "tool_resources.file_search.file_ids",
        "unknown_parameter",
    ),
    "bad enum": Row(message(role="human"), 400, ROLES, "role", "invalid_value"),
    "system is no role": Row(message(role="system"), 400, ROLES.replace("human", "system"), "role", "invalid_value"),
    "bad tag": Row(
        post("/assistants", {"model": "m", "tools": [{"type": "retrieval"}]}),
        400,
        TOOLS,
        "tools[0].type",
        "invalid_value",
    ),
    "wrong type": Row(
        metadata([]),
        400,
        "Invalid type for 'metadata': expected a metadata object, but got an array instead.",
        "metadata",
        "invalid_type",
    ),
    "string too long": Row(message(content="x" * 256_001), 400, CONTENT_TOO_LONG, "content", "string_above_max_length"),
    "limit too big": Row(get("/threads?limit=101"), 400, ABOVE, "limit", "integer_above_max_value"),
    "limit too small": Row(get("/assistants?limit=0"), 400, BELOW, "limit", "integer_below_min_value"),
    "too many pairs": Row(
        metadata({str(n): "x" for n in range(17)}), 400, TOO_MANY_PAIRS, "metadata", "object_above_max_properties"
    ),
    "a pair's value too long": Row(
        metadata({"k": "x" * 513}), 400, PAIRS_TOO_LONG, "metadata.k", "string_above_max_length"
    ),
    "a pair's key too long": Row(
        metadata({"k" * 70: "x"}), 400, KEY_TOO_LONG, "metadata", "property_name_above_max_length"
    ),
    "unrouted": Row(get("/nowhere"), 404, "Not found"),
}
STRICT_TABLE: dict[str, Row] = {
    "no beta header": Row(get("/threads"), 400, NO_BETA, code="invalid_beta"),
    "download of an uploaded file": Row(download, 400, NO_UPLOADED),
}


@pytest.fixture(scope="module")
def place(sqlite_server: RunningServer) -> Iterator[Place]:
    with sqlite_server.client() as http:
        yield Place(http)


@pytest.fixture(scope="module")
def strict_place(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """As with OpenAI, where this server is kinder unless told otherwise."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "threadkeep.db").write_bytes(migrated_file.read_bytes())
    with serving(Settings(data_dir=folder, strict_beta=True, assistants_downloads="refuse")) as server:
        key = server.new_key()
        with server.client(key, **{"openai-beta": "assistants=v2"}) as http:
            place = Place(http)
        with server.client(key) as place.http:
            yield place


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_the_refusal_is_worded_as_clients_know_it(place: Place, row: Row) -> None:
    assert refused(row.ask(place), row.status) == invalid(row.message, param=row.param, code=row.code)


@pytest.mark.parametrize("row", STRICT_TABLE.values(), ids=STRICT_TABLE)
def test_so_is_what_only_the_strict_refuse(strict_place: Place, row: Row) -> None:
    assert refused(row.ask(strict_place), row.status) == invalid(row.message, param=row.param, code=row.code)


def test_a_bad_key(place: Place) -> None:
    answer = place.http.get("/threads", headers={"authorization": "Bearer sk-no-such-key"})

    error = refused(answer, 401)
    assert error["message"].startswith(
        "Incorrect API key provided: 'sk-no***ey'. You can find your API key at https://"
    )
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "invalid_api_key")


def test_nothing_is_ever_answered_409(place: Place) -> None:
    """The SDKs try again on it, and would do so for ever on a thread that is locked."""
    body = {"assistant_id": place.assistant, "additional_messages": [{"role": "user", "content": "wait: 30"}]}
    thread = f"/threads/{place.http.post('/threads').json()['id']}"
    run = place.http.post(f"{thread}/runs", json=body).json()["id"]

    second = refused(place.http.post(f"{thread}/runs", json=body), 400)
    message = refused(place.http.post(f"{thread}/messages", json={"role": "user", "content": "x"}), 400)

    thread_id = thread.removeprefix("/threads/")
    assert second == invalid(f"Thread {thread_id} already has an active run {run}.")
    assert message == invalid(f"Can't add messages to {thread_id} while a run {run} is active.")
    place.http.post(f"{thread}/runs/{run}/cancel")
