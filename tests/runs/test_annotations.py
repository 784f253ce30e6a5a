"""Marks in an answer's text become annotations: which ones, where, and when."""

import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from threadkeep.runs.annotations import MAX_CITATION_LENGTH, Annotator, Piece

LINKS = {
    "report.csv": "file-report",
    "report.csv.gz": "file-zipped",
    "my report (1).csv": "file-spaced",
    "résumé/日本.png": "file-foreign",
    "cafe\u0301.txt": "file-combined",
    "📊.png": "file-emoji",
    "100%.csv": "file-percent",
    "a%20b": "file-encoded",
    "out/plot_1.png": "file-plot",
    "Makefile": "file-make",
    "Makefile (copy)": "file-copy",
}
CITATIONS = {(4, 0): ("file-sky", ""), (4, 15): ("file-sea", "The sea is deep.")}


def pieces_of(text: str, *, cut: int = 10_000) -> list[Piece]:
    annotator = Annotator(LINKS, CITATIONS)
    pieces = [piece for start in range(0, len(text), cut) for piece in annotator.feed(text[start : start + cut])]
    return [*pieces, *annotator.finish()]


def marks_of(text: str, *, cut: int = 10_000) -> list[tuple[str, str]]:
    return [(piece.text, piece.source.file_id) for piece in pieces_of(text, cut=cut) if piece.source]


@pytest.mark.parametrize(
    ("text", "mark", "file_id"),
    [
        ("[report](sandbox:/mnt/data/report.csv)", "sandbox:/mnt/data/report.csv", "file-report"),
        ("![plot](sandbox:/mnt/data/out/plot_1.png 'title')", "sandbox:/mnt/data/out/plot_1.png", "file-plot"),
        ('<a href="sandbox:/mnt/data/report.csv">', "sandbox:/mnt/data/report.csv", "file-report"),
        ("sandbox:mnt/data/report.csv", "sandbox:mnt/data/report.csv", "file-report"),
        ("sandbox:///mnt/data/report.csv", "sandbox:///mnt/data/report.csv", "file-report"),
        ("sandbox:/report.csv", "sandbox:/report.csv", "file-report"),
        ("sandbox:report.csv", "sandbox:report.csv", "file-report"),
        ("Sandbox:/mnt/data/report.csv", "Sandbox:/mnt/data/report.csv", "file-report"),
        ("[report](/mnt/data/report.csv)", "/mnt/data/report.csv", "file-report"),
        ("[report](</mnt/data/my report (1).csv>)", "/mnt/data/my report (1).csv", "file-spaced"),
        ("(sandbox:/mnt/data/my report (1).csv)", "sandbox:/mnt/data/my report (1).csv", "file-spaced"),
        ("sandbox:/mnt/data/my%20report%20%281%29.csv", "sandbox:/mnt/data/my%20report%20%281%29.csv", "file-spaced"),
        ("sandbox:/mnt/data/my%20report%20(1).csv", "sandbox:/mnt/data/my%20report%20(1).csv", "file-spaced"),
        (r"sandbox:/mnt/data/my\ report\ \(1\).csv", r"sandbox:/mnt/data/my\ report\ \(1\).csv", "file-spaced"),
        ("sandbox:%2Fmnt%2Fdata%2Freport.csv", "sandbox:%2Fmnt%2Fdata%2Freport.csv", "file-report"),
        ("sandbox:/mnt/data/résumé/日本.png", "sandbox:/mnt/data/résumé/日本.png", "file-foreign"),
        (
            "sandbox:/mnt/data/r%C3%A9sum%c3%a9/%E6%97%A5本.png",
            "sandbox:/mnt/data/r%C3%A9sum%c3%a9/%E6%97%A5本.png",
            "file-foreign",
        ),
        ("sandbox:/mnt/data/cafe\u0301.txt", "sandbox:/mnt/data/cafe\u0301.txt", "file-combined"),
        ("👩‍💻 sandbox:/mnt/data/📊.png 👍", "sandbox:/mnt/data/📊.png", "file-emoji"),
        ("sandbox:/mnt/data/100%.csv", "sandbox:/mnt/data/100%.csv", "file-percent"),
        ("sandbox:/mnt/data/100%25.csv", "sandbox:/mnt/data/100%25.csv", "file-percent"),
        ("sandbox:/mnt/data/a%20b", "sandbox:/mnt/data/a%20b", "file-encoded"),
        ("sandbox:/mnt/data/a%2520b", "sandbox:/mnt/data/a%2520b", "file-encoded"),
    ],
)
@pytest.mark.parametrize("cut", [1, 3, 10_000])
def test_a_link_is_found_however_it_is_spelled(text: str, mark: str, file_id: str, cut: int) -> None:
    assert marks_of(text, cut=cut) == [(mark, file_id)]


@pytest.mark.parametrize(
    "text",
    [
        "sandbox:/mnt/data/other.csv",
        "sandbox:/mnt/data/",
        "sandbox:",
        "sandbox:////report.csv",
        "https://example.com/report.csv",
        "It is in /mnt/data/report.csv (on disk).",
        "(/mnt/data/report.csv)",
        "[report] (/mnt/data/report.csv)",
        "notasandbox:/mnt/data/report.csv",
        "sandbox:/mnt/data/Report.csv",
        "sandbox:/mnt/data/../report.csv",
    ],
)
@pytest.mark.parametrize("cut", [1, 10_000])
def test_what_names_no_known_file_is_text(text: str, cut: int) -> None:
    assert marks_of(text, cut=cut) == []


@pytest.mark.parametrize(
    "after", ["", ".", ". Next", "...", ",", ")", "?", "!", "'s", "\n", "`", "**", "_", "。", "里", "—", " "]
)
def test_a_link_ends_where_its_name_ends(after: str) -> None:
    assert marks_of(f"See sandbox:/mnt/data/report.csv{after}") == [("sandbox:/mnt/data/report.csv", "file-report")]


@pytest.mark.parametrize("after", [".bz2", "x", "2", "_old", "-old", "/a", "%20old", "é", "\u0301", ".gzip"])
def test_the_beginning_of_a_longer_name_is_not_a_link(after: str) -> None:
    assert marks_of(f"See sandbox:/mnt/data/report.csv{after}") == []


@pytest.mark.parametrize("name", ["report.csv.gz", "Makefile (copy)"])
@pytest.mark.parametrize("after", ["", ".", " and", ")"])
def test_the_longest_name_is_meant(name: str, after: str) -> None:
    assert marks_of(f"sandbox:/mnt/data/{name}{after}", cut=2) == [(f"sandbox:/mnt/data/{name}", LINKS[name])]


def test_a_longer_name_that_is_not_reached_gives_way() -> None:
    assert marks_of("sandbox:/mnt/data/Makefile (cold)", cut=1) == [("sandbox:/mnt/data/Makefile", "file-make")]


def test_several_links_follow_one_another() -> None:
    text = "[a](sandbox:/mnt/data/report.csv)[b](/mnt/data/Makefile), sandbox:/mnt/data/report.csv"

    assert marks_of(text) == [
        ("sandbox:/mnt/data/report.csv", "file-report"),
        ("/mnt/data/Makefile", "file-make"),
        ("sandbox:/mnt/data/report.csv", "file-report"),
    ]


def test_a_link_may_begin_in_what_looked_like_one() -> None:
    assert marks_of("sandbox:/sandbox:/mnt/data/report.csv") == [("sandbox:/mnt/data/report.csv", "file-report")]
    assert marks_of("sandbox:/mnt/data/re sandbox:/report.csv", cut=1) == [("sandbox:/report.csv", "file-report")]


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Blue【4:0†source】.", [("【4:0†source】", "file-sky")]),
        ("【4:15†report, part 1 (final).pdf】", [("【4:15†report, part 1 (final).pdf】", "file-sea")]),
        ("【4:0】", [("【4:0】", "file-sky")]),
        ("【 4 : 0 † source 】", [("【 4 : 0 † source 】", "file-sky")]),
        ("【4：0†source】", [("【4：0†source】", "file-sky")]),  # noqa: RUF001
        ("【4:0†a】【4:15†b】", [("【4:0†a】", "file-sky"), ("【4:15†b】", "file-sea")]),
        ("【4:0†a, 4:15†b】", [("【4:0†a, ", "file-sky"), ("4:15†b】", "file-sea")]),
        ("【4:0;4:15】", [("【4:0;", "file-sky"), ("4:15】", "file-sea")]),
        ("【9:9†a, 4:15†b】", [("4:15†b】", "file-sea")]),
        ("【【4:0†source】】", [("【4:0†source】", "file-sky")]),
        ("【9:9†source】", []),
        ("【4:00】", []),
        ("【4:0", []),
        ("【4:0†sou\nrce】", []),
        ("【4:0†source", []),
        ("【4:0, or so】", []),
        ("【注意】", []),
        ("【】", []),
        ("[4:0]", []),
    ],
)
@pytest.mark.parametrize("cut", [1, 2, 10_000])
def test_a_citation_is_found_however_it_is_written(text: str, marks: list[tuple[str, str]], cut: int) -> None:
    assert marks_of(text, cut=cut) == marks


def test_a_citation_has_its_quote() -> None:
    assert [piece.source and getattr(piece.source, "quote", None) for piece in pieces_of("【4:15】【4:0】")] == [
        "The sea is deep.",
        "",
    ]


@pytest.mark.parametrize(
    "text",
    ["The files", "Yes", "a sandwich:", "[x](", "(/", "【注", "【9:9】", "it is。", "sandbox:/x", "50%", "【4:0x"],
)
def test_text_that_becomes_no_mark_is_not_delayed(text: str) -> None:
    assert "".join(piece.text for piece in Annotator(LINKS, CITATIONS).feed(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("See s", "See "),
        ("See (sandbox", "See ("),
        ("[x](/", "[x]("),
        ("[x](</mnt/da", "[x](<"),
        ("Go to sandbox:/mnt/data/report.csv.g", "Go to "),
        ("sandbox:/mnt/data/r%C3%", ""),
        ("Blue【", "Blue"),
        ("Blue【4:0†sou", "Blue"),
        ("Blue【4:0】【4", "Blue【4:0】"),
    ],
)
def test_only_what_may_become_a_mark_is_held_back(text: str, told: str) -> None:
    annotator = Annotator(LINKS, CITATIONS)

    assert "".join(piece.text for piece in annotator.feed(text)) == told
    assert "".join(piece.text for piece in annotator.finish()) == text.removeprefix(told)


def test_an_endless_citation_is_let_go() -> None:
    annotator = Annotator(LINKS, CITATIONS)
    text = "【4:0†" + "x" * (MAX_CITATION_LENGTH - 6)

    assert annotator.feed(text[:-1]) == []
    assert annotator.feed(text[-1]) == []
    assert annotator.feed("x") == [Piece(text + "x")]


@pytest.mark.parametrize("cut", [1, 10_000])
def test_a_citation_has_a_longest_length(cut: int) -> None:
    longest = "【4:0†" + "x" * (MAX_CITATION_LENGTH - 6) + "】"

    assert marks_of(longest, cut=cut) == [(longest, "file-sky")]
    assert marks_of(longest.replace("†", "†x"), cut=cut) == []


def test_the_text_after_the_end_is_another_one() -> None:
    annotator = Annotator(LINKS, CITATIONS)
    annotator.feed("[x](")
    annotator.finish()

    assert [piece.source for piece in annotator.feed("/mnt/data/report.csv)")] == [None]


def test_only_what_is_known_is_looked_for() -> None:
    both = "sandbox:/mnt/data/report.csv 【4:0†source】"

    assert Annotator({}, {}).feed(both + " s【") == [Piece(both + " s【")]
    assert [bool(piece.source) for piece in Annotator(LINKS, {}).feed(both)] == [True, False]
    assert [bool(piece.source) for piece in Annotator({}, CITATIONS).feed(both)] == [False, True]


def test_a_file_without_a_name_is_no_link() -> None:
    assert Annotator({"": "file-none", "a": "file-a"}, {}).feed("sandbox: sandbox:/mnt/data/ ") == [
        Piece("sandbox: sandbox:/mnt/data/ ")
    ]


def test_a_link_in_many_small_pieces_is_read_once() -> None:
    path = "x/" * 2000 + "y"
    annotator = Annotator({path: "file-deep"} | {f"{path}{number}": "file-near" for number in range(500)}, {})
    text = "sandbox:/mnt/data/" + path.replace("x", "%78")
    began = time.process_time()
    pieces = [piece for character in text for piece in annotator.feed(character)] + annotator.finish()

    assert [(piece.text, bool(piece.source)) for piece in pieces] == [(text, True)]
    assert time.process_time() - began < 5


WORDS = [
    *(f"{prefix}{path}" for prefix in ("sandbox:/mnt/data/", "sandbox:", "](/mnt/data/") for path in LINKS),
    *("sandbox:/mnt/data/my%20report%20%281%29.csv", "sandbox:/mnt/data/r%C3%A9sum%c3%a9/%E6%97%A5本.png"),
    *("【4:0†source】", "【4:15†日本.pdf】", "【4:0†a, 4:15†b】", "【9:9†source】", "【4:0】", "【注意】"),
    *(
        "sand",
        "sandbox:",
        "](",
        "](/mnt",
        "【",
        "】",
        "【4",
        "†",
        "%",
        "\\",
        "/",
        ".",
        "s",
        "\u017fandbox:",
        "e\u0301",
        "👩‍💻",
        "\n",
        " ",
    ),
]


def texts() -> st.SearchStrategy[str]:
    """Marks, the halves of marks and anything else, in any order."""
    halves = st.tuples(st.sampled_from(WORDS), st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]])
    return st.lists(st.one_of(st.sampled_from(WORDS), halves, st.text(max_size=3)), max_size=12).map("".join)


def cut_up(text: str, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    while text:
        length = chance.randint(0, 6)
        yield text[:length]
        text = text[length:]


@given(texts(), st.integers())
@example("sandbox:/mnt/data/report.csv.gz.", 0)
def test_how_a_text_is_cut_changes_nothing(text: str, seed: int) -> None:
    annotator = Annotator(LINKS, CITATIONS)
    pieces = [piece for fragment in cut_up(text, seed) for piece in annotator.feed(fragment)] + annotator.finish()

    def placed(given: list[Piece]) -> list[tuple[int, Piece]]:
        starts = [sum(len(piece.text) for piece in given[:index]) for index in range(len(given))]
        return [(start, piece) for start, piece in zip(starts, given, strict=True) if piece.source]

    assert "".join(piece.text for piece in pieces) == text
    assert placed(pieces) == placed(pieces_of(text))
