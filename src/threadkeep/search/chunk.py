"""Text to chunks: at most so many tokens each, each overlapping the one before; as a stream, in bounded memory.

A chunk is a slice of the file's text, and says which. It ends where a paragraph, a line, a sentence or at least a word
ends if one does near the limit. Its count of tokens is that of its text alone, measured, and never above the limit.
"""

from typing import Final, NamedTuple

import numpy
from numpy.typing import NDArray

from threadkeep.contract.tools import AUTO_CHUNK_TOKENS, AUTO_OVERLAP_TOKENS, MAX_FILE_TOKENS
from threadkeep.search.parse import ParseFailed
from threadkeep.search.tokens import Tokenizer, tokenizer

# Characters that are encoded in one go. The tokenizer's time for a single word grows a little faster than its length.
_WINDOW: Final = 64 * 1024
# A chunk may end this part of its limit early for the sake of a better place; and begin this part of the overlap late.
_EARLY: Final = 8
_LATE: Final = 4

# How good a place between two tokens is for a cut.
_NEVER: Final = -1  # inside a character
_WORD: Final = 1
_SENTENCE: Final = 2
_PARAGRAPH: Final = 3


class Chunk(NamedTuple):
    """``text`` is ``[start:end]`` of the file's text, in characters."""

    text: str
    start: int
    end: int
    tokens: int


class Chunker:
    """Cuts one file's text, given in pieces of any size. CPU only: made for a thread beside the event loop.

    Chunks of white space alone are left out. More than ``max_file_tokens`` in all is `ParseFailed`; None: no limit.
    """

    def __init__(
        self,
        max_tokens: int = AUTO_CHUNK_TOKENS,
        overlap_tokens: int = AUTO_OVERLAP_TOKENS,
        *,
        max_file_tokens: int | None = MAX_FILE_TOKENS,
        tokens: Tokenizer | None = None,
    ) -> None:
        self._max = max_tokens
        self._overlap = overlap_tokens
        self._max_file_tokens = max_file_tokens
        self._tokens = tokens or tokenizer()
        self._waiting: list[str] = []  # not yet encoded
        self._waiting_chars = 0
        self._text = ""  # encoded, from the start of the next chunk on
        self._start = 0  # where that is in the file
        self._ends = numpy.zeros(0, dtype=numpy.int64)  # by token of _text: where it ends there
        self._marks = numpy.zeros(0, dtype=numpy.int8)  # by token of _text: how good it is to cut after it
        self._done = 0  # the end of the last chunk, in the file
        # So far, in the whole file; the overlaps count once.
        self.file_tokens = 0

    def feed(self, piece: str) -> list[Chunk]:
        """The chunks that are certain now."""
        self._waiting.append(piece)
        self._waiting_chars += len(piece)
        if self._waiting_chars < _WINDOW:
            return []
        text = "".join(self._waiting)
        chunks: list[Chunk] = []
        begin = 0
        while len(text) - begin >= _WINDOW:
            end = _good_end(text, begin)
            self._encode(text[begin:end])
            begin = end
            chunks += self._cut(is_last=False)
        self._waiting, self._waiting_chars = [text[begin:]], len(text) - begin
        return chunks

    def finish(self) -> list[Chunk]:
        """The chunks that are left when there is no more text."""
        self._encode("".join(self._waiting))
        self._waiting, self._waiting_chars = [], 0
        return self._cut(is_last=True)

    def _encode(self, text: str) -> None:
        if not text:
            return
        found = self._tokens.encode(text)
        self.file_tokens += len(found)
        if self._max_file_tokens is not None and self.file_tokens > self._max_file_tokens:
            raise ParseFailed("invalid_file", f"The file has more than {self._max_file_tokens:,} tokens.")
        ends, marks = _places(text, numpy.cumsum(self._tokens.widths[found]))
        self._ends = numpy.concatenate([self._ends, ends + len(self._text)])
        self._marks = numpy.concatenate([self._marks, marks])
        self._text += text

    def _cut(self, *, is_last: bool) -> list[Chunk]:
        chunks: list[Chunk] = []
        first, begin = 0, 0  # of the next chunk: its first token, and where that begins in _text
        while True:
            left = len(self._ends) - first
            if left <= self._max and (not is_last or self._start + len(self._text) <= self._done):
                break
            count = left if left <= self._max else self._best(self._max - self._max // _EARLY, self._max, first)
            text, tokens = self._measure(begin, first + count)
            while tokens > self._max:
                # Alone it has more tokens than as a part: it begins or ends inside what is one word in the whole.
                high = max(count - (tokens - self._max), 1)
                count = self._best(high - high // _EARLY, high, first)
                text, tokens = self._measure(begin, first + count)
            start = self._start + begin
            self._done = start + len(text)
            if text and not text.isspace():
                chunks.append(Chunk(text, start, self._done, tokens))
            low = max(count - self._overlap, 1)
            if count > low:
                count = self._best(low, min(low + self._overlap // _LATE, count), first, latest=False)
            first += count
            begin = int(self._ends[first - 1])
        self._text = self._text[begin:]
        self._start += begin
        self._ends = self._ends[first:] - begin
        self._marks = self._marks[first:]
        return chunks

    def _measure(self, begin: int, until: int) -> tuple[str, int]:
        text = self._text[begin : int(self._ends[until - 1])]
        return text, self._tokens.count(text)

    def _best(self, low: int, high: int, first: int, *, latest: bool = True) -> int:
        """After how many tokens from ``first`` on, of ``low`` to ``high``, a cut is best."""
        low = max(low, 1)
        marks = self._marks[first + low - 1 : first + high]
        best = marks.max()
        if best == _NEVER:
            # No character ends here: they are a few tokens each at most.
            return self._best(low - 8, high, first) if low > 1 else self._best(low, high + 8, first, latest=False)
        found = numpy.flatnonzero(marks == best)
        return low + int(found[-1] if latest else found[0])


def _good_end(text: str, begin: int) -> int:
    """Where to stop encoding: before a space if there is one, so that both sides are encoded as the whole would be."""
    end = begin + _WINDOW
    space = text.rfind(" ", begin + _WINDOW // 2, end)
    return space if space > 0 else end


def _kinds(characters: str) -> NDArray[numpy.bool_]:
    kinds = numpy.zeros(0x10000, dtype=numpy.bool_)
    kinds[[ord(character) for character in characters]] = True
    return kinds


_SPACES: Final = _kinds(" \t\n\r\f\v\x85\xa0\u2028\u2029\u3000")
# With a space after them, and without.
_STOPS: Final = _kinds(".!?:;\u2026\u061f\u061b\u06d4\u0964")
_FULL_STOPS: Final = _kinds("\u3002\uff01\uff1f\uff1b")
_COMMAS: Final = _kinds("\u3001\uff0c\uff1a")
_LINE: Final = ord("\n")


def _places(text: str, byte_ends: NDArray[numpy.int64]) -> tuple[NDArray[numpy.int64], NDArray[numpy.int8]]:
    """By token: the character it ends at, and how good it is to cut there."""
    # The character before and the one after; a space stands for what is not known yet.
    points = numpy.frombuffer((" " + text + " ").encode("utf-32-le", "replace"), dtype=numpy.uint32)
    if text.isascii():
        ends = byte_ends
        is_inside = None
    else:
        encoded = numpy.frombuffer(text.encode("utf-8", "replace") + b" ", dtype=numpy.uint8)
        begins = (encoded & 0xC0) != 0x80
        ends = numpy.cumsum(begins)[byte_ends] - 1
        is_inside = ~begins[byte_ends]
    points = numpy.minimum(points, 0xFFFF)
    before, after, two_before = points[ends], points[ends + 1], points[numpy.maximum(ends - 1, 0)]
    is_space_after = _SPACES[after]
    is_line = before == _LINE
    marks = numpy.zeros(len(ends), dtype=numpy.int8)
    marks[is_space_after | _COMMAS[before] | is_line] = _WORD
    marks[(is_space_after & _STOPS[before]) | _FULL_STOPS[before]] = _SENTENCE
    marks[is_line & ~is_space_after] = _SENTENCE
    marks[is_line & ~is_space_after & (two_before == _LINE)] = _PARAGRAPH
    if is_inside is not None:
        marks[is_inside] = _NEVER
    return ends, marks
