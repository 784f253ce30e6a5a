"""Finds the marks in an answer that name a file, while the answer streams: links to what code wrote, and citations.

    [the table](sandbox:/mnt/data/table.csv)      a link     → ``file_path``
    The sky is blue【4:0†source】.                  a citation → ``file_citation``

Pure. Models write both in many ways; whatever they write stays in the text as they wrote it, and what names nothing
known stays without an annotation. Only text that may still become a mark is held back.
"""

import re
import string
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping
from functools import cached_property
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from threadkeep.contract.messages import (
    Annotation,
    AnnotationDelta,
    FileCitation,
    FileCitationAnnotation,
    FileCitationAnnotationDelta,
    FilePath,
    FilePathAnnotation,
    FilePathAnnotationDelta,
)

SCHEME: Final = "sandbox:"
# What a link may name besides the file's own path, and what alone makes a link without the scheme.
FOLDER: Final = "/mnt/data/"
# Of a citation, with the file's name in it. Anything longer is text.
MAX_CITATION_LENGTH: Final = 320

# sandbox:mnt/data/…, sandbox:/…, sandbox://…, sandbox:///…
_MAX_SLASHES: Final = 3
_FOLDER: Final = FOLDER.lstrip("/").encode()
# They belong to a name when more of it follows, and to the sentence around it when not.
_JOINERS: Final = frozenset(".-_+~@")
_ESCAPABLE: Final = frozenset(string.punctuation + " ")
_HEX: Final = frozenset(string.hexdigits)

_SPACE: Final = "[ \t\u00a0\u202f\u3000]{0,4}"
# No leading zeros: 【4:00】 is a time of day.
_NUMBER: Final = "(?:0|[1-9][0-9]{0,5})"
_COLON: Final = "[:：]"  # noqa: RUF001
_COMMA: Final = "[,;，；、]"  # noqa: RUF001
_LABEL: Final = "[†‡|][^【】\n]*"
# Every beginning of a citation's mark up to its closing bracket.
_CITATION_BEGINS: Final = re.compile(
    f"【{_SPACE}(?:{_NUMBER}{_SPACE}(?:{_COLON}{_SPACE}(?:{_NUMBER}{_SPACE}(?:{_LABEL}|{_COMMA}[^【】\n]*)?)?)?)?"
)
_CITED: Final = re.compile(f"{_SPACE}({_NUMBER}){_SPACE}{_COLON}{_SPACE}({_NUMBER}){_SPACE}(?:{_LABEL})?")
# One pair of brackets around several: 【4:0†source, 4:1†source】.
_BETWEEN_CITED: Final = re.compile(
    f"{_COMMA}{_SPACE}(?={_NUMBER}{_SPACE}{_COLON}{_SPACE}{_NUMBER}{_SPACE}(?:[†‡|]|{_COMMA}|$))"
)


def _or_what_it_may_become(word: str) -> str:
    """The pattern of ``word``, or of its beginning where the text ends."""
    return f"(?:{word}|(?:{'|'.join(word[:length] for length in range(len(word) - 1, 0, -1))})\\Z)"


# A word that merely ends as the scheme begins is not held back.
_LINK_BEGINS: Final = (
    f"(?ai:(?<![a-z0-9_]){_or_what_it_may_become(SCHEME)})"
    # Without the scheme it is a link only where Markdown says so: [text](/mnt/data/…) and [text](</mnt/data/…>).
    f"|(?:(?<=\\]\\()|(?<=\\]\\(<)){_or_what_it_may_become(FOLDER)}"
)
# As far as these patterns look back.
_CONTEXT: Final = 3


class Piece(NamedTuple):
    """More of the text. One with a source is a mark, whole and nothing else."""

    text: str
    source: FilePath | FileCitation | None = None

    def annotation(self, start: int) -> Annotation | None:
        """``start``: where the piece begins in its text, in code points."""
        text, end = self.text, start + len(self.text)
        match self.source:
            case FilePath() as path:
                return FilePathAnnotation(text=text, start_index=start, end_index=end, file_path=path)
            case FileCitation() as citation:
                return FileCitationAnnotation(text=text, start_index=start, end_index=end, file_citation=citation)
            case None:
                return None


def told(index: int, annotation: Annotation) -> AnnotationDelta:
    """The annotation as a delta has it. ``index`` counts the annotations of the part."""
    if isinstance(annotation, FilePathAnnotation):
        return FilePathAnnotationDelta(
            index=index,
            text=annotation.text,
            start_index=annotation.start_index,
            end_index=annotation.end_index,
            file_path=annotation.file_path,
        )
    return FileCitationAnnotationDelta(
        index=index,
        text=annotation.text,
        start_index=annotation.start_index,
        end_index=annotation.end_index,
        file_citation=annotation.file_citation,
    )


class _Mark(NamedTuple):
    pieces: list[Piece]
    end: int


class _HeldBack:
    """The text ends where it may yet become a mark."""


_HELD_BACK: Final = _HeldBack()


class Annotator:
    """Takes a text as it arrives and gives it back in pieces, marks apart from what stands between them.

    What ``feed`` and ``finish`` return adds up to what was fed, in its order. ``links``: file ids by path below
    ``FOLDER``. ``citations``: file id and quote by the two numbers of a mark.
    """

    def __init__(self, links: Mapping[str, str], citations: Mapping[tuple[int, int], tuple[str, str]]) -> None:
        self._links = links
        self._citations = citations
        self._begins = _BEGINS[bool(links), bool(citations)]
        # The last characters that were given back, for the patterns that look back, and everything after them.
        self._text = ""
        self._given = 0
        # The link that was being read when the text ended. It begins where the text begins that is held back.
        self._link: _LinkReading | None = None

    def feed(self, text: str) -> list[Piece]:
        """What can be told by now."""
        self._text += text
        return self._read(is_all=False)

    def finish(self) -> list[Piece]:
        """What was held back. The text is over; what is fed from now on is another one."""
        pieces = self._read(is_all=True)
        self._text, self._given = "", 0
        return pieces

    def _read(self, *, is_all: bool) -> list[Piece]:
        text, pieces = self._text, list[Piece]()
        told = position = self._given
        held_from = len(text)
        while (begins := self._begins.search(text, position)) is not None:
            start = begins.start()
            reads = self._citation if text[start] == "【" else self._linked
            found = reads(text, start, is_all=is_all)
            if isinstance(found, _HeldBack):
                held_from = start
                break
            self._link = None
            if found is None:
                position = start + 1
                continue
            if told < start:
                pieces.append(Piece(text[told:start]))
            pieces += found.pieces
            told = position = found.end
        if told < held_from:
            pieces.append(Piece(text[told:held_from]))
        context = max(0, held_from - _CONTEXT)
        self._text, self._given = text[context:], held_from - context
        return pieces

    def _citation(self, text: str, start: int, *, is_all: bool) -> _Mark | _HeldBack | None:
        begins = _CITATION_BEGINS.match(text, start, start + MAX_CITATION_LENGTH - 1)
        end = begins.end() if begins is not None else start
        if end == len(text) and not is_all:
            return _HELD_BACK
        if text[end : end + 1] != "】":
            return None
        pieces: list[Piece] = []
        # The first piece has the opening bracket and the last the closing one: every piece stands for one source.
        begin, cited_from = start, start + 1
        while cited_from <= end:
            between = _BETWEEN_CITED.search(text, cited_from, end)
            cited_to = between.start() if between is not None else end
            cited = _CITED.fullmatch(text, cited_from, cited_to)
            if cited is None:
                return None
            piece_end = between.end() if between is not None else end + 1
            known = self._citations.get((int(cited[1]), int(cited[2])))
            source = None if known is None else FileCitation(file_id=known[0], quote=known[1])
            pieces.append(Piece(text[begin:piece_end], source))
            begin = cited_from = piece_end
        return _Mark(pieces, end + 1)

    @cached_property
    def _paths(self) -> dict[bytes, str]:
        paths = {_bytes(path): file_id for path, file_id in self._links.items()}
        # A link is decoded before it is looked up: a name that only looks encoded must be found under what it becomes.
        for path, file_id in self._links.items():
            paths.setdefault(unquote_to_bytes(_bytes(path)), file_id)
        paths.pop(b"", None)
        return paths

    @cached_property
    def _sorted_paths(self) -> list[bytes]:
        return sorted(self._paths)

    def _linked(self, text: str, start: int, *, is_all: bool) -> _Mark | _HeldBack | None:
        if (link := self._link) is None:
            lead = 0 if text[start] == "/" else len(SCHEME)
            if len(text) < start + (lead or len(FOLDER)):
                return None if is_all else _HELD_BACK
            link = self._link = _LinkReading(lead)
        while not link.is_over:
            step = _character(text, start + link.length, is_all=is_all)
            if step is None:
                if is_all:
                    break
                return _HELD_BACK
            decoded, length = step
            file_id, may_go_on = self._look_up(link.path + decoded)
            if not may_go_on:
                link.is_over = True
                break
            link.path += decoded
            link.length += length
            if file_id is not None:
                link.found.append((link.length, file_id))
        for length, file_id in reversed(link.found):
            ends = _ends(text, start + length, is_all=is_all)
            if ends is None:
                return _HELD_BACK
            if ends:
                end = start + length
                return _Mark([Piece(text[start:end], FilePath(file_id=file_id))], end)
        return None

    def _look_up(self, written: bytes) -> tuple[str | None, bool]:
        """The file that a link names so far, and whether the link, so far, is the beginning of one that is known."""
        path = written.lstrip(b"/")
        if len(written) - len(path) > _MAX_SLASHES:
            return None, False
        below = path.removeprefix(_FOLDER)
        file_id = self._paths.get(below) or self._paths.get(path)
        return file_id, self._begins_a_path(below) or self._begins_a_path(path) or _FOLDER.startswith(path)

    def _begins_a_path(self, written: bytes) -> bool:
        at = bisect_left(self._sorted_paths, written)
        return at < len(self._sorted_paths) and self._sorted_paths[at].startswith(written)


class _LinkReading:
    """How far a possible link was read, so that nothing is read twice however finely the text is cut."""

    def __init__(self, lead: int) -> None:
        # In characters of the text, the scheme included.
        self.length = lead
        # What was read after the scheme, decoded.
        self.path = b""
        # Where a known path was complete, shortest first.
        self.found: list[tuple[int, str]] = []
        self.is_over = False


def _character(text: str, at: int, *, is_all: bool) -> tuple[bytes, int] | None:
    """The next character of a link, decoded, and its length in the text; None where the text ends in it."""
    if at >= len(text):
        return None
    first = text[at]
    if first == "%":
        digits = text[at + 1 : at + 3]
        if _HEX.issuperset(digits):
            if len(digits) == 2:
                return bytes((int(digits, 16),)), 3
            if not is_all:
                return None
    elif first == "\\":
        # As Markdown escapes what would mean something to it, and shells a space.
        escaped = text[at + 1 : at + 2]
        if not escaped and not is_all:
            return None
        if escaped in _ESCAPABLE:
            return escaped.encode(), 2
    return _bytes(first), 1


def _ends(text: str, end: int, *, is_all: bool) -> bool | None:
    """Whether a name that was read up to ``end`` goes on no further; None: the text ends too early to say."""
    after = text[end : end + 2]
    if not after:
        return True if is_all else None
    if after[0] in "/%":
        return False
    if after[0] not in _JOINERS:
        return not _continues(text[end - 1], after[0])
    if len(after) == 1:
        return True if is_all else None
    return not _continues(text[end - 1], after[1])


def _continues(last: str, after: str) -> bool:
    """Whether a name that ends in ``last`` goes on with ``after``."""
    if after.isalnum():
        # Scripts without case, many of them without spaces, follow a name in ASCII immediately.
        return not (last.isascii() and unicodedata.category(after) == "Lo")
    # Combined with the last character it is another one.
    return unicodedata.category(after).startswith("M")


def _bytes(text: str) -> bytes:
    # Neither a name on disk nor what a model sent need be Unicode that can be encoded.
    return text.encode(errors="surrogatepass")


# By whether links and citations are known. That nothing is known is no case of its own worth having.
_BEGINS: Final = {
    (False, False): re.compile("(?!)"),
    (False, True): re.compile("【"),
    (True, False): re.compile(_LINK_BEGINS),
    (True, True): re.compile(f"【|{_LINK_BEGINS}"),
}
