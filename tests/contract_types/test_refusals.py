"""What a client is told when its request is wrong: text, ``param`` and ``code``, as clients match on them."""

import json
from typing import Any, NamedTuple

import pytest

from threadkeep.contract.assistants import CreateAssistantRequest, ModifyAssistantRequest
from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.files import CreateFileRequest
from threadkeep.contract.messages import CreateMessageRequest
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.reading import MAX_DEPTH, MAX_VALUES, check_id, read_json, read_query
from threadkeep.contract.runs import (
    CreateRunRequest,
    CreateThreadAndRunRequest,
    ModifyRunRequest,
    SubmitToolOutputsRequest,
)
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest
from threadkeep.contract.uploads import CreateUploadRequest
from threadkeep.contract.vector_stores import (
    CreateVectorStoreFileBatchRequest,
    CreateVectorStoreFileRequest,
    CreateVectorStoreRequest,
    VectorStoreSearchRequest,
)


class Refusal(NamedTuple):
    message: str
    param: str | None
    code: str | None


def refusal(type_: type[Any], body: object) -> Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as caught:
        read_json(type_, raw)
    return Refusal(caught.value.message, caught.value.param, caught.value.code)


def query_refusal(type_: type[Any], *pairs: tuple[str, str]) -> Refusal:
    with pytest.raises(InvalidRequest) as caught:
        read_query(type_, pairs)
    return Refusal(caught.value.message, caught.value.param, caught.value.code)


def assistant(**fields: object) -> dict[str, object]:
    return {"model": "offline", **fields}


def message(**fields: object) -> dict[str, object]:
    return {"role": "user", "content": "hello", **fields}


def run(**fields: object) -> dict[str, object]:
    return {"assistant_id": "asst_1", **fields}


def function(**fields: object) -> dict[str, object]:
    return {"type": "function", "function": fields}


WRONG: list[tuple[str, type[Any], object, str, str | None, str | None]] = [
    (
        "missing",
        CreateRunRequest,
        {},
        "Missing required parameter: 'assistant_id'.",
        "assistant_id",
        "missing_required_parameter",
    ),
    (
        "missing, nested",
        CreateAssistantRequest,
        assistant(tools=[function()]),
        "Missing required parameter: 'tools[0].function.name'.",
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    (
        "missing tag",
        CreateAssistantRequest,
        assistant(tools=[{"type": "code_interpreter"}, {"function": None}]),
        "Missing required parameter: 'tools[1].type'.",
        "tools[1].type",
        "missing_required_parameter",
    ),
    (
        "missing in a response format",
        CreateAssistantRequest,
        assistant(response_format={"type": "json_schema"}),
        "Missing required parameter: 'response_format.json_schema'.",
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    ("unknown", CreateThreadRequest, {"role": "user"}, "Unknown parameter: 'role'.", "role", "unknown_parameter"),
    (
        "unknown, nested",
        CreateThreadAndRunRequest,
        run(thread={"messages": [message(file_ids=[])]}),
        "Unknown parameter: 'thread.messages[0].file_ids'.",
        "thread.messages[0].file_ids",
        "unknown_parameter",
    ),
    (
        "unknown in the resources",
        CreateAssistantRequest,
        assistant(tool_resources={"file_search": {"file_ids": []}}),
        "Unknown parameter: 'tool_resources.file_search.file_ids'.",
        "tool_resources.file_search.file_ids",
        "unknown_parameter",
    ),
    (
        "unknown in a tool",
        CreateAssistantRequest,
        assistant(tools=[{"type": "code_interpreter", "function": None}]),
        "Unknown parameter: 'tools[0].function'.",
        "tools[0].function",
        "unknown_parameter",
    ),
    (
        "role",
        CreateMessageRequest,
        message(role="human"),
        "Invalid value: 'human'. Supported values are: 'user' and 'assistant'.",
        "role",
        "invalid_value",
    ),
    (
        "v1 tool",
        CreateAssistantRequest,
        assistant(tools=[{"type": "retrieval"}]),
        "Invalid value: 'retrieval'. Supported values are: 'code_interpreter', 'function', and 'file_search'.",
        "tools[0].type",
        "invalid_value",
    ),
    (
        "response format",
        CreateAssistantRequest,
        assistant(response_format="json"),
        "Invalid value: 'json'. Supported values are: 'auto'.",
        "response_format",
        "invalid_value",
    ),
    (
        "tool choice",
        CreateRunRequest,
        run(tool_choice="any"),
        "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'.",
        "tool_choice",
        "invalid_value",
    ),
    (
        "enum of the wrong type",
        CreateMessageRequest,
        message(role=5),
        "Invalid type for 'role': expected one of 'user' or 'assistant', but got an integer instead.",
        "role",
        "invalid_type",
    ),
    (
        "tag of the wrong type",
        CreateAssistantRequest,
        assistant(tools=[{"type": None}]),
        (
            "Invalid type for 'tools[0].type': expected one of 'code_interpreter', 'function', or 'file_search', "
            "but got null instead."
        ),
        "tools[0].type",
        "invalid_type",
    ),
    (
        "metadata an array",
        CreateThreadRequest,
        {"metadata": []},
        "Invalid type for 'metadata': expected a metadata object, but got an array instead.",
        "metadata",
        "invalid_type",
    ),
    (
        "a string",
        CreateRunRequest,
        {"assistant_id": 5},
        "Invalid type for 'assistant_id': expected a string, but got an integer instead.",
        "assistant_id",
        "invalid_type",
    ),
    (
        "an integer",
        CreateRunRequest,
        run(max_prompt_tokens=300.5),
        "Invalid type for 'max_prompt_tokens': expected an integer, but got a decimal number instead.",
        "max_prompt_tokens",
        "invalid_type",
    ),
    (
        "a decimal",
        CreateAssistantRequest,
        assistant(temperature="hot"),
        "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        "temperature",
        "invalid_type",
    ),
    (
        "a boolean",
        CreateRunRequest,
        run(stream="yes"),
        "Invalid type for 'stream': expected a boolean, but got a string instead.",
        "stream",
        "invalid_type",
    ),
    (
        "an array of objects",
        CreateAssistantRequest,
        assistant(tools="all"),
        "Invalid type for 'tools': expected an array of objects, but got a string instead.",
        "tools",
        "invalid_type",
    ),
    (
        "an array of strings",
        CreateVectorStoreRequest,
        {"file_ids": "file-1"},
        "Invalid type for 'file_ids': expected an array of strings, but got a string instead.",
        "file_ids",
        "invalid_type",
    ),
    (
        "an object",
        CreateAssistantRequest,
        assistant(tools=[3]),
        "Invalid type for 'tools[0]': expected an object, but got an integer instead.",
        "tools[0]",
        "invalid_type",
    ),
    (
        "one of two types",
        CreateMessageRequest,
        message(content=5),
        "Invalid type for 'content': expected one of a string or array of objects, but got an integer instead.",
        "content",
        "invalid_type",
    ),
    (
        "null",
        CreateMessageRequest,
        message(content=None),
        "Invalid type for 'content': expected one of a string or array of objects, but got null instead.",
        "content",
        "invalid_type",
    ),
    (
        "string too long",
        CreateMessageRequest,
        message(content="x" * 256_001),
        (
            "Invalid 'content': string too long. Expected a string with maximum length 256000, "
            "but got a string with length 256001 instead."
        ),
        "content",
        "string_above_max_length",
    ),
    (
        "string too long in a part",
        CreateMessageRequest,
        message(content=[{"type": "text", "text": "x" * 256_001}]),
        (
            "Invalid 'content[0].text': string too long. Expected a string with maximum length 256000, "
            "but got a string with length 256001 instead."
        ),
        "content[0].text",
        "string_above_max_length",
    ),
    (
        "name too long, null allowed",
        ModifyAssistantRequest,
        {"name": "x" * 257},
        (
            "Invalid 'name': string too long. Expected a string with maximum length 256, "
            "but got a string with length 257 instead."
        ),
        "name",
        "string_above_max_length",
    ),
    (
        "function name",
        CreateAssistantRequest,
        assistant(tools=[function(name="get weather")]),
        (
            "Invalid 'tools[0].function.name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        ),
        "tools[0].function.name",
        "invalid_value",
    ),
    (
        "function name with a line break",
        CreateAssistantRequest,
        assistant(tools=[function(name="get_weather\n")]),
        (
            "Invalid 'tools[0].function.name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        ),
        "tools[0].function.name",
        "invalid_value",
    ),
    (
        "function name too long",
        CreateAssistantRequest,
        assistant(tools=[function(name="x" * 65)]),
        (
            "Invalid 'tools[0].function.name': string too long. Expected a string with maximum length 64, "
            "but got a string with length 65 instead."
        ),
        "tools[0].function.name",
        "string_above_max_length",
    ),
    (
        "integer too small",
        CreateRunRequest,
        run(max_completion_tokens=1),
        "Invalid 'max_completion_tokens': integer below minimum value. Expected a value >= 256, but got 1 instead.",
        "max_completion_tokens",
        "integer_below_min_value",
    ),
    (
        "integer beyond 64 bits",
        CreateRunRequest,
        run(max_completion_tokens=2**63),
        (
            "Invalid 'max_completion_tokens': integer above maximum value. "
            "Expected a value <= 9223372036854775807, but got 9223372036854775808 instead."
        ),
        "max_completion_tokens",
        "integer_above_max_value",
    ),
    (
        "decimal too large",
        CreateAssistantRequest,
        assistant(temperature=3),
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        "temperature",
        "decimal_above_max_value",
    ),
    (
        "decimal too small",
        CreateAssistantRequest,
        assistant(top_p=-0.5),
        "Invalid 'top_p': decimal below minimum value. Expected a value >= 0, but got -0.5 instead.",
        "top_p",
        "decimal_below_min_value",
    ),
    (
        "array too long",
        CreateRunRequest,
        run(tools=[{"type": "code_interpreter"}] * 21),
        (
            "Invalid 'tools': array too long. Expected an array with maximum length 20, "
            "but got an array with length 21 instead."
        ),
        "tools",
        "array_above_max_length",
    ),
    (
        "empty array",
        CreateMessageRequest,
        message(content=[]),
        "Invalid 'content': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "content",
        "empty_array",
    ),
    (
        "metadata: too many",
        CreateThreadRequest,
        {"metadata": {str(n): "x" for n in range(17)}},
        (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            "but got an object with 17 properties instead."
        ),
        "metadata",
        "object_above_max_properties",
    ),
    (
        "metadata: value too long",
        ModifyRunRequest,
        {"metadata": {"k": "x" * 513}},
        (
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, "
            "but got a string with length 513 instead."
        ),
        "metadata.k",
        "string_above_max_length",
    ),
    (
        "metadata: key too long",
        CreateThreadRequest,
        {"metadata": {"k" * 70: "x"}},
        (
            f"Invalid property name in 'metadata': '{'k' * 64}…' is too long. "
            "Expected a string with maximum length 64, but got a string with length 70 instead."
        ),
        "metadata",
        "property_name_above_max_length",
    ),
    (
        "metadata: nested value, deep inside",
        CreateThreadAndRunRequest,
        run(thread={"messages": [message(), message(metadata={"k": ["x"]})]}),
        "Invalid type for 'thread.messages[1].metadata.k': expected a string, but got an array instead.",
        "thread.messages[1].metadata.k",
        "invalid_type",
    ),
    (
        "metadata: null value",
        CreateThreadRequest,
        {"metadata": {"k": None}},
        "Invalid type for 'metadata.k': expected a string, but got null instead.",
        "metadata.k",
        "invalid_type",
    ),
    (
        "last_messages missing",
        CreateRunRequest,
        run(truncation_strategy={"type": "last_messages"}),
        "Missing required parameter: 'truncation_strategy.last_messages'.",
        "truncation_strategy.last_messages",
        "missing_required_parameter",
    ),
    (
        "last_messages out of place",
        CreateRunRequest,
        run(truncation_strategy={"type": "auto", "last_messages": 3}),
        "Invalid 'truncation_strategy.last_messages': only allowed when 'type' is 'last_messages'.",
        "truncation_strategy.last_messages",
        "invalid_value",
    ),
    (
        "chosen function unnamed",
        CreateRunRequest,
        run(tool_choice={"type": "function"}),
        "Missing required parameter: 'tool_choice.function'.",
        "tool_choice.function",
        "missing_required_parameter",
    ),
    (
        "overlap above half",
        CreateVectorStoreFileRequest,
        {
            "file_id": "file-1",
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 101, "chunk_overlap_tokens": 51},
            },
        },
        (
            "Invalid 'chunking_strategy.static.chunk_overlap_tokens': integer above maximum value. "
            "Expected a value <= half of 'max_chunk_size_tokens', 50, but got 51 instead."
        ),
        "chunking_strategy.static.chunk_overlap_tokens",
        "integer_above_max_value",
    ),
    (
        "stores and instructions for one",
        CreateThreadRequest,
        {"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"], "vector_stores": [{}]}}},
        (
            "Mutually exclusive parameters: 'vector_store_ids' and 'vector_stores'. "
            "Ensure you are only providing one of them."
        ),
        "tool_resources.file_search.vector_stores",
        "mutually_exclusive_parameters",
    ),
    (
        "a batch of nothing",
        CreateVectorStoreFileBatchRequest,
        {},
        "Missing required parameter: 'file_ids'.",
        "file_ids",
        "missing_required_parameter",
    ),
    (
        "attribute of the wrong type",
        CreateVectorStoreFileBatchRequest,
        {"files": [{"file_id": "file-1", "attributes": {"k": {}}}]},
        (
            "Invalid type for 'files[0].attributes.k': expected one of a string, decimal, or boolean, "
            "but got an object instead."
        ),
        "files[0].attributes.k",
        "invalid_type",
    ),
    (
        "filter deep inside",
        VectorStoreSearchRequest,
        {"query": "x", "filters": {"type": "and", "filters": [{"type": "in", "key": "k", "value": "x"}]}},
        "Invalid type for 'filters.filters[0].value': expected an array, but got a string instead.",
        "filters.filters[0].value",
        "invalid_type",
    ),
    (
        "upload too large",
        CreateUploadRequest,
        {"filename": "f", "purpose": "assistants", "bytes": 8 * 1024**3 + 1, "mime_type": "text/plain"},
        "Invalid 'bytes': integer above maximum value. Expected a value <= 8589934592, but got 8589934593 instead.",
        "bytes",
        "integer_above_max_value",
    ),
    (
        "tool outputs not an array",
        SubmitToolOutputsRequest,
        {"tool_outputs": {}},
        "Invalid type for 'tool_outputs': expected an array of objects, but got an object instead.",
        "tool_outputs",
        "invalid_type",
    ),
    (
        "body an array",
        CreateThreadRequest,
        [],
        "Invalid type: expected an object, but got an array instead.",
        None,
        "invalid_type",
    ),
    (
        "body null",
        CreateThreadRequest,
        None,
        "Invalid type: expected an object, but got null instead.",
        None,
        "invalid_type",
    ),
]


@pytest.mark.parametrize(
    ("type_", "body", "message", "param", "code"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_a_wrong_request_is_refused_in_the_contracts_words(
    type_: type[Any], body: object, message: str, param: str | None, code: str | None
) -> None:
    assert refusal(type_, body) == (message, param, code)


def test_the_first_wrong_item_of_a_long_array_is_named() -> None:
    parts: list[object] = [{"type": "text", "text": "x"}] * 5_000
    parts[3_217] = {"type": "text"}
    parts[4_000] = {"type": "video"}

    assert refusal(CreateMessageRequest, message(content=parts)).param == "content[3217].text"


def test_a_broken_body_is_refused_with_a_hint_and_the_place() -> None:
    told = refusal(CreateThreadRequest, b'{"metadata": {"a": NaN}}')

    assert told.message.startswith("We could not parse the JSON body of your request. (HINT: ")
    assert "invalid character (byte 19)" in told.message
    assert (told.param, told.code) == (None, None)


@pytest.mark.parametrize("raw", [b"\xff", b"{", b"{}{}", b'{"a":1,}', b"nan", b'{"a":Infinity}', b"{'a':1}", b'"\n"'])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    assert refusal(CreateThreadRequest, raw).message.startswith("We could not parse the JSON body")


def test_a_body_in_another_encoding_is_refused() -> None:
    assert refusal(CreateMessageRequest, b'{"role": "user", "content": "caf\xe9"}').message == (
        "The body of your request is not valid UTF-8."
    )


@pytest.mark.parametrize("half", [rb"\ud800", rb"\udc00", rb"\ud800\u0041", rb"\uDBFF", rb"\ud83d\ud83d"])
def test_half_of_a_surrogate_pair_is_refused(half: bytes) -> None:
    told = refusal(CreateMessageRequest, b'{"role": "user", "content": "%s"}' % half)

    assert "half of a surrogate pair is not a character" in told.message


def test_a_whole_surrogate_pair_is_a_character() -> None:
    read = read_json(CreateMessageRequest, rb'{"role": "user", "content": "\ud83d\ude00"}')

    assert read.content == "😀"


def test_nul_is_refused_where_it_stands() -> None:
    body = message(content=[{"type": "text", "text": "a\0b"}])

    assert refusal(CreateMessageRequest, body) == (
        "Invalid 'content[0].text': the character U+0000 is not allowed.",
        "content[0].text",
        "invalid_value",
    )


def test_nul_in_a_free_form_schema_and_in_a_key_is_refused() -> None:
    in_value = assistant(tools=[function(name="f", parameters={"a": ["\0"]})])
    in_key = assistant(tools=[function(name="f", parameters={"\0": 1})])

    assert refusal(CreateAssistantRequest, in_value).param == "tools[0].function.parameters.a[0]"
    assert refusal(CreateAssistantRequest, in_key).param == "tools[0].function.parameters"


def test_the_text_of_an_escape_is_not_nul() -> None:
    read = read_json(CreateMessageRequest, rb'{"role": "user", "content": "\\u0000"}')

    assert read.content == r"\u0000"


def nested(levels: int) -> bytes:
    # The body, its tools, the tool, the function and its parameters are five levels.
    inner = b'{"a":' * (levels - 5) + b"1" + b"}" * (levels - 5)
    return (
        b'{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"a":'
        + inner
        + b'},"description":"]]]{{{\\"[[["}}]}'
    )


def test_the_deepest_allowed_body_is_read() -> None:
    assert read_json(CreateAssistantRequest, nested(MAX_DEPTH)).tools


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 5_000, 90_000])
def test_a_body_nested_deeper_is_refused(levels: int) -> None:
    assert refusal(CreateAssistantRequest, nested(levels)).message == (
        "The JSON body of your request is nested too deeply: more than 64 levels."
    )


@pytest.mark.parametrize("raw", [b"[" * 1_000_000, b'{"a":' * 1_000_000, b'"' + rb"\"" * 500_000 + b"[" * 100])
def test_a_recursion_bomb_is_refused(raw: bytes) -> None:
    refusal(CreateThreadRequest, raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * (MAX_VALUES + 1),
        b'{"messages":[' + b"[]," * (MAX_VALUES // 2) + b"1]}",
        b'{"metadata":{' + b'"a":1,' * MAX_VALUES + b'"z":1}}',
    ],
    ids=["brackets", "arrays", "properties"],
)
def test_a_body_of_more_values_than_any_request_has_is_refused(raw: bytes) -> None:
    assert refusal(CreateThreadRequest, raw).message == (
        "The JSON body of your request has too many values: at most 100,000 are accepted."
    )


def test_what_stands_in_texts_is_no_value() -> None:
    body = {"messages": [message(content="a, b, [c], {d}, \\" * 12_000)] * 3}

    assert len(read_json(CreateThreadRequest, json.dumps(body).encode()).messages or []) == 3


def test_the_most_values_allowed_are_read() -> None:
    body = json.dumps({"file_ids": [f"file-{number}" for number in range(MAX_VALUES - 2)]}).encode()

    assert refusal(CreateVectorStoreFileBatchRequest, body).code == "array_above_max_length"


def test_many_brackets_side_by_side_are_not_deep() -> None:
    body = {"messages": [message(content=[{"type": "text", "text": "}}}]]]"}])] * 500}

    assert len(read_json(CreateThreadRequest, json.dumps(body).encode()).messages or []) == 500


def test_a_number_beyond_all_ranges_is_refused() -> None:
    for number in (b"1e999", b"9" * 5_000):
        body = b'{"model": "m", "temperature": %s}' % number
        assert refusal(CreateAssistantRequest, body).message.endswith("contains a number that is out of range.")


def test_of_a_repeated_key_the_last_value_counts() -> None:
    read = read_json(CreateMessageRequest, b'{"role": 5, "content": "x", "role": "user"}')

    assert read.role == "user"


@pytest.mark.parametrize("raw", [b"", b" \r\n"])
def test_no_body_is_an_empty_object(raw: bytes) -> None:
    assert read_json(CreateThreadRequest, raw) == CreateThreadRequest()
    assert refusal(CreateRunRequest, raw).code == "missing_required_parameter"


def test_a_message_repeats_only_the_beginning_of_a_long_value() -> None:
    assert len(refusal(CreateMessageRequest, message(role="x" * 100_000)).message) < 250
    assert len(refusal(CreateMessageRequest, message(**{"x" * 100_000: 1})).message) < 250


LIMITS = [
    ("101", "integer above maximum value. Expected a value <= 100, but got 101 instead.", "integer_above_max_value"),
    ("0", "integer below minimum value. Expected a value >= 1, but got 0 instead.", "integer_below_min_value"),
    ("-1", "integer below minimum value. Expected a value >= 1, but got -1 instead.", "integer_below_min_value"),
]


@pytest.mark.parametrize(("limit", "rest", "code"), LIMITS)
def test_a_limit_out_of_range_is_refused(limit: str, rest: str, code: str) -> None:
    assert query_refusal(ListQuery, ("limit", limit)) == (f"Invalid 'limit': {rest}", "limit", code)


@pytest.mark.parametrize("limit", ["x", "1.5", "true", "1_0", "٣"])
def test_a_limit_that_is_no_integer_is_refused(limit: str) -> None:
    assert query_refusal(ListQuery, ("limit", limit)) == (
        "Invalid type for 'limit': expected an integer, but got a string instead.",
        "limit",
        "invalid_type",
    )


def test_an_unknown_order_is_refused() -> None:
    assert query_refusal(ListQuery, ("order", "up")) == (
        "Invalid value: 'up'. Supported values are: 'asc' and 'desc'.",
        "order",
        "invalid_value",
    )


def test_nul_in_a_query_is_refused() -> None:
    assert query_refusal(ListQuery, ("after", "a\0")).param == "after"


def test_wrong_form_fields_are_refused_with_their_path() -> None:
    told = query_refusal(CreateFileRequest, ("purpose", "assistants"), ("expires_after[anchor]", "now"))

    assert told.param == "expires_after.anchor"


MALFORMED = [
    ("undefined", "Expected an ID that begins with 'thread'."),
    ("", "Expected an ID that begins with 'thread'."),
    (
        "thread_a b",
        (
            "Expected an ID that contains letters, numbers, underscores, or dashes, "
            "but this value contained additional characters."
        ),
    ),
    (
        "thread_\0",
        (
            "Expected an ID that contains letters, numbers, underscores, or dashes, "
            "but this value contained additional characters."
        ),
    ),
]


@pytest.mark.parametrize(("value", "expected"), MALFORMED)
def test_a_malformed_id_is_refused(value: str, expected: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_id("thread_id", value, "thread")

    assert caught.value.message == f"Invalid 'thread_id': '{value}'. {expected}"
    assert (caught.value.param, caught.value.code) == ("thread_id", "invalid_value")


def test_an_overlong_id_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_id("thread_id", "thread_" + "x" * 60_000, "thread")

    assert caught.value.code == "string_above_max_length"


def test_ids_of_the_contract_are_let_through() -> None:
    check_id("thread_id", "thread_abc123", "thread")
    check_id("file_id", "file-abc123", "file")
    check_id("run_id", "run_" + "A" * 24, "run")


def test_an_id_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="begins with 'run'"):
        check_id("run_id", "thread_abc", "run")


def test_resources_may_be_taken_away_with_null() -> None:
    read = read_json(ModifyThreadRequest, b'{"tool_resources": null}')

    assert read.tool_resources is None
