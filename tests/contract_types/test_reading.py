"""What is accepted, as lenient as the clients in use need it."""

import json
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Struct

from tests.contract_types.plain import contract_types, json_values, plain
from threadkeep.contract.assistants import CreateAssistantRequest
from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.messages import CreateMessageRequest, ImageFile, ImageFileContent
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.reading import check_id, read_json, read_query
from threadkeep.contract.run_steps import Include
from threadkeep.contract.runs import CreateRunRequest, SubmitToolOutputsRequest
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest
from threadkeep.contract.tools import (
    FileSearchOptions,
    FileSearchTool,
    FunctionDefinition,
    FunctionTool,
    ModifyCodeInterpreterResources,
    ModifyFileSearchResources,
    ModifyToolResources,
)
from threadkeep.contract.vector_stores import AllOf, Equals, IsIn, VectorStoreSearchRequest
from threadkeep.contract.wire import FieldRefused, Object, Request

INCLUDE = "step_details.tool_calls[*].file_search.results[*].content"


class Everything(Request):
    include: list[Include] | None = None
    metadata: dict[str, str] | None = None
    flag: bool = False
    count: int = 0


def read(type_: type[Any], body: object) -> Any:
    return read_json(type_, json.dumps(body).encode())


def test_nulls_for_everything_optional_are_accepted() -> None:
    nulls = dict.fromkeys(CreateRunRequest.__struct_fields__)

    assert read(CreateRunRequest, nulls | {"assistant_id": "asst_1"}) == CreateRunRequest(assistant_id="asst_1")


def test_nulls_inside_tool_resources_are_accepted() -> None:
    body = {"tool_resources": {"code_interpreter": {"file_ids": None}, "file_search": {"vector_store_ids": None}}}

    assert read(ModifyThreadRequest, body).tool_resources == ModifyToolResources(
        code_interpreter=ModifyCodeInterpreterResources(), file_search=ModifyFileSearchResources()
    )


def test_attachments_may_come_without_tools_or_be_null() -> None:
    with_file = read(CreateMessageRequest, {"role": "user", "content": "x", "attachments": [{"file_id": "file-1"}]})

    assert with_file.attachments[0].tools is None
    assert read(CreateMessageRequest, {"role": "user", "content": "x", "attachments": None}).attachments is None


def test_null_for_an_optional_part_of_a_tool_is_not_echoed() -> None:
    body = {
        "model": "m",
        "tools": [
            {"type": "file_search", "file_search": {"max_num_results": None, "ranking_options": None}},
            {"type": "file_search", "file_search": None},
            {"type": "function", "function": {"name": "f", "description": None, "parameters": None}},
        ],
    }

    assert read(CreateAssistantRequest, body).tools == [
        FileSearchTool(file_search=FileSearchOptions()),
        FileSearchTool(),
        FunctionTool(function=FunctionDefinition(name="f")),
    ]
    assert msgspec.json.encode(FunctionDefinition(name="f")) == b'{"name":"f"}'


def test_null_detail_of_an_image_means_auto() -> None:
    part = {"type": "image_file", "image_file": {"file_id": "file-1", "detail": None}}

    assert read(CreateMessageRequest, {"role": "user", "content": [part]}).content == [
        ImageFileContent(image_file=ImageFile(file_id="file-1", detail="auto"))
    ]


def test_empty_message_lists_are_accepted() -> None:
    assert read(CreateThreadRequest, {"messages": []}).messages == []


def test_an_absent_field_of_a_modification_is_not_null() -> None:
    assert read(ModifyThreadRequest, {}).tool_resources is UNSET
    assert read(ModifyThreadRequest, {}).metadata is UNSET
    assert read(ModifyThreadRequest, {"metadata": None}).metadata == {}


def test_an_output_may_be_left_out() -> None:
    assert read(SubmitToolOutputsRequest, {"tool_outputs": [{"tool_call_id": "call_1"}]}).tool_outputs[0].output is None


def test_filters_nest() -> None:
    body = {
        "query": ["a", "b"],
        "filters": {
            "type": "and",
            "filters": [{"type": "eq", "key": "k", "value": 1.5}, {"type": "in", "key": "k", "value": ["x", 2]}],
        },
    }

    assert read(VectorStoreSearchRequest, body).filters == AllOf(
        filters=[Equals(key="k", value=1.5), IsIn(key="k", value=["x", 2])]
    )


def test_unknown_query_parameters_are_ignored() -> None:
    assert read_query(ListQuery, [("api-version", "2024-05-01-preview"), ("limit[]", "3")]) == ListQuery()


def test_query_texts_become_numbers_and_booleans() -> None:
    assert read_query(Everything, [("count", "-12"), ("flag", "true")]) == Everything(count=-12, flag=True)


def test_the_last_of_repeated_query_parameters_counts() -> None:
    assert read_query(ListQuery, [("limit", "5"), ("limit", "7")]).limit == 7


def test_an_empty_query_parameter_is_absent() -> None:
    assert read_query(ListQuery, [("after", ""), ("limit", "")]) == ListQuery()


@pytest.mark.parametrize("name", ["include", "include[]", "include[0]"])
def test_a_list_is_filled_by_repetition(name: str) -> None:
    assert read_query(Everything, [(name, INCLUDE), (name, INCLUDE)]).include == [INCLUDE, INCLUDE]


def test_an_object_given_as_text_too_is_taken_for_what_came_last() -> None:
    assert read_query(Everything, [("metadata", "x"), ("metadata[user]", "u1")]).metadata == {"user": "u1"}
    with pytest.raises(InvalidRequest, match="expected a metadata object, but got a string"):
        read_query(Everything, [("metadata[user]", "u1"), ("metadata", "x")])


def test_bracketed_names_fill_an_object() -> None:
    read = read_query(Everything, [("metadata[user]", "u1"), ("metadata[count]", "5"), ("metadata[empty]", "")])

    assert read.metadata == {"user": "u1", "count": "5", "empty": ""}


REQUESTS = contract_types(Request)
OBJECTS = contract_types(Object)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    assert read_or_refused(CreateAssistantRequest, raw)


@settings(deadline=None)
@given(json_values())
def test_any_json_is_read_or_refused(value: object) -> None:
    assert read_or_refused(CreateRunRequest, json.dumps(value).encode())


@settings(deadline=None)
@given(json_values(), st.integers(0, 200), st.binary(max_size=3))
def test_any_json_with_broken_bytes_is_read_or_refused(value: object, at: int, junk: bytes) -> None:
    raw = json.dumps({"role": "user", "content": value}, ensure_ascii=False).encode()

    assert read_or_refused(CreateMessageRequest, raw[:at] + junk + raw[at:])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_request_with_one_value_changed_is_read_or_refused_for_a_reason(data: st.DataObject) -> None:
    type_ = data.draw(st.sampled_from(REQUESTS))
    body = data.draw(plain(type_))
    changed = data.draw(changed_somewhere(body))

    assert read_or_refused(type_, json.dumps(changed).encode())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["limit", "order", "after", "include[]", "metadata[a]"]) | st.text(), st.text()))
)
def test_any_query_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    for type_ in (ListQuery, Everything):
        with suppress(InvalidRequest):
            read_query(type_, pairs)


@settings(deadline=None)
@given(st.text())
def test_any_id_is_let_through_or_refused(value: str) -> None:
    with suppress(InvalidRequest):
        check_id("thread_id", value, "thread")
        assert value.isascii()


def test_every_kind_of_request_and_object_is_found() -> None:
    names = {type_.__name__ for type_ in [*REQUESTS, *OBJECTS]}

    assert {"CreateRunRequest", "CompleteUploadRequest", "VectorStoreSearchRequest", "Run", "RunStepDelta"} <= names


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_object_is_stored_and_read_back_unchanged(data: st.DataObject) -> None:
    type_: type[Struct] = data.draw(st.sampled_from(OBJECTS))
    try:
        made = msgspec.convert(data.draw(plain(type_)), type_)
    except msgspec.ValidationError as refused:
        # What a type says, a rule between its fields may forbid.
        assume(not isinstance(refused.__cause__, FieldRefused))
        raise

    assert msgspec.json.decode(msgspec.json.encode(made), type=type_) == made


def read_or_refused(type_: type[Any], raw: bytes) -> bool:
    """Whatever else comes out fails the test by itself."""
    told = ""
    try:
        read_json(type_, raw)
    except InvalidRequest as refused:
        told = refused.message
    # The explanation's last resort: there is a rule that it does not know.
    return not told.startswith("Invalid value for")


def changed_somewhere(value: Any) -> st.SearchStrategy[Any]:
    """``value`` with something else in one place, or with a key too many or too few."""
    places: list[st.SearchStrategy[Any]] = [json_values()]
    if isinstance(value, dict):
        whole = cast("dict[str, Any]", value)
        for key, item in whole.items():
            places.append(changed_somewhere(item).map(partial(_replaced, whole, key)))
            places.append(st.just({other: whole[other] for other in whole if other != key}))
        places.append(json_values().map(partial(_replaced, whole, "extra")))
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        places += [changed_somewhere(item).map(partial(_put, items, index)) for index, item in enumerate(items)]
    return st.one_of(places)


def _replaced(whole: dict[str, Any], key: str, item: Any) -> dict[str, Any]:
    return {**whole, key: item}


def _put(items: list[Any], index: int, item: Any) -> list[Any]:
    return [*items[:index], item, *items[index + 1 :]]
