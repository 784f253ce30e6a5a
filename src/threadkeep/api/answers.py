"""What endpoints return, and the one place that encodes it."""

from typing import Final, NamedTuple

import msgspec
from starlette.types import Send

from threadkeep.contract.wire import Object

Headers = tuple[tuple[bytes, bytes], ...]

_encoder: Final = msgspec.json.Encoder()


class Answer(NamedTuple):
    """A contract object that needs a status or headers of its own; else an endpoint returns the bare object."""

    object: Object
    status: int = 200
    headers: Headers = ()


async def send_object(send: Send, answered: Object, status: int = 200, headers: Headers = ()) -> None:
    """The whole answer, with its length."""
    body = _encoder.encode(answered)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
