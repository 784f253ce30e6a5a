"""Whether a JSON value is exactly what a type of the contract says: nothing missing, nothing beside it, no other kind.

Clients' own models forgive much, and msgspec reads what it does not know over; this forgives nothing.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct

from threadkeep.api.openapi import is_struct, members

_KINDS: dict[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    # 1 and 1.0 are one number.
    float: (int, float),
    bool: (bool,),
    type(None): (type(None),),
}


def problems(value: object, annotation: Any) -> list[str]:
    """Everything in which ``value`` differs from the type; nothing for what agrees with it."""
    found = list(_differences(value, annotation, ""))
    if not found:
        try:
            # Lengths, ranges and patterns as well.
            msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            found.append(str(error))
    return found


def _differences(value: object, annotation: Any, path: str) -> Iterator[str]:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is Any:
        return
    choices = members(annotation)
    if len(choices) > 1:
        yield from _in_union(value, choices, path)
        return
    [kind] = choices
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is Literal:
            if not any(value is each or (isinstance(each, str) and value == each) for each in arguments):
                yield f"{path or 'it'} is {value!r}, which is none of {arguments}"
        case origin if origin is list:
            if isinstance(value, list):
                for index, item in enumerate(cast("list[object]", value)):
                    yield from _differences(item, arguments[0], f"{path}[{index}]")
            else:
                yield _wrong(value, "a list", path)
        case origin if origin is dict:
            if isinstance(value, dict):
                for key, item in cast("dict[str, object]", value).items():
                    yield from _differences(item, arguments[1], f"{path}.{key}")
            else:
                yield _wrong(value, "an object", path)
        case _ if is_struct(kind):
            yield from _in_struct(value, kind, path)
        case _:
            if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
                yield _wrong(value, f"of type {kind.__name__}", path)


def _in_union(value: object, choices: list[Any], path: str) -> Iterator[str]:
    for each in choices:
        if is_struct(each) and _says_to_be(value, each):
            # Its differences are told, not those from all the others.
            yield from _in_struct(value, each, path)
            return
    each_way = [list(_differences(value, each, path)) for each in choices]
    if all(each_way):
        # The nearest.
        yield from min(each_way, key=len) if isinstance(value, dict) else [_wrong(value, "of the union", path)]


def _says_to_be(value: object, kind: type[Struct]) -> bool:
    field, tag = kind.__struct_config__.tag_field, kind.__struct_config__.tag
    return field is not None and isinstance(value, dict) and cast("dict[str, object]", value).get(field) == tag


def _in_struct(value: object, kind: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _wrong(value, "an object", path)
        return
    given = cast("dict[str, object]", value)
    struct: type[Struct] = get_origin(kind) or kind
    config = struct.__struct_config__
    known: set[str] = set()
    if config.tag_field is not None:
        known.add(config.tag_field)
        if given.get(config.tag_field) != config.tag:
            yield f"{path}.{config.tag_field} is {given.get(config.tag_field)!r}, not {config.tag!r}"
    for field in msgspec.structs.fields(kind):
        known.add(field.encode_name)
        at = f"{path}.{field.encode_name}"
        if field.encode_name in given:
            yield from _differences(given[field.encode_name], field.type, at)
        elif field.default is not UNSET and not config.omit_defaults:
            yield f"{at} is missing"
    for name in given.keys() - known:
        yield f"{path}.{name} is not in {struct.__name__}"


def _wrong(value: object, expected: str, path: str) -> str:
    return f"{path or 'it'} is {value!r:.100}, not {expected}"
