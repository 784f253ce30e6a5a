"""From the bytes of an answer to tidy chunks: the hot path of a streamed run."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream import failures
from threadkeep.upstream.chat import ChatChunk, decode_chunk, read_chunk
from threadkeep.upstream.failures import Place
from threadkeep.upstream.sse import EventParser
from threadkeep.upstream.tidy import Tidier


class AnswerReader:
    """Reads one answer: ``take`` every read, then ``end`` once; or ``take_whole`` for one that is not streamed.

    Whatever the upstream's habits, the chunks of an answer that ends without ``UpstreamFailed`` carry exactly one
    finish reason. An answer that stops short raises.
    """

    def __init__(self, place: Place, *, thinks_aloud: bool = True, taken_ids: Collection[str] = ()) -> None:
        self._place = place
        self._parser = EventParser()
        self._tidier = Tidier(thinks_aloud=thinks_aloud, taken_ids=taken_ids)
        # `[DONE]` was read; nothing after it counts.
        self.is_done = False
        # What ended the answer, to be raised after the chunks that came before it were handed on: else it would hang
        # on the network's mood how much of a broken answer is seen.
        self.failure: UpstreamFailed | None = None

    @property
    def is_finished(self) -> bool:
        """Its finish reason was read: but for the usage it is whole."""
        return self._tidier.is_finished

    def take(self, read: bytes) -> list[ChatChunk]:
        """The chunks that this read completes; afterwards ``failure`` may be set. Raises ``EventTooLarge``."""
        chunks: list[ChatChunk] = []
        tidy = self._tidier.tidy
        try:
            for payload in self._parser.feed(read):
                try:
                    chunk = decode_chunk(payload)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    if payload.strip() == b"[DONE]":
                        self.is_done = True
                        break
                    chunks += map(tidy, self._read_loosely(payload))
                    continue
                if not chunk.choices and chunk.usage is None:
                    chunk = self._read_again(payload)
                    if chunk is None:
                        continue
                chunks.append(tidy(chunk))
        except UpstreamFailed as failure:
            self.failure = failure
        return chunks

    def end(self) -> list[ChatChunk]:
        """The bytes have ended: the last chunks, or the failure that they ended too early."""
        chunks: list[ChatChunk] = []
        if not self.is_done:
            for payload in self._parser.end():
                if payload.strip() == b"[DONE]":
                    self.is_done = True
                elif _is_json(payload):
                    chunks += map(self._tidier.tidy, self._read_loosely(payload))
        if not self._tidier.has_begun:
            raise failures.broken(self._place, "sent an empty answer")
        if not self._tidier.is_finished and not self.is_done:
            raise failures.cut(self._place)
        return chunks + self._tidier.end()

    def take_whole(self, body: bytes) -> list[ChatChunk]:
        """A ``chat.completion`` object: the answer of a server that does not stream."""
        self.is_done = True
        return [self._tidier.tidy(chunk) for chunk in self._read_loosely(body)] + self.end()

    def _read_again(self, payload: bytes) -> ChatChunk | None:
        """A chunk that says nothing: an error in a form of its own, or nothing (Azure's filter results)."""
        found = self._read_loosely(payload)
        return found[0] if found and (found[0].choices or found[0].usage) else None

    def _read_loosely(self, payload: bytes) -> list[ChatChunk]:
        if not payload.strip():
            return []
        try:
            chunk = read_chunk(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            lines = payload.split(b"\n")
            if len(lines) > 1:  # a server that ends its events with one line end
                return [chunk for line in lines for chunk in self._read_loosely(line)]
            if payload.strip() == b"[DONE]":
                self.is_done = True
                return []
            raise failures.broken(
                self._place, f"sent something that is not JSON: {payload[:80].decode(errors='replace')}"
            ) from None
        error = bytes(chunk.error)
        if error and error != b"null":
            raise failures.failed_in_stream(self._place, error)
        return [chunk]


def _is_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True
