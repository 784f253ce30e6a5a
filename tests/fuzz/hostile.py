"""Requests that nobody should send: made from the operations and their types, then broken in as many ways as we know.

A request is bytes for a socket. Where its path or body wants an object's id, it has a mark such as ``{thread_id}``, for
which a real one is put in when it is sent, so that what is made does not depend on a server.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, cast, get_args, get_origin
from urllib.parse import quote

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec import Meta

from threadkeep.api.assistants_v1 import UPGRADES
from threadkeep.api.openapi import is_struct, members
from threadkeep.api.resource import FormBody, Operation
from threadkeep.api.routes import OPERATIONS, PREFIXES, PUBLIC

MARKS: Final = (
    "assistant_id",
    "thread_id",
    "message_id",
    "run_id",
    "step_id",
    "file_id",
    "upload_id",
    "vector_store_id",
    "batch_id",
)

# --- values

STRINGS: Final = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "\U0001f600" * 3,
    "\u202e\u0000\uffff",
    "'; DROP TABLE threads; --",
    "%s%n{0}{{}}$1\\1",
    "../../../../etc/passwd",
    "<script>alert(1)</script>",
    "\r\nx-injected: 1\r\n\r\n",
    "thread_" + "a" * 24,
    "thread_" + "a" * 100_000,
    "x" * 70_000,
    "é" * 300,
    "NaN",
    "true",
    "9" * 400,
    "[" * 200,
    '{"a":' * 70,
)
NUMBERS: Final = (0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, 0.1, -0.0, 1e308, 5e-324)
OTHERS: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"type": "text"},
    {"a": {"b": {"c": []}}},
)


def deep(levels: int) -> Any:
    value: Any = 0
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


hostile: Final[SearchStrategy[Any]] = st.one_of(
    st.sampled_from(STRINGS),
    st.sampled_from(NUMBERS),
    st.sampled_from(OTHERS),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.sampled_from((5, 63, 64, 65, 200)).map(deep),
    st.integers(20, 300).map(lambda count: {f"key{number}": number for number in range(count)}),
    st.integers(20, 300).map(lambda count: [{"type": "code_interpreter"}] * count),
)


def fitting(annotation: Any, depth: int = 0) -> SearchStrategy[Any]:
    """JSON values that the type admits, or nearly."""
    limits: list[Meta] = []
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        limits += [extra for extra in extras if isinstance(extra, Meta)]
    choices = members(annotation)
    if len(choices) > 1:
        return st.one_of([fitting(choice, depth) for choice in choices])
    kind = choices[0]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(fitting(arguments[0], depth + 1), max_size=1 if depth > 3 else 3)
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), fitting(arguments[1], depth + 1), max_size=3)
    if is_struct(kind):
        return _struct(kind, depth)
    if kind is Any:
        return st.sampled_from((1, "a", True, {"type": "object", "properties": {}}))
    if kind in (int, float):
        low = next((limit.ge for limit in limits if limit.ge is not None), 0)
        high = next((limit.le for limit in limits if limit.le is not None), 1000)
        return st.integers(int(low), int(min(high, 2**63 - 1))) if kind is int else st.floats(float(low), float(high))
    return {str: st.sampled_from(("hello", "say: hi", "a", "1")), bool: st.booleans(), type(None): st.none()}[kind]


def _struct(kind: Any, depth: int) -> SearchStrategy[Any]:
    config = kind.__struct_config__
    tag = {config.tag_field: st.just(config.tag)} if config.tag_field else {}
    fields = {field.encode_name: (field, _field(field, depth)) for field in msgspec.structs.fields(kind)}
    required = {name: told for name, (field, told) in fields.items() if field.required}
    optional = {name: told for name, (field, told) in fields.items() if not field.required}
    return st.fixed_dictionaries({**tag, **required}, optional=optional if depth < 4 else {})


def _field(field: Any, depth: int) -> SearchStrategy[Any]:
    name: str = field.encode_name
    if name in MARKS:
        return st.just(f"{{{name}}}")
    if name == "file_ids":
        return st.lists(st.just("{file_id}"), max_size=2)
    if name == "model":
        return st.sampled_from(("offline", "gpt-4o"))
    if depth > 4:
        return st.none()
    return st.deferred(lambda: fitting(field.type, depth + 1))


# --- mutations


@st.composite
def mutated(draw: DrawFn, values: SearchStrategy[Any]) -> Any:
    """A value of which up to three places are changed."""
    value = json.loads(json.dumps(draw(values)))
    for _ in range(draw(st.integers(0, 3))):
        value = _changed(draw, value)
    return value


def _changed(draw: DrawFn, value: Any) -> Any:
    if isinstance(value, list):
        return _changed_list(draw, cast("list[Any]", value))
    if isinstance(value, dict):
        return _changed_object(draw, cast("dict[str, Any]", value))
    return draw(hostile)


def _changed_list(draw: DrawFn, value: list[Any]) -> Any:
    if value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], _changed(draw, value[index]), *value[index + 1 :]]
    return draw(hostile)


def _changed_object(draw: DrawFn, value: dict[str, Any]) -> Any:
    if value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _changed(draw, value[key])}
    match draw(st.sampled_from(("add", "drop", "replace"))):
        case "add":
            key = draw(st.sampled_from(("surprise", "", "\0", "\ud800", "__proto__", "a" * 1000, "metadata")))
            return {**value, key: draw(hostile)}
        case "drop" if value:
            dropped = draw(st.sampled_from(sorted(value)))
            return {key: item for key, item in value.items() if key != dropped}
        case _:
            return draw(hostile)


# A JSON text as somebody else's encoder, or nobody's, would write it.
BREAKS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda raw: raw,
    lambda raw: raw,
    lambda raw: raw,
    lambda raw: raw,
    lambda raw: raw[: len(raw) // 2],
    lambda raw: raw + b"}",
    lambda raw: raw + raw,
    lambda raw: b"\xef\xbb\xbf" + raw,
    lambda raw: raw.decode().encode("utf-16"),
    lambda raw: raw.replace(b'"', b"'"),
    lambda raw: raw.replace(b":", b":\xff", 1),
    lambda raw: raw.replace(b": ", b": NaN, ", 1),
    lambda raw: raw[:-1] + b', "metadata": {"a": "\xed\xa0\x80"}}',
    lambda raw: raw[:-1] + b', "metadata": null, "metadata": {"a": "b"}, "metadata": 1}',
    lambda raw: raw[:-1] + b', "limit": ' + b"9" * 5000 + b"}",
    lambda raw: raw[:-1] + b', "x": 1e999999}',
    lambda raw: b"[" * 100_000,
    lambda raw: b'{"a":' * 50_000 + raw + b"}" * 50_000,
    lambda raw: b'{"metadata": {"a": "\\u0000\\ud800\\udc"}}',
    lambda raw: b"",
    lambda raw: b"null",
    lambda raw: b'"' + b"\\" * 4001,
    lambda raw: b"{" + b'"a":1,' * 20_000 + b'"a":1}',
)

# --- forms

BOUNDARY: Final = b"----b0undary"
DISPOSITIONS: Final = (
    b'form-data; name="%s"; filename="a.txt"',
    b'form-data; name="%s"; filename=""',
    b'form-data; name="%s"; filename="../../etc/passwd\x00.txt"',
    b"form-data; name=\"%s\"; filename*=UTF-8''%%e2%%82%%ac%%00",
    b'form-data; name="%s"; filename="' + b"n" * 2000 + b'"',
    b'form-data; name="%s',
    b"form-data; name=%s",
    b'form-data; name="%s"',
    b"form-data",
    b"attachment; %s",
    b"\xff\xfe%s",
)


@st.composite
def forms(draw: DrawFn, names: tuple[str, ...]) -> bytes:
    """A form's body, more or less well made."""
    named = st.sampled_from((*names, "purpose", "purpose", "expires_after[seconds]", "surprise", "", "a[b][c]", "\r"))
    texts = st.sampled_from((b"assistants", b"vision", b"", b"\0", b"\xff", b"3600", b"x" * 20_000, b"--" + BOUNDARY))
    parts: list[bytes] = []
    for _ in range(draw(st.integers(0, 4))):
        disposition = draw(st.sampled_from(DISPOSITIONS)).replace(b"%s", draw(named).encode()).replace(b"%%", b"%")
        more = draw(st.sampled_from((b"", b"\r\nContent-Type: text/plain", b"\r\nContent-Length: -1", b"\r\nx" * 30)))
        parts.append(b"Content-Disposition: " + disposition + more + b"\r\n\r\n" + draw(texts) + b"\r\n")
    body = b"".join(b"--" + BOUNDARY + b"\r\n" + part for part in parts)
    end = draw(st.sampled_from((b"--" + BOUNDARY + b"--\r\n", b"--" + BOUNDARY, b"", b"--" + BOUNDARY + b"--garbage")))
    return body + end


def whole_form(file: str, more: Mapping[str, str]) -> bytes:
    """A form as it should be."""
    text = "".join(
        f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in more.items()
    )
    return (
        text.encode()
        + b"--%s\r\nContent-Disposition: form-data; name=%s; filename=a.txt\r\n\r\n" % (BOUNDARY, file.encode())
        + b"hello\r\n--"
        + BOUNDARY
        + b"--\r\n"
    )


# --- the rest of a request

TARGETS: Final = (
    b"/",
    b"//",
    b"/v1",
    b"/v1/",
    b"/v1//threads",
    b"/v1/threads/",
    b"/v1/threads/../assistants",
    b"/v1/%74hreads",
    b"/v1/threads%2fruns",
    b"/v1/threads/%00",
    b"/v1/threads/%ff%fe",
    b"/v1/threads/" + b"a" * 5000,
    b"/v1/threads/thread_%ED%A0%80",
    b"/v1/models/../../x",
    b"/v1/models/" + b"%2e/" * 50,
    b"/v1/threads?limit=1?limit=2#x",
    b"/v2/threads",
    b"/openai/threads?api-version=%00",
    b"/openai/deployments/" + b"x/" * 100 + b"chat/completions",
    b"/openapi.json?x=%",
    b"/docs/../docs",
    b"/health/ready/",
    b"*",
    b"http://example.com/v1/threads",
)
METHODS: Final = (b"GET", b"POST", b"DELETE", b"PUT", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE")
HEADERS: Final = (
    (b"openai-beta", b"assistants=v1"),
    (b"openai-beta", b"assistants=v2"),
    (b"openai-beta", b"assistants=v3"),
    (b"openai-beta", b"assistants"),
    (b"openai-beta", b"\xff\xfe=v1,,,=;"),
    (b"openai-beta", b"assistants=v1, assistants=v2, realtime=v1"),
    (b"openai-beta", b"a" * 8000),
    (b"authorization", b"Bearer"),
    (b"authorization", b"Bearer \xff\xfe\x80"),
    (b"authorization", b"Basic YTpi"),
    (b"authorization", b"Bearer " + b"k" * 8000),
    (b"api-key", b"\xe9"),
    (b"content-type", b"text/plain"),
    (b"content-type", b"multipart/form-data"),
    (b"content-type", b"multipart/form-data; boundary=" + b"b" * 300),
    (b"content-type", b'application/json; charset="utf-16"'),
    (b"content-type", b"\xff"),
    (b"content-encoding", b"gzip"),
    (b"accept", b"text/html"),
    (b"accept-encoding", b"gzip;q=a,*"),
    (b"range", b"bytes=0-0"),
    (b"range", b"bytes=-99999999999999999999"),
    (b"range", b"bytes=9-1,2-3," + b"0-1," * 200),
    (b"range", b"lines=\xff"),
    (b"if-range", b'"x"'),
    (b"last-event-id", b"-1"),
    (b"last-event-id", b"99999999999999999999999"),
    (b"idempotency-key", b"\xff"),
    (b"idempotency-key", b"k" * 5000),
    (b"idempotency-key", b"the-same"),
    (b"origin", b"null"),
    (b"access-control-request-method", b"POST"),
    (b"x-stainless-read-timeout", b"NaN"),
    (b"expect", b"100-continue"),
    (b"upgrade", b"websocket"),
    (b"x-request-id", b"\x01"),
    (b"cookie", b"a=" + b"b" * 4000),
)
TEXTS: Final = (
    "",
    "0",
    "-1",
    "101",
    "1e3",
    "99999999999999999999999999",
    "null",
    "\0",
    "\ud800",
    "a" * 3000,
    "asc",
    "é",
    "x y",
)


class HostileRequest(NamedTuple):
    """``operation`` is what it was made from, whatever became of it."""

    operation: str
    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    is_chunked: bool = False

    def sent(self, key: str, ids: Mapping[str, str]) -> bytes:
        body = _filled(self.body, ids)
        lines = [self.method + b" " + _filled(self.target, ids) + b" HTTP/1.1", b"host: x"]
        named = {name for name, _ in self.headers}
        if not named & {b"authorization", b"api-key"}:
            lines.append(b"authorization: Bearer " + key.encode())
        lines += [name + b": " + value for name, value in self.headers]
        if self.is_chunked:
            lines.append(b"transfer-encoding: chunked")
            pieces = [body[at : at + 4096] for at in range(0, len(body), 4096)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif body or self.method in (b"POST", b"PUT", b"PATCH"):
            lines.append(b"content-length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _filled(raw: bytes, ids: Mapping[str, str]) -> bytes:
    return re.sub(rb"(?:\{|%7B)(\w+_id)(?:\}|%7D)", lambda found: ids.get(found[1].decode(), "none").encode(), raw)


@st.composite
def requests(draw: DrawFn) -> HostileRequest:
    """One request for any operation, hostile in some of its parts."""
    operation = draw(st.sampled_from(_WEIGHED))
    beta = draw(st.sampled_from((b"v1", b"v2"))) if operation.only is None else operation.only.encode()
    headers = [(b"openai-beta", b"assistants=" + beta)] if operation.in_beta and beta == b"v1" else []
    method = operation.method.encode()
    target = draw(_paths(operation)) + draw(_queries(operation))
    body = b""
    if isinstance(operation.body, FormBody):
        fields = (
            tuple(field.encode_name for field in msgspec.structs.fields(operation.body.fields))
            if operation.body.fields
            else ()
        )
        good = st.just(whole_form(operation.body.file, {"purpose": "assistants"} if fields else {}))
        body = draw(st.one_of(good, forms((operation.body.file, *fields))))
        headers.append((b"content-type", b"multipart/form-data; boundary=" + BOUNDARY))
    elif operation.method == "POST":
        headers.append((b"content-type", b"application/json"))
        if operation.body is None:
            body = draw(st.sampled_from((b"", b"{}", b'{"model": "offline"}', b"{", b"x" * 5000, b"\0")))
        else:
            kind = UPGRADES[operation.body].reads if beta == b"v1" and operation.body in UPGRADES else operation.body
            value = draw(mutated(BODIES[kind]))
            body = draw(st.sampled_from(BREAKS))(json.dumps(value).encode())
    if draw(st.integers(0, 3)) == 0:
        headers += draw(st.lists(st.sampled_from(HEADERS), min_size=1, max_size=3))
    if draw(st.integers(0, 19)) == 0:
        method = draw(st.sampled_from(METHODS))
    if draw(st.integers(0, 19)) == 0:
        target = draw(st.sampled_from((*TARGETS, *(path.encode() for path, _ in PUBLIC))))
    return HostileRequest(operation.id, method, target, tuple(headers), body, draw(st.integers(0, 9)) == 0)


@st.composite
def _paths(draw: DrawFn, operation: Operation) -> bytes:
    def part(name: str) -> str:
        if name == "model" or name == "deployment":
            return quote(draw(st.sampled_from(("offline", "a/b/c", "x" * 300, "\0", "%", "é"))), safe="/")
        if draw(st.integers(0, 3)):
            return f"{{{name}}}"
        text = draw(
            st.one_of(st.sampled_from(STRINGS), st.sampled_from(("asst_x", "thread_x", "run_x", "msg_é", "file-x")))
        )
        return quote(text[:3000].encode("utf-8", "surrogatepass"), safe="")

    prefix = draw(st.sampled_from((PREFIXES[0], PREFIXES[0], *PREFIXES)))
    return (prefix + re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: part(found[1]), operation.path)).encode()


@st.composite
def _queries(draw: DrawFn, operation: Operation) -> bytes:
    if draw(st.integers(0, 2 if operation.query else 9)):
        return b""
    fields = [field.encode_name for field in msgspec.structs.fields(operation.query)] if operation.query else []
    names = st.sampled_from(
        (*fields, *fields, "include[]", "metadata[a]", "metadata[", "limit[]", "surprise", "\0", "&")
    )
    pairs = draw(
        st.lists(st.tuples(names, st.sampled_from((*TEXTS, "{thread_id}", "{message_id}", "{run_id}"))), max_size=4)
    )
    shown = "&".join(
        f"{quote(name, safe='[]')}={text if text.startswith('{') else quote(text.encode('utf-8', 'surrogatepass'))}"
        for name, text in pairs
    )
    tail = draw(st.sampled_from(("", "", "", "&" * 300, "&limit", "=%zz%", "&a=1" * 150)))
    return f"?{shown}{tail}".encode()


# What takes a body can go wrong in more ways.
_WEIGHED: Final = [operation for operation in OPERATIONS for _ in range(3 if operation.body else 1)]


def _large(megabytes: float) -> dict[str, bytes]:
    """Bodies that cost the most to read, each of so many megabytes."""
    size = int(megabytes * 1024 * 1024)
    item, key = b'{"role": "user", "content": "a"},', b'"k%07d": 1,'
    return {
        "brackets": b"[" * size,
        "nested": b"[" * (size // 2) + b"]" * (size // 2),
        "closed at once": b'{"messages": [' + b"[]," * (size // 3) + b"[]]}",
        "messages, the last wrong": b'{"messages": [' + item * (size // len(item)) + b'{"role": 1}]}',
        "keys": b'{"metadata": {' + b"".join(key % number for number in range(size // 13)) + b'"z": []}}',
        "quotes": b'{"messages": "' + b'\\"' * (size // 2),
        "escapes": b'{"messages": [{"role": "user", "content": "'
        + b"\\ud83d\\ude00" * (size // 12)
        + b'", "surprise": 1}]}',
        "nul": b'{"messages": [' + item * (size // len(item)) + b'{"role": "user", "content": "\\u0000"}]}',
        "numbers": b'{"metadata": [' + b"1e5," * (size // 4) + b"1]}",
        "half a character": b'{"messages": "' + b"a" * size + b'\\ud800"}',
    }


def large_requests(megabytes: float) -> list[HostileRequest]:
    headers = ((b"content-type", b"application/json"),)
    return [
        HostileRequest(f"createThread ({name})", b"POST", b"/v1/threads", headers, body)
        for name, body in _large(megabytes).items()
    ]


BODIES: Final[dict[Any, SearchStrategy[Any]]] = {
    kind: fitting(kind)
    for operation in OPERATIONS
    if isinstance(operation.body, type)
    for kind in {operation.body, *([UPGRADES[operation.body].reads] if operation.body in UPGRADES else [])}
}
