"""A form with one file in it (multipart/form-data), read as it arrives: the file goes to its blob piece by piece.

Fields may come in any order, so the file may be durable before anything is known of it; whatever is wrong with the rest
of the form, it is taken away again. Text is small and counted; nothing else of the form is kept in memory.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from typing import Final, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from threadkeep.api.call import Call
from threadkeep.contract.errors import InvalidRequest, TooLarge
from threadkeep.contract.files import MAX_FILENAME_LENGTH
from threadkeep.storage.blobs import Blob

T = TypeVar("T")

# Beside the file. The contract's forms have four fields.
_MAX_PARTS: Final = 16
_MAX_TEXT_BYTES: Final = 16 * 1024
_MAX_HEADERS: Final = 16
_MAX_HEADER_BYTES: Final = 8 * 1024
# What the boundaries, the headers and the text may add to a file's length.
_AROUND_BYTES: Final = 512 * 1024

_PARAMETER: Final = re.compile(r';\s*([A-Za-z0-9*_-]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))', re.DOTALL)
_ESCAPED: Final = re.compile(r'\\([\\"])')
# How browsers and httpx write what would end a name or its line; no other percent sign of theirs means anything.
_PERCENT: Final = re.compile(r"%(?:22|0[Aa]|0[Dd])")


class Form(NamedTuple, Generic[T]):
    """A form that arrived whole. Nothing names its blob yet: hand it to `Contents.commit`."""

    # What its other fields say.
    request: T
    filename: str
    blob: Blob


class _Head(NamedTuple):
    """A part begins."""

    name: str
    # None for a part that is text; empty where a form was sent without choosing a file.
    filename: str | None


class _Data(NamedTuple):
    bytes: bytes


_Event = _Head | _Data | Literal["end"]


async def read_form(
    call: Call,
    file_field: str,
    *,
    max_bytes: int,
    before_file: Callable[[Mapping[str, str]], object],
    read: Callable[[Mapping[str, str]], T],
) -> Form[T]:
    """The form, whose file may have ``max_bytes``. ``read`` makes a request of all its other fields, or refuses them;
    ``before_file`` may do so earlier, by those that come ahead of the file."""
    contents = call.context.contents
    fields: dict[str, str] = {}
    filename: str | None = None
    blob: Blob | None = None
    parts = text_bytes = 0
    body = call.stream(max_bytes + _AROUND_BYTES, told=_too_large(file_field, max_bytes))
    try:
        async with aclosing(_events(body, _boundary(call))) as events:
            async for event in events:
                assert isinstance(event, _Head)
                parts += 1
                if parts > _MAX_PARTS:
                    raise InvalidRequest(f"The form has too many fields: at most {_MAX_PARTS} are accepted.")
                name = event.name
                if name in fields or (name == file_field and blob is not None):
                    raise InvalidRequest(f"'{name}' was given twice.", param=name, code="invalid_value")
                if name == file_field:
                    filename = _checked_filename(event.filename, file_field)
                    before_file(fields)
                    blob = await contents.write(call.project, _file(events, file_field, max_bytes))
                    continue
                text = bytearray()
                async for piece in _data(events):
                    text += piece
                    text_bytes += len(piece)
                    if text_bytes > _MAX_TEXT_BYTES:
                        raise InvalidRequest("The form's fields are too long.", param=name)
                try:
                    fields[name] = text.decode()
                except UnicodeDecodeError:
                    raise InvalidRequest(f"Invalid '{name}': it is not valid UTF-8.", param=name) from None
        if blob is None or filename is None:
            raise _missing(file_field)
        return Form(read(fields), filename, blob)
    except Exception:
        if blob is not None:
            await contents.discard(blob.key)
        raise


async def _events(body: AsyncGenerator[bytes, None], boundary: bytes) -> AsyncGenerator[_Event, None]:
    """The parts of the body as they arrive: each a head, any number of data, an end."""
    waiting: list[_Event] = []
    name, value = bytearray(), bytearray()
    headers: dict[bytes, bytes] = {}
    has_ended = False

    def header_end() -> None:
        headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def headers_finished() -> None:
        waiting.append(_head(headers))
        headers.clear()

    def end() -> None:
        nonlocal has_ended
        has_ended = True

    parser = MultipartParser(
        boundary,
        {
            "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end,
            "on_headers_finished": headers_finished,
            "on_part_data": lambda data, start, stop: waiting.append(_Data(data[start:stop])),
            "on_part_end": lambda: waiting.append("end"),
            "on_end": end,
        },
        max_header_count=_MAX_HEADERS,
        max_header_size=_MAX_HEADER_BYTES,
    )
    async with aclosing(body):
        async for piece in body:
            # What follows the last boundary means nothing.
            if piece and not has_ended:
                try:
                    parser.write(piece)
                except FormParserError as error:
                    raise _malformed(str(error)) from None
            for event in waiting:
                yield event
            waiting.clear()
    if not has_ended:
        raise _malformed("it ended before its last boundary")


async def _data(events: AsyncGenerator[_Event, None]) -> AsyncGenerator[bytes, None]:
    """The bytes of the part that has begun."""
    async for event in events:
        if isinstance(event, _Data):
            yield event.bytes
        else:
            return


async def _file(events: AsyncGenerator[_Event, None], name: str, max_bytes: int) -> AsyncIterable[bytes]:
    size = 0
    async for piece in _data(events):
        size += len(piece)
        if size > max_bytes:
            raise _too_large(name, max_bytes)
        yield piece


def _boundary(call: Call) -> bytes:
    kind = call.headers.get(b"content-type", b"").decode("latin-1")
    if kind.partition(";")[0].strip().lower() == "multipart/form-data":
        for key, quoted, plain in _PARAMETER.findall(kind[:1024]):
            boundary = quoted or plain.strip()
            # RFC 2046 allows 70.
            if key.lower() == "boundary" and 0 < len(boundary) <= 128:
                return boundary.encode("latin-1")
    raise InvalidRequest("Expected a form: the request's content type must be 'multipart/form-data' with a boundary.")


def _head(headers: Mapping[bytes, bytes]) -> _Head:
    try:
        disposition = headers.get(b"content-disposition", b"").decode()
    except UnicodeDecodeError:
        raise _malformed("a part's header is not valid UTF-8") from None
    kind, semicolon, rest = disposition.partition(";")
    given: dict[str, str] = {}
    for key, quoted, plain in _PARAMETER.findall(semicolon + rest):
        given.setdefault(key.lower(), _ESCAPED.sub(r"\1", quoted) or plain.strip())
    if kind.strip().lower() != "form-data" or not given.get("name"):
        raise _malformed("a part has no name")
    name, filename = given["name"], given.get("filename")
    if (extended := given.get("filename*")) is not None:
        charset, _, encoded = extended.partition("'")
        if charset.lower() == "utf-8":
            filename = unquote(encoded.partition("'")[2])
    elif filename is not None:
        filename = _PERCENT.sub(lambda found: unquote(found[0]), filename)
    return _Head(name[:100], filename)


def _checked_filename(filename: str | None, field: str) -> str:
    if filename is None:
        raise InvalidRequest(
            f"Invalid type for '{field}': expected a file, but got a string instead.", param=field, code="invalid_type"
        )
    if not filename:
        raise _missing(field)
    if "\0" in filename:
        raise InvalidRequest(f"Invalid '{field}': the character U+0000 is not allowed.", param=field)
    if len(filename) > MAX_FILENAME_LENGTH:
        raise InvalidRequest(
            f"Invalid '{field}': filename too long. Expected a filename with maximum length {MAX_FILENAME_LENGTH}, "
            f"but got a filename with length {len(filename)} instead.",
            param=field,
            code="string_above_max_length",
        )
    return filename


def _missing(field: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{field}'.", param=field, code="missing_required_parameter")


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest(f"We could not parse the form in the body of your request: {why}.")


def _too_large(field: str, max_bytes: int) -> TooLarge:
    return TooLarge(f"The '{field}' is too large: at most {max_bytes} bytes are accepted.")
