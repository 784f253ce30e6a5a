"""The OpenAPI document and the reference page: complete, valid, up to date, and readable without anything else."""

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from tests.support.server import RunningServer
from threadkeep.api import openapi
from threadkeep.api.answers import Answer
from threadkeep.api.download import Download
from threadkeep.api.event_stream import EventStream
from threadkeep.api.openapi import EXAMPLES, EXTENSION, STREAM_EVENT, answers_of
from threadkeep.api.passthrough import PassThrough
from threadkeep.api.reference import as_html, as_markdown
from threadkeep.api.resource import FormBody, Operation
from threadkeep.api.routes import OPERATIONS, PUBLIC, REFERENCE
from threadkeep.contract.events import EventName
from threadkeep.contract.wire import Object, Request

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return REFERENCE.document()


def every(node: Any, key: str) -> Iterator[Any]:
    """What stands under ``key``, anywhere."""
    if isinstance(node, dict):
        for name, inner in node.items():  # pyright: ignore[reportUnknownVariableType]
            if name == key:
                yield inner
            yield from every(inner, key)
    elif isinstance(node, list):
        for inner in node:  # pyright: ignore[reportUnknownVariableType]
            yield from every(inner, key)


def read_by(operation: Operation) -> tuple[set[object], set[object]]:
    """The types of body and query that the endpoint's source asks its call for."""
    function = inspect.unwrap(operation.endpoint)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    bodies: set[object] = set()
    queries: set[object] = set()
    names = vars(sys.modules[function.__module__])
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match ast.unparse(node.func):
            case "call.body":
                bodies.add(eval(ast.unparse(node.args[0]), names))
            case "call.query" | "call.page":
                queries.add(eval(ast.unparse(node.args[0]), names))
            case "read_form":
                bodies.add(ast.literal_eval(node.args[1]))
            case _:
                pass
    return bodies, queries


# --- the list of operations


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_an_operation_declares_what_its_endpoint_reads(operation: Operation) -> None:
    declared = operation.body.file if isinstance(operation.body, FormBody) else operation.body
    bodies, queries = read_by(operation)
    assert bodies == ({declared} if declared else set())
    assert queries == ({operation.query} if operation.query else set())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_an_endpoints_annotation_says_what_it_answers(operation: Operation) -> None:
    """``Object`` or ``Answer`` alone would say nothing."""
    answers = answers_of(operation.endpoint)
    assert answers
    for answer in answers:
        kind: Any = getattr(answer, "__origin__", answer)
        assert issubclass(kind, (Object, EventStream, Download, PassThrough))
        assert kind not in (Object, Answer)


def test_no_two_operations_have_one_id() -> None:
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize(
    "kind",
    dict.fromkeys(operation.body for operation in OPERATIONS if isinstance(operation.body, type)),
    ids=lambda kind: kind.__name__,
)
def test_the_example_of_a_body_is_one(kind: type[Request]) -> None:
    if not any(field.required for field in msgspec.structs.fields(kind)) and kind.__name__ not in EXAMPLES:
        return
    msgspec.convert(EXAMPLES[kind.__name__], kind)


# --- the document


def test_every_operation_and_every_public_path_is_in_the_document(document: dict[str, Any]) -> None:
    found = {
        item["operationId"] for path in document["paths"].values() for item in path.values() if "operationId" in item
    }
    assert found == {operation.id for operation in OPERATIONS} | {endpoint.__name__ for _, endpoint in PUBLIC}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(every(document, "$ref"))
    assert references
    for reference in references:
        found: Any = document
        for key in str(reference).removeprefix("#/").split("/"):
            found = found[key]


def test_every_parameter_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if method in ("get", "post", "delete"):
                names = {each["name"] for each in described.get("parameters", ()) if each["in"] == "path"}
                assert names == set(re.findall(r"\{(\w+)\}", path))


def test_every_status_that_is_answered_is_described() -> None:
    assert openapi.undescribed() == set()


def test_whatever_wants_a_key_may_refuse_it(document: dict[str, Any]) -> None:
    for operation in OPERATIONS:
        path = re.sub(r":\w+}", "}", operation.path)
        described = document["paths"][path][operation.method.lower()]
        assert {"401", "403"} <= set(described["responses"]), operation.id


def test_what_is_passed_on_has_a_body_and_the_answers_of_a_model_server(document: dict[str, Any]) -> None:
    for path in ("/chat/completions", "/moderations", "/deployments/{deployment}/embeddings"):
        described = document["paths"][path]["post"]
        assert described["requestBody"]["content"]["application/json"]["schema"] == {"type": "object"}
        assert {"200", "404", "408", "413", "502", "default"} <= set(described["responses"])


def test_members_of_a_forms_field_are_fields_of_their_own(document: dict[str, Any]) -> None:
    form = document["paths"]["/files"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["encoding"] == {"expires_after": {"style": "deepObject", "explode": True}}


def test_every_event_has_its_object(document: dict[str, Any]) -> None:
    events = document["components"]["schemas"][STREAM_EVENT]["oneOf"]
    assert [each["properties"]["event"]["const"] for each in events] == [*get_args(EventName), "error", "done"]


def test_what_an_answer_always_has_is_required_and_what_a_request_may_leave_out_is_not(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    assert "last_error" in schemas["Run"]["required"]
    assert "object" in schemas["Run"]["required"]
    assert "reasoning_effort" not in schemas["Run"]["required"]
    assert schemas["CreateRunRequest"]["required"] == ["assistant_id"]
    assert schemas["CreateRunRequest"]["additionalProperties"] is False


def test_what_is_only_stored_is_not_described(document: dict[str, Any]) -> None:
    assert set(document["components"]["schemas"]["FileSearchCall"]["properties"]) == {"ranking_options", "results"}


def test_extensions_are_marked_and_nothing_else(document: dict[str, Any]) -> None:
    marked = {
        (method, path)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
        if EXTENSION in described
    }
    assert marked >= {("get", "/threads"), ("get", "/health/live"), ("get", "/health/ready")}
    assert ("post", "/threads") not in marked


def test_it_is_served_without_a_key(server: RunningServer) -> None:
    with server.client() as client:
        del client.headers["authorization"]
        answer = client.get(f"{server.url}/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(msgspec.json.encode(REFERENCE.document()))


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/metrics"])
def test_a_document_has_the_type_that_the_reference_says(
    document: dict[str, Any], server: RunningServer, path: str
) -> None:
    [said] = document["paths"][path]["get"]["responses"]["200"]["content"]
    with server.client() as client:
        answer = client.get(f"{server.url}{path}")
    assert answer.headers["content-type"].split(";")[0] == said


# --- the page


def test_the_page_is_served_and_needs_nothing_else(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.get(f"{server.url}/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for needs in ("<script", "<link", "<img", "@import", "url(", " src="):
        assert needs not in answer.text


def test_every_link_of_the_page_leads_somewhere(document: dict[str, Any]) -> None:
    page = as_html(document)
    anchors = re.findall(r" id='([^']+)'", page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"href='#([^']+)'", page)) <= set(anchors)


def test_every_operation_is_on_the_page(document: dict[str, Any]) -> None:
    page = as_html(document)
    for operation in OPERATIONS:
        assert f"id='{operation.id}'" in page


def test_the_reference_in_the_documentation_is_up_to_date(document: dict[str, Any]) -> None:
    assert PAGE.read_text("utf-8") == as_markdown(document), "run: python scripts/reference.py"
