"""Text in any encoding comes out right, whether the file says what it is in or not."""

import codecs

import pytest

from tests.support.documents import LANGUAGES
from tests.support.reading import in_pieces, text_of
from threadkeep.search.parse import ParseFailed, Parsers

IN = {
    "German": ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"],
    "Chinese": ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gb2312"],
    "Japanese": ["utf-8", "utf-8-sig", "utf-16", "utf-32", "shift-jis", "euc-jp", "iso2022-jp"],
    "Arabic": ["utf-8", "utf-8-sig", "utf-16", "utf-32", "windows-1256"],
    "Russian": ["utf-8", "utf-8-sig", "utf-16", "utf-32", "windows-1251", "koi8-r"],
}
# Looked for at the beginning only.
LOOKS_LIKE_ASCII = ["iso2022-jp"]
CASES = [(language, encoding) for language, encodings in IN.items() for encoding in encodings]


@pytest.mark.parametrize(("language", "encoding"), CASES)
async def test_text_is_read_in_its_encoding(parsers: Parsers, language: str, encoding: str) -> None:
    text = f"{LANGUAGES[language]}\n" * 5
    assert await text_of(parsers, text.encode(encoding), "text") == text


@pytest.mark.parametrize(("language", "encoding"), [case for case in CASES if case[1] not in LOOKS_LIKE_ASCII])
async def test_text_is_read_in_its_encoding_wherever_it_begins_to_matter(
    parsers: Parsers, language: str, encoding: str
) -> None:
    text = "int main() { return 0; }\n" * 20_000 + f"// {LANGUAGES[language]}\n" * 5
    assert await text_of(parsers, text.encode(encoding), "text") == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("L'été dernier à la plage, c'était très agréable et déjà fini.", "latin-1"),
        ("El niño comió piña en España, ¿verdad?", "latin-1"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
        ("Zażółć gęślą jaźń, a potem idź do sklepu po chleb i mleko.", "cp1250"),
        ("Καλημέρα κόσμε, τι κάνεις σήμερα;", "cp1253"),
        ("이것은 한국어 문서입니다. 검색 시스템을 시험합니다.", "euc-kr"),
    ],
)
async def test_neighbours_are_told_apart(parsers: Parsers, text: str, encoding: str) -> None:
    assert await text_of(parsers, text.encode(encoding), "text") == text


@pytest.mark.parametrize(
    "head", ["<?xml version='1.0' encoding='{}'?>", "# -*- coding: {} -*-", "<meta charset='{}'>", "<meta charset={}>"]
)
async def test_an_encoding_that_the_file_names_is_believed(parsers: Parsers, head: str) -> None:
    # Too short for a guess, and all of it could be cp1252.
    text = head.format("iso-8859-7") + "\nδ"
    assert await text_of(parsers, text.encode("iso-8859-7"), "text") == text


async def test_an_encoding_that_the_file_names_wrongly_is_not_believed(parsers: Parsers) -> None:
    text = "<?xml encoding='iso-8859-1'?>" + LANGUAGES["Russian"]
    assert await text_of(parsers, text.encode(), "text") == text


async def test_html_is_read_in_the_encoding_of_its_meta_tag(parsers: Parsers) -> None:
    page = f"<html><head><meta charset='windows-1251'></head><body>{LANGUAGES['Russian']}</body></html>"
    assert await text_of(parsers, page.encode("windows-1251"), "html") == LANGUAGES["Russian"]


async def test_one_wrong_byte_does_not_make_utf8_something_else(parsers: Parsers) -> None:
    text = LANGUAGES["Chinese"] * 100
    assert await text_of(parsers, text.encode() + b"\xff" + text.encode(), "text") == f"{text}\ufffd{text}"


async def test_a_character_on_the_edge_of_two_blocks_is_whole(parsers: Parsers) -> None:
    text = "x" + "ß文😀" * 100_000
    assert await text_of(parsers, text.encode(), "text") == text


@pytest.mark.parametrize("before", ["", "y", "yy", "yyy"])
@pytest.mark.parametrize(("language", "encoding"), [("Chinese", "gb18030"), ("Japanese", "shift-jis")])
async def test_one_long_line_is_read_in_its_encoding(
    parsers: Parsers, language: str, encoding: str, before: str
) -> None:
    text = before + LANGUAGES[language] * 5_000
    assert await text_of(parsers, text.encode(encoding), "text") == text


async def test_line_ends_become_one_kind(parsers: Parsers) -> None:
    assert await text_of(parsers, b"a\r\nb\rc\n" + b"x" * 262_135 + b"\r\n", "text") == f"a\nb\nc\n{'x' * 262_135}\n"


async def test_a_few_null_bytes_are_left_out(parsers: Parsers) -> None:
    assert await text_of(parsers, b"a\0b" + b"x" * 1000, "text") == "ab" + "x" * 1000


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE])
async def test_a_mark_alone_is_no_text(parsers: Parsers, mark: bytes) -> None:
    with pytest.raises(ParseFailed) as failed:
        await text_of(parsers, mark, "text")
    assert failed.value.message == "The file contains no text."


async def test_pieces_of_any_size_give_the_same_text(parsers: Parsers) -> None:
    text = LANGUAGES["Japanese"] * 50
    read = [piece async for piece in parsers.parse(in_pieces(text.encode("shift-jis"), size=7), "text")]
    assert "".join(read) == text
