"""Metadata: what is converted, what is kept; the refusals are in ``test_refusals``."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadkeep.contract.metadata import as_attributes, as_strings
from threadkeep.contract.reading import read_json
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest
from threadkeep.contract.tools import CreateToolResources

SCALARS: list[tuple[Any, str]] = [
    (True, "true"),
    (False, "false"),
    (5, "5"),
    (-3, "-3"),
    (4.5, "4.5"),
    (4.0, "4.0"),
    (10**30, "1" + "0" * 30),
    ("text", "text"),
    ("", ""),
]


@pytest.mark.parametrize(("given", "kept"), SCALARS)
def test_scalars_become_strings_as_json_writes_them(given: Any, kept: str) -> None:
    body = json.dumps({"metadata": {"k": given}}).encode()

    assert read_json(CreateThreadRequest, body).metadata == {"k": kept}


@pytest.mark.parametrize("body", [b"{}", b'{"metadata":null}', b'{"metadata":{}}'])
def test_absent_null_and_empty_metadata_are_all_empty(body: bytes) -> None:
    assert read_json(CreateThreadRequest, body).metadata == {}


def test_the_largest_allowed_metadata_is_kept() -> None:
    largest = {f"{n:064}": "😀" * 512 for n in range(16)}

    assert read_json(ModifyThreadRequest, json.dumps({"metadata": largest}).encode()).metadata == largest


def test_metadata_of_a_store_made_on_the_way_is_read_alike() -> None:
    body = b'{"file_search": {"vector_stores": [{"metadata": {"a": 1}}]}}'
    resources = read_json(CreateToolResources, body)

    assert resources.file_search is not None
    assert [store.metadata for store in resources.file_search.vector_stores or []] == [{"a": "1"}]


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=64), st.text(max_size=512), max_size=16))
def test_strings_are_kept_as_they_are(pairs: dict[str, Any]) -> None:
    assert as_strings(pairs) == pairs


def test_attributes_keep_numbers_and_booleans() -> None:
    pairs: dict[str, Any] = {"year": 2020, "share": 0.5, "draft": True, "author": "A"}

    assert as_attributes(pairs) == pairs
    assert as_attributes(None) == {}
