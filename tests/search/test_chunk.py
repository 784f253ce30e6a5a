"""How text is cut: what holds for every text, and where cuts fall."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.documents import LANGUAGES
from threadkeep.search.chunk import Chunk, Chunker
from threadkeep.search.parse import ParseFailed
from threadkeep.search.tokens import tokenizer

PARTS = [
    "word",
    " ",
    "\n",
    "\n\n",
    ".",
    " \n ",
    "文",
    "文字列。",
    "é",
    "😀",
    "👩‍👩‍👧‍👦",
    "\t",
    "1234567",
    "!!!!",
    "<|endoftext|>",
    "ـ",
    "\u0301",
]


def chunks_of(text: str, *, max_tokens: int = 800, overlap: int = 400, piece: int = 10_000) -> list[Chunk]:
    chunker = Chunker(max_tokens, overlap, max_file_tokens=None)
    chunks = [chunk for start in range(0, len(text), piece) for chunk in chunker.feed(text[start : start + piece])]
    return chunks + chunker.finish()


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.sampled_from(PARTS) | st.text(max_size=5), min_size=1, max_size=60),
    times=st.integers(1, 40),
    sizes=st.tuples(st.integers(100, 400), st.floats(0, 0.5)),
)
def test_chunks_are_slices_within_the_limits_and_leave_nothing_out(
    parts: list[str], times: int, sizes: tuple[int, float]
) -> None:
    text = "".join(parts).encode("utf-8", "replace").decode() * times
    limit, overlap = sizes[0], int(sizes[0] * sizes[1])
    done = 0
    for before, chunk in zip(
        [None, *(chunks := chunks_of(text, max_tokens=limit, overlap=overlap))], chunks, strict=False
    ):
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.tokens == tokenizer().count(chunk.text) <= limit
        assert not text[done : chunk.start].strip()
        if before is not None:
            assert before.start < chunk.start
            assert before.end < chunk.end
        done = chunk.end
    assert not text[done:].strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_size_of_pieces_changes_nothing(language: str) -> None:
    text = f"{LANGUAGES[language]}\n" * 5_000
    assert chunks_of(text, piece=1_000_000) == chunks_of(text, piece=977)


def test_chunks_overlap_by_about_as_much_as_was_asked() -> None:
    text = "one two three four. " * 5_000
    chunks = chunks_of(text, max_tokens=200, overlap=100)
    for one, other in pairwise(chunks):
        assert 75 <= tokenizer().count(text[other.start : one.end]) <= 101


def test_chunks_without_overlap_follow_one_another() -> None:
    text = "one two three four. " * 5_000
    chunks = chunks_of(text, max_tokens=200, overlap=0)
    # White space alone, at the end, is no chunk.
    assert "".join(chunk.text for chunk in chunks) == text.rstrip()


def test_a_short_text_is_one_chunk() -> None:
    assert chunks_of("A short text.\n") == [Chunk("A short text.\n", 0, 14, 4)]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("A paragraph with some words in it.\nAnd a line.\n\n" * 100, ".\n\n"),
        ("a line without stops\n" * 100, "\n"),
        ("A sentence of some words. " * 100, "."),
        ("一句话没有空格但是有句号。" * 100, "。"),
        ("words without an end " * 100, "end"),
    ],
)
def test_a_chunk_ends_where_something_ends(text: str, end: str) -> None:
    for chunk in chunks_of(text, max_tokens=100, overlap=50)[:-1]:
        assert chunk.text.endswith((end, "words", "without", "an") if end == "end" else end)
        assert chunk.tokens > 80


def test_text_of_white_space_has_no_chunks() -> None:
    assert chunks_of(" \n\t" * 100_000) == []


def test_empty_text_has_no_chunks() -> None:
    assert chunks_of("") == []


def test_more_tokens_than_a_file_may_have_fail() -> None:
    chunker = Chunker(max_file_tokens=1_000)
    with pytest.raises(ParseFailed) as failed:
        chunker.feed("many words " * 10_000)
    assert (failed.value.code, failed.value.message) == ("invalid_file", "The file has more than 1,000 tokens.")


def test_tokens_of_a_file_are_counted_once() -> None:
    chunker = Chunker(200, 100)
    chunker.feed("one two three four. " * 1_000)
    chunker.finish()
    assert chunker.file_tokens == pytest.approx(5_000, rel=0.01)


@pytest.mark.parametrize("letter", ["a", " ", "\n", "文", "!", "é", "😀", "1", "\u0301"])
def test_a_line_of_one_letter_takes_time_in_proportion(letter: str) -> None:
    def spent(size: int) -> float:
        began = time.process_time()
        chunks_of(letter * size, piece=65_536)
        return time.process_time() - began

    spent(100_000)
    # Were it quadratic, it would be 64 times as much.
    assert spent(1_600_000) < 32 * max(spent(200_000), 0.02)
