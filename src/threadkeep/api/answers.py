"""What endpoints return, and the one place that encodes it."""

from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
from starlette.types import Send

from threadkeep.contract.wire import Object

Headers = tuple[tuple[bytes, bytes], ...]
Object_co = TypeVar("Object_co", bound=Object, covariant=True)

_encoder: Final = msgspec.json.Encoder()


class Answer(NamedTuple, Generic[Object_co]):
    """A contract object that needs a status or headers of its own; else an endpoint returns the bare object."""

    object: Object_co
    status: int = 200
    headers: Headers = ()


class Document(NamedTuple):
    """Something to read about the server; no object of the contract. What returns it is annotated with its type."""

    content_type: bytes
    text: bytes
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


async def send_document(send: Send, document: Document) -> None:
    length = (b"content-length", b"%d" % len(document.text))
    headers = [(b"content-type", document.content_type), length, *document.headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": document.text})
