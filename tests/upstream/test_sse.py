"""Event streams: what the specification says, and what model servers make of it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.upstream.sse import EventParser, EventTooLarge


def parse(*reads: bytes) -> list[bytes]:
    parser = EventParser()
    found = [data for read in reads for data in parser.feed(read)]
    return found + parser.end()


def test_events_of_one_read_come_out_together_and_in_order() -> None:
    assert EventParser().feed(b"data: a\n\ndata: b\n\ndata: c\n\n") == [b"a", b"b", b"c"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_specification_is_understood(line_end: bytes) -> None:
    stream = b": hello\n\ndata: one\ndata: two\n\nid: 7\nevent: x\ndata:three\n\n".replace(b"\n", line_end)
    assert parse(stream) == [b"one\ntwo", b"three"]


def test_a_carriage_return_at_the_end_of_a_read_does_not_hold_its_event_back() -> None:
    assert EventParser().feed(b"data: a\r\n\r") == [b"a"]


def test_comments_and_events_without_data_are_no_events() -> None:
    assert parse(b": ping\n\nevent: nothing\n\n: x\ndata: a\n\n") == [b"a"]


def test_one_space_after_the_colon_is_not_part_of_the_value() -> None:
    assert parse(b"data:a\n\ndata: b\n\ndata:  c\n\n") == [b"a", b"b", b" c"]


def test_a_byte_order_mark_is_not_part_of_the_first_field() -> None:
    assert parse(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == [b"a"]


def test_extra_blank_lines_make_no_events() -> None:
    assert parse(b"\n\ndata: a\n\n\n", b"\n\n\ndata: b\n\n") == [b"a", b"b"]


def test_a_last_event_without_its_blank_line_comes_out_at_the_end() -> None:
    assert parse(b"data: a\n\ndata: [DONE]") == [b"a", b"[DONE]"]


def test_an_error_line_counts_as_data() -> None:
    assert parse(b'error: {"message": "no"}\n\n') == [b'{"message": "no"}']


def test_an_event_over_the_limit_is_refused() -> None:
    parser = EventParser(limit=1000)
    parser.feed(b"data: " + b"x" * 900)
    with pytest.raises(EventTooLarge):
        parser.feed(b"x" * 200)


def test_a_huge_event_in_small_reads_comes_out_whole() -> None:
    parser = EventParser()
    for _ in range(10_000):
        assert parser.feed(b"") == []
    assert parser.feed(b"data: ") == []
    for _ in range(200):
        assert parser.feed(b"x" * 65_536) == []
    assert list(map(len, parser.feed(b"\n\n"))) == [200 * 65_536]


_line = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b"data: {}",
        b": comment",
        b"event: e",
        b"id: 1",
        b"error: no",
        b"x",
        b"\xef\xbb\xbf",
        b"",
    ]
)
_streams = st.lists(st.tuples(_line, st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n"])), max_size=30).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@given(stream=st.one_of(_streams, st.binary(max_size=60)), data=st.data())
def test_the_events_do_not_depend_on_how_the_bytes_are_split(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    reads = [stream[a:b] for a, b in pairwise(edges)]
    assert parse(*reads) == parse(stream)
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == parse(stream)
