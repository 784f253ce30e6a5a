"""What goes by itself: expired files and uploads, and the blobs that nobody needs any more."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.files.conftest import Tenant
from tests.files.due import PATIENCE_S, expire_file, make_due, until_done, waiting
from tests.support.refusals import refused
from tests.support.s3 import S3
from threadkeep.contract.errors import Unavailable
from threadkeep.storage import Blob


def keys_of(tenant: Tenant, file_id: str) -> list[str]:
    found = tenant.read(lambda tx: tx.files.content(file_id))
    assert found is not None
    return [blob.key for blob in found[1]]


def stored(tenant: Tenant, keys: list[str], s3: S3) -> list[str]:
    """Which of the blobs are in the store."""
    settings = tenant.server.settings
    if settings.blobs_url is not None:
        names = {name.rpartition("/")[2] for name in s3.objects()}
        return [key for key in keys if key in names]
    folder = settings.data_dir / "blobs"
    return [key for key in keys if Path(folder, key[:2], key).exists()]


def test_a_deleted_file_takes_its_content_along(tenant: Tenant, s3: S3) -> None:
    file_id = tenant.upload()
    keys = keys_of(tenant, file_id)
    assert stored(tenant, keys, s3) == keys

    tenant.http.delete(f"/files/{file_id}").raise_for_status()

    until_done(tenant, "blob")
    assert stored(tenant, keys, s3) == []


def test_an_expired_file_is_not_found_even_before_it_is_swept(tenant: Tenant) -> None:
    file_id = tenant.upload()

    expire_file(tenant, file_id)

    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        refused(tenant.http.request(method, f"/files/{file_id}{path}"), 404)
    assert tenant.http.get("/files").json()["data"] == []
    assert tenant.http.get("/files?purpose=assistants").json()["data"] == []


def test_an_expired_file_is_swept_with_its_content(tenant: Tenant, s3: S3) -> None:
    file_id = tenant.upload(purpose="batch")
    keys = keys_of(tenant, file_id)
    expire_file(tenant, file_id)

    make_due(tenant, "file", file_id)

    until_done(tenant, "file")
    until_done(tenant, "blob")
    assert stored(tenant, keys, s3) == []


def test_the_end_of_a_file_is_forgotten_with_it(tenant: Tenant) -> None:
    file_id = tenant.upload(purpose="batch")
    assert waiting(tenant, "file") == [file_id]

    tenant.http.delete(f"/files/{file_id}")

    assert waiting(tenant, "file") == []


def test_a_file_that_was_called_too_early_stays(tenant: Tenant) -> None:
    file_id = tenant.upload(purpose="batch")

    make_due(tenant, "file", file_id)

    until_done(tenant, "file")
    assert tenant.content(file_id).content == b"hello"


def begin(tenant: Tenant) -> str:
    request = {"filename": "a", "bytes": 5, "mime_type": "text/plain", "purpose": "assistants"}
    return tenant.http.post("/uploads", json=request).json()["id"]


def add(tenant: Tenant, upload_id: str) -> str:
    return tenant.http.post(f"/uploads/{upload_id}/parts", files={"data": ("x", b"12345")}).json()["id"]


def part_keys(tenant: Tenant, upload_id: str) -> list[str]:
    return [blob.key for blob in tenant.read(lambda tx: tx.uploads.parts(upload_id)).values()]


def let_pass(tenant: Tenant, upload_id: str, seconds: int) -> None:
    """The upload, as if it were older by ``seconds``; its due work is done."""
    upload = tenant.read(lambda tx: tx.uploads.get(upload_id)).upload
    tenant.write(lambda tx: tx.uploads.replace(replace(upload, expires_at=upload.expires_at - seconds)))
    make_due(tenant, "upload", upload_id)


def test_an_upload_expires_and_its_parts_go(tenant: Tenant, s3: S3) -> None:
    upload_id = begin(tenant)
    add(tenant, upload_id)
    keys = part_keys(tenant, upload_id)
    assert stored(tenant, keys, s3) == keys

    let_pass(tenant, upload_id, 3601)

    deadline = time.monotonic() + PATIENCE_S
    while tenant.read(lambda tx: tx.uploads.get(upload_id)).upload.status == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    until_done(tenant, "blob")
    assert stored(tenant, keys, s3) == []
    assert "has status 'expired'" in refused(tenant.http.post(f"/uploads/{upload_id}/cancel"), 400)["message"]


def test_an_upload_is_forgotten_a_day_after_its_end(tenant: Tenant) -> None:
    upload_id = begin(tenant)

    let_pass(tenant, upload_id, 3600 + 24 * 3600 + 1)

    until_done(tenant, "upload")
    refused(tenant.http.post(f"/uploads/{upload_id}/cancel"), 404)


def test_parts_left_out_of_the_file_and_parts_of_a_cancelled_upload_go(tenant: Tenant, s3: S3) -> None:
    completed, cancelled = begin(tenant), begin(tenant)
    chosen, _ = add(tenant, completed), add(tenant, cancelled)
    tenant.write(lambda tx: tx.uploads.insert_part(completed, "part_other", Blob("0" * 32, 0)))
    of_cancelled, of_completed = part_keys(tenant, cancelled), part_keys(tenant, completed)

    tenant.http.post(f"/uploads/{completed}/complete", json={"part_ids": [chosen]}).raise_for_status()
    tenant.http.post(f"/uploads/{cancelled}/cancel").raise_for_status()

    until_done(tenant, "blob")
    assert stored(tenant, of_cancelled, s3) == []
    assert len(stored(tenant, of_completed, s3)) == 1


def test_a_blob_whose_row_never_came_goes_when_it_is_due(tenant: Tenant, s3: S3) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"orphan"

    blob = tenant.server.call(lambda: tenant.server.parts.contents.write(tenant.project, pieces()))
    assert stored(tenant, [blob.key], s3) == [blob.key]
    assert waiting(tenant, "blob") == [blob.key]

    make_due(tenant, "blob", blob.key)

    until_done(tenant, "blob")
    assert stored(tenant, [blob.key], s3) == []


def test_a_file_that_was_answered_is_no_orphan(tenant: Tenant) -> None:
    tenant.upload()
    add(tenant, begin(tenant))

    assert waiting(tenant, "blob") == []


def test_a_row_never_comes_to_name_a_blob_that_was_swept(tenant: Tenant) -> None:
    with pytest.raises(Unavailable):
        tenant.server.call(
            lambda: tenant.server.parts.contents.commit(tenant.project, Blob("0" * 32, 1), lambda tx: None)
        )
