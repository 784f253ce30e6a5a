"""Requests that go through to an upstream as they are, and its answers that come back as they are.

Only the model's name is looked at, and changed where the upstream has another. The client's key never gets here, and
ours never gets out: the headers that pass are a list, each way, and an error's text is searched for it. An answer that
is no error is not looked into: it goes on byte for byte, read by read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import aiohttp
import msgspec

from threadkeep.upstream import failures
from threadkeep.upstream.client import ChatCompletionsUpstream, Silence, error_body, why
from threadkeep.upstream.failures import Place

Operation = Literal["chat/completions", "completions", "embeddings", "moderations"]

Headers = tuple[tuple[bytes, bytes], ...]

# Of a request, in lower case. Everything else concerns the client and this server, its key first of all.
PASSED_ON: Final = ("idempotency-key", "openai-beta", "traceparent", "tracestate", "x-client-request-id")
# Of an answer, in lower case. Among the others are cookies and what belongs to one connection only.
_PASSED_BACK: Final = frozenset(
    {b"content-type", b"retry-after", b"retry-after-ms", b"x-should-retry", b"openai-model", b"openai-organization"}
)
_PASSED_BACK_FAMILY: Final = b"x-ratelimit-"

# Statuses that speak of this server's key, which is no affair of the client's.
_OUR_CREDENTIALS: Final = frozenset({401, 407})


class Relayed(Protocol):
    """An answer under way."""

    status: int
    headers: Headers

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises ``UpstreamFailed`` when the answer breaks off."""
        ...

    async def close(self) -> None:
        """Ends the request; at once where the answer has not come to its end. Whoever has a ``Relayed`` calls it."""
        ...


async def relay(
    upstream: ChatCompletionsUpstream,
    operation: Operation,
    model: str,
    body: bytes,
    *,
    named: str | None,
    headers: Mapping[str, str],
) -> Relayed:
    """Sends ``body``, in which ``named`` is the model, for ``model`` to answer; returns when the answer's first bytes
    are there. Raises ``UpstreamFailed`` when there are none, and when they are no business of the client's.

    Sent once: whether to try again is for the client to say. It is the one that knows what it has asked for.
    """
    there = upstream.config.name_there(model)
    place = upstream.place(there)
    if named != there:
        body = _renamed(body, there)
    url = upstream.address(operation, there)
    config = upstream.config
    try:
        async with asyncio.timeout(config.first_byte_timeout_s):
            try:
                response = await upstream.post(url, body, headers)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionResetError):
                # A kept connection that the server had closed meanwhile: nobody has seen the request.
                response = await upstream.post(url, body, headers)
            try:
                if response.status >= 300:
                    return await _error(response, operation, place)
                first = await response.content.readany()
            except BaseException:
                response.close()
                raise
    except aiohttp.ConnectionTimeoutError:
        raise failures.unreachable(place, f"no connection within {config.connect_timeout_s:g} seconds") from None
    except TimeoutError:
        raise failures.silent(place, "sent no answer", config.first_byte_timeout_s) from None
    except (aiohttp.ClientError, OSError) as error:
        raise failures.unreachable(place, why(error)) from error
    return _Answer(response, first, place, config.idle_timeout_s)


class _Answer:
    """See ``Relayed``."""

    def __init__(self, response: aiohttp.ClientResponse, first: bytes, place: Place, idle_timeout_s: float) -> None:
        self.status = response.status
        self.headers = _passed_back(response)
        self._response = response
        self._readany = response.content.readany
        self._first: bytes | None = first
        self._is_at_end = not first
        self._place = place
        self._idle_timeout_s = idle_timeout_s
        self._silence = Silence(response, idle_timeout_s)

    async def read(self) -> bytes:
        if self._first is not None:
            read, self._first = self._first, None
            return read
        silence = self._silence
        try:
            silence.begin()
            read = await self._readany()
            silence.end()
        except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and str(error) != "Connection closed.":
                raise  # that text is aiohttp's, for a read after the connection has gone
            if silence.has_expired:
                raise failures.silent(self._place, "sent nothing more of its answer", self._idle_timeout_s) from error
            raise failures.broken(self._place, "closed the connection before its answer was complete") from error
        self._is_at_end = not read
        return read

    async def close(self) -> None:
        self._silence.stop()
        if self._is_at_end:
            self._response.release()
        else:
            self._response.close()


class Whole:
    """An answer of which everything is there; see ``Relayed``."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = (*headers, (b"content-length", b"%d" % len(body)))
        self._body = body

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def close(self) -> None:
        pass


def _passed_back(response: aiohttp.ClientResponse) -> Headers:
    headers = [
        (name.lower(), value)
        for name, value in response.raw_headers
        if name.lower() in _PASSED_BACK or name.lower().startswith(_PASSED_BACK_FAMILY)
    ]
    # Of a compressed answer, which was not asked for and has been unpacked, it is the length of something else.
    if response.content_length is not None and "content-encoding" not in response.headers:
        headers.append((b"content-length", b"%d" % response.content_length))
    return tuple(headers)


async def _error(response: aiohttp.ClientResponse, operation: Operation, place: Place) -> Relayed:
    """A refusal: in the envelope, whatever form the upstream has for it, and without our secrets."""
    body = await error_body(response)
    response.release()
    status = response.status
    if status < 400 or status in _OUR_CREDENTIALS:
        raise failures.refused(place, status, body, None)
    if not _is_in_envelope(body):
        said = failures.read_error(body).message or f"The upstream '{place.upstream}' answered {status}."
        if status in (404, 405) and operation != "chat/completions":
            said = f"The upstream '{place.upstream}' does not answer /{operation} for '{place.model}': {said}"
        body = msgspec.json.encode({"error": _error_object(status, failures.quote(said, place.secrets))})
    else:
        for secret in place.secrets:
            body = body.replace(secret.encode(), b"***")
    kept = [header for header in _passed_back(response) if header[0] not in (b"content-type", b"content-length")]
    return Whole(status, (*kept, (b"content-type", b"application/json")), body)


def _is_in_envelope(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body, type=dict[str, Any]).get("error"), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _error_object(status: int, message: str) -> dict[str, str | None]:
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    return {"message": message, "type": kind, "param": None, "code": None}


def _renamed(body: bytes, model: str) -> bytes:
    """The body with another model; every other value is written as the client wrote it."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def named_model(body: bytes) -> str | None:
    """The model that the body names, None if it names none. Raises ``msgspec.MsgspecError`` or
    ``UnicodeDecodeError`` when the body is no object with text for a model."""
    return _addressed.decode(body).model


class _Addressed(msgspec.Struct):
    model: str | None = None


_addressed: Final = msgspec.json.Decoder(_Addressed)
