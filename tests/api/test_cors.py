"""Web pages of other origins: none, unless a setting names them; then all they need, also of errors and streams."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.refusals import refused
from tests.support.server import RunningServer, serving
from threadkeep.settings import Settings, WrongSettings, read_settings

APP = "https://app.example"
OTHER = "https://evil.example"
ALLOW = "access-control-allow-origin"


NAMES = "authorization,content-type,x-stainless-os"


def asking(origin: str, method: str = "POST", headers: str = NAMES) -> dict[str, str]:
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}


@pytest.fixture(scope="module", params=[(APP, "http://localhost:3000"), ("*",)], ids=["some", "all"])
def open_server(
    request: pytest.FixtureRequest, migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("cors")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with serving(Settings(data_dir=folder, cors_origins=request.param)) as server:
        yield server


@pytest.fixture
def page(open_server: RunningServer) -> Iterator[httpx2.Client]:
    with open_server.client(origin=APP) as page:
        yield page


def admitted(open_server: RunningServer, answer: httpx2.Response) -> bool:
    is_any = open_server.settings.cors_origins == ("*",)
    assert ("vary" in answer.headers) is not is_any
    return answer.headers.get(ALLOW) == ("*" if is_any else APP)


@pytest.mark.parametrize("path", ["/threads", "/threads/thread_x/messages", "/chat/completions", "/nowhere"])
def test_a_browser_that_asks_is_told_without_a_key(open_server: RunningServer, path: str) -> None:
    answer = httpx2.options(f"{open_server.base_url}{path}", headers=asking(APP, "DELETE"))

    assert answer.status_code == 204
    assert admitted(open_server, answer)
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == NAMES
    assert answer.headers["access-control-max-age"] == "600"


def test_answers_can_be_read_with_the_headers_that_clients_need(
    open_server: RunningServer, page: httpx2.Client
) -> None:
    answer = page.get("/threads")

    assert answer.status_code == 200
    assert admitted(open_server, answer)
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "openai-processing-ms", "openai-poll-after-ms", "retry-after"} <= set(exposed)
    # Of a part of a file, which part it is.
    assert "content-range" in exposed
    assert "access-control-allow-credentials" not in answer.headers


def test_so_can_refusals(open_server: RunningServer, page: httpx2.Client) -> None:
    for answer in (page.get("/threads/thread_x"), page.get("/nowhere"), page.put("/threads")):
        refused(answer, answer.status_code)
        assert admitted(open_server, answer)
    unknown = httpx2.get(f"{open_server.base_url}/threads", headers={"origin": APP})
    refused(unknown, 401)
    assert admitted(open_server, unknown)


def test_so_can_streams(open_server: RunningServer, page: httpx2.Client) -> None:
    assistant = page.post("/assistants", json={"model": "offline"}).json()["id"]
    bodies = {
        "/threads/runs": {"assistant_id": assistant, "stream": True},
        "/chat/completions": {"model": "offline", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
    }

    for path, body in bodies.items():
        with page.stream("POST", path, json=body) as answer:
            assert admitted(open_server, answer)
            assert answer.read().endswith(b"data: [DONE]\n\n")


def test_headers_that_are_none_are_not_repeated(open_server: RunningServer) -> None:
    answer = httpx2.options(f"{open_server.base_url}/threads", headers=asking(APP, headers="a, b;c=\t<x>"))

    assert answer.headers["access-control-allow-headers"] == "authorization, content-type, openai-beta"


def test_the_health_can_be_read_too(open_server: RunningServer) -> None:
    assert admitted(open_server, httpx2.get(f"{open_server.url}/health/live", headers={"origin": APP}))


@pytest.mark.parametrize("open_server", [(APP,)], ids=["some"], indirect=True)
@pytest.mark.parametrize("origin", [OTHER, f"{APP}.evil.example", "http://app.example", f"{APP}:8443", "null", ""])
def test_other_origins_are_not_admitted(open_server: RunningServer, origin: str) -> None:
    for answer in (
        httpx2.options(f"{open_server.base_url}/threads", headers=asking(origin)),
        httpx2.get(f"{open_server.base_url}/threads", headers={"origin": origin}),
    ):
        assert not any(name.startswith("access-control") for name in answer.headers)
        # One's answer is not for the other's cache.
        assert answer.headers["vary"] == "origin"


def test_without_the_setting_nobody_is(server: RunningServer, client: httpx2.Client) -> None:
    for answer in (client.options("/threads", headers=asking(APP)), client.get("/threads", headers={"origin": APP})):
        assert answer.status_code in (200, 204)
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_setting_takes_origins(tmp_path: Path) -> None:
    given = read_settings({"cors_origins": f"{APP}/, http://LOCALHOST:3000,{APP}"}, {}, folder=tmp_path)

    assert given.cors_origins == (APP, "http://localhost:3000")
    assert given.shown("cors_origins") == f"{APP},http://localhost:3000"


@pytest.mark.parametrize(
    "value", ["app.example", "https://", "https://app.example/path", "ftp://app.example", "*.example"]
)
def test_the_setting_takes_nothing_else(tmp_path: Path, value: str) -> None:
    with pytest.raises(WrongSettings, match="is not an origin"):
        read_settings({"cors_origins": value}, {}, folder=tmp_path)
