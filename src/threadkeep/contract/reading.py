"""Reads what a client sent, or says in the contract's words what is wrong with it.

The quick path is one typed decode. Only when it fails is the body decoded again without types and held against the
annotations, to name the first offending parameter with its path, the value it has and the values it may have.
Nothing but ``InvalidRequest`` ever comes out of here, whatever bytes go in.
"""

import re
import types
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

import msgspec
from msgspec import NODEFAULT, Meta, Struct, UnsetType

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.ids import Prefix
from threadkeep.contract.wire import FieldRefused

T = TypeVar("T")

MAX_DEPTH: Final = 64
# Values in one body. The largest request of the contract has fewer: 2,000 files with all their attributes. A body of
# millions takes seconds to read, in which nobody else is answered.
MAX_VALUES: Final = 100_000
MAX_ID_LENGTH: Final = 64

# How much of a client's own text a message repeats.
_SHOWN: Final = 100
_NUL: Final = rb"\u0000"
# Strings are skipped whole, an unterminated one to the end: no backtracking, whatever the bytes.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
# As signed bytes: one level in, one level out.
_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
# Begins with what is the same in both halves: that is found a hundred times as fast.
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)
_ID: Final = re.compile(r"[A-Za-z0-9_-]+")
_INTEGER: Final = re.compile(r"-?[0-9]{1,40}")


def read_json(type_: type[T], raw: bytes) -> T:
    """The request in ``raw``, checked. No body at all stands for an empty object."""
    brackets = raw.count(b"{") + raw.count(b"[")
    if brackets + raw.count(b",") > MAX_VALUES and _has_too_many(raw):
        raise InvalidRequest(f"The JSON body of your request has too many values: at most {MAX_VALUES:,} are accepted.")
    if brackets > MAX_DEPTH and _is_too_deep(raw):
        _refuse_depth(raw)
    if _NUL in raw:
        _refuse_nul(_decode(raw), "")
    try:
        return _decoder(type_).decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    plain = _decode(raw.strip() or b"{}")
    try:
        # This may succeed: of a repeated key only the last value counts, where the decoder objects to the first.
        return msgspec.convert(plain, type_)
    except msgspec.ValidationError as refusal:
        raise _explained(plain, type_, "", refusal) from None


def read_query(type_: type[T], pairs: Sequence[tuple[str, str]]) -> T:
    """The query parameters that ``type_`` knows, checked; unknown ones (``api-version``) are ignored.

    ``name[]`` and repetition fill a list, ``name[key]`` an object; of other repeated parameters the last one counts.
    """
    fields = _query_fields(type_)
    given: dict[str, Any] = {}
    for key, text in pairs:
        name, bracket, rest = key.partition("[")
        kinds = fields.get(name)
        if kinds is None:
            continue
        if "\0" in text or "\0" in rest:
            raise _nul(name)
        if bracket and "object" in kinds:
            # One given in both ways is taken for what it was given as last.
            if not isinstance(given.get(name), dict):
                given[name] = {}
            given[name][rest.removesuffix("]")] = text
        elif "array" in kinds:
            given.setdefault(name, []).append(text)
        elif not bracket and text:
            given[name] = _from_text(text, kinds)
    try:
        return msgspec.convert(given, type_)
    except msgspec.ValidationError as refusal:
        raise _explained(given, type_, "", refusal) from None


def check_id(name: str, value: str, prefix: Prefix) -> None:
    """Refuses what can't be an id of this kind, before anybody looks it up. ``name`` is the parameter's."""
    if not value.startswith(prefix):
        expected = f"Expected an ID that begins with '{prefix}'."
    elif not _ID.fullmatch(value):
        expected = (
            "Expected an ID that contains letters, numbers, underscores, or dashes, "
            "but this value contained additional characters."
        )
    elif len(value) > MAX_ID_LENGTH:
        raise _too_long(name, MAX_ID_LENGTH, len(value))
    else:
        return
    raise InvalidRequest(f"Invalid '{name}': '{_shown(value)}'. {expected}", param=name, code="invalid_value")


@cache
def _decoder(type_: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(type_)


# ── guards ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _has_too_many(raw: bytes) -> bool:
    """Whether there are more values than allowed, counted by what stands between or around them outside of strings."""
    count = end = 0
    for string in _STRING.finditer(raw):
        begin = string.start()
        count += raw.count(b",", end, begin) + raw.count(b"[", end, begin) + raw.count(b"{", end, begin)
        if count > MAX_VALUES:
            return True
        end = string.end()
    return count + raw.count(b",", end) + raw.count(b"[", end) + raw.count(b"{", end) > MAX_VALUES


def _is_too_deep(raw: bytes) -> bool:
    """Whether brackets outside of strings nest deeper than allowed; true of some broken JSON too."""
    steps = memoryview(_STRING.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0) > MAX_DEPTH


def _refuse_depth(raw: bytes) -> NoReturn:
    _decode(raw)
    raise _too_deep()


def _refuse_nul(value: object, path: str) -> None:
    """PostgreSQL can't store U+0000, so no database of ours is asked to."""
    if isinstance(value, str):
        if "\0" in value:
            raise _nul(path)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            _refuse_nul(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            if "\0" in key:
                raise _nul(path)
            _refuse_nul(item, _under(path, key))


def _decode(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except UnicodeError:
        raise InvalidRequest("The body of your request is not valid UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except msgspec.ValidationError:
        raise InvalidRequest("The JSON body of your request contains a number that is out of range.") from None
    except msgspec.DecodeError as error:
        if _LONE_SURROGATE.search(raw):
            reason = "half of a surrogate pair is not a character"
        else:
            reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The API expects a JSON payload, but what was sent was not valid JSON: "
            f"{reason[:1].lower()}{reason[1:]}.)"
        ) from None


# ── what an annotation admits ───────────────────────────────────────────────────────────────────────────────────────

_Kind = Literal["string", "integer", "decimal", "boolean", "array", "object", "null", "literal", "anything"]

_KINDS: Final[dict[object, _Kind]] = {
    str: "string",
    int: "integer",
    float: "decimal",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
_GOT: Final[dict[_Kind, str]] = {
    "string": "a string",
    "integer": "an integer",
    "decimal": "a decimal number",
    "boolean": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_EMPTY_STRING: Final = ("empty string", "an empty string")
_EMPTY_ARRAY: Final = ("empty array", "an empty array")


class _Choice(NamedTuple):
    """One member of a union, or all there is."""

    kind: _Kind
    type: Any
    limits: tuple[Meta, ...] = ()


@cache
def _choices(annotation: Any) -> tuple[_Choice, ...]:
    limits: tuple[Meta, ...] = ()
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        limits += tuple(extra for extra in extras if isinstance(extra, Meta))
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return tuple(choice for member in get_args(annotation) for choice in _choices(member))
    if annotation is UnsetType:
        return ()
    if origin is Literal:
        return (_Choice("literal", annotation),)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return (_Choice("object", annotation),)
    return (_Choice(_KINDS.get(cast("object", origin or annotation), "anything"), annotation, limits),)


class _Field(NamedTuple):
    annotation: Any
    required: bool


@cache
def _fields(struct: type[Struct]) -> dict[str, _Field]:
    return {
        field.encode_name: _Field(field.type, field.default is NODEFAULT and field.default_factory is NODEFAULT)
        for field in msgspec.structs.fields(struct)
    }


@cache
def _query_fields(type_: Any) -> dict[str, frozenset[_Kind]]:
    return {
        name: frozenset(choice.kind for choice in _choices(field.annotation)) for name, field in _fields(type_).items()
    }


def _from_text(text: str, kinds: frozenset[_Kind]) -> object:
    if "integer" in kinds and _INTEGER.fullmatch(text):
        return int(text)
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    return text


# ── finding the first problem ───────────────────────────────────────────────────────────────────────────────────────


def _explained(value: object, annotation: Any, path: str, refusal: msgspec.ValidationError) -> InvalidRequest:
    """The problem in ``value``, which msgspec refused to take for ``annotation``."""
    kind = _KINDS[type(value)]
    choices = _choices(annotation)
    for choice in choices:
        if choice.kind == kind or (choice.kind == "decimal" and kind == "integer"):
            break
    else:
        return _wrong_kind(value, kind, choices, path)
    if isinstance(value, dict):
        problem = _in_object(cast("dict[str, Any]", value), choices, path)
    elif isinstance(value, list):
        problem = _in_array(cast("list[Any]", value), choice, path)
    elif isinstance(value, str):
        problem = _in_string(value, choice, path)
    else:
        problem = _in_number(cast("int | float", value), choice, path)
    if problem is not None:
        return problem
    if isinstance(refusal.__cause__, FieldRefused):
        return _refused(refusal.__cause__, path)
    # Not known to happen; a refusal must never turn into a success or a crash.
    return InvalidRequest(f"Invalid value for '{path}'.", param=path or None, code="invalid_value")


def _refusal(value: object, annotation: Any) -> msgspec.ValidationError | None:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError as refusal:
        return refusal
    return None


def _in_object(value: dict[str, Any], choices: tuple[_Choice, ...], path: str) -> InvalidRequest | None:
    structs: list[type[Struct]] = [
        choice.type for choice in choices if choice.kind == "object" and isinstance(choice.type, type)
    ]
    if not structs:
        return None
    struct = structs[0]
    tag_field = struct.__struct_config__.tag_field
    if tag_field is not None:
        tags = [candidate.__struct_config__.tag for candidate in structs]
        tag = value.get(tag_field)
        at = _under(path, tag_field)
        if tag_field not in value:
            return _missing(at)
        if not isinstance(tag, str):
            return _wrong_type(tag, _one_of([f"'{each}'" for each in tags]), at)
        if tag not in tags:
            return _unsupported(tag, tags, at)
        struct = structs[tags.index(tag)]
    fields = _fields(struct)
    for key, item in value.items():
        if key == tag_field:
            continue
        at = _under(path, key)
        field = fields.get(key)
        if field is None:
            if struct.__struct_config__.forbid_unknown_fields:
                return InvalidRequest(f"Unknown parameter: '{at}'.", param=at, code="unknown_parameter")
        elif (refusal := _refusal(item, field.annotation)) is not None:
            return _explained(item, field.annotation, at, refusal)
    for key, field in fields.items():
        if field.required and key not in value:
            return _missing(_under(path, key))
    return None


def _in_array(value: list[Any], choice: _Choice, path: str) -> InvalidRequest | None:
    length = len(value)
    for limit in choice.limits:
        if limit.max_length is not None and length > limit.max_length:
            return InvalidRequest(
                f"Invalid '{path}': array too long. Expected an array with maximum length {limit.max_length}, "
                f"but got an array with length {length} instead.",
                param=path,
                code="array_above_max_length",
            )
        if limit.min_length is not None and length < limit.min_length:
            problem, got = ("array too short", f"an array with length {length}") if value else _EMPTY_ARRAY
            return InvalidRequest(
                f"Invalid '{path}': {problem}. Expected an array with minimum length {limit.min_length}, "
                f"but got {got} instead.",
                param=path,
                code="array_below_min_length" if value else "empty_array",
            )
    (item_type,) = get_args(choice.type)
    # Halving instead of going through the items one by one: msgspec looks at thousands in the time of one call.
    first, end = 0, length
    while end - first > 1:
        middle = (first + end) // 2
        if _refusal(value[first:middle], list[item_type]) is None:
            first = middle
        else:
            end = middle
    if length and (refusal := _refusal(value[first], item_type)) is not None:
        return _explained(value[first], item_type, f"{path}[{first}]", refusal)
    return None


def _in_string(value: str, choice: _Choice, path: str) -> InvalidRequest | None:
    for limit in choice.limits:
        if limit.max_length is not None and len(value) > limit.max_length:
            return _too_long(path, limit.max_length, len(value))
        if limit.min_length is not None and len(value) < limit.min_length:
            problem, got = ("string too short", f"a string with length {len(value)}") if value else _EMPTY_STRING
            return InvalidRequest(
                f"Invalid '{path}': {problem}. Expected a string with minimum length {limit.min_length}, "
                f"but got {got} instead.",
                param=path,
                code="string_below_min_length" if value else "empty_string",
            )
        if limit.pattern is not None and not re.search(limit.pattern, value):
            return InvalidRequest(
                f"Invalid '{path}': string does not match pattern. Expected a string that matches the pattern "
                # Python's `$` would let a line break through.
                f"'{limit.pattern.replace(chr(92) + 'Z', '$')}'.",
                param=path,
                code="invalid_value",
            )
    return None


def _in_number(value: int | float, choice: _Choice, path: str) -> InvalidRequest | None:
    kind = choice.kind
    for limit in choice.limits:
        if limit.le is not None and value > limit.le:
            bound, side, code = f"<= {limit.le}", "above maximum", f"{kind}_above_max_value"
        elif limit.ge is not None and value < limit.ge:
            bound, side, code = f">= {limit.ge}", "below minimum", f"{kind}_below_min_value"
        else:
            continue
        shown = _shown(msgspec.json.encode(value).decode())
        message = f"Invalid '{path}': {kind} {side} value. Expected a value {bound}, but got {shown} instead."
        return InvalidRequest(message, param=path, code=code)
    return None


def _wrong_kind(value: object, kind: _Kind, choices: tuple[_Choice, ...], path: str) -> InvalidRequest:
    if kind == "string" and (values := _literals(choices)):
        return _unsupported(cast("str", value), values, path)
    expected = [word for choice in choices for word in _expected(choice, path)]
    return _wrong_type(value, _one_of(list(dict.fromkeys(expected))), path)


def _literals(choices: tuple[_Choice, ...]) -> list[str]:
    return [value for choice in choices if choice.kind == "literal" for value in get_args(choice.type)]


def _expected(choice: _Choice, path: str) -> list[str]:
    match choice.kind:
        case "null" | "anything":
            return []
        case "literal":
            return [f"'{value}'" for value in get_args(choice.type)]
        case "array":
            (item,) = get_args(choice.type)
            kinds = {each.kind for each in _choices(item)}
            return [f"array of {kinds.pop()}s" if len(kinds) == 1 else "array"]
        case "object" if path.rpartition(".")[2] == "metadata":
            return ["metadata object"]
        case kind:
            return [kind]


# ── the contract's words ────────────────────────────────────────────────────────────────────────────────────────────


def _under(path: str, key: str) -> str:
    return f"{path}.{_shown(key)}" if path else _shown(key)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _listed(words: Sequence[str], conjunction: str) -> str:
    if len(words) < 3:
        return f" {conjunction} ".join(words)
    return f"{', '.join(words[:-1])}, {conjunction} {words[-1]}"


def _one_of(words: list[str]) -> str:
    if not words:
        return "another value"
    first = words[0] if words[0].startswith("'") else f"{'an' if words[0][0] in 'aeiou' else 'a'} {words[0]}"
    return first if len(words) == 1 else f"one of {_listed([first, *words[1:]], 'or')}"


def _missing(path: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def _unsupported(value: str, values: Sequence[object], path: str) -> InvalidRequest:
    supported = _listed([f"'{each}'" for each in values], "and")
    message = f"Invalid value: '{_shown(value)}'. Supported values are: {supported}."
    return InvalidRequest(message, param=path, code="invalid_value")


def _wrong_type(value: object, expected: str, path: str) -> InvalidRequest:
    where = f"Invalid type for '{path}'" if path else "Invalid type"
    message = f"{where}: expected {expected}, but got {_GOT[_KINDS[type(value)]]} instead."
    return InvalidRequest(message, param=path or None, code="invalid_type")


def _too_long(path: str, maximum: int, length: int) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{path}': string too long. Expected a string with maximum length {maximum}, "
        f"but got a string with length {length} instead.",
        param=path,
        code="string_above_max_length",
    )


def _refused(refused: FieldRefused, path: str) -> InvalidRequest:
    param = f"{path}.{refused.param}" if path else refused.param
    return InvalidRequest(refused.message.replace("{param}", param), param=param, code=refused.code)


def _nul(path: str) -> InvalidRequest:
    message = (
        f"Invalid '{path}': the character U+0000 is not allowed." if path else "The character U+0000 is not allowed."
    )
    return InvalidRequest(message, param=path or None, code="invalid_value")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The JSON body of your request is nested too deeply: more than {MAX_DEPTH} levels.")
