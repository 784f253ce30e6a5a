import string
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.search.terms import STOP_WORDS, count_terms, query_terms


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The cells were dividing.", "cell division of a divided cell"),
        ("Transcription factors regulate genes", "which factor regulates transcription?"),
        ("It isn't Sullivan's", "Sullivan"),
        ("T-cell receptors", "t cell receptor"),
        ("COVID-19 and p53", "covid 19 P53"),
        ("call get_weather_report(city)", "weather report"),
        ("call get_weather_report(city)", "get_weather_report"),
        ("class XMLHttpRequest:", "http request"),
        ("class XMLHttpRequest:", "xmlhttprequest"),
        ("mRNA of the iPhone", "MRNA iphone"),
        ("version 3.11.7 of 4711", "3.11 4711"),
        ("Die Straßenbahn fährt nach Österreich", "STRASSENBAHN osterreich"),
        ("Größere Wörterbücher und ein Wörterbuch", "Wörterbuch"),
        ("un café à Sao Paulo", "cafe são"),
        ("我想买一辆自行车", "自行车"),
        ("我喜欢喝茶。", "茶"),
        ("東京タワーに行きたい", "タワー"),
        ("ﾀﾜｰ", "タワー"),
        ("한국어를 공부한다", "한국어"),
        ("ผมชอบกินข้าว", "ข้าว"),
        ("Мы любим зелёный чай", "зеленого чая"),
        ("Новые города России", "город"),
        ("الكُتُبُ الجديدة", "الكتب"),
        ("مرحباً بالعالم", "العالم"),
        ("γάτες κοιμούνται", "γατες"),
        ("कृपया मदद करें", "मदद"),
        ("ﬁne ligatures", "fine"),
    ],
)
def test_query_finds_the_text(text: str, query: str) -> None:
    assert set(query_terms(query)) & set(count_terms(text))


@pytest.mark.parametrize("query", ["自行车", "タワー", "город", "العالم", "Wörterbuch", "weather"])
def test_query_of_another_text_finds_nothing(query: str) -> None:
    for text in ("我想喝茶", "京都に住む", "чай и молоко", "القهوة", "Tee und Kaffee", "tea and coffee"):
        assert not set(query_terms(query)) & set(count_terms(text))


def test_every_term_asked_for_is_one_that_is_indexed() -> None:
    for text in ("the cells, getHTTPResponse, x_1", "自行车 and 茶", "ein Österreicher", "__init__"):
        assert set(query_terms(text)) <= set(count_terms(text))


def test_terms_are_counted() -> None:
    assert count_terms("Cell, cells and CELLS; one wall") == {"cell": 3, "one": 1, "wall": 1}
    assert query_terms("cell wall cell") == ["cell", "wall", "cell"]


def test_words_that_say_nothing_are_dropped() -> None:
    assert query_terms("What is the of and to?") == []
    assert count_terms(" ".join(STOP_WORDS)) == {}


def test_a_name_is_found_whole_and_by_its_parts() -> None:
    assert set(count_terms("getHTTPResponse")) == {"gethttprespons", "get", "http", "respons"}
    assert set(count_terms("_parse_trees")) == {"parse_trees", "pars", "tree"}
    assert query_terms("PhD") == ["phd"]


@pytest.mark.parametrize("text", ["", " ", "\n\0", "*", '"', "_", "___", "😀", "\u0301"])
def test_text_without_words_has_no_terms(text: str) -> None:
    assert count_terms(text) == {}
    assert query_terms(text) == []


@given(st.text())
def test_any_text_has_terms_that_a_database_can_keep(text: str) -> None:
    counted = count_terms(text)
    for term, times in counted.items():
        assert 0 < len(term.encode()) <= 800
        assert times > 0
        assert "\0" not in term
    assert set(query_terms(text)) <= set(counted)


@pytest.mark.parametrize("piece", ["x", "aB", "_", "a_", "自", "'", "\u0301", "é", "0", "1.", "Aa"])
def test_time_grows_with_the_length_alone(piece: str) -> None:
    began = time.process_time()
    terms = count_terms(piece * (200_000 // len(piece)))
    # A pattern that looks back for each character would take minutes.
    assert time.process_time() - began < 20
    assert all(len(term) <= 100 for term in terms)


def test_threads_do_not_disturb_each_other() -> None:
    words = [f"{a}{b}{end}" for a in string.ascii_lowercase for b in "aeiou" for end in ("lation", "nesses", "ming")]
    expected = [query_terms(word) for word in words]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(query_terms, words)) == expected
