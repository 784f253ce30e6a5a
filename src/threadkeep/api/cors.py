"""Web pages of other origins (CORS): which may read what this server answers. None, unless a setting names them.

Keys travel in a header that pages must set themselves, never in a cookie: so no answer allows credentials, and a page
that holds no key learns nothing that it could not ask for by itself.
"""

import re
from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threadkeep.api.resource import headers_of

Headers = tuple[tuple[bytes, bytes], ...]

ANY: Final = "*"
# For how long a browser need not ask again.
_MAX_AGE_S: Final = 600
_METHODS: Final = b"DELETE, GET, HEAD, OPTIONS, POST"
# What clients read of an answer; everything else is hidden from a page.
_EXPOSED: Final = b", ".join(
    (
        b"content-disposition",
        b"content-range",
        b"openai-organization",
        b"openai-poll-after-ms",
        b"openai-processing-ms",
        b"openai-version",
        b"retry-after",
        b"retry-after-ms",
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-requests",
        b"x-ratelimit-reset-tokens",
        b"x-request-id",
        b"x-should-retry",
    )
)
_NAMES: Final = re.compile(rb"[A-Za-z0-9-]+(?:\s*,\s*[A-Za-z0-9-]+)*")
_MAX_NAMES: Final = 4096


class Cors:
    """Wraps the whole application, its errors included: a page must be able to read those too. ``origins`` are as
    browsers spell them, ``https://app.example``, or `ANY`."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._any = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        admitting = self._admitting(headers.get(b"origin"))
        is_asking = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if is_asking and any(name == b"access-control-allow-origin" for name, _ in admitting):
            # Whatever the path: the request itself is to say what is wrong with it.
            answer = (*admitting, *_permission(headers.get(b"access-control-request-headers", b"")))
            await send({"type": "http.response.start", "status": 204, "headers": answer})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *admitting]
            await send(message)

        await self._app(scope, receive, send_on)

    def _admitting(self, origin: bytes | None) -> Headers:
        """What every answer to a page of ``origin`` carries."""
        if self._any:
            return ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED))
        # Also for those not admitted: a cache must not give one's answer to the other.
        varies = (b"vary", b"origin")
        if origin is None or origin not in self._origins:
            return (varies,)
        return (varies, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED))


def _permission(names: bytes) -> Headers:
    """What a browser is told that asks before it lets a page send its request, with the headers ``names``."""
    is_plain = len(names) <= _MAX_NAMES and _NAMES.fullmatch(names) is not None
    return (
        (b"access-control-allow-methods", _METHODS),
        # Any that a client may think of: none of them has a meaning here that a page could abuse.
        (b"access-control-allow-headers", names if is_plain else b"authorization, content-type, openai-beta"),
        (b"access-control-max-age", b"%d" % _MAX_AGE_S),
    )
