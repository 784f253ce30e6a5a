"""createFile, listFiles, retrieveFile, deleteFile: with the SDK, and by hand where the SDK cannot."""

from typing import Any

import httpx2
import openai
import pytest

from tests.files.conftest import MAX_FILE_BYTES, Tenant
from tests.support.refusals import invalid, refused


def create(tenant: Tenant, fields: dict[str, str], content: bytes = b"x", name: str = "a.txt") -> httpx2.Response:
    return tenant.http.post("/files", data=fields, files={"file": (name, content)})


def test_the_life_of_a_file_with_the_sdk(tenant: Tenant) -> None:
    files = tenant.sdk.files

    file = files.create(file=("notes.txt", b"Ada counts."), purpose="assistants")

    assert (file.filename, file.bytes, file.purpose, file.status) == ("notes.txt", 11, "assistants", "processed")
    assert file.id.startswith("file-")
    assert files.retrieve(file.id) == file
    assert files.wait_for_processing(file.id) == file
    assert list(files.list()) == [file]
    assert files.content(file.id).read() == b"Ada counts."
    deleted = files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError):
        files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        files.content(file.id)
    assert list(files.list()) == []


def test_the_answer_is_the_contracts_object_and_nothing_else(tenant: Tenant) -> None:
    file: dict[str, Any] = create(tenant, {"purpose": "vision"}, b"12345", "a.png").json()

    assert file.pop("id").startswith("file-")
    assert isinstance(file.pop("created_at"), int)
    assert file == {"object": "file", "bytes": 5, "filename": "a.png", "purpose": "vision", "status": "processed"}


def test_an_empty_file_is_a_file(tenant: Tenant) -> None:
    file_id = tenant.upload(b"")

    assert tenant.content(file_id).content == b""


def test_a_file_of_many_pieces_comes_back_as_it_was(tenant: Tenant) -> None:
    content = bytes(range(256)) * 11_000

    file_id = tenant.upload(content)

    assert tenant.content(file_id).content == content


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\temp\\x.txt",
        'quo"te.txt',
        "наука ✓.txt",
        "a;b=c.txt",
        ".",
        "x" * 1024,
        "a\r\nb",
        "50%",
    ],
)
def test_a_name_is_only_a_name(tenant: Tenant, name: str) -> None:
    file_id = tenant.upload(b"kept", name)

    assert tenant.http.get(f"/files/{file_id}").json()["filename"] == name
    assert tenant.content(file_id).content == b"kept"


def test_a_name_beyond_any_use_is_refused(tenant: Tenant) -> None:
    error = refused(create(tenant, {"purpose": "vision"}, name="x" * 1025), 400)

    assert (error["param"], error["code"]) == ("file", "string_above_max_length")


def test_an_unknown_purpose_is_refused(tenant: Tenant) -> None:
    error = refused(create(tenant, {"purpose": "nonsense"}), 400)

    assert (error["param"], error["code"]) == ("purpose", "invalid_value")
    assert error["message"].startswith("Invalid value: 'nonsense'. Supported values are: 'assistants', ")


def test_a_missing_purpose_is_named(tenant: Tenant) -> None:
    assert refused(create(tenant, {}), 400) == invalid(
        "Missing required parameter: 'purpose'.", param="purpose", code="missing_required_parameter"
    )


def test_a_missing_file_is_named(tenant: Tenant) -> None:
    answer = tenant.http.post("/files", files={"purpose": (None, "assistants")})

    assert refused(answer, 400) == invalid(
        "Missing required parameter: 'file'.", param="file", code="missing_required_parameter"
    )


def test_an_unknown_field_is_refused(tenant: Tenant) -> None:
    assert refused(create(tenant, {"purpose": "vision", "color": "red"}), 400) == invalid(
        "Unknown parameter: 'color'.", param="color", code="unknown_parameter"
    )


def test_json_is_no_form(tenant: Tenant) -> None:
    error = refused(tenant.http.post("/files", json={"purpose": "vision"}), 400)

    assert "multipart/form-data" in error["message"]


def test_expires_after_is_told_and_its_bounds_are_kept(tenant: Tenant) -> None:
    file = tenant.sdk.files.create(
        file=("a.txt", b"x"), purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600}
    )

    assert file.expires_at == file.created_at + 3600
    for seconds in ("3599", "2592001", "soon"):
        fields = {"purpose": "vision", "expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
        assert refused(create(tenant, fields), 400)["param"] == "expires_after.seconds"


def test_only_files_for_batches_expire_by_themselves(tenant: Tenant) -> None:
    batch = create(tenant, {"purpose": "batch"}).json()

    assert batch["expires_at"] == batch["created_at"] + 30 * 24 * 3600
    assert "expires_at" not in create(tenant, {"purpose": "evals"}).json()


def test_a_file_over_the_limit_is_refused_by_its_announced_length(tenant: Tenant) -> None:
    error = refused(create(tenant, {"purpose": "vision"}, bytes(MAX_FILE_BYTES + 1024**2)), 413)

    assert "too large" in error["message"]


def test_a_file_over_the_limit_is_refused_while_it_is_counted(tenant: Tenant) -> None:
    assert create(tenant, {"purpose": "vision"}, bytes(MAX_FILE_BYTES)).status_code == 200
    refused(create(tenant, {"purpose": "vision"}, bytes(MAX_FILE_BYTES + 1)), 413)

    assert len(tenant.http.get("/files").json()["data"]) == 1


def test_a_list_has_pages_a_purpose_and_an_order(tenant: Tenant) -> None:
    made = [tenant.upload(purpose=purpose) for purpose in ("vision", "assistants", "vision", "vision")]
    of_vision = [made[0], made[2], made[3]]

    def ids(query: str) -> list[str]:
        return [file["id"] for file in tenant.http.get(f"/files?{query}").json()["data"]]

    assert ids("") == made[::-1]
    assert ids("order=asc&purpose=vision") == of_vision
    assert ids(f"order=asc&purpose=vision&limit=1&after={of_vision[0]}") == [of_vision[1]]
    page = tenant.http.get("/files?limit=3").json()
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, made[3], made[1])
    assert ids("purpose=nonsense") == []
    assert [file.id for file in tenant.sdk.files.list(limit=2)] == made[::-1]


@pytest.mark.parametrize(("query", "param"), [("limit=10001", "limit"), ("limit=0", "limit"), ("order=x", "order")])
def test_a_list_is_refused_by_a_wrong_query(tenant: Tenant, query: str, param: str) -> None:
    assert refused(tenant.http.get(f"/files?{query}"), 400)["param"] == param
    assert tenant.http.get("/files?limit=10000").status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/content")])
@pytest.mark.parametrize("file_id", ["file-unknown", "nonsense", "a%00b", "x" * 200])
def test_an_unknown_file_is_told_in_the_old_words(tenant: Tenant, method: str, path: str, file_id: str) -> None:
    error = refused(tenant.http.request(method, f"/files/{file_id}{path}"), 404)

    assert error["message"].startswith("No such File object: ")
    assert (error["param"], error["code"]) == ("id", None)


def test_a_strangers_file_is_not_there(tenant: Tenant) -> None:
    file_id = tenant.upload()

    with Tenant(tenant.server) as stranger:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            refused(stranger.http.request(method, f"/files/{file_id}{path}"), 404)
        assert stranger.http.get("/files").json()["data"] == []
    assert tenant.content(file_id).content == b"hello"
