"""Files in every format that can be searched, made by the libraries that write it, or by hand where none does."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from html import escape
from unicodedata import bidirectional

import docx
import openpyxl
import pptx

# A sentence each, in which every letter counts.
LANGUAGES = {
    "German": "Größere Bäume überragen die Straße am Fluß.",
    "Chinese": "数据库系统可以检索中文文档。",
    "Japanese": "検索システムは日本語の文書も探せます。",
    "Arabic": "هذه وثيقة باللغة العربية.",
    "Russian": "Поиск находит русские документы.",
}


def docx_file(text: str) -> bytes:
    document = docx.Document()
    document.add_heading("Heading", 1)
    document.add_paragraph(text)
    document.add_table(1, 2).cell(0, 1).text = "cell"
    document.sections[0].header.paragraphs[0].text = "header"
    return _saved(document.save)


def pptx_file(text: str) -> bytes:
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    assert slide.shapes.title is not None
    slide.shapes.title.text = text
    notes = slide.notes_slide.notes_text_frame
    assert notes is not None
    notes.text = "notes"
    return _saved(show.save)


def xlsx_file(text: str) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["text", "number"])
    sheet.append([text, 12.5])
    return _saved(book.save)


def doc_file(text: str) -> bytes:
    """Word 97: the text as UTF-16 in one stream, a table of its pieces in the other, and around them a file system."""
    words = text.encode("utf-16-le")
    begin = 0x800
    head = bytearray(begin)
    struct.pack_into("<HH", head, 0, 0xA5EC, 0x00C1)
    struct.pack_into("<H", head, 0x0A, 0x0200)  # the table is called 1Table
    struct.pack_into("<H", head, 0x20, 14)
    struct.pack_into("<H", head, 0x3E, 22)
    struct.pack_into("<I", head, 0x4C, len(words) // 2)
    struct.pack_into("<H", head, 0x98, 0x5D)
    pieces = struct.pack("<II", 0, len(words) // 2) + struct.pack("<HIH", 0, begin, 0)
    struct.pack_into("<II", head, 0x1A2, 0, 5 + len(pieces))
    table = b"\x02" + struct.pack("<I", len(pieces)) + pieces
    return _compound_file({"1Table": table, "WordDocument": bytes(head) + words})


def pdf_file(text: str, pages: int = 1, *, encrypted: bool = False) -> bytes:
    """Each page shows the text once, in a font that says what its glyphs mean and is not there itself."""
    # Glyphs are drawn from left to right in every language.
    text = text[::-1] if bidirectional(text[0]) == "AL" else text
    shown = b"BT /F1 12 Tf 40 700 Td <" + text.encode("utf-16-be").hex().encode() + b"> Tj ET"
    meaning = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /U def /CMapType 2 def\n"
        b"1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
        b"1 beginbfrange <0000> <FFFF> <0000> endbfrange endcmap end end"
    )
    collection = b"<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>"
    kids = b" ".join(b"%d 0 R" % (8 + number) for number in range(pages))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, kids),
        pdf_stream(shown),
        b"<</Type/Font/Subtype/Type0/BaseFont/F/Encoding/Identity-H/DescendantFonts[5 0 R]/ToUnicode 6 0 R>>",
        b"<</Type/Font/Subtype/CIDFontType2/BaseFont/F/FontDescriptor 7 0 R/DW 600/CIDSystemInfo %s>>" % collection,
        pdf_stream(meaning),
        b"<</Type/FontDescriptor/FontName/F/Flags 4/FontBBox[0 0 1000 1000]/Ascent 800/Descent 0/CapHeight 700>>",
        *[b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 3 0 R/Resources<</Font<</F1 4 0 R>>>>>>"] * pages,
    ]
    key = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>/ID[<00><00>]" % (b"11" * 32, b"22" * 32)
    return pdf_of(objects, trailer=key if encrypted else b"")


def pdf_stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(content), entries, content)


def pdf_of(objects: list[bytes], *, trailer: bytes = b"") -> bytes:
    """A PDF of these objects; the first is its catalogue."""
    written = bytearray(b"%PDF-1.7\n")
    offsets: list[int] = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(written)
    written += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    written += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    written += b"trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, start)
    return bytes(written)


def html_file(text: str) -> bytes:
    return (
        "<!doctype html><meta charset=utf-8><title>Title</title><script>hidden()</script>"
        f"<h1>Heading</h1><p>{escape(text)}<table><tr><td>one<td>two</table>"
    ).encode()


def rtf_file(text: str) -> bytes:
    units = struct.iter_unpack("<h", text.encode("utf-16-le"))
    return (r"{\rtf1\ansi\uc1 " + "".join(f"\\u{unit}?" for (unit,) in units) + "}").encode()


def epub_file(text: str) -> bytes:
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book/package.opf"/></rootfiles></container>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="b" href="b.xhtml"/>'
        '<item id="a" href="text/a%20a.xhtml"/></manifest><spine><itemref idref="a"/>'
        '<itemref idref="b"/></spine></package>'
    )
    return zip_file(
        {
            "mimetype": b"application/epub+zip",
            "META-INF/container.xml": container.encode(),
            "book/package.opf": package.encode(),
            "book/text/a a.xhtml": f"<html><body><p>{escape(text)}</p></body></html>".encode(),
            "book/b.xhtml": b"<html><body><p>second</p></body></html>",
        }
    )


def mail_file(text: str) -> bytes:
    message = EmailMessage()
    message["From"] = "a@example.com"
    message["Subject"] = text
    message.set_content(text)
    message.add_alternative("<p>the same</p>", subtype="html")
    message.add_attachment("attached", filename="notes.txt")
    return message.as_bytes()


def zip_file(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


_SECTOR = 512
_END = 0xFFFFFFFE
_FREE = 0xFFFFFFFF


def _compound_file(streams: Mapping[str, bytes]) -> bytes:
    """The file system of old Office files (MS-CFB, version 3): one sector that says which follows which, one folder."""
    # Streams below 4,096 bytes would lie in a place of their own. The names are given in order: shorter ones first.
    contents = {name: _padded(content, 4096) for name, content in streams.items()}
    table = [0xFFFFFFFD, _END]
    entries = [_entry("Root Entry", 5, child=1)]
    body = b""
    for number, (name, content) in enumerate(contents.items(), 1):
        first, count = len(table), len(content) // _SECTOR
        table += [*range(first + 1, first + count), _END]
        right = number + 1 if number < len(contents) else _FREE
        entries.append(_entry(name, 2, start=first, size=len(content), right=right))
        body += content
    table += [_FREE] * (_SECTOR // 4 - len(table))
    assert len(table) == _SECTOR // 4, "one sector of the table is enough for small texts only"
    head = struct.pack(
        "<8s16xHHHHH6xIIIIIIIII",
        *(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6),
        *(0, 1, 1, 0, 4096, _END, 0, _END, 0),
    )
    head += struct.pack("<109I", 0, *[_FREE] * 108)
    return head + struct.pack(f"<{len(table)}I", *table) + _padded(b"".join(entries), _SECTOR) + body


def _entry(name: str, kind: int, *, start: int = 0, size: int = 0, child: int = _FREE, right: int = _FREE) -> bytes:
    encoded = name.encode("utf-16-le") + b"\0\0"
    return struct.pack("<64sHBBIII36xIIxxxx", encoded, len(encoded), kind, 1, _FREE, right, child, start, size)


def _padded(content: bytes, least: int) -> bytes:
    size = max(-(-len(content) // _SECTOR) * _SECTOR, least)
    return content.ljust(size, b"\0")
