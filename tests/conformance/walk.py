"""A walk through the server: asks for operations by their ids and holds everything it hears against the types.

What differs is collected rather than raised, so that one walk tells all of it, by operation and by event.
"""

import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import httpx2

from tests.conformance.schema import Checker
from tests.conformance.strict import problems
from threadkeep.api.assistants_v1 import DOWNGRADES
from threadkeep.api.download import Download
from threadkeep.api.errors import ErrorResponse
from threadkeep.api.event_stream import EventStream
from threadkeep.api.openapi import answers_of, is_struct
from threadkeep.api.passthrough import PassThrough
from threadkeep.api.resource import Operation
from threadkeep.api.routes import OPERATIONS
from threadkeep.contract.events import EventName, object_of

Beta = Literal["v1", "v2"]

BY_ID = {operation.id: operation for operation in OPERATIONS}
EVENTS = frozenset(get_args(EventName))


def shown_in(beta: Beta, kind: Any) -> Any:
    """The type as this version of the beta shows it."""
    if beta == "v2":
        return kind
    if arguments := get_args(kind):
        return get_origin(kind)[shown_in(beta, arguments[0])]
    downgrade: Callable[..., Any] | None = DOWNGRADES.get(kind)
    return kind if downgrade is None else get_type_hints(downgrade)["return"]


class Walk:
    """``asked`` are the operations that were answered well, ``heard`` the events, ``wrong`` what differed."""

    def __init__(self, http: httpx2.Client, beta: Beta, document: dict[str, Any]) -> None:
        self.http = http
        self.beta: Beta = beta
        self.asked: set[str] = set()
        self.heard: set[str] = set()
        self.wrong: list[str] = []
        self._headers = {"openai-beta": f"assistants={beta}"}
        self._checker = Checker(document)

    def ask(self, operation_id: str, path: dict[str, str] | None = None, **request: Any) -> Any:
        """The answer's object, or its bytes."""
        operation = BY_ID[operation_id]
        answer = self.http.request(
            operation.method, _filled(operation.path, path), headers=self._headers, **_prepared(request)
        )
        assert answer.status_code == 200, f"{operation_id}: {answer.status_code} {answer.text}"
        self.asked.add(operation_id)
        self._check_headers(operation_id, answer)
        answers = answers_of(operation.endpoint)
        if Download in answers:
            return answer.content
        found = answer.json()
        if PassThrough not in answers:
            self._check(operation_id, found, [each for each in answers if is_struct(each)])
        return found

    def refused(self, operation_id: str, status: int, path: dict[str, str] | None = None, **request: Any) -> Any:
        """The error with which the operation is refused."""
        operation = BY_ID[operation_id]
        answer = self.http.request(
            operation.method, _filled(operation.path, path), headers=self._headers, **_prepared(request)
        )
        assert answer.status_code == status, f"{operation_id}: {answer.status_code} {answer.text}"
        self._check_headers(operation_id, answer)
        self._note(f"{operation_id}, refused", answer.json(), ErrorResponse)
        return answer.json()["error"]

    @contextmanager
    def follow(
        self, operation_id: str, path: dict[str, str] | None = None, **body: Any
    ) -> Generator[Iterator[tuple[str, Any]]]:
        """The events of the stream, as they come."""
        operation = BY_ID[operation_id]
        assert EventStream in answers_of(operation.endpoint)
        url = _filled(operation.path, path)
        asked: dict[str, Any] = {"json": {**body, "stream": True}} if operation.method == "POST" else {}
        with self.http.stream(operation.method, url, headers=self._headers, **asked) as answer:
            assert answer.status_code == 200, answer.read()
            self.asked.add(operation_id)
            if answer.headers["content-type"] != "text/event-stream; charset=utf-8":
                self.wrong.append(f"{operation_id}: content type {answer.headers['content-type']}")
            yield self._events(operation_id, answer)

    def hear(self, operation_id: str, path: dict[str, str] | None = None, **body: Any) -> list[tuple[str, Any]]:
        """All events of the stream."""
        with self.follow(operation_id, path, **body) as events:
            return list(events)

    def _events(self, operation_id: str, answer: httpx2.Response) -> Iterator[tuple[str, Any]]:
        fields: dict[str, str] = {}
        number = 0
        name = ""
        for line in answer.iter_lines():
            if line.startswith(":"):
                continue
            if line:
                key, _, value = line.partition(": ")
                fields[key] = value
                continue
            if not fields:
                continue
            # From 1 over the life of a run: outputs make one go on.
            goes_on = operation_id == "submitToolOuputsToRun" and not number
            number = int(fields["id"]) if goes_on else number + 1
            name = fields["event"]
            if name == "done":
                if fields != {"event": "done", "data": "[DONE]"}:
                    self.wrong.append(f"{operation_id} → done: {fields}")
            elif name == "error":
                self.wrong.append(f"{operation_id} → error: {fields['data']}")
            else:
                yield name, self._heard(operation_id, name, fields, number)
            fields = {}
        if name != "done":
            self.wrong.append(f"{operation_id}: the stream ended with {name}, not with done")

    def _heard(self, operation_id: str, name: str, fields: dict[str, str], number: int) -> Any:
        where = f"{operation_id} → {name}"
        data = json.loads(fields["data"])
        self.heard.add(name)
        if name not in EVENTS:
            self.wrong.append(f"{where}: no event of the contract")
            return data
        if fields.keys() != {"id", "event", "data"} or fields["id"] != str(number):
            self.wrong.append(f"{where}: its fields are {sorted(fields)}, its number {fields.get('id')}, not {number}")
        kind = object_of(cast("EventName", name))
        self._note(where, data, shown_in(self.beta, kind))
        if self.beta == "v2":
            self.wrong += [f"{where}, by the document: {told}" for told in self._checker.problems(data, kind.__name__)]
        return data

    def _check(self, operation_id: str, found: Any, answers: list[Any]) -> None:
        [kind] = answers
        in_beta = BY_ID[operation_id].in_beta
        self._note(operation_id, found, shown_in(self.beta, kind) if in_beta else kind)
        if self.beta == "v2":
            schema = self._checker.answer_of(operation_id)
            self.wrong += [
                f"{operation_id}, by the document: {told}" for told in self._checker.differences(found, schema)
            ]

    def _note(self, where: str, found: Any, kind: Any) -> None:
        self.wrong += [f"{where}: {problem}" for problem in problems(found, kind)]

    def _check_headers(self, operation_id: str, answer: httpx2.Response) -> None:
        if not re.fullmatch(r"req_[0-9a-f]{32}", answer.headers.get("x-request-id", "")):
            self.wrong.append(f"{operation_id}: x-request-id is {answer.headers.get('x-request-id')}")
        if "openai-processing-ms" not in answer.headers:
            self.wrong.append(f"{operation_id}: openai-processing-ms is missing")


def _filled(path: str, values: dict[str, str] | None) -> str:
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: (values or {})[found[1]], path)


def _prepared(request: dict[str, Any]) -> dict[str, Any]:
    """Fields that are not the client's own words are the JSON body."""
    own = {name: request.pop(name) for name in ("params", "files", "data") if name in request}
    return {**own, "json": request} if request else own


def operations_of(beta: Beta) -> set[str]:
    return {operation.id for operation in OPERATIONS if _belongs(operation, beta)}


def _belongs(operation: Operation, beta: Beta) -> bool:
    return operation.only in (None, beta)
