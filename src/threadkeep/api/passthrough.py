"""What goes through to an upstream: chat completions, completions, embeddings and moderations.

One base URL then serves an application that mixes them with the Assistants API. The body's ``model`` chooses the
upstream; in Azure's form the path does. Nothing of these requests is kept.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.types import Receive, Send

from threadkeep.api.call import Call, ClientGone, reading
from threadkeep.contract.reading import read_json
from threadkeep.upstream.relay import PASSED_ON, Operation, Relayed, named_model
from threadkeep.upstream.upstreams import Upstreams

# Who answers a request for moderation that names no model: OpenAI's own default.
MODERATION_MODEL: Final = "omni-moderation-latest"

_PASSED_ON: Final = [(name.encode(), name) for name in PASSED_ON]
_EVENT_STREAM: Final = b"text/event-stream"
# Proxies of the nginx kind would else collect the stream before they pass it on.
_UNBUFFERED: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class _Addressed(msgspec.Struct):
    model: str


class PassThrough:
    """An answer that is the upstream's. The request goes out when this is answered, so that a client that leaves ends
    it at the upstream at any time."""

    def __init__(
        self,
        upstreams: Upstreams,
        operation: Operation,
        model: str,
        body: bytes,
        *,
        named: str | None,
        headers: Mapping[str, str],
        stall_s: float,
    ) -> None:
        self._upstreams = upstreams
        self._operation: Operation = operation
        self._model = model
        self._body = body
        self._named = named
        self._headers = headers
        # A client that takes no byte for so long is given up.
        self._stall_s = stall_s
        # None while nothing is being sent.
        self._sending_since: float | None = None

    async def answer(self, receive: Receive, send: Send, request_id: str) -> None:
        relay = asyncio.create_task(self._relay(send))
        gone = asyncio.create_task(self._gone(receive))
        try:
            await asyncio.wait((relay, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            relay.cancel()
            gone.cancel()
            await asyncio.gather(relay, gone, return_exceptions=True)
        if relay.cancelled():
            raise ClientGone
        # What it raises is answered in the envelope, or cuts the answer short where that has begun.
        relay.result()

    async def _relay(self, send: Send) -> None:
        answer = await self._upstreams.relay(
            self._operation, self._model, self._body, named=self._named, headers=self._headers
        )
        # It may be large, and the answer long.
        self._body = b""
        try:
            await self._send(answer, send)
        finally:
            await answer.close()

    async def _send(self, answer: Relayed, send: Send) -> None:
        clock, read = asyncio.get_running_loop().time, answer.read
        headers = answer.headers
        if any(name == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in headers):
            headers = (*headers, *_UNBUFFERED)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        while piece := await read():
            # Waits while the client's connection is full; the upstream then waits too.
            self._sending_since = clock()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._sending_since = None
        await send({"type": "http.response.body", "body": b""})

    async def _gone(self, receive: Receive) -> None:
        """Returns when the client has left, or takes nothing of what it is sent."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(self._stall_s):
                    while (await receive())["type"] != "http.disconnect":
                        pass
                return
            except TimeoutError:
                if self._sending_since is not None and clock() - self._sending_since >= self._stall_s:
                    return


async def create_chat_completion(call: Call) -> PassThrough:
    return await _pass(call, "chat/completions")


async def create_completion(call: Call) -> PassThrough:
    return await _pass(call, "completions")


async def create_embedding(call: Call) -> PassThrough:
    return await _pass(call, "embeddings")


async def create_moderation(call: Call) -> PassThrough:
    return await _pass(call, "moderations", default=MODERATION_MODEL)


async def _pass(call: Call, operation: Operation, *, default: str | None = None) -> PassThrough:
    body = await call.raw_body()
    # In Azure's form the deployment in the path counts, whatever the body says.
    model = call.path.get("deployment", default)
    named = await reading(body, lambda raw: _named(raw, needed=model is None))
    if "deployment" not in call.path and named is not None:
        model = named
    assert model is not None
    return PassThrough(
        call.context.upstreams,
        operation,
        model,
        body,
        # A model that nobody named is the upstream's to choose.
        named=model if named is None and "deployment" not in call.path else named,
        headers={name: call.headers[raw].decode("latin-1") for raw, name in _PASSED_ON if raw in call.headers},
        stall_s=call.context.limits.body_s,
    )


def _named(body: bytes, *, needed: bool) -> str | None:
    try:
        named = named_model(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        named = None
        needed = True
    if named is None and needed:
        # Says in the contract's words what is wrong; it may know better than the quick look.
        return read_json(_Addressed, body).model
    return named
