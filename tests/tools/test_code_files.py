"""Names of files in a session, whatever they are called elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.tools.code_interpreter.files import distinct_names, safe_name

filenames = st.text(st.characters(), max_size=400) | st.sampled_from(["..", ".", "", "a/../b", "é" * 300 + ".csv"])


@given(filenames)
def test_name_is_safe_in_every_folder(filename: str) -> None:
    name = safe_name(filename)
    assert 0 < len(name.encode()) <= 255
    assert "/" not in name
    assert name not in (".", "..")
    assert name.isprintable() or not any(ord(character) < 32 for character in name)


@given(st.lists(filenames, max_size=8))
def test_no_two_files_have_one_name(names: list[str]) -> None:
    given_names = distinct_names([*names, *names])
    assert len(set(given_names)) == 2 * len(names)
    assert all(len(name.encode()) <= 255 for name in given_names)
    assert distinct_names([*names, *names]) == given_names


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("sales.csv", "sales.csv"),
        ("Quartal 3: Übersicht.xlsx", "Quartal 3: Übersicht.xlsx"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("C:\\data\\a.csv", "C:_data_a.csv"),
        ("a\nb\x7f.csv", "a_b_.csv"),
        ("...", "file"),
        ("  ", "file"),
        ("x" * 300 + ".csv", "x" * 251 + ".csv"),
        (".env", ".env"),
    ],
)
def test_name_stays_as_it_is_where_it_can(filename: str, name: str) -> None:
    assert safe_name(filename) == name


def test_further_file_of_a_name_has_a_number() -> None:
    names = ["a.csv", "a.csv", "a (2).csv", "a.csv", "tar.gz", "tar.gz", "id"]
    assert distinct_names(names, taken=["id"]) == [
        "a.csv", "a (2).csv", "a (2) (2).csv", "a (3).csv", "tar.gz", "tar (2).gz", "id (2)"
    ]  # fmt: skip
