"""What is read of each format, in each language, and how the children live."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.support import documents
from tests.support.documents import LANGUAGES
from tests.support.reading import children, in_pieces, repeated, text_of
from threadkeep.contract.errors import Unavailable
from threadkeep.search.formats import Parser
from threadkeep.search.parse import ParseFailed, ParseLimits, Parsers

WRITERS: dict[Parser, Callable[[str], bytes]] = {
    "docx": documents.docx_file,
    "pptx": documents.pptx_file,
    "xlsx": documents.xlsx_file,
    "word": documents.doc_file,
    "pdf": documents.pdf_file,
    "html": documents.html_file,
    "rtf": documents.rtf_file,
    "epub": documents.epub_file,
    "mail": documents.mail_file,
    "text": str.encode,
    "json": lambda text: json.dumps({"key": text}).encode(),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("parser", WRITERS)
async def test_text_of_every_format_is_read_in_every_language(parsers: Parsers, parser: Parser, language: str) -> None:
    sentence = LANGUAGES[language]
    assert sentence in await text_of(parsers, WRITERS[parser](sentence), parser)


@pytest.mark.parametrize(
    ("parser", "parts"),
    [
        ("docx", ["header", "Heading", "cell"]),
        ("pptx", ["notes"]),
        ("xlsx", ["text\tnumber", "x\t12.5"]),
        ("html", ["Title\n\nHeading\n\nx\n\none\ttwo"]),
        ("epub", ["x\n\nsecond"]),
        ("mail", ["From: a@example.com\nSubject: x\n\nx\n", "notes.txt\nattached"]),
    ],
)
async def test_all_parts_of_a_document_are_read(parsers: Parsers, parser: Parser, parts: list[str]) -> None:
    text = await text_of(parsers, WRITERS[parser]("x"), parser)
    for part in parts:
        assert part in text


async def test_scripts_and_markup_of_a_page_are_not_its_text(parsers: Parsers) -> None:
    page = b"<style>s{}</style><p>a <b>b</b>c<!-- no --><script>no()</script><pre>x\n  y</pre> <img alt='a picture'> z"
    assert await text_of(parsers, page, "html") == "a bc\n\nx\n  y\n\na picture z"


async def test_pages_come_in_order(parsers: Parsers) -> None:
    assert await text_of(parsers, documents.pdf_file("page", pages=3), "pdf") == "page\n\n" * 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (documents.rtf_file("in RTF"), "in RTF"),
        (documents.docx_file("in newer Word"), "in newer Word"),
        (b"<html><body>as a page</body></html>", "as a page"),
    ],
)
async def test_what_word_opens_as_doc_is_read_as_doc(parsers: Parsers, content: bytes, text: str) -> None:
    assert text in await text_of(parsers, content, "word")


async def test_escaped_letters_of_json_are_letters_and_the_rest_stays(parsers: Parsers) -> None:
    written = r'{"\u4e2d\u6587\ud83d\ude00": "\u0022\\u4e2d\ud83d\n\u0000"}'
    assert await text_of(parsers, written.encode(), "json") == r'{"中文😀": "\u0022\\u4e2d\ud83d\n\u0000"}'


async def test_an_escape_on_the_edge_of_two_blocks_is_read_whole(parsers: Parsers) -> None:
    content = b'"' + b"x" * (256 * 1024 - 4) + b'\\u4e2d\\u6587"'
    assert (await text_of(parsers, content, "json")).endswith('x中文"')


async def test_one_child_serves_one_file_after_another(parsers: Parsers) -> None:
    for _ in range(3):
        await text_of(parsers, b"text", "text")
    assert len(children()) == 1


async def test_a_failure_gives_the_next_file_a_new_child(parsers: Parsers) -> None:
    await text_of(parsers, b"text", "text")
    (first,) = children()
    with pytest.raises(ParseFailed):
        await text_of(parsers, b"no PDF", "pdf")
    assert await text_of(parsers, b"text", "text") == "text"
    assert first not in children()


async def test_a_file_that_is_given_up_half_read_leaves_no_child(parsers: Parsers) -> None:
    async with aclosing(parsers.parse(repeated(b"word " * 10_000, 100), "text")) as texts:
        assert await anext(texts)
    assert children() == []


async def test_a_child_that_was_killed_is_the_servers_error_and_the_next_file_is_read(parsers: Parsers) -> None:
    async with aclosing(parsers.parse(repeated(b"word " * 10_000, 100), "text")) as texts:
        await anext(texts)
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ParseFailed) as failed:
            async for _ in texts:
                pass
    assert failed.value.code == "server_error"
    assert await text_of(parsers, b"text", "text") == "text"


async def test_an_idle_child_that_died_is_replaced(parsers: Parsers) -> None:
    await text_of(parsers, b"text", "text")
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    await ended(child)
    assert await text_of(parsers, b"text", "text") == "text"


async def test_an_idle_child_ends() -> None:
    parsers = Parsers(limits=ParseLimits(idle_s=0.1))
    await text_of(parsers, b"text", "text")
    for child in children():
        await ended(child)
    await parsers.close()


async def test_a_child_is_replaced_after_so_many_files() -> None:
    parsers = Parsers(limits=ParseLimits(files=1))
    await text_of(parsers, b"text", "text")
    assert children() == []
    await parsers.close()


async def test_nothing_is_left_when_it_is_closed() -> None:
    parsers = Parsers(children=2)
    await asyncio.gather(*(text_of(parsers, b"text", "text") for _ in range(4)))
    assert len(children()) == 2
    await parsers.close()
    assert children() == []


async def test_a_child_knows_nothing_of_the_servers_environment(
    parsers: Parsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADKEEP_SECRET", "sk-secret")
    await text_of(parsers, b"text", "text")
    (child,) = children()
    environment = await asyncio.to_thread(Path(f"/proc/{child}/environ").read_bytes)
    assert b"secret" not in environment


async def test_a_spooled_file_has_no_name(parsers: Parsers, tmp_path: Path) -> None:
    parsers = Parsers(spool_folder=tmp_path)
    async with aclosing(parsers.parse(repeated(b"word " * 10_000, 100), "text")) as texts:
        await anext(texts)
        assert await asyncio.to_thread(os.listdir, tmp_path) == []
    await parsers.close()


async def test_what_the_source_of_bytes_raises_is_raised(parsers: Parsers) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"text"
        raise FileNotFoundError("the blob is gone")

    with pytest.raises(FileNotFoundError):
        async for _ in parsers.parse(broken(), "text"):
            pass


async def test_a_file_waits_where_there_is_no_room_to_read_it(tmp_path: Path) -> None:
    """It is none of the file's faults: whoever asked comes again."""
    parsers = Parsers(spool_folder=tmp_path / "missing")
    with pytest.raises(Unavailable):
        await text_of(parsers, b"text", "text")


async def test_more_text_than_allowed_fails(parsers: Parsers) -> None:
    parsers = Parsers(limits=ParseLimits(text_bytes=100_000))
    with pytest.raises(ParseFailed) as failed:
        await text_of(parsers, b"word " * 100_000, "text")
    assert (failed.value.code, failed.value.message) == ("invalid_file", "The file contains more text than is allowed.")
    await parsers.close()


async def test_a_slow_consumer_does_not_use_up_a_files_time() -> None:
    parsers = Parsers(limits=ParseLimits(wall_s=2.0))
    async with aclosing(parsers.parse(in_pieces(b"word " * 200_000), "text")) as texts:
        await anext(texts)
        await asyncio.sleep(2.5)
        async for _ in texts:
            pass
    await parsers.close()


async def ended(child: int) -> None:
    async with asyncio.timeout(60):
        while child in children():  # noqa: ASYNC110 - another process says nothing when it ends
            await asyncio.sleep(0.01)
