"""downloadFile: what a client sees of a file, and what a browser does not do with it."""

import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from tests.files.conftest import Tenant
from tests.support.refusals import invalid, refused
from tests.support.server import serving
from threadkeep.files.files import delete_file
from threadkeep.settings import Settings
from threadkeep.storage.blobs import Blob, new_key

CONTENT = bytes(range(256)) * 10_000
SIZE = len(CONTENT)


@pytest.fixture
def file_id(tenant: Tenant) -> str:
    return tenant.upload(CONTENT)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1048570-1048580", 1048570, 1048581),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=5-", 5, SIZE),
        ("bytes=-3", SIZE - 3, SIZE),
        (f"bytes=-{SIZE + 5}", 0, SIZE),
        (f"bytes=7-{SIZE + 100}", 7, SIZE),
    ],
)
def test_a_range_is_answered_as_one(tenant: Tenant, file_id: str, asked: str, start: int, end: int) -> None:
    answer = tenant.content(file_id, range=asked)

    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.content == CONTENT[start:end]


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b"])
def test_what_is_no_single_range_is_answered_whole(tenant: Tenant, file_id: str, asked: str) -> None:
    answer = tenant.content(file_id, range=asked)

    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=99999999999-", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(tenant: Tenant, file_id: str, asked: str) -> None:
    answer = tenant.content(file_id, range=asked)

    refused(answer, 416)
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


def test_if_range_holds_for_this_very_file_only(tenant: Tenant, file_id: str) -> None:
    etag = tenant.content(file_id).headers["etag"]

    def status(if_range: str) -> int:
        return tenant.content(file_id, range="bytes=0-1", **{"if-range": if_range}).status_code

    assert status(etag) == 206
    assert status('"another"') == 200


def test_head_tells_the_length_and_sends_nothing(tenant: Tenant, file_id: str) -> None:
    answer = tenant.http.head(f"/files/{file_id}/content")

    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(SIZE), b"")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html"),
        ("a.SVG", "image/svg+xml"),
        ("a.pdf", "application/pdf"),
        ("a.webp", "image/webp"),
        ("a.tar.gz", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
        ("noname", "application/octet-stream"),
    ],
)
def test_a_browser_opens_nothing_whatever_it_is_called(tenant: Tenant, name: str, kind: str) -> None:
    headers = tenant.content(tenant.upload(b"<script>alert(1)</script>", name)).headers

    assert headers["content-type"] == kind
    assert headers["content-disposition"].startswith("attachment;")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


def test_a_name_is_told_to_new_clients_and_old_ones(tenant: Tenant) -> None:
    headers = tenant.content(tenant.upload(name='é"\r\n.txt')).headers

    assert headers["content-disposition"] == ("attachment; filename=\"____.txt\"; filename*=UTF-8''%C3%A9%22%0D%0A.txt")


def test_a_file_that_is_deleted_while_it_is_asked_for_is_not_found(
    tenant: Tenant, file_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tenant.server.parts
    read = parts.contents.read

    async def read_too_late(
        blobs: Sequence[Blob], start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        await parts.store.write(tenant.project, lambda tx: delete_file(tx, file_id))
        # Of a blob that nobody has written there is as much as of one that was deleted.
        async for piece in read([blob._replace(key=new_key()) for blob in blobs], start, end):
            yield piece

    monkeypatch.setattr(parts.contents, "read", read_too_late)

    assert refused(tenant.content(file_id), 404)["message"] == f"No such File object: {file_id}"


def test_downloads_of_assistants_files_are_refused_where_the_operator_says_so(
    migrated_file: Path, tmp_path: Path
) -> None:
    shutil.copy(migrated_file, tmp_path / "threadkeep.db")
    with serving(Settings(data_dir=tmp_path, assistants_downloads="refuse")) as server, Tenant(server) as tenant:
        refusal = refused(tenant.content(tenant.upload(purpose="assistants")), 400)
        assert refusal == invalid("Not allowed to download files of purpose: assistants")
        assert tenant.content(tenant.upload(purpose="vision")).content == b"hello"
