"""The child that reads files: a program of its own, started by `search.parse`, that imports nothing of ours.

It runs libraries on bytes of strangers, so it is given those and limits, and takes no part in anything else.
One request at a time comes as a line of JSON on the socket that is its standard input, with the open file beside it;
the answer goes to its standard output as frames: a letter, a length of four bytes, so many bytes.

    T  text, UTF-8, to 1 MB    E  the end: JSON with memory_bytes    F  it failed: JSON with a message
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

if TYPE_CHECKING:
    from email.message import MIMEPart
    from zipfile import ZipFile

    from charset_normalizer import CharsetMatch

    from threadkeep.search.formats import Parser

FRAME: Final = struct.Struct(">cI")
_READ_BYTES: Final = 256 * 1024
_PIECE_CHARS: Final = 64 * 1024
# What detection of an encoding looks at.
_SAMPLE_BYTES: Final = 64 * 1024
# What the parts of an archive may come to, as its own table of contents says. Who lies there meets the limit on memory.
_MAX_UNPACKED_BYTES: Final = 512 * 1024**2
# Of a child that serves one file after another.
_CPU_S_EACH_MB: Final = 1.0


class Refused(Exception):
    """This file cannot be read; the message is for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class File(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers = os.dup(1)
    # A library that prints must not be taken for an answer.
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)
    with socket.socket(fileno=os.dup(0)) as requests:
        os.dup2(silence, 0)
        restrict(parent=asked["parent"], memory_bytes=asked["memory_bytes"])
        while True:
            line, files, _, _ = socket.recv_fds(requests, 4096, 1)
            if not line or not files:
                return
            request = json.loads(line)
            with os.fdopen(files[0], "rb", buffering=0) as file:
                answer(answers, request["parser"], file, request["cpu_s"])


def restrict(*, parent: int, memory_bytes: int) -> None:
    """From here on: no more memory, no files written, no core dumps, low priority, no life without the parent."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        # PR_SET_PDEATHSIG, then PR_SET_NO_NEW_PRIVS.
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
        ctypes.CDLL(None, use_errno=True).prctl(38, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    os.nice(10)
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: 64}
    if sys.platform == "linux":  # elsewhere the limit is not kept, or below what an empty process has
        limits[resource.RLIMIT_AS] = memory_bytes
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))


def answer(answers: int, parser: Parser, file: io.FileIO, cpu_s: float) -> None:
    """One file, from request to the last frame."""
    size = os.fstat(file.fileno()).st_size
    allowed = time.process_time() + cpu_s + _CPU_S_EACH_MB * size / 1024**2
    resource.setrlimit(resource.RLIMIT_CPU, (int(allowed) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    try:
        if size == 0:
            raise Refused("The file is empty.")
        is_blank = True
        for text in _pieces(READERS[parser](file)):
            is_blank = is_blank and text.isspace()
            _write(answers, b"T", text.encode("utf-8", "replace"))
        if is_blank:
            raise Refused("The file contains no text.")
    except Refused as refused:
        failure = refused.message
    except MemoryError:
        failure = TOO_MUCH_MEMORY
    except RecursionError:
        failure = "The file is nested too deeply."
    except BaseException as error:
        # Whatever libraries make of broken files, a panic of Rust's included; that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        # Its kind helps whoever has to find out; its text may quote the file.
        failure = f"The file is damaged, or is not what its extension says ({type(error).__name__})."
    else:
        _write(answers, b"E", json.dumps({"memory_bytes": _peak_memory_bytes()}).encode())
        return
    _write(answers, b"F", json.dumps({"message": failure}).encode())


def _peak_memory_bytes() -> int:
    if sys.platform == "linux":
        # Not from getrusage: that begins with what the server had when it started this process.
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - pathlib is not loaded here
            for line in status:
                if line.startswith(b"VmHWM"):
                    return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


TOO_MUCH_MEMORY: Final = "Reading the file takes more memory than is allowed."


def _write(answers: int, kind: bytes, payload: bytes) -> None:
    frame = memoryview(FRAME.pack(kind, len(payload)) + payload)
    while frame:
        frame = frame[os.write(answers, frame) :]


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of a good size, without what no text should hold."""
    waiting: list[str] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= _PIECE_CHARS:
            whole = "".join(waiting).replace("\0", "")
            for start in range(0, len(whole), _PIECE_CHARS):
                yield whole[start : start + _PIECE_CHARS]
            waiting, size = [], 0
    if last := "".join(waiting).replace("\0", ""):
        yield last


# --- text


_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT: Final = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "compressed"),
    (b"\x7fELF", "a program"),
)
_DECLARED: Final = re.compile(rb"""(?:encoding|charset|coding)\s*[=:]\s*["']?\s*([A-Za-z][\w.:-]{1,40})""")
# What files of people are in, likeliest first. Detection among all that Python knows finds too many rarities.
_LIKELY: Final[list[str]] = [
    *("cp1252", "gb18030", "cp932", "euc_jp", "iso2022_jp", "cp949", "big5", "cp1251", "koi8_r", "cp866"),
    *("cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874"),
]
_WIDE: Final = frozenset(["gb18030", "cp932", "euc_jp", "cp949", "big5"])
# Read as cp1252, text of Central Europe has these; text of Western Europe has not.
_CENTRAL: Final = re.compile(r"[šžŠŽ]|(?<=[^\W\d_])[¹³¿º¾¼£ªþ](?=[^\W\d_])")


def _text(file: File) -> Iterator[str]:
    encoding = _encoding_of(file)
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("replace"), translate=True)
    file.seek(0)
    while block := file.read(_READ_BYTES):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _encoding_of(file: File) -> str:
    file.seek(0)
    head = file.read(_SAMPLE_BYTES)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    for magic, what in _NOT_TEXT:
        if head.startswith(magic):
            raise Refused(f"The file's extension says that it is text, but it is {what}.")
    if nulls := head.count(0):
        low, high = head[1::2].count(0), head[0::2].count(0)
        if nulls > len(head) // 8 and min(low, high) * 10 < max(low, high):
            return "utf-16-le" if low > high else "utf-16-be"
        # A few are an accident.
        if nulls * 100 > len(head):
            raise Refused("The file is binary, not text.")
    if b"\x1b$" in head and _decodes(head, "iso2022_jp"):
        return "iso2022_jp"  # made of ASCII, and no text else has its escapes
    broken_at = _where_utf8_breaks(file)
    if broken_at is None:
        return "utf-8"
    sample = _sample(file, broken_at)
    if (declared := _declared(head)) and _decodes(sample, declared):
        return declared
    as_utf8 = sample.decode("utf-8", "replace")
    wrong = as_utf8.count("\ufffd")
    if wrong * 20 < sum(1 for character in as_utf8 if character > "\x7f"):
        return "utf-8"
    return _guessed(sample)


def _where_utf8_breaks(file: File) -> int | None:
    """The first byte that is not UTF-8, in all of the file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    file.seek(0)
    offset = 0
    while block := file.read(_READ_BYTES):
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            return max(offset - waiting + error.start, 0)
        offset += len(block)
    cut_off = len(decoder.getstate()[0])
    return offset - cut_off if cut_off else None


def _sample(file: File, offset: int) -> bytes:
    """What tells encodings apart: lines around ``offset`` that are not all ASCII."""
    start = max(offset - _SAMPLE_BYTES // 4, 0)
    file.seek(start)
    sample = file.read(_SAMPLE_BYTES)
    # Not from the middle of a character on, nor to the middle of one, if lines are not too long.
    first = sample.find(b"\n", 0, offset - start) + 1 if start else 0
    last = sample.rfind(b"\n", offset - start) + 1 if len(sample) == _SAMPLE_BYTES else 0
    lines = sample[first : last or len(sample)].splitlines(keepends=True)
    return b"".join(line for line in lines if not line.isascii())


def _declared(head: bytes) -> str | None:
    if found := _DECLARED.search(head[:2048]):
        try:
            name = codecs.lookup(found[1].decode("ascii", "replace")).name
            codecs.getincrementaldecoder(name)
            "".encode(name)  # codecs that are no encodings of text refuse
        except (LookupError, TypeError):
            return None
        # What the web means by it.
        name = {"iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}.get(name, name)
        return None if name.startswith(("utf", "ascii")) else name
    return None


def _decodes(sample: bytes, encoding: str) -> bool:
    """All of it, but perhaps for a character that was cut off."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    return text.count("\ufffd") * 100 <= len(text)


def _guessed(sample: bytes) -> str:
    from charset_normalizer import from_bytes  # noqa: PLC0415

    controls = len(re.findall(rb"[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f]", sample))
    if controls * 20 > len(sample):
        raise Refused("The file is binary, not text.")
    found: list[CharsetMatch] = []
    # A sample without lines ends anywhere, perhaps inside a character: then only a shorter one can be decoded.
    for cut in range(4 if len(sample) > _SAMPLE_BYTES // 2 else 1):
        alike = list(from_bytes(sample[: len(sample) - cut], cp_isolation=_LIKELY, enable_fallback=False))
        found = found or alike
        if any(one.encoding in _WIDE for one in alike):
            found = alike
            break
    if not found:
        return "cp1252"
    best = found[0]
    alike = [one for one in found if one.chaos <= best.chaos + 0.05 and one.coherence >= best.coherence - 0.1]
    encoding = min((one.encoding for one in alike), key=_LIKELY.index)
    if encoding in ("cp1250", "cp1257") and not _CENTRAL.search(sample.decode("cp1252", "replace")):
        return "cp1252"
    return encoding


# --- JSON


_ESCAPES: Final = re.compile(r"\\\\|(?:\\u[0-9a-fA-F]{4})+")
_CAN_BE_ESCAPE: Final = "\\u0123456789abcdefABCDEF"


def _json(file: File) -> Iterator[str]:
    """As text; escaped characters of other languages are those characters, so that a search finds them."""
    held = ""
    for piece in _text(file):
        text = held + piece
        if "\\" not in text:
            held = ""
            yield text
            continue
        kept = len(text.rstrip(_CAN_BE_ESCAPE))
        held = text[kept:] if len(text) - kept <= _PIECE_CHARS else ""
        yield _ESCAPES.sub(_unescaped, text[: len(text) - len(held)])
    yield _ESCAPES.sub(_unescaped, held)


def _unescaped(found: re.Match[str]) -> str:
    escapes = found[0]
    if escapes == "\\\\":
        return escapes
    units = bytes.fromhex(escapes.replace("\\u", ""))
    text = units.decode("utf-16-be", "surrogatepass")
    # ASCII is escaped for a reason: quotes, control characters.
    return "".join(c if c > "\x9f" and not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in text)


# --- HTML


def _names(listed: str) -> list[str]:
    return listed.split()


_SKIPPED: Final = frozenset(["script", "style", "template", "svg", "iframe", "object", "-comment", "-doctype"])
# What stands between a tag's text and what is around it.
_GAPS: Final = {
    **dict.fromkeys(["td", "th"], "\t"),
    **dict.fromkeys(
        _names(
            "address aside body br caption dd details dialog div dt fieldset figcaption figure footer form header hr"
            " legend li main nav option summary tbody tfoot thead tr"
        ),
        "\n",
    ),
    **dict.fromkeys(_names("article blockquote dl h1 h2 h3 h4 h5 h6 ol p pre section table title ul"), "\n\n"),
}
_WHITE: Final = re.compile(r"[ \t\n\r\f]+")


def _html(file: File) -> Iterator[str]:
    encoding = _encoding_of(file)
    file.seek(0)
    return _html_text(file.read().decode(encoding, "replace"))


def _html_text(page: str) -> Iterator[str]:
    """What a reader sees. Walks without recursion: how deep a page is nested is its author's choice."""
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError  # noqa: PLC0415

    try:
        node = LexborHTMLParser(page).root
    except SelectolaxError as error:  # any text is HTML: this is about memory
        raise Refused(TOO_MUCH_MEMORY) from error
    flow = _Flow()
    depth = pre = 0
    following = None
    while node is not None:
        tag = node.tag or ""
        child = None
        if tag == "-text":
            flow.add(node.text_content or "", keep=pre > 0)
        elif tag not in _SKIPPED:
            flow.part(tag)
            pre += tag == "pre"
            if tag == "img":
                flow.add(node.attributes.get("alt") or "", keep=False)
            child = node.child
        if child is not None:
            node, depth = child, depth + 1
            continue
        while True:
            if (tag := node.tag or "") != "-text" and tag not in _SKIPPED:
                flow.part(tag)
                pre -= tag == "pre"
            if depth == 0 or (following := node.next) is not None:
                break
            node, depth = node.parent, depth - 1
            assert node is not None
        if depth == 0:
            break
        node = following
        if flow.size > _PIECE_CHARS:
            yield flow.take()
    yield flow.take()


class _Flow:
    """Text as it is laid out: white space collapses, and of several gaps the greatest counts."""

    def __init__(self) -> None:
        self.size = 0
        self._words: list[str] = []
        self._gap: str | None = None  # None: nothing was written yet

    def part(self, tag: str) -> None:
        """A part of its own begins or ends here, if the tag makes one."""
        self._widen(_GAPS.get(tag, ""))

    def add(self, text: str, *, keep: bool) -> None:
        if not keep:
            text = _WHITE.sub(" ", text)
            if text.startswith(" "):
                self._widen(" ")
            ends_apart, text = text.endswith(" "), text.strip(" ")
        else:
            ends_apart = False
        if text:
            self._words += (self._gap or "", text)
            self.size += len(text)
            self._gap = " " if ends_apart else ""

    def take(self) -> str:
        taken, self._words, self.size = "".join(self._words), [], 0
        return taken

    def _widen(self, gap: str) -> None:
        # " " < tab < line < paragraph, and by luck of ASCII: "\t" < "\n" < "\n\n"
        if self._gap is not None and gap and (self._gap in ("", " ") or (gap != " " and gap > self._gap)):
            self._gap = gap


# --- PDF


def _pdf(file: File) -> Iterator[str]:
    import pypdfium2  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    from pypdfium2.raw import (  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
        FPDF_ERR_PASSWORD,
        FPDF_ERR_SECURITY,
    )

    try:
        document = pypdfium2.PdfDocument(file)
        pages = len(document)
    except pypdfium2.PdfiumError as error:
        if cast("int | None", error.err_code) in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):  # pyright: ignore[reportUnknownMemberType]
            raise Refused(ENCRYPTED) from error
        raise Refused("The file is damaged, or is not a PDF.") from error
    unreadable = 0
    for number in range(pages):
        try:
            page = document[number]
            text = page.get_textpage()
            # Words that are divided at the end of a line, marked so, become whole.
            yield re.sub("[\ufffe\x02]\r?\n?", "", text.get_text_range()).replace("\r\n", "\n") + "\n\n"
            text.close()
            page.close()
        except pypdfium2.PdfiumError:
            unreadable += 1
    if unreadable == pages:
        raise Refused("The file is damaged: none of its pages can be read.")


ENCRYPTED: Final = "The file is encrypted. Please remove its password."


# --- office


OfficeKind = Literal["doc", "docx", "pptx", "xlsx"]


def _office(kind: OfficeKind) -> Callable[[File], Iterator[str]]:
    return lambda file: _office_text(file, kind)


def _office_text(file: File, kind: OfficeKind) -> Iterator[str]:
    from office_oxide import Document, OfficeOxideError  # noqa: PLC0415

    if kind != "doc":
        _check_archive(file)
    file.seek(0)
    try:
        with Document.from_bytes(file.read(), kind) as document:
            yield document.plain_text()
    except OfficeOxideError as error:
        if "encrypt" in str(error) or "password" in str(error):
            raise Refused(ENCRYPTED) from error
        if "out of memory" in str(error):
            raise Refused(TOO_MUCH_MEMORY) from error
        raise Refused(f"The file is damaged, or is not what its extension says ({kind}).") from error


def _word(file: File) -> Iterator[str]:
    """``.doc``: Word 97's, or one of the formats that Word itself opens under that name."""
    file.seek(0)
    head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"{\\rtf"):
        return _rtf(file)
    if head.startswith(b"pk\x03\x04"):
        return _office_text(file, "docx")
    if head.startswith((b"<html", b"<!doctype html")):
        return _html(file)
    return _office_text(file, "doc")


def _check_archive(file: File) -> ZipFile:
    """Opened; its table of contents is sound and promises no bomb."""
    from zipfile import BadZipFile, ZipFile  # noqa: PLC0415

    file.seek(0)
    magic = file.read(8)
    if magic == _NOT_TEXT[2][0]:
        # An encrypted document of newer Office is an old one that holds it; or the extension is wrong.
        raise Refused("The file is encrypted, or is an older kind of document than its extension says.")
    try:
        archive = ZipFile(file)
    except BadZipFile as error:
        raise Refused("The file is damaged, or is not what its extension says.") from error
    members = archive.infolist()
    if any(member.flag_bits & 1 for member in members):
        raise Refused(ENCRYPTED)
    texts = (".xml", ".rels", ".html", ".xhtml", ".htm", ".opf", ".ncx")
    if sum(member.file_size for member in members if member.filename.lower().endswith(texts)) > _MAX_UNPACKED_BYTES:
        raise Refused(f"The file unpacks to more than {_MAX_UNPACKED_BYTES // 1024**2} MB.")
    return archive


def _rtf(file: File) -> Iterator[str]:
    from striprtf.striprtf import (  # noqa: PLC0415
        rtf_to_text,  # pyright: ignore[reportUnknownVariableType]
    )

    file.seek(0)
    content = file.read()
    if not content.lstrip().startswith(b"{\\rtf"):
        raise Refused("The file is damaged, or is not RTF.")
    yield cast("str", rtf_to_text(content.decode("latin-1"), errors="replace"))


# --- EPUB


_CONTAINER: Final = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE: Final = "{http://www.idpf.org/2007/opf}"


def _epub(file: File) -> Iterator[str]:
    """Its documents in reading order."""
    import posixpath  # noqa: PLC0415
    from urllib.parse import unquote  # noqa: PLC0415
    from xml.etree import ElementTree  # noqa: PLC0415
    from zipfile import BadZipFile  # noqa: PLC0415
    from zlib import error as ZlibError  # noqa: N812, PLC0415

    archive = _check_archive(file)
    names = set(archive.namelist())
    if "META-INF/rights.xml" in names:
        raise Refused(ENCRYPTED)
    try:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        root = next(container.iter(f"{_CONTAINER}rootfile")).attrib["full-path"]
        package = ElementTree.fromstring(archive.read(root))
        files = {item.get("id"): item.get("href", "") for item in package.iter(f"{_PACKAGE}item")}
        for entry in package.iter(f"{_PACKAGE}itemref"):
            href = unquote(files.get(entry.get("idref"), ""))
            name = posixpath.normpath(posixpath.join(posixpath.dirname(root), href))
            if name in names:
                content = io.BytesIO(archive.read(name))
                yield from _html(content)
                yield "\n\n"
    except (BadZipFile, ElementTree.ParseError, StopIteration, KeyError, ZlibError, NotImplementedError) as error:
        raise Refused("The file is damaged, or is not an EPUB.") from error


# --- mail

_HEADER_CHARS: Final = 10_000


def _mail(file: File) -> Iterator[str]:
    """Its heads, its text, the names of what is attached, and the text of that where it is text."""
    from email import message_from_bytes, policy  # noqa: PLC0415
    from email.errors import HeaderParseError  # noqa: PLC0415
    from email.header import decode_header, make_header  # noqa: PLC0415

    file.seek(0)
    message = message_from_bytes(file.read(), policy=policy.default)
    if not message.keys():
        raise Refused("The file is damaged, or is not an e-mail.")
    for name, value in message.raw_items():
        if name.lower() in ("from", "to", "cc", "date", "subject"):
            # Not as the policy reads it: its grammar of addresses takes time and depth that a stranger chooses.
            shown = str(value)[:_HEADER_CHARS]
            try:
                shown = str(make_header(decode_header(shown)))
            except (HeaderParseError, LookupError, ValueError):
                pass
            yield f"{name}: {_WHITE.sub(' ', shown)}\n"
    body = message.get_body(("plain", "html"))
    if body is not None:
        yield "\n"
        yield from _mail_text(body)
    for part in message.iter_attachments():
        yield f"\n\n{part.get_filename() or part.get_content_type()}\n"
        if part.get_content_maintype() == "text":
            yield from _mail_text(part)
    yield "\n"


def _mail_text(part: MIMEPart) -> Iterator[str]:
    content = part.get_payload(decode=True)
    content = content if isinstance(content, bytes) else b""
    charset = part.get_content_charset()
    try:
        text = content.decode(charset or "utf-8")
    except (LookupError, UnicodeDecodeError):
        text = content.decode(_encoding_of(io.BytesIO(content)), "replace")
    if part.get_content_subtype() == "html":
        yield from _html_text(text)
    else:
        yield text.replace("\r\n", "\n")


READERS: Final[dict[Parser, Callable[[File], Iterator[str]]]] = {
    "text": _text,
    "json": _json,
    "html": _html,
    "pdf": _pdf,
    "word": _word,
    "docx": _office("docx"),
    "pptx": _office("pptx"),
    "xlsx": _office("xlsx"),
    "rtf": _rtf,
    "epub": _epub,
    "mail": _mail,
}

if __name__ == "__main__":
    main()
