"""Forms as nobody should send them: the answer is a refusal in the envelope, never a failure, and nothing is kept."""

import asyncio
import socket
import time

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Scope

from tests.files.conftest import Tenant
from tests.files.due import until_done, waiting
from tests.support.refusals import refused
from threadkeep import api

PURPOSE = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n'
END = b"--b--\r\n"


def send(tenant: Tenant, body: bytes, boundary: str = "b") -> httpx2.Response:
    return tenant.http.post(
        "/files", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )


def part(headers: bytes, content: bytes = b"x") -> bytes:
    return b"--b\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "body",
    [
        PURPOSE + FILE + END,
        FILE + PURPOSE + END,
        FILE + PURPOSE + END + b"what follows means nothing" * 1000,
        FILE.replace(b"content-disposition", b"Content-Type: text/plain\r\nCONTENT-DISPOSITION") + PURPOSE + END,
        FILE.replace(b'"file"', b"file") + PURPOSE + END,
        FILE.replace(b'filename="a.txt"', b"filename*=UTF-8''a.txt") + PURPOSE + END,
        FILE.replace(b'filename="a.txt"', b"filename=\"_\"; filename*=utf-8'en'%61.txt") + PURPOSE + END,
    ],
)
def test_fields_may_come_in_any_order_and_spelling(tenant: Tenant, body: bytes) -> None:
    answer = send(tenant, body)

    assert answer.status_code == 200, answer.text
    assert (answer.json()["filename"], answer.json()["bytes"]) == ("a.txt", 5)


def test_a_boundary_may_stand_in_quotes(tenant: Tenant) -> None:
    assert send(tenant, PURPOSE + FILE + END, '"b"').status_code == 200


def test_a_form_that_arrives_byte_by_byte_is_the_same_form(tenant: Tenant) -> None:
    body = FILE + PURPOSE + END
    answer = tenant.http.post(
        "/files",
        content=(body[at : at + 1] for at in range(len(body))),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )

    assert tenant.content(answer.json()["id"]).content == b"hello"


def test_a_boundary_like_beginning_in_the_file_is_content(tenant: Tenant) -> None:
    content = b"\r\n--a\r\n--\r\n--bb\r\n-b\r\n" * 3
    body = FILE.replace(b"hello", content).replace(b"--b\r\ncontent", b"--boundary\r\ncontent")

    answer = send(tenant, body + PURPOSE.replace(b"--b", b"--boundary") + b"--boundary--\r\n", "boundary")

    assert tenant.content(answer.json()["id"]).content == content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        END,
        FILE + PURPOSE,
        FILE[:-9],
        FILE + FILE + PURPOSE + END,
        PURPOSE + PURPOSE + FILE + END,
        part(b"content-disposition: form-data; name=purpose", b"\xff") + FILE + END,
        part(b"content-disposition: form-data; name=purpose", b"v" * 20_000) + FILE + END,
        part(b"content-disposition: form-data; name=purpose", b"a\0b") + FILE + END,
        part(b"content-disposition: form-data") + END,
        part(b"content-disposition: attachment; name=file; filename=x") + END,
        part(b"x: y") + END,
        part(b"x: " + b"y" * 20_000) + END,
        part(b"\r\n".join(b"x-%d: y" % number for number in range(100))) + END,
        part(b'content-disposition: form-data; name="file"; filename=""') + PURPOSE + END,
        part(b'content-disposition: form-data; name="file"; filename="a\0b"') + PURPOSE + END,
        part(b"content-disposition: form-data; name=file; filename*=utf-8''a%00b") + PURPOSE + END,
        part(b'content-disposition: form-data; name="file"; filename="\xff"') + PURPOSE + END,
        part(b'content-disposition: form-data; name="file"') + PURPOSE + END,
        b"".join(part(b"content-disposition: form-data; name=f%d" % number) for number in range(40)) + END,
        FILE + part(b"content-disposition: form-data; name=purpose[a]") + END,
        FILE + PURPOSE + part(b"content-disposition: form-data; name=expires_after", b"3600") + END,
    ],
)
def test_a_hostile_form_is_refused(tenant: Tenant, body: bytes) -> None:
    refused(send(tenant, body), 400)

    assert tenant.http.get("/files").json()["data"] == []


@pytest.mark.parametrize("boundary", ["", "x" * 200, '"'])
def test_a_boundary_that_is_none_is_refused(tenant: Tenant, boundary: str) -> None:
    refused(send(tenant, PURPOSE + FILE + END, boundary), 400)


_WORDS = b"content-disposition form-data name filename filename* purpose file vision utf-8''% --b --b-- -- b".split()
_MARKS = [b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b";", b'"', b"=", b": ", b"\xff"]
_TOKENS = st.sampled_from([*_WORDS, *_MARKS, PURPOSE, FILE, END])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.one_of(_TOKENS, st.binary(max_size=20)), max_size=30).map(b"".join))
def test_no_form_whatsoever_makes_the_server_fail(tenant: Tenant, body: bytes) -> None:
    answer = send(tenant, body)

    assert answer.status_code in (200, 400, 413), answer.text


def test_what_was_stored_of_a_refused_form_is_soon_deleted(tenant: Tenant) -> None:
    refused(send(tenant, FILE + PURPOSE.replace(b"vision", b"nonsense") + END), 400)

    until_done(tenant, "blob")


@pytest.mark.parametrize(
    "limits", [api.Limits(body_s=0.05), api.Limits(body_s=0.2, least_bytes_per_s=10**9)], ids=["silent", "slow"]
)
def test_a_client_that_sends_too_slowly_is_not_waited_for(tenant: Tenant, limits: api.Limits) -> None:
    parts = tenant.server.parts

    async def anybody(_key: str | None, _host: str | None) -> str:
        return tenant.project

    context = api.Context(
        store=parts.store,
        runs=parts.runs,
        contents=parts.contents,
        uploads=parts.uploads,
        ingestion=parts.ingestion,
        search=parts.search,
        upstreams=parts.upstreams,
        authenticate=anybody,
        version="x",
        limits=limits,
    )
    sent: list[Message] = []
    pieces = iter([PURPOSE, FILE[:-20]])

    async def receive() -> Message:
        if limits.body_s < 0.1:
            return await asyncio.get_running_loop().create_future()
        # Each piece comes before its time is over, and all of them too slowly.
        await asyncio.sleep(0.15)
        return {"type": "http.request", "body": next(pieces, b"x"), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
    }
    tenant.server.call(lambda: api.build(context)(scope, receive, send))

    assert sent[0]["status"] == 408


def test_a_client_that_goes_away_leaves_no_file(tenant: Tenant) -> None:
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        f"authorization: Bearer {tenant.key}\r\ncontent-length: 100000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", tenant.server.port)) as connection:
        connection.sendall(head.encode() + PURPOSE + FILE)
        deadline = time.monotonic() + 60
        while not waiting(tenant, "blob"):
            assert time.monotonic() < deadline, "no blob was begun"
            time.sleep(0.02)

    until_done(tenant, "blob")
    assert tenant.http.get("/files").json()["data"] == []
