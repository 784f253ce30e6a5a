"""Keys, projects and the beta header."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.refusals import invalid, refused
from tests.support.server import RunningServer, serving
from threadkeep.api.auth import Authenticator, masked
from threadkeep.contract.errors import PermissionDenied, Unauthenticated
from threadkeep.settings import Settings
from threadkeep.storage import Store


def get(server: RunningServer, **headers: str) -> httpx2.Response:
    return httpx2.get(f"{server.base_url}/threads", headers=headers)


# Keys


def test_without_a_key(server: RunningServer) -> None:
    answer = get(server)

    error = refused(answer, 401)
    assert error["message"].startswith("You didn't provide an API key.")
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer", "Basic dXNlcjpwYXNz", "sk-threadkeep-x"])
def test_a_header_that_holds_no_key(server: RunningServer, header: str) -> None:
    assert refused(get(server, authorization=header), 401)["code"] == "invalid_api_key"


def test_a_wrong_key_is_not_repeated(server: RunningServer) -> None:
    key = "sk-threadkeep-this-is-somebody-elses-secret"

    answer = get(server, authorization=f"Bearer {key}")

    error = refused(answer, 401)
    assert error["message"].startswith("Incorrect API key provided: 'sk-th***et'.")
    assert error["code"] == "invalid_api_key"
    assert "secret" not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_of_ours(server: RunningServer, scheme: str) -> None:
    assert get(server, authorization=f"{scheme} {server.new_key()}").status_code == 200


def test_a_key_as_azures_clients_send_it(server: RunningServer) -> None:
    assert get(server, **{"api-key": server.new_key()}).status_code == 200
    refused(get(server, **{"api-key": "wrong"}), 401)


def test_projects_never_meet(server: RunningServer) -> None:
    with server.client() as mine, server.client() as theirs:
        thread = mine.post("/threads", json={"messages": [{"role": "user", "content": "hi"}]}).json()["id"]
        message = mine.get(f"/threads/{thread}/messages").json()["first_id"]
        assistant = mine.post("/assistants", json={"model": "offline"}).json()["id"]

        for path in (f"/threads/{thread}", f"/threads/{thread}/messages/{message}", f"/assistants/{assistant}"):
            for method in ("GET", "POST", "DELETE"):
                refused(theirs.request(method, path), 404)
        refused(theirs.get(f"/threads/{thread}/messages"), 404)
        refused(theirs.post(f"/threads/{thread}/messages", json={"role": "user", "content": "x"}), 404)
        refused(theirs.post(f"/threads/{thread}/runs", json={"assistant_id": assistant}), 404)
        for path in ("/threads", "/assistants", "/threads?q=hi"):
            assert theirs.get(path).json()["data"] == []
        assert mine.get(f"/threads/{thread}/messages/{message}").status_code == 200


def test_keys_of_one_project_see_the_same(server: RunningServer) -> None:
    with server.client(server.new_key("shared")) as one, server.client(server.new_key("shared")) as other:
        thread = one.post("/threads").json()

        assert other.get(f"/threads/{thread['id']}").json() == thread


# How long a key is remembered


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_revoked_key_is_refused_within_a_second(store: Store) -> None:
    clock = Clock()
    authenticate = Authenticator(store, clock=clock)
    key_id, key = await store.write(None, lambda tx: tx.keys.create("p"))
    project = await authenticate(key)

    await store.write(None, lambda tx: tx.keys.revoke(key_id))

    assert await authenticate(key) == project
    clock.now += 1.0
    with pytest.raises(Unauthenticated):
        await authenticate(key)


async def test_without_keys_every_key_is_good_where_that_is_allowed(store: Store) -> None:
    clock = Clock()
    authenticate = Authenticator(store, open_project="proj_default", clock=clock)

    assert await authenticate("anything") == "proj_default"
    with pytest.raises(Unauthenticated):
        await authenticate(None)
    with pytest.raises(Unauthenticated):
        await authenticate("")


@pytest.mark.parametrize(
    "host", [None, "127.0.0.1:8400", "[::1]:8400", "::1", "localhost", "LOCALHOST.:8400", "host.docker.internal:8400"]
)
async def test_a_server_that_takes_any_key_answers_to_names_of_this_machine(store: Store, host: str | None) -> None:
    authenticate = Authenticator(store, open_project="proj_default")

    assert await authenticate("anything", host) == "proj_default"


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8400", "127.0.0.1.example", "a, 127.0.0.1", ""])
async def test_a_server_that_takes_any_key_is_not_reached_by_a_strangers_name(store: Store, host: str) -> None:
    authenticate = Authenticator(store, open_project="proj_default")

    with pytest.raises(PermissionDenied, match="names of this machine"):
        await authenticate("anything", host)


async def test_a_key_of_ours_is_good_under_any_name(store: Store) -> None:
    authenticate = Authenticator(store, open_project="proj_default")
    _, key = await store.write(None, lambda tx: tx.keys.create("p"))

    assert await authenticate(key, "api.example")


async def test_the_first_key_made_closes_the_door_for_all_others(store: Store) -> None:
    clock = Clock()
    authenticate = Authenticator(store, open_project="proj_default", clock=clock)
    await authenticate("anything")

    key_id, key = await store.write(None, lambda tx: tx.keys.create("p"))
    clock.now += 1.0

    with pytest.raises(Unauthenticated):
        await authenticate("anything")
    assert await authenticate(key)
    await store.write(None, lambda tx: tx.keys.revoke(key_id))
    clock.now += 1.0
    with pytest.raises(Unauthenticated):
        await authenticate("anything")


def test_a_server_for_one_person_takes_any_key(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), takes_any_key=True) as server:
        thread = httpx2.post(f"{server.base_url}/threads", headers={"authorization": "Bearer one"}).json()["id"]
        other = httpx2.get(f"{server.base_url}/threads/{thread}", headers={"authorization": "Bearer other"})

        assert other.status_code == 200
        refused(get(server), 401)


@pytest.mark.parametrize("key", ["", "short", "a" * 11, "sk-threadkeep-0123456789", "sk-ünïcödé-0123456789"])
def test_a_mask_hides_most_of_a_key(key: str) -> None:
    shown = masked(key).replace("*", "")

    assert len(shown) <= max(0, len(key) - 5)
    assert len(shown) <= 7


# The beta header


@pytest.mark.parametrize(
    "header", ["assistants=v2", "assistants=v2,realtime=v1", "realtime=v1, assistants=v2", "assistants=v2,", ""]
)
def test_the_second_version_is_spoken(client: httpx2.Client, header: str) -> None:
    assert client.get("/threads", headers={"openai-beta": header}).status_code == 200


def test_the_header_may_be_left_out(client: httpx2.Client) -> None:
    assert client.get("/threads").status_code == 200


def test_the_header_may_come_twice(client: httpx2.Client) -> None:
    headers = [("openai-beta", "realtime=v1"), ("openai-beta", "assistants=v2")]

    assert client.get("/threads", headers=headers).status_code == 200
    assert client.get("/threads", headers=headers[::-1]).status_code == 200


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("vector_stores=v1", "Unknown beta requested: 'vector_stores'."),
        ("assistants=v3", "Unknown beta requested: 'assistants=v3'."),
        (
            "v1",
            "Invalid beta header provided: 'v1'. The header should be in the format 'OpenAI-Beta: example_beta=v1'.",
        ),
        ("realtime=v1, assistants=v3", "Unknown beta requested: 'realtime'."),
        (
            "assistants=v2; realtime",
            (
                "Invalid beta header provided: 'assistants=v2; realtime'. The header should be in the format "
                "'OpenAI-Beta: example_beta=v1'."
            ),
        ),
    ],
)
def test_other_versions_are_refused(client: httpx2.Client, header: str, message: str) -> None:
    error = refused(client.get("/threads", headers={"openai-beta": header}), 400)

    assert error == invalid(message, code="invalid_beta")


@pytest.mark.parametrize("header", ["assistants=v1", "realtime=v1, assistants=v1", "assistants=v1,"])
def test_the_first_version_is_spoken(client: httpx2.Client, header: str) -> None:
    client.post("/threads")

    [thread] = client.get("/threads", headers={"openai-beta": header}).json()["data"]

    assert "tool_resources" not in thread


def test_of_both_versions_the_second_is_spoken(client: httpx2.Client) -> None:
    client.post("/threads")

    for header in ("assistants=v1, assistants=v2", "assistants=v2, assistants=v1"):
        [thread] = client.get("/threads", headers={"openai-beta": header}).json()["data"]
        assert "tool_resources" in thread


@pytest.mark.parametrize("path", ["/assistants/asst_x/files", "/threads/thread_x/messages/msg_x/files/file-a"])
@pytest.mark.parametrize("headers", [{}, {"openai-beta": "assistants=v2"}])
def test_what_only_the_first_version_has_is_not_found_in_the_second(
    client: httpx2.Client, path: str, headers: dict[str, str]
) -> None:
    error = refused(client.get(path, headers=headers), 404)

    assert error["message"].endswith("It answers to the header 'OpenAI-Beta: assistants=v1'.")


@pytest.fixture(scope="module")
def strict_server(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("strict")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with serving(Settings(data_dir=folder, strict_beta=True)) as server:
        yield server


@pytest.mark.parametrize("headers", [{}, {"openai-beta": ""}, {"openai-beta": ","}])
def test_a_strict_server_wants_the_header(strict_server: RunningServer, headers: dict[str, str]) -> None:
    with strict_server.client() as client:
        error = refused(client.get("/threads", headers=headers), 400)

    assert error == invalid(
        "You must provide the 'OpenAI-Beta' header to access the Assistants API. Please try again by setting the "
        "header 'OpenAI-Beta: assistants=v2'.",
        code="invalid_beta",
    )


def test_a_strict_server_takes_both_versions_and_what_is_not_in_the_beta(strict_server: RunningServer) -> None:
    with strict_server.client() as client:
        for version in ("v1", "v2"):
            assert client.get("/threads", headers={"openai-beta": f"assistants={version}"}).status_code == 200
        assert client.get("/models").status_code == 200


def test_the_header_means_nothing_outside_the_beta(client: httpx2.Client) -> None:
    for header in ("assistants=v1", "assistants=v3", "nonsense"):
        assert client.get("/models", headers={"openai-beta": header}).status_code == 200
