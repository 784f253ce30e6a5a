"""The OpenAPI document, and the same as a page to read: self-contained, without scripts, nothing fetched."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from threadkeep import __version__
from threadkeep.api.answers import Document, Headers
from threadkeep.api.call import Context
from threadkeep.api.openapi import EXTENSION, STREAM_EVENT, Schema, document
from threadkeep.api.resource import Operation, PublicEndpoint

_HEADERS: Final[Headers] = ((b"cache-control", b"no-cache"),)
_PAGE_HEADERS: Final[Headers] = (
    *_HEADERS,
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
)
_BASE_URL: Final = "http://127.0.0.1:8400"
_METHODS: Final = ("post", "get", "delete")


class Reference:
    """The reference of a list of operations; each form is made when it is first asked for."""

    def __init__(
        self, operations: Sequence[Operation], public: Sequence[tuple[str, PublicEndpoint]], prefix: str
    ) -> None:
        self._operations = operations
        self._prefix = prefix
        # With the reference itself.
        self.public: Sequence[tuple[str, PublicEndpoint]] = (
            *public,
            ("/openapi.json", self.openapi_document),
            ("/docs", self.reference_page),
        )
        self._openapi: Document | None = None
        self._docs: Document | None = None

    def document(self, version: str = __version__) -> Schema:
        return document(self._operations, self.public, self._prefix, version)

    async def openapi_document(self, context: Context) -> Annotated[Document, "application/json"]:
        """This API as an OpenAPI 3.1 document."""
        if self._openapi is None:
            # In a thread: it takes long enough to be felt by others.
            made = await asyncio.to_thread(self.document, context.version)
            self._openapi = Document(b"application/json", msgspec.json.encode(made), _HEADERS)
        return self._openapi

    async def reference_page(self, context: Context) -> Annotated[Document, "text/html"]:
        """This API as a page to read."""
        if self._docs is None:
            page = await asyncio.to_thread(lambda: as_html(self.document(context.version)))
            self._docs = Document(b"text/html; charset=utf-8", page.encode(), _PAGE_HEADERS)
        return self._docs


# --- what both forms show


class Entry(NamedTuple):
    """One operation. ``url`` is its whole path."""

    method: str
    path: str
    url: str
    described: Schema

    @property
    def anchor(self) -> str:
        return str(self.described["operationId"])

    @property
    def title(self) -> str:
        return str(self.described["summary"])


class Row(NamedTuple):
    """A parameter, or a field of a type; ``type`` is marked up already."""

    name: str
    type: str
    is_required: bool
    told: str


Link = Callable[[str], str]


def _nouns(whole: Schema) -> list[tuple[str, str, list[Entry]]]:
    """Every noun with what is said of it and its operations."""
    entries = [
        Entry(method.upper(), path, _url(whole, item, path), item[method])
        for path, item in whole["paths"].items()
        for method in _METHODS
        if method in item
    ]
    told = {tag["name"]: tag["description"] for tag in whole["tags"]}
    order = list(told)
    entries.sort(key=lambda entry: order.index(entry.described["tags"][0]))
    return [(noun, told[noun], list(each)) for noun, each in groupby(entries, lambda entry: entry.described["tags"][0])]


def _url(whole: Schema, item: Schema, path: str) -> str:
    [server] = item.get("servers", whole["servers"])
    return str(server["url"]).rstrip("/") + path


def _parameters(entry: Entry, link: Link) -> list[Row]:
    return [
        Row(each["name"], _type(each["schema"], link), each["required"], each.get("description", ""))
        for each in entry.described.get("parameters", ())
        if each["in"] != "header"
    ]


def _fields(schema: Schema, link: Link) -> list[Row]:
    required = schema.get("required", ())
    rows = [
        Row(name, _type(field, link), name in required, field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    return sorted(rows, key=lambda row: not row.is_required)


def _type(schema: Schema, link: Link) -> str:
    """What the schema admits, in words."""
    if (reference := schema.get("$ref")) is not None:
        return link(str(reference).rpartition("/")[2])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(each, link) for each in schema[key]))
    kinds: list[str] = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type", "anything")]
    if "const" in schema:
        return f"`{_value(schema['const'])}`"
    words: list[str] = []
    for kind in kinds:
        if "enum" in schema and kind == "string":
            words.append(" or ".join(f"`{each}`" for each in schema["enum"] if each is not None))
        elif kind == "array":
            words.append(f"array of {_together(_type(schema['items'], link))}")
        elif kind == "object" and schema.get("additionalProperties"):
            words.append(f"object of {_together(_type(schema['additionalProperties'], link))}")
        elif kind == "string" and "contentMediaType" in schema:
            words.append("file")
        else:
            words.append(kind)
    return " or ".join(words) + "".join(f", {limit}" for limit in _limits(schema))


def _together(words: str) -> str:
    return f"({words})" if " or " in words else words


def _limits(schema: Schema) -> Iterator[str]:
    if (begins := re.fullmatch(r"\^([a-z]+)", schema.get("pattern", ""))) is not None:
        yield f"begins with `{begins[1]}`"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and high < 2**62:
        yield f"{low} to {high}"
    elif low is not None:
        yield f"at least {low}"
    if (most := schema.get("maxLength")) is not None:
        yield f"at most {most:,} characters"
    if (most := schema.get("maxItems")) is not None:
        yield f"at most {most:,}"
    if (most := schema.get("maxProperties")) is not None:
        yield f"at most {most:,} pairs"
    if "default" in schema:
        yield f"`{_value(schema['default'])}` unless given"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class Body(NamedTuple):
    kind: str
    # Of the type itself, not a reference to it.
    schema: Schema
    name: str | None
    example: Any


def _body(whole: Schema, entry: Entry) -> Body | None:
    for kind, media in entry.described.get("requestBody", {}).get("content", {}).items():
        schema = media.get("schema", {})
        name = str(schema["$ref"]).rpartition("/")[2] if "$ref" in schema else None
        return Body(kind, whole["components"]["schemas"][name] if name else schema, name, media.get("example"))
    return None


def _answer(entry: Entry) -> list[tuple[str, Schema]]:
    return [(kind, media.get("schema", {})) for kind, media in entry.described["responses"]["200"]["content"].items()]


def _errors(entry: Entry) -> list[str]:
    return [status for status in entry.described["responses"] if status.isdecimal() and int(status) >= 400]


def _curl(entry: Entry, body: Body | None) -> str:
    url = re.sub(r"\{(\w+)\}", lambda found: "$" + found[1].upper(), entry.url)
    lines = [f'curl "{_BASE_URL}{url}"']
    if entry.method == "DELETE" or (entry.method == "POST" and "requestBody" not in entry.described):
        lines[0] = lines[0].replace("curl ", f"curl -X {entry.method} ", 1)
    if entry.described.get("security") != []:
        lines.append('-H "Authorization: Bearer $KEY"')
    if body is not None:
        if body.kind == "multipart/form-data":
            fields = body.schema["properties"]
            lines += ["-F purpose=assistants"] if "purpose" in fields else []
            lines += [f"-F {name}=@notes.txt" for name, each in fields.items() if "contentMediaType" in each]
        elif body.example is not None:
            lines += ['-H "Content-Type: application/json"', f"-d '{json.dumps(body.example, ensure_ascii=False)}'"]
    return " \\\n  ".join(lines)


def _place(name: str) -> str:
    """Where a type is told of."""
    return _anchor("Stream events" if name == STREAM_EVENT else name)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- Markdown

_INTRODUCTION: Final = (
    "Every operation that this server has, with the types it takes and answers. The paths of the contract are below "
    "`/v1`; each request carries a key, as `Authorization: Bearer …` or `api-key: …`. The same for programs, as an "
    "OpenAPI document: `GET /openapi.json`; as a page of the running server: `GET /docs`. What is marked *extension* "
    "is Threadkeep's own and not part of OpenAI's API."
)
_STREAMS: Final = (
    "With `stream` the answer is a series of server-sent events, each with a number (`id:`), a name (`event:`) and an "
    "object (`data:`); the last is `done`. A failure of the stream itself is an event `error`."
)


def as_markdown(whole: Schema) -> str:
    def link(name: str) -> str:
        return f"[{name}](#{_place(name)})"

    def table(title: str, rows: Sequence[Row]) -> list[str]:
        shown = [
            f"| `{row.name}`{'' if row.is_required else ' (optional)'} | {row.type} | {row.told} |".replace("\n\n", " ")
            for row in rows
        ]
        return [f"| {title} | type | |", "|---|---|---|", *shown, ""] if rows else []

    lines = [
        "# API reference",
        "",
        _INTRODUCTION,
        "",
        "Made by `scripts/reference.py` from the server's own types.",
        "",
    ]
    for noun, told, entries in _nouns(whole):
        lines += [f"## {noun}", "", told, ""]
        for entry in entries:
            lines += [f"### {entry.title}", ""]
            mark = " (*extension*)" if EXTENSION in entry.described else ""
            lines += [f"`{entry.method} {entry.url}`{mark}", ""]
            if note := entry.described.get("description"):
                lines += [note, ""]
            lines += table("parameter", _parameters(entry, link))
            if (body := _body(whole, entry)) is not None:
                lines += [f"Body, {f'`{body.name}`' if body.name else f'`{body.kind}`'}:", ""]
                lines += table("field", _fields(body.schema, link))
            for kind, schema in _answer(entry):
                lines += [
                    f"Answers {_type(schema, link)}."
                    if schema.get("$ref") or "anyOf" in schema
                    else f"Answers `{kind}`."
                ]
            refused = ", ".join(_errors(entry))
            lines += [
                "",
                *([f"Errors: [{refused}](#errors).", ""] if refused else []),
                "```sh",
                _curl(entry, body),
                "```",
                "",
            ]
    lines += ["## Errors", "", f"Every error is an {link('ErrorResponse')}, with all four keys.", ""]
    lines += ["| status | |", "|---|---|"]
    lines += [
        f"| {name.removeprefix('Error')} | {each['description']} |"
        for name, each in whole["components"]["responses"].items()
    ]
    lines += ["", "## Stream events", "", _STREAMS, "", "| event | object |", "|---|---|"]
    lines += [f"| `{name}` | {_type(schema, link)} |" for name, schema in _events(whole)]
    lines += [
        "",
        "## Types",
        "",
        "A field that is not marked optional is required in a request and always there in an answer.",
        "",
    ]
    for name, schema in _types(whole):
        lines += [f"### {name}", ""]
        if note := schema.get("description"):
            lines += [note, ""]
        lines += table("field", _fields(schema, link)) or ["It has no fields.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _events(whole: Schema) -> list[tuple[str, Schema]]:
    events = whole["components"]["schemas"]["AssistantStreamEvent"]["oneOf"]
    return [(each["properties"]["event"]["const"], each["properties"]["data"]) for each in events]


def _types(whole: Schema) -> list[tuple[str, Schema]]:
    """Those that something leads to; a body's own type is shown where the body is."""
    schemas = whole["components"]["schemas"]
    answers = [
        item[method].get("responses") for item in whole["paths"].values() for method in _METHODS if method in item
    ]
    linked = set(
        re.findall(r"#/components/schemas/(\w+)", json.dumps([schemas, answers, whole["components"]["responses"]]))
    )
    return [(name, schema) for name, schema in sorted(schemas.items()) if "properties" in schema and name in linked]


# --- HTML


def as_html(whole: Schema) -> str:
    nouns = _nouns(whole)
    version = escape(whole["info"]["version"])
    contents = "".join(
        f"<li><a href='#{_anchor(noun)}'>{escape(noun)}</a><ul>"
        + "".join(f"<li><a href='#{entry.anchor}'>{escape(entry.title)}</a></li>" for entry in entries)
        + "</ul></li>"
        for noun, _, entries in nouns
    )
    contents += "".join(
        f"<li><a href='#{_anchor(each)}'>{each}</a></li>" for each in ("Errors", "Stream events", "Types")
    )
    sections = "".join(
        f"<section><h2 id='{_anchor(noun)}'>{escape(noun)}</h2>{_prose(told)}"
        f"{''.join(_operation(whole, entry) for entry in entries)}</section>"
        for noun, told, entries in nouns
    )
    errors = "".join(
        f"<tr><td><code>{name.removeprefix('Error')}</code></td><td>{_inline(each['description'])}</td></tr>"
        for name, each in whole["components"]["responses"].items()
    )
    events = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_marked(_type(schema, _link))}</td></tr>"
        for name, schema in _events(whole)
    )
    kinds = "".join(
        f"<article><h3 id='{_anchor(name)}'>{name}</h3>{_prose(schema.get('description', ''))}"
        + (_table("Field", _fields(schema, _link)) or "<p>It has no fields.</p>")
        + "</article>"
        for name, schema in _types(whole)
    )
    navigation = f"<ul>{contents}</ul>"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Threadkeep API reference</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style></head><body>"
        f"<nav class='beside' aria-label='Contents'><p class='brand'>Threadkeep <small>{version}</small></p>"
        f"{navigation}</nav>"
        "<main><h1>API reference</h1>"
        f"<details class='above'><summary>Contents</summary><nav>{navigation}</nav></details>"
        f"{_prose(_INTRODUCTION)}{sections}"
        "<section><h2 id='errors'>Errors</h2>"
        f"<p>Every error is an {_marked(_link('ErrorResponse'))}, with all four keys.</p>"
        f"<div class='scroll'><table><tbody>{errors}</tbody></table></div></section>"
        f"<section><h2 id='stream-events'>Stream events</h2>{_prose(_STREAMS)}"
        f"<div class='scroll'><table><thead><tr><th>Event</th><th>Object</th></tr></thead>"
        f"<tbody>{events}</tbody></table></div>"
        "</section>"
        "<section><h2 id='types'>Types</h2>"
        "<p>A field that is not marked optional is required in a request and always there in an answer.</p>"
        f"{kinds}</section></main></body></html>\n"
    )


def _operation(whole: Schema, entry: Entry) -> str:
    described = entry.described
    mark = " <span class='mark'>extension</span>" if EXTENSION in described else ""
    url = re.sub(r"\{(\w+)\}", r"<var>{\1}</var>", escape(entry.url))
    parts = [
        f"<article class='operation'><h3 id='{entry.anchor}'>{escape(entry.title)}{mark}</h3>",
        f"<p class='line'><b class='{entry.method.lower()}'>{entry.method}</b> <code>{url}</code></p>",
        _prose(described.get("description", "")),
        _table("Parameter", _parameters(entry, _link)),
    ]
    if (body := _body(whole, entry)) is not None:
        parts.append(f"<p><b>Body</b> <code>{body.name or body.kind}</code></p>")
        parts.append(_table("Field", _fields(body.schema, _link)))
    answers = " or ".join(
        _marked(_type(schema, _link)) if schema.get("$ref") or "anyOf" in schema else f"<code>{kind}</code>"
        for kind, schema in _answer(entry)
    )
    refused = ", ".join(_errors(entry))
    errors = f" <span class='errors'><b>Errors</b> <a href='#errors'>{refused}</a></span>" if refused else ""
    parts.append(
        f"<p><b>Answers</b> {answers}{errors}</p><pre><code>{escape(_curl(entry, body))}</code></pre></article>"
    )
    return "".join(parts)


def _table(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    shown = "".join(
        f"<tr><td><code>{escape(row.name)}</code>{'' if row.is_required else ' <small>optional</small>'}</td>"
        f"<td>{_marked(row.type)}</td><td>{_inline(row.told)}</td></tr>"
        for row in rows
    )
    return (
        f"<div class='scroll'><table><thead><tr><th>{title}</th><th>Type</th><th></th></tr></thead>"
        f"<tbody>{shown}</tbody></table></div>"
    )


def _link(name: str) -> str:
    return f"[{name}](#{_place(name)})"


def _marked(text: str) -> str:
    """Links and code in a text of our own making."""
    return re.sub(r"\[(\w+)\]\((#[\w-]+)\)", r"<a href='\2'>\1</a>", _inline(text))


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])", r"<em>\1</em>", text).replace("\n\n", "<br>")


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph)


_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5b6670; --line: #dfe3e7; --back: #fff; --shade: #f5f7f8;
  --link: #0b57a4; --post: #1a7f4b; --get: #0b57a4; --delete: #b3261e; --mark: #7a4b00; --mark-back: #fff1d6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --soft: #9aa6b0; --line: #333b42; --back: #15191c;
  --shade: #1d2327; --link: #7db8f5; --post: #6fcf97; --get: #7db8f5; --delete: #f28b82; --mark: #ffd68a;
  --mark-back: #43340f } }
* { box-sizing: border-box }
html { scroll-padding-top: 1rem }
body { margin: 0; display: grid; grid-template-columns: 17rem minmax(0, 1fr); color: var(--ink);
  background: var(--back); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 60rem; padding: 1.5rem 2.5rem 6rem }
a { color: var(--link); text-decoration: none }
a:hover { text-decoration: underline }
.beside { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.25rem 1rem 2rem 1.5rem;
  border-right: 1px solid var(--line); background: var(--shade); font-size: 14px }
.brand { margin: 0 0 1rem; font-weight: 600; font-size: 16px }
small { color: var(--soft); font-weight: 400 }
nav ul { list-style: none; margin: 0; padding: 0 }
nav > ul > li { margin-bottom: .6rem }
nav > ul > li > a { color: var(--ink); font-weight: 600 }
nav ul ul { padding-left: .75rem }
.above { display: none }
h1 { margin: 0 0 1rem; font-size: 1.9rem; line-height: 1.2 }
h2 { margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 2px solid var(--line); font-size: 1.45rem }
h3 { margin: 0 0 .35rem; font-size: 1.1rem }
p { margin: 0 0 .75rem }
article { margin: 1.75rem 0 }
.operation { padding: 1.1rem 1.25rem .35rem; border: 1px solid var(--line); border-radius: 8px }
code, pre, var { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
code, pre { font-size: .875em }
var { color: var(--soft); font-style: normal; font-size: 1em }
pre { margin: 0 0 .9rem; padding: .75rem 1rem; overflow-x: auto; background: var(--shade); border-radius: 6px;
  font-size: 13.5px; line-height: 1.5 }
pre code { font-size: inherit }
.line { overflow-wrap: anywhere }
.line b { display: inline-block; min-width: 3.6rem; font-size: 13px; letter-spacing: .03em }
.post { color: var(--post) } .get { color: var(--get) } .delete { color: var(--delete) }
.mark { margin-left: .4rem; padding: .1rem .5rem; border-radius: 1rem; background: var(--mark-back); color: var(--mark);
  font-size: 12px; font-weight: 500; vertical-align: middle }
.errors { margin-left: 1rem; color: var(--soft) }
.scroll { overflow-x: auto; margin: 0 0 .9rem }
table { border-collapse: collapse; width: 100%; font-size: 14.5px }
th { color: var(--soft); font-weight: 500; font-size: 13px }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
td:first-child { white-space: nowrap }
td:nth-child(2) { min-width: 10rem }
@media (max-width: 60rem) { body { display: block } .beside { display: none } main { padding: 1rem 1rem 4rem }
  .above { display: block; margin: 0 0 1rem; padding: .6rem 1rem; background: var(--shade); border-radius: 6px }
  .above summary { font-weight: 600; cursor: pointer } .above nav { padding-top: .75rem }
  .operation { padding: .9rem .9rem .2rem } .errors { display: block; margin-left: 0 } }
@media (max-width: 36rem) { thead { display: none } tr { display: block; padding: .4rem 0;
  border-bottom: 1px solid var(--line) } td { display: block; padding: 0; border: 0 } td:empty { display: none }
  pre { white-space: pre-wrap; overflow-wrap: anywhere } h2 { margin-top: 2rem } }
@media print { .beside, .above { display: none } body { display: block } article { break-inside: avoid } }
"""
