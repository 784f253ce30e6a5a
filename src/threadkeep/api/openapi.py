"""The OpenAPI document of what this server serves, made from the list of operations and the contract's own types.

It describes; nothing reads it to serve. Every type is a component under its own name; what is said of a type and of a
field is what stands beside it in the source. Our additions to the contract carry ``x-threadkeep-extension``.
"""

import ast
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeGuard, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType
from starlette.routing import PARAM_REGEX

from threadkeep.api.answers import Answer
from threadkeep.api.download import Download
from threadkeep.api.errors import TABLE, ErrorResponse
from threadkeep.api.event_stream import EventStream
from threadkeep.api.passthrough import PassThrough
from threadkeep.api.resource import ID_PREFIXES, FormBody, Operation, PublicEndpoint
from threadkeep.contract.events import EventName, object_of
from threadkeep.contract.paging import Page
from threadkeep.contract.wire import Request, is_kept

Schema = dict[str, Any]

EXTENSION: Final = "x-threadkeep-extension"
STREAM_EVENT: Final = "AssistantStreamEvent"

# The order in which a reader meets the nouns; others follow as they are listed.
_NOUNS: Final = (
    "assistants",
    "threads",
    "messages",
    "runs",
    "run_steps",
    "files",
    "uploads",
    "vector_stores",
    "models",
)
_METHODS: Final = ("POST", "GET", "DELETE")

_ERRORS: Final[dict[int, str]] = {
    400: "The request breaks the contract; `param` names what does, and `code` how.",
    401: "No key, or one that this server does not know.",
    403: "A server that takes any key was reached by a name that is not its machine's; or a key that may not do this.",
    404: "There is no such object in the key's project.",
    405: "The path has no such method; `allow` says which it has.",
    408: "The request's body did not arrive in time.",
    413: "The request's body is too large.",
    416: "The file has no such range.",
    429: "Too many requests; `retry-after` says when the next may come.",
    500: "A fault of the server; its log knows more under the request's id.",
    502: "The model server failed.",
    503: "Something the server depends on is away; `retry-after` says when to try again.",
}
_ALWAYS: Final = (400, 401, 403, 500, 503)

# What a body may look like, by its type.
EXAMPLES: Final[dict[str, Schema]] = {
    "CreateAssistantRequest": {"model": "offline", "name": "Helper", "instructions": "Answer in one sentence."},
    "ModifyAssistantRequest": {"instructions": "Answer in two sentences."},
    "CreateThreadRequest": {"messages": [{"role": "user", "content": "Hello!"}], "metadata": {"user": "ada"}},
    "ModifyThreadRequest": {"metadata": {"user": "ada", "archived": True}},
    "AddMessageRequest": {"role": "user", "content": "What is the weather in Oslo?"},
    "ModifyMessageRequest": {"metadata": {"rating": 5}},
    "CreateRunRequest": {"assistant_id": "asst_…", "stream": True},
    "CreateThreadAndRunRequest": {
        "assistant_id": "asst_…",
        "thread": {"messages": [{"role": "user", "content": "Hello!"}]},
    },
    "ModifyRunRequest": {"metadata": {"reviewed": True}},
    "SubmitToolOutputsRequest": {"tool_outputs": [{"tool_call_id": "call_…", "output": "4 degrees, rain"}]},
    "CreateUploadRequest": {
        "filename": "novel.txt",
        "purpose": "assistants",
        "bytes": 2_000_000,
        "mime_type": "text/plain",
    },
    "CreateAssistantFileRequest": {"file_id": "file-…"},
    "CompleteUploadRequest": {"part_ids": ["part_…", "part_…"]},
    "CreateVectorStoreRequest": {
        "name": "Handbooks",
        "file_ids": ["file-…"],
        "expires_after": {"anchor": "last_active_at", "days": 30},
    },
    "UpdateVectorStoreRequest": {"name": "Handbooks of 2026"},
    "VectorStoreSearchRequest": {
        "query": "How many days of leave are there?",
        "max_num_results": 5,
        "filters": {"type": "eq", "key": "country", "value": "Norway"},
    },
    "CreateVectorStoreFileRequest": {"file_id": "file-…", "attributes": {"country": "Norway", "year": 2026}},
    "UpdateVectorStoreFileAttributesRequest": {"attributes": {"country": "Norway", "year": 2027}},
    "CreateVectorStoreFileBatchRequest": {
        "files": [{"file_id": "file-…", "attributes": {"country": "Norway"}}, {"file_id": "file-…"}]
    },
}
# The same, of what is passed on, by its endpoint.
_PASSED_ON: Final[dict[str, Schema]] = {
    "create_chat_completion": {"model": "offline", "messages": [{"role": "user", "content": "Hello!"}]},
    "create_completion": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello, "},
    "create_embedding": {"model": "text-embedding-3-small", "input": "Hello!"},
    "create_moderation": {"input": "Hello!"},
}


def document(
    operations: Sequence[Operation], public: Sequence[tuple[str, PublicEndpoint]], prefix: str, version: str
) -> Schema:
    """The whole document. ``prefix`` is where the operations are served, ``public`` what needs no key."""
    components = _Components()
    paths: dict[str, Schema] = {}
    tags: dict[str, str] = {}
    for operation in sorted(operations, key=_place):
        module = sys.modules[_plain(operation.endpoint).__module__]
        tags.setdefault(_tag(operation.endpoint), _text(module.__doc__))
        path = PARAM_REGEX.sub(lambda found: f"{{{found[1]}}}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, components)
    for path, endpoint in public:
        module = sys.modules[_plain(endpoint).__module__]
        tags.setdefault(_tag(endpoint), _text(module.__doc__))
        paths[path] = {"servers": [{"url": "/"}], "get": _public(endpoint, components)}
    components.of(ErrorResponse)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Threadkeep",
            "version": version,
            "description": "OpenAI's Assistants API, and what Threadkeep adds to it.",
        },
        "servers": [{"url": prefix}],
        "security": [{"bearer": []}, {"api_key": []}],
        "tags": [{"name": name, "description": told} for name, told in tags.items()],
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "responses": {
                f"Error{status}": {
                    "description": told,
                    "content": {"application/json": {"schema": _ref("ErrorResponse")}},
                }
                for status, told in _ERRORS.items()
            },
            "headers": {
                "x-request-id": {
                    "description": "The request's id, by which the server's log knows it.",
                    "schema": {"type": "string"},
                },
                "openai-processing-ms": {
                    "description": "How long the server took to begin its answer.",
                    "schema": {"type": "integer"},
                },
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this server."},
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "As Azure's clients do.",
                },
            },
        },
    }


def answers_of(endpoint: Callable[..., Any]) -> list[Any]:
    """What the endpoint may answer with: types of objects, ``EventStream``, ``Download``; a document with its type."""
    answers = members(get_type_hints(_plain(endpoint), include_extras=True)["return"])
    return [get_args(answer)[0] if get_origin(answer) is Answer else answer for answer in answers]


# --- operations


def _operation(operation: Operation, components: "_Components") -> Schema:
    described: Schema = {
        "operationId": operation.id,
        "tags": [_tag(operation.endpoint)],
        "summary": _summary(operation.endpoint),
    }
    if told := _text(_plain(operation.endpoint).__doc__):
        described["description"] = told
    if operation.is_extension:
        described[EXTENSION] = True
    if operation.only is not None:
        told = f"Only with the header `OpenAI-Beta: assistants={operation.only}`."
        described["description"] = f"{described['description']}\n\n{told}" if "description" in described else told
    described["parameters"] = list(_parameters(operation, components))
    errors = {*_ALWAYS, 404} if PARAM_REGEX.search(operation.path) else {*_ALWAYS}
    if Download in answers_of(operation.endpoint):
        errors |= {416}
    if operation.body is not None:
        described["requestBody"] = _body(operation.body, components)
        errors |= {408, 413}
    if PassThrough in answers_of(operation.endpoint):
        # What it has to contain is for the upstream to say.
        media = {"schema": {"type": "object"}, "example": _PASSED_ON[_plain(operation.endpoint).__name__]}
        described["requestBody"] = {"required": True, "content": {"application/json": media}}
        errors |= {404, 408, 413, 502}
    described["responses"] = _answers(operation.endpoint, components)
    described["responses"] |= {
        str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted(errors)
    }
    return described


def _public(endpoint: PublicEndpoint, components: "_Components") -> Schema:
    responses = _answers(endpoint, components)
    return {
        "operationId": _plain(endpoint).__name__,
        "tags": [_tag(endpoint)],
        "summary": _summary(endpoint),
        "description": _text(_plain(endpoint).__doc__),
        EXTENSION: True,
        "security": [],
        "responses": responses,
    }


def _parameters(operation: Operation, components: "_Components") -> Iterator[Schema]:
    for name, _ in PARAM_REGEX.findall(operation.path):
        schema: Schema = {"type": "string"}
        if (id_prefix := ID_PREFIXES.get(name)) is not None:
            schema["pattern"] = f"^{id_prefix}"
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if operation.query is not None:
        described = components.struct(operation.query)
        for name, field in described["properties"].items():
            schema = _without_null(field)
            parameter: Schema = {"name": name, "in": "query", "required": name in described.get("required", ())}
            if "description" in schema:
                parameter["description"] = schema.pop("description")
            if schema.get("type") == "array":
                parameter |= {"name": f"{name}[]", "style": "form", "explode": True}
            elif schema.get("type") == "object":
                parameter |= {"style": "deepObject", "explode": True}
            yield {**parameter, "schema": schema}
    if operation.in_beta:
        yield {
            "name": "OpenAI-Beta",
            "in": "header",
            "required": False,
            "description": "The version of the beta: `assistants=v2`, unless given, or `assistants=v1`.",
            "schema": {"type": "string"},
        }


def _body(body: type[Request] | FormBody, components: "_Components") -> Schema:
    if isinstance(body, FormBody):
        form: Schema = components.struct(body.fields) if body.fields else {"type": "object", "properties": {}}
        form["properties"] = {
            **form["properties"],
            body.file: {"type": "string", "contentMediaType": "application/octet-stream"},
        }
        form["required"] = [*form.get("required", ()), body.file]
        form.pop("description", None)
        media: Schema = {"schema": form}
        # Else a part with members would be JSON; here each member is a field of its own, `expires_after[seconds]`.
        if members := [name for name, field in form["properties"].items() if "anyOf" in field or "$ref" in field]:
            media["encoding"] = {name: {"style": "deepObject", "explode": True} for name in members}
        return {"required": True, "content": {"multipart/form-data": media}}
    media = {"schema": components.of(body)}
    if (example := EXAMPLES.get(body.__name__)) is not None:
        media["example"] = example
    # No body at all is an empty object.
    needed = bool(components.schemas[body.__name__].get("required"))
    return {"required": needed, "content": {"application/json": media}}


def _answers(endpoint: Callable[..., Any], components: "_Components") -> Schema:
    answers = answers_of(endpoint)
    content: Schema = {}
    told: list[str] = []
    responses: Schema = {}
    if objects := [answer for answer in answers if is_struct(answer)]:
        content["application/json"] = {"schema": components.any_of(objects)}
        told.append(" or ".join(f"`{_name(each)}`" for each in objects))
    if EventStream in answers:
        content["text/event-stream"] = {"schema": components.stream_event()}
        told.append(f"with `stream`, a stream of `{STREAM_EVENT}`, ended by `done`")
    if Download in answers:
        content["application/octet-stream"] = {
            "schema": {"type": "string", "contentMediaType": "application/octet-stream"}
        }
        told.append("The bytes.")
        responses["206"] = {"description": "The bytes of the range that was asked for.", "content": content}
    if PassThrough in answers:
        content |= {"application/json": {}, "text/event-stream": {}}
        told.append("What the upstream answers, as it is.")
        responses["default"] = {
            "description": "What the upstream refuses, in its words.",
            "content": {"application/json": {"schema": _ref("ErrorResponse")}},
        }
    if documents := [get_args(answer)[1] for answer in answers if get_origin(answer) is Annotated]:
        content |= {media_type: {} for media_type in documents}
        told.append("The document.")
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "openai-processing-ms")}
    return {"200": {"description": "; ".join(told), "headers": headers, "content": content}, **responses}


def _place(operation: Operation) -> tuple[int, int, str, int]:
    noun = _plain(operation.endpoint).__module__.rpartition(".")[2]
    at = _NOUNS.index(noun) if noun in _NOUNS else len(_NOUNS)
    return at, operation.path.count("/"), operation.path, _METHODS.index(operation.method)


def _plain(endpoint: Callable[..., Any]) -> Any:
    """The function itself, under whatever was wrapped around it."""
    return inspect.unwrap(endpoint)


def _tag(endpoint: Callable[..., Any]) -> str:
    return _plain(endpoint).__module__.rpartition(".")[2].replace("_", " ").capitalize()


def _summary(endpoint: Callable[..., Any]) -> str:
    return _plain(endpoint).__name__.strip("_").replace("_", " ").capitalize()


# --- types


class _Components:
    """The types met so far, each once, under its name."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._types: dict[str, Any] = {}

    def of(self, kind: Any) -> Schema:
        """A reference to the type."""
        name = _name(kind)
        if name not in self._types:
            self._types[name] = kind
            # A place first: a type may lead back to itself.
            self.schemas[name] = {}
            self.schemas[name] = self.struct(kind)
        elif self._types[name] != kind:
            raise TypeError(f"two types are called {name}: {self._types[name]} and {kind}")
        return _ref(name)

    def stream_event(self) -> Schema:
        if STREAM_EVENT not in self.schemas:
            self.schemas[STREAM_EVENT] = {}
            self.schemas[STREAM_EVENT] = {
                "description": "One event of a run's stream: its name, and the object that goes with it.",
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"event": {"const": name}, "data": self.of(object_of(name))},
                        "required": ["event", "data"],
                    }
                    for name in get_args(EventName)
                ]
                + [
                    {
                        "type": "object",
                        "properties": {"event": {"const": "error"}, "data": self.of(ErrorResponse)},
                        "required": ["event", "data"],
                    },
                    {
                        "type": "object",
                        "properties": {"event": {"const": "done"}, "data": {"const": "[DONE]"}},
                        "required": ["event", "data"],
                    },
                ],
            }
        return _ref(STREAM_EVENT)

    def struct(self, kind: Any) -> Schema:
        """The type itself."""
        struct: type[Struct] = get_origin(kind) or kind
        config = struct.__struct_config__
        properties: dict[str, Schema] = {}
        required: list[str] = []
        if config.tag_field is not None:
            properties[config.tag_field] = {"type": "string", "const": config.tag}
            required.append(config.tag_field)
        comments = _comments(struct)
        for field in msgspec.structs.fields(kind):
            if is_kept(field.type):
                continue
            schema = self.schema(field.type)
            if (told := comments.get(field.name)) is not None:
                schema = {**schema, "description": told}
            is_read = issubclass(struct, Request)
            if is_read and field.default not in (NODEFAULT, UNSET, None):
                schema = {**schema, "default": msgspec.to_builtins(field.default)}
            properties[field.encode_name] = schema
            if field.required or not (is_read or field.default is UNSET or config.omit_defaults):
                required.append(field.encode_name)
        described: Schema = {"type": "object", "properties": properties}
        if required:
            described["required"] = required
        if config.forbid_unknown_fields:
            described["additionalProperties"] = False
        if told := _text(struct.__dict__.get("__doc__")):
            described = {"description": told, **described}
        return described

    def schema(self, annotation: Any) -> Schema:
        """The schema of whatever an annotation admits."""
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            schema = self.schema(annotation)
            for extra in extras:
                if isinstance(extra, Meta):
                    schema |= _limits(extra, schema)
            return schema
        choices = members(annotation)
        if len(choices) > 1:
            return self.any_of(choices)
        annotation = choices[0]
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            kind = "boolean" if isinstance(arguments[0], bool) else "string"
            return (
                {"type": kind, "const": arguments[0]}
                if len(arguments) == 1
                else {"type": kind, "enum": list(arguments)}
            )
        if origin is list:
            return {"type": "array", "items": self.schema(arguments[0])}
        if origin is dict:
            values = self.schema(arguments[1])
            return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
        if is_struct(annotation):
            return self.of(annotation)
        if annotation is Any:
            return {}
        return {"type": _PLAIN[annotation]}

    def any_of(self, choices: Sequence[Any]) -> Schema:
        if len(choices) == 1:
            return self.schema(choices[0])
        tagged = [
            each for each in choices if is_struct(each) and (get_origin(each) or each).__struct_config__.tag_field
        ]
        others = [self.schema(each) for each in choices if each not in tagged and each is not type(None)]
        if len(tagged) == 1:
            others.append(self.of(tagged[0]))
        elif tagged:
            field = tagged[0].__struct_config__.tag_field
            mapping = {each.__struct_config__.tag: self.of(each)["$ref"] for each in tagged}
            others.append(
                {
                    "oneOf": [self.of(each) for each in tagged],
                    "discriminator": {"propertyName": field, "mapping": mapping},
                }
            )
        if type(None) not in choices:
            return others[0] if len(others) == 1 else {"anyOf": others}
        only = others[0]
        if len(others) == 1 and isinstance(only.get("type"), str) and "const" not in only:
            nullable: Schema = {**only, "type": [only["type"], "null"]}
            if "enum" in only:
                nullable["enum"] = [*only["enum"], None]
            return nullable
        return {"anyOf": [*others, {"type": "null"}]}


_PLAIN: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _name(kind: Any) -> str:
    """``Page[Run]`` is called RunList."""
    return f"{get_args(kind)[0].__name__}List" if get_origin(kind) is Page else kind.__name__


def is_struct(annotation: Any) -> TypeGuard[type[Struct]]:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Struct)


def members(annotation: Any) -> list[Any]:
    """The members of a union, flat, without the one that stands for absence; one member for any other type."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in members(member) if inner is not UnsetType]
    return [annotation]


def _limits(meta: Meta, schema: Schema) -> Schema:
    is_array = schema.get("type") == "array"
    found: Schema = {
        "minimum": meta.ge,
        "maximum": meta.le,
        "minItems" if is_array else "minLength": meta.min_length,
        "maxItems" if is_array else "maxLength": meta.max_length,
        # Python's way to say that a line break must not follow either.
        "pattern": None if meta.pattern is None else meta.pattern.replace("\\Z", "$"),
        "description": meta.description,
        **(meta.extra_json_schema or {}),
    }
    return {key: value for key, value in found.items() if value is not None}


def _without_null(schema: Schema) -> Schema:
    """Of a query parameter: what is not given is null, and there is no other way to say it."""
    schema = dict(schema)
    kind = schema.get("type")
    if isinstance(kind, list):
        schema["type"] = next(each for each in cast("list[str]", kind) if each != "null")
    if "enum" in schema:
        schema["enum"] = [each for each in schema["enum"] if each is not None]
    if "anyOf" in schema:
        [only] = [each for each in schema.pop("anyOf") if each != {"type": "null"}]
        schema |= only
    return schema


# --- what is said


def _comments(struct: type[Struct]) -> dict[str, str]:
    """The comments that stand right above fields, also inherited ones, by field."""
    found: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if kind.__module__.startswith("threadkeep."):
            found |= _comments_in(kind.__module__).get(kind.__qualname__, {})
    return found


_read: Final[dict[str, dict[str, dict[str, str]]]] = {}


def _comments_in(module: str) -> dict[str, dict[str, str]]:
    if module not in _read:
        try:
            source = inspect.getsource(sys.modules[module])
        except OSError:
            # Installed without its source: the document is the shorter for it.
            source = ""
        lines = source.splitlines()
        _read[module] = {
            node.name: {name: told for name, line in _fields_in(node) if (told := _above(lines, line))}
            for node in ast.parse(source).body
            if isinstance(node, ast.ClassDef)
        }
    return _read[module]


def _fields_in(node: ast.ClassDef) -> Iterator[tuple[str, int]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.lineno - 1


def _above(lines: Sequence[str], line: int) -> str:
    found: list[str] = []
    while line and (above := lines[line - 1].strip()).startswith("#"):
        found.insert(0, above.removeprefix("#").strip())
        line -= 1
    return _text(" ".join(found))


def _text(told: str | None) -> str:
    """As Markdown has it, with its paragraphs in one line each."""
    paragraphs = inspect.cleandoc(told or "").replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).strip()


def undescribed() -> set[int]:
    """Statuses of errors that the server answers and the document does not know."""
    return {row.status for row in TABLE.values()} - set(_ERRORS)
