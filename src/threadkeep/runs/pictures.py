"""Uploaded images on their way to the model: found in the transaction that reads the thread, read afterwards.

A model server gets them as data URLs; it cannot reach our files. What kind of image it is, its bytes say, not its name.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from threadkeep.contract.errors import UpstreamFailed
from threadkeep.contract.files import File
from threadkeep.contract.messages import ImageFileContent, Message
from threadkeep.files.contents import Contents
from threadkeep.storage.blobs import Blob, BlobMissing
from threadkeep.storage.store import Transaction
from threadkeep.upstream import chat

MAX_PICTURE_BYTES: Final = 20 * 1024**2
# All pictures of one prompt: they are in memory while the model server takes them in.
MAX_PROMPT_BYTES: Final = 40 * 1024**2


class Picture(NamedTuple):
    """An uploaded image that a message shows."""

    file: File
    blobs: Sequence[Blob]
    message_id: str


# The pictures of one message, by the place of their part.
Pictures = Mapping[int, Picture]


def shown_in(tx: Transaction, message: Message) -> Pictures:
    """The pictures of ``message`` that the model is shown; `UpstreamFailed` if one is not there any more."""
    return {
        place: _find(tx, part.image_file.file_id, message.id)
        for place, part in enumerate(message.content)
        # Models take no images back.
        if isinstance(part, ImageFileContent) and message.role == "user"
    }


def size_of(pictures: Pictures) -> int:
    return sum(picture.file.bytes for picture in pictures.values())


async def filled_in(
    messages: Sequence[chat.ChatMessage], pictures: Mapping[int, Pictures], contents: Contents
) -> list[chat.ChatMessage]:
    """``messages`` with the ``pictures``, by the place of their message, where their parts stand empty."""
    filled = list(messages)
    for place, shown in pictures.items():
        message = filled[place]
        assert isinstance(message, chat.UserMessage)
        assert isinstance(message.content, list)
        parts = list(message.content)
        for index, picture in shown.items():
            part = parts[index]
            assert isinstance(part, chat.ImagePart)
            parts[index] = chat.ImagePart(chat.ImageUrl(await _data_url(picture, contents), part.image_url.detail))
        filled[place] = chat.UserMessage(parts)
    return filled


def _find(tx: Transaction, file_id: str, message_id: str) -> Picture:
    found = tx.files.content(file_id)
    if found is None:
        raise _unusable(file_id, message_id, "which was deleted, has expired, or never was")
    file, blobs = found
    if file.bytes > MAX_PICTURE_BYTES:
        raise _unusable(file_id, message_id, f"which is larger than {MAX_PICTURE_BYTES // 1024**2} MB")
    return Picture(file, blobs, message_id)


async def _data_url(picture: Picture, contents: Contents) -> str:
    content = bytearray()
    try:
        async for piece in contents.read(picture.blobs):
            content += piece
    except BlobMissing:
        raise _unusable(picture.file.id, picture.message_id, "whose content is missing") from None
    kind = _kind_of(content)
    if kind is None:
        why = "which is no image of a kind that models take: PNG, JPEG, GIF or WebP"
        raise _unusable(picture.file.id, picture.message_id, why)
    encoded = await asyncio.to_thread(base64.b64encode, content)
    return f"data:{kind};base64,{encoded.decode('ascii')}"


def _kind_of(content: bytes | bytearray) -> str | None:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    return None


def _unusable(file_id: str, message_id: str, why: str) -> UpstreamFailed:
    return UpstreamFailed(
        "invalid_prompt",
        f"The model cannot be shown the image of message {message_id}: it is the file {file_id}, {why}.",
    )
