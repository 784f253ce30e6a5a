"""createUpload, addUploadPart, completeUpload, cancelUpload."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace

from tests.files.conftest import Tenant
from tests.support.refusals import refused

PARTS = [b"a" * 100_000, b"b" * 1_500_000, b"c" * 7]
WHOLE = b"".join(PARTS)


def begin(tenant: Tenant, size: int = len(WHOLE), **more: Any) -> dict[str, Any]:
    request = {"filename": "big.txt", "bytes": size, "mime_type": "text/plain", "purpose": "assistants", **more}
    answer = tenant.http.post("/uploads", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def add(tenant: Tenant, upload: dict[str, Any], content: bytes) -> httpx2.Response:
    return tenant.http.post(f"/uploads/{upload['id']}/parts", files={"data": ("part", content)})


def added(tenant: Tenant, upload: dict[str, Any], *contents: bytes) -> list[str]:
    return [add(tenant, upload, content).raise_for_status().json()["id"] for content in contents]


def complete(tenant: Tenant, upload: dict[str, Any], part_ids: list[str], **more: str) -> httpx2.Response:
    return tenant.http.post(f"/uploads/{upload['id']}/complete", json={"part_ids": part_ids, **more})


def test_the_sdk_uploads_in_chunks(tenant: Tenant) -> None:
    upload = tenant.sdk.uploads.upload_file_chunked(
        file=io.BytesIO(WHOLE).getvalue(),
        filename="big.txt",
        bytes=len(WHOLE),
        mime_type="text/plain",
        purpose="assistants",
        part_size=300_000,
        md5=hashlib.md5(WHOLE, usedforsecurity=False).hexdigest(),
    )

    assert upload.status == "completed"
    assert upload.file is not None
    assert (upload.file.filename, upload.file.bytes) == ("big.txt", len(WHOLE))
    assert tenant.sdk.files.content(upload.file.id).read() == WHOLE


def test_an_upload_and_a_part_are_the_contracts_objects(tenant: Tenant) -> None:
    upload = begin(tenant)
    part = add(tenant, upload, PARTS[0]).json()

    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    assert upload["expires_at"] == upload["created_at"] + 3600
    assert part.pop("id").startswith("part_")
    assert isinstance(part.pop("created_at"), int)
    assert part == {"object": "upload.part", "upload_id": upload["id"]}


def test_parts_that_come_at_once_are_put_in_the_order_asked_for(tenant: Tenant) -> None:
    upload = begin(tenant)
    with ThreadPoolExecutor(3) as threads:
        part_ids = [part_id for [part_id] in threads.map(partial(added, tenant, upload), PARTS)]

    completed = complete(tenant, upload, part_ids).json()

    assert completed["status"] == "completed"
    assert tenant.content(completed["file"]["id"]).content == WHOLE
    assert tenant.content(completed["file"]["id"], range="bytes=99999-100001").content == b"abb"
    assert tenant.http.get(f"/files/{completed['file']['id']}").json() == completed["file"]


def test_what_is_asked_of_the_file_holds_for_it(tenant: Tenant) -> None:
    upload = begin(tenant, 1, purpose="vision", expires_after={"anchor": "created_at", "seconds": 7200})

    file = complete(tenant, upload, added(tenant, upload, b"x")).json()["file"]

    assert (file["purpose"], file["expires_at"]) == ("vision", file["created_at"] + 7200)


def test_a_wrong_checksum_is_refused_and_a_right_one_taken_afterwards(tenant: Tenant) -> None:
    upload = begin(tenant)
    part_ids = added(tenant, upload, *PARTS)

    error = refused(complete(tenant, upload, part_ids, md5="0" * 32), 400)

    assert error["param"] == "md5"
    right = hashlib.md5(WHOLE, usedforsecurity=False).hexdigest().upper()
    assert complete(tenant, upload, part_ids, md5=right).json()["status"] == "completed"


def test_the_bytes_must_be_as_many_as_were_declared(tenant: Tenant) -> None:
    upload = begin(tenant)
    part_ids = added(tenant, upload, *PARTS[:2])

    error = refused(complete(tenant, upload, part_ids), 400)

    assert error["param"] == "part_ids"
    assert f"{len(WHOLE)} bytes" in error["message"]


def test_parts_beyond_the_declared_bytes_are_refused(tenant: Tenant) -> None:
    upload = begin(tenant, 10)

    refused(add(tenant, upload, b"x" * 11), 400)
    refused(add(tenant, upload, b"x" * 700_000), 400)
    added(tenant, upload, b"x" * 6)
    refused(add(tenant, upload, b"x" * 5), 400)
    added(tenant, upload, b"x" * 4)


@pytest.mark.parametrize("chosen", [["part_unknown"], [0, 0]])
def test_only_own_parts_each_once_make_a_file(tenant: Tenant, chosen: list[Any]) -> None:
    upload = begin(tenant, 2)
    part_ids = added(tenant, upload, b"x")

    error = refused(complete(tenant, upload, [part_ids[at] if isinstance(at, int) else at for at in chosen]), 400)

    assert error["param"].startswith("part_ids[")


def test_a_part_that_is_left_out_leaves_with_its_bytes(tenant: Tenant) -> None:
    upload = begin(tenant, 3)
    first, second = added(tenant, upload, b"x", b"yz")
    assert refused(complete(tenant, upload, [second]), 400)

    other = begin(tenant, 3)
    _, whole = added(tenant, other, b"", b"abc")
    assert tenant.content(complete(tenant, other, [whole]).json()["file"]["id"]).content == b"abc"
    assert complete(tenant, upload, [second, first]).json()["status"] == "completed"


def test_of_many_that_complete_at_once_one_makes_the_file(tenant: Tenant) -> None:
    upload = begin(tenant, 3)
    part_ids = added(tenant, upload, b"abc")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(partial(complete, tenant, upload), [part_ids] * 8))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1
    assert len(tenant.http.get("/files").json()["data"]) == 1
    refused(complete(tenant, upload, part_ids[::-1] + part_ids), 400)


def test_of_a_cancel_and_a_complete_one_wins(tenant: Tenant) -> None:
    for _ in range(10):
        upload = begin(tenant, 1)
        part_ids = added(tenant, upload, b"x")
        with ThreadPoolExecutor(2) as threads:
            completing = threads.submit(complete, tenant, upload, part_ids)
            cancelling = threads.submit(tenant.http.post, f"/uploads/{upload['id']}/cancel")
        assert sorted([completing.result().status_code, cancelling.result().status_code]) == [200, 400]


def test_a_cancelled_upload_takes_nothing_more(tenant: Tenant) -> None:
    upload = begin(tenant)
    part_ids = added(tenant, upload, PARTS[0])

    cancelled = tenant.http.post(f"/uploads/{upload['id']}/cancel").json()

    assert (cancelled["status"], cancelled["file"]) == ("cancelled", None)
    for answer in (
        add(tenant, upload, b"x"),
        complete(tenant, upload, part_ids),
        tenant.http.post(f"/uploads/{upload['id']}/cancel"),
    ):
        assert "has status 'cancelled'" in refused(answer, 400)["message"]


def test_past_its_hour_an_upload_takes_nothing_even_if_nobody_has_swept_it(tenant: Tenant) -> None:
    upload = begin(tenant)
    stored = tenant.read(lambda tx: tx.uploads.get(upload["id"])).upload
    tenant.write(lambda tx: tx.uploads.replace(replace(stored, expires_at=stored.created_at - 1)))

    assert "has status 'expired'" in refused(add(tenant, upload, b"x"), 400)["message"]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"purpose": "nonsense"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_wrong_upload_is_refused(tenant: Tenant, request_: dict[str, Any], param: str) -> None:
    whole = {"filename": "a", "bytes": 1, "mime_type": "text/plain", "purpose": "assistants", **request_}

    assert refused(tenant.http.post("/uploads", json=whole), 400)["param"] == param


def test_a_part_has_one_field(tenant: Tenant) -> None:
    upload = begin(tenant)
    path = f"/uploads/{upload['id']}/parts"

    assert refused(tenant.http.post(path, files={"file": ("x", b"x")}), 400)["param"] in ("file", "data")
    both = {"data": ("x", b"x"), "color": (None, "red")}
    assert refused(tenant.http.post(path, files=both), 400)["param"] == "color"


def test_an_unknown_upload(tenant: Tenant) -> None:
    upload = {"id": "upload_unknown"}

    for answer in (
        add(tenant, upload, b"x"),
        complete(tenant, upload, []),
        tenant.http.post("/uploads/upload_unknown/cancel"),
    ):
        assert refused(answer, 404)["message"] == "No such Upload object: upload_unknown"
    with Tenant(tenant.server) as stranger:
        refused(add(stranger, begin(tenant), b"x"), 404)
