"""Files that are made to do harm, or are broken by accident: each fails alone, soon, and says why."""

import asyncio
import os
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from io import BytesIO
from pathlib import Path

import pytest

from tests.support import documents
from tests.support.reading import children, peak_memory_bytes, repeated, text_of
from threadkeep.search.formats import Parser
from threadkeep.search.parse import ParseFailed, ParseLimits, Parsers

ROOT = Path(__file__).resolve().parents[2]
DAMAGED = "The file is damaged, or "
ENCRYPTED = "The file is encrypted"
MEMORY = "memory"
NO_TEXT = "The file contains no text."
BINARY = "The file is binary, not text."
DEEP = "The file is nested too deeply."


@pytest.fixture
async def strict() -> AsyncGenerator[Parsers, None]:
    """Little of everything, so that what is stopped is stopped soon."""
    parsers = Parsers(limits=ParseLimits(memory_bytes=384 * 1024**2, cpu_s=2))
    yield parsers
    await parsers.close()


def zipped(
    name: str, piece: bytes, count: int, others: dict[str, bytes], *, head: bytes = b"", tail: bytes = b""
) -> bytes:
    """An archive with a member that unpacks to much."""
    file = BytesIO(documents.zip_file(others))
    with (
        zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w") as member,
    ):
        member.write(head)
        for _ in range(count):
            member.write(piece)
        member.write(tail)
    return file.getvalue()


def docx_bomb(count: int) -> bytes:
    """A sound document but for its size: ``count`` MB of paragraphs."""
    with zipfile.ZipFile(BytesIO(documents.docx_file("x"))) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "word/document.xml"}
    paragraphs = b"<w:p><w:r><w:t>a</w:t></w:r></w:p>" * (1024**2 // 34)
    head = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    return zipped("word/document.xml", paragraphs, count, members, head=head, tail=b"</w:body></w:document>")


def liar(content: bytes) -> bytes:
    """An archive whose table of contents says that everything is small."""
    changed = bytearray(content)
    at = -1
    while (at := changed.find(b"PK\x01\x02", at + 1)) >= 0:
        struct.pack_into("<I", changed, at + 24, 1000)
    return bytes(changed)


def flate(piece: bytes, count: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(piece) for _ in range(count)) + packer.flush()


def pdf_bomb(packed: bytes, filters: bytes) -> bytes:
    return documents.pdf_of(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R>>",
            documents.pdf_stream(packed, b"/Filter" + filters),
        ]
    )


def mail_of_parts(depth: int) -> bytes:
    parts = (f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(depth))
    return ("From: a\r\n" + "".join(parts) + "Content-Type: text/plain\r\n\r\nx").encode()


def laughs() -> bytes:
    entities = "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    return f'<!DOCTYPE c [<!ENTITY a "{"x" * 1000}">{entities}]><c>&j;</c>'.encode()


def spoilt(content: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    changed = bytearray(content)
    for _ in range(20):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


async def outcome(parsers: Parsers, content: bytes, parser: Parser) -> str:
    try:
        await text_of(parsers, content, parser)
    except ParseFailed as failed:
        return failed.code
    return "read"


NOISE = random.Random(5).randbytes(100_000)

BOMBS: dict[str, tuple[Parser, Callable[[], bytes], str]] = {
    "a docx that says it unpacks to 600 MB": ("docx", lambda: docx_bomb(600), "The file unpacks to more than 512 MB."),
    "a docx that unpacks to 400 MB": ("docx", lambda: docx_bomb(400), MEMORY),
    "a docx that lies about 400 MB": ("docx", lambda: liar(docx_bomb(400)), DAMAGED),
    "an xlsx of many members": ("xlsx", lambda: documents.zip_file({f"{n}": b"" for n in range(20_000)}), DAMAGED),
    "an epub that unpacks to 600 MB": (
        "epub",
        lambda: zipped(
            "b",
            b"<p>x</p>" * 131_072,
            600,
            {
                "META-INF/container.xml": b"<c xmlns='urn:oasis:names:tc:opendocument:xmlns:container'>"
                b"<rootfile full-path='p'/></c>",
                "p": b"<p xmlns='http://www.idpf.org/2007/opf'><item id='b' href='b'/><itemref idref='b'/></p>",
            },
        ),
        MEMORY,
    ),
    "an epub of a billion laughs": ("epub", lambda: documents.zip_file({"META-INF/container.xml": laughs()}), DAMAGED),
    "a PDF with a page of 1 GB": ("pdf", lambda: pdf_bomb(flate(b" " * 1024**2, 1024), b"/FlateDecode"), MEMORY),
    "a PDF packed twice": (
        "pdf",
        lambda: pdf_bomb(flate(flate(b" " * 1024**2, 1024), 1), b"[/FlateDecode/FlateDecode]"),
        MEMORY,
    ),
    "a PDF of two milliard pages": (
        "pdf",
        lambda: documents.pdf_of(
            [
                b"<</Type/Catalog/Pages 2 0 R>>",
                b"<</Type/Pages/Count 2000000000/Kids[2 0 R 2 0 R]>>",
            ]
        ),
        DAMAGED,
    ),
    "a PDF of nested arrays": ("pdf", lambda: documents.pdf_of([b"[" * 1_000_000]), DAMAGED),
    "a page of a 100 MB of tags": ("html", lambda: b"<p>x</p>" * 13_000_000, MEMORY),
    "a mail of nested parts": ("mail", lambda: mail_of_parts(20_000), DEEP),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_fails_within_its_limits(strict: Parsers, name: str) -> None:
    parser, make, message = BOMBS[name]
    with pytest.raises(ParseFailed) as failed:
        await text_of(strict, make(), parser)
    assert failed.value.code == "invalid_file"
    assert message in failed.value.message
    assert await text_of(strict, b"the next file", "text") == "the next file"


BROKEN: dict[str, tuple[Parser, bytes, str]] = {
    "empty text": ("text", b"", "The file is empty."),
    "an empty PDF": ("pdf", b"", "The file is empty."),
    "an empty docx": ("docx", b"", "The file is empty."),
    "white space": ("text", b" \n\t" * 1000, NO_TEXT),
    "a PDF without text": ("pdf", documents.pdf_file(" "), NO_TEXT),
    "a page without text": ("html", b"<script>x</script><!-- x -->", NO_TEXT),
    "null bytes": ("text", b"\0" * 100_000, BINARY),
    "noise as text": ("text", NOISE, BINARY),
    "noise as JSON": ("json", NOISE, BINARY),
    "noise as HTML": ("html", NOISE, BINARY),
    "noise as PDF": ("pdf", NOISE, DAMAGED),
    "noise as doc": ("word", NOISE, DAMAGED),
    "noise as docx": ("docx", NOISE, DAMAGED),
    "noise as pptx": ("pptx", NOISE, DAMAGED),
    "noise as xlsx": ("xlsx", NOISE, DAMAGED),
    "noise as RTF": ("rtf", NOISE, DAMAGED),
    "noise as EPUB": ("epub", NOISE, DAMAGED),
    "noise as mail": ("mail", NOISE, DAMAGED),
    "a PDF as text": ("text", documents.pdf_file("x"), "it is a PDF"),
    "a docx as text": ("text", documents.docx_file("x"), "it is a ZIP archive or an office document"),
    "a docx as PDF": ("pdf", documents.docx_file("x"), DAMAGED),
    "a docx as EPUB": ("epub", documents.docx_file("x"), DAMAGED),
    "a docx as xlsx": ("xlsx", documents.docx_file("x"), DAMAGED),
    "a doc as docx": ("docx", documents.doc_file("x"), ENCRYPTED),
    "text as docx": ("docx", b"hello", DAMAGED),
    "half a PDF": ("pdf", documents.pdf_file("x")[:300], DAMAGED),
    "half a docx": ("docx", documents.docx_file("x")[:9000], DAMAGED),
    "half a doc": ("word", documents.doc_file("x")[:1600], DAMAGED),
    "an encrypted PDF": ("pdf", documents.pdf_file("x", encrypted=True), ENCRYPTED),
    "RTF with a number too large": ("rtf", rb"{\rtf1 \u99999999999999999999 x}", DAMAGED),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_file_says_what_is_wrong(strict: Parsers, name: str) -> None:
    parser, content, message = BROKEN[name]
    with pytest.raises(ParseFailed) as failed:
        await text_of(strict, content, parser)
    assert failed.value.code == "invalid_file"
    assert message in failed.value.message


@pytest.mark.parametrize(
    ("parser", "content"),
    [
        ("word", documents.doc_file("x")),
        ("docx", documents.docx_file("x")),
        ("xlsx", documents.xlsx_file("x")),
        ("pdf", documents.pdf_file("x", pages=20)),
        ("epub", documents.epub_file("x")),
        ("rtf", documents.rtf_file("x" * 1000)),
        ("mail", documents.mail_file("x" * 1000)),
    ],
)
async def test_a_spoilt_file_is_never_the_servers_error(strict: Parsers, parser: Parser, content: bytes) -> None:
    for seed in range(20):
        assert await outcome(strict, spoilt(content, seed), parser) in ("read", "invalid_file")
    assert await text_of(strict, b"the next file", "text") == "the next file"


async def test_an_encrypted_archive_is_refused(strict: Parsers) -> None:
    content = bytearray(documents.epub_file("x"))
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 8] |= 1
    with pytest.raises(ParseFailed, match=ENCRYPTED):
        await text_of(strict, bytes(content), "epub")


async def test_a_file_that_takes_too_long_is_stopped(strict: Parsers) -> None:
    """The library's time grows with the square of the depth."""
    with pytest.raises(ParseFailed) as failed:
        await text_of(strict, b"<div>" * 200_000, "html")
    assert (failed.value.code, failed.value.message) == (
        "invalid_file",
        "Reading the file takes longer than is allowed.",
    )


async def test_the_clock_stops_what_takes_no_cpu() -> None:
    parsers = Parsers(limits=ParseLimits(wall_s=0.2))
    with pytest.raises(ParseFailed, match="takes longer than is allowed"):
        await text_of(parsers, b"<div>" * 200_000, "html")
    await parsers.close()
    assert children() == []


async def test_a_bomb_takes_no_other_file_with_it() -> None:
    parsers = Parsers(children=2, limits=ParseLimits(memory_bytes=384 * 1024**2))
    bomb = pdf_bomb(flate(b" " * 1024**2, 1024), b"/FlateDecode")
    texts = [f"file {number}" for number in range(20)]
    jobs = [text_of(parsers, text.encode(), "text") for text in texts]
    failed, *read = await asyncio.gather(text_of(parsers, bomb, "pdf"), *jobs, return_exceptions=True)
    assert isinstance(failed, ParseFailed)
    assert read == texts
    await parsers.close()


@pytest.mark.parametrize(
    ("parser", "unit"),
    [
        ("text", b"[" * 1000),
        ("json", b"[" * 1000),
        ("json", b"\\u4e2d" * 100),
        ("json", b"\\" * 1000),
        ("text", b"<a>"),
    ],
)
async def test_text_of_any_depth_is_read_as_a_stream(strict: Parsers, parser: Parser, unit: bytes) -> None:
    unit = unit * (1024**2 // len(unit))
    size = 0
    async with aclosing(strict.parse(repeated(unit, 20), parser)) as texts:
        async for text in texts:
            size += len(text)
            assert len(text) <= 64 * 1024
    (child,) = children()
    assert size > 1024**2
    assert peak_memory_bytes(child) < 100 * 1024**2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
async def test_a_large_line_takes_little_memory(strict: Parsers, encoding: str) -> None:
    unit = "Größe " * 170_000
    encoded = unit.encode(encoding)
    size = 0
    async with aclosing(strict.parse(repeated(encoded, 100), "text")) as texts:
        async for text in texts:
            size += len(text)
    (child,) = children()
    assert size == pytest.approx(len(unit) * 100, rel=0.001)
    assert peak_memory_bytes(child) < 100 * 1024**2


async def test_frames_that_are_no_frames_fail_the_file(strict: Parsers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has taken over a child can say anything."""
    from threadkeep.search import parse

    await text_of(strict, b"text", "text")
    monkeypatch.setattr(parse, "_HEAD", struct.Struct(">xcH"))
    with pytest.raises(ParseFailed) as failed:
        await text_of(strict, b"text" * 100, "text")
    assert failed.value.code == "invalid_file"
    assert children() == []


async def test_a_child_dies_with_its_parent() -> None:
    """The parent is a process of its own here, which is killed while its child works."""
    program = (
        "import asyncio, os, sys\n"
        "from tests.support.reading import children, in_pieces\n"
        "from threadkeep.search.parse import ParseLimits, Parsers\n"
        "def is_at_work(child):\n"
        "    return int(open(f'/proc/{child}/stat').read().split()[13]) > os.sysconf('SC_CLK_TCK')\n"
        "async def main():\n"
        "    parsers = Parsers(limits=ParseLimits(cpu_s=600))\n"
        "    task = asyncio.create_task(anext(parsers.parse(in_pieces(b'<div>' * 400_000), 'html')))\n"
        "    while not any(map(is_at_work, children())):\n"
        "        await asyncio.sleep(0.01)\n"
        "    print(children()[0], flush=True)\n"
        "    await task\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    async with asyncio.timeout(60):
        while _is_there(child):  # noqa: ASYNC110 - a process of nobody says nothing when it ends
            await asyncio.sleep(0.01)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
