"""listModels, retrieveModel."""

from pathlib import Path

import httpx2

from tests.support.refusals import invalid, refused
from tests.support.server import serving
from threadkeep.settings import Settings
from threadkeep.upstream.config import UpstreamConfig


def test_the_list_holds_the_offline_model(client: httpx2.Client) -> None:
    models = client.get("/models").json()

    assert models["object"] == "list"
    [offline] = [model for model in models["data"] if model["id"] == "offline"]
    assert offline["object"] == "model"
    assert isinstance(offline["created"], int)
    assert offline["owned_by"] == "threadkeep"


def test_a_listed_model_can_be_retrieved(client: httpx2.Client) -> None:
    for model in client.get("/models").json()["data"]:
        assert client.get(f"/models/{model['id']}").json() == model


def test_without_an_upstream_every_name_is_answered_and_may_hold_slashes(client: httpx2.Client) -> None:
    for path in ("gpt-4o", "meta-llama/Llama-3", "meta-llama%2FLlama-3"):
        assert client.get(f"/models/{path}").json()["id"] == path.replace("%2F", "/")


def test_no_name_is_no_model(client: httpx2.Client) -> None:
    assert refused(client.get("/models/"), 404) == invalid("Not found")


def test_a_model_that_no_upstream_answers(tmp_path: Path) -> None:
    upstream = UpstreamConfig(name="one", url="http://127.0.0.1:9/v1", models=("gpt-4o",))

    with serving(Settings(data_dir=tmp_path, upstreams=(upstream,))) as server, server.client() as client:
        error = refused(client.get("/models/claude"), 404)
        listed = [model["id"] for model in client.get("/models").json()["data"]]

    assert error == invalid("The model 'claude' does not exist", param="model", code="model_not_found")
    assert "gpt-4o" in listed
