"""JSON that fits a contract type, made up from the type's own annotations, and where the types are."""

import importlib
import pkgutil
import types
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import NODEFAULT, Meta, Struct, UnsetType

import threadkeep.contract
from threadkeep.contract.wire import Object, Request

Plain = Any

_SHORT = 8
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=_SHORT)


def contract_types(kind: type[Object] | type[Request]) -> list[type[Struct]]:
    """Every type of the contract of that kind that has fields of its own to say."""
    modules = [
        importlib.import_module(f"threadkeep.contract.{module.name}")
        for module in pkgutil.iter_modules(threadkeep.contract.__path__)
    ]
    members = [member for module in modules for member in vars(module).values() if isinstance(member, type)]
    return [member for member in dict.fromkeys(members) if issubclass(member, kind) and member is not kind]


@cache
def json_values() -> SearchStrategy[Plain]:
    """Any JSON value."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4), max_leaves=10
    )


@cache
def plain(annotation: Any) -> SearchStrategy[Plain]:
    """JSON values that ``annotation`` admits, as far as types can say."""
    limits: list[Meta] = []
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        limits += extras
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return st.deferred(lambda: _objects(annotation))
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return st.one_of([plain(member) for member in get_args(annotation) if member is not UnsetType])
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    if origin is list:
        least, most = _lengths(limits)
        return st.lists(plain(get_args(annotation)[0]), min_size=least, max_size=min(most, 2))
    if origin is dict:
        return st.dictionaries(_TEXT, plain(get_args(annotation)[1]), max_size=2)
    return _scalar(annotation, limits)


def _scalar(annotation: Any, limits: list[Meta]) -> SearchStrategy[Plain]:
    if annotation is str:
        least, most = _lengths(limits)
        for limit in limits:
            if limit.pattern is not None:
                return st.from_regex(limit.pattern, fullmatch=True).filter(lambda text: len(text) <= most)
        return st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=least, max_size=8)
    if annotation is bool:
        return st.booleans()
    if annotation is type(None):
        return st.none()
    low = next((limit.ge for limit in limits if limit.ge is not None), None)
    high = next((limit.le for limit in limits if limit.le is not None), None)
    if annotation is int:
        return st.integers(-(2**40) if low is None else int(low), 2**40 if high is None else int(high))
    if annotation is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False, allow_subnormal=False)
    return st.one_of(st.none(), _TEXT, st.lists(_TEXT, max_size=2)) if annotation is Any else json_values()


def _lengths(limits: list[Meta]) -> tuple[int, int]:
    least = next((limit.min_length for limit in limits if limit.min_length is not None), 0)
    return least, next((limit.max_length for limit in limits if limit.max_length is not None), _SHORT)


@cache
def _objects(struct: type[Struct]) -> SearchStrategy[Plain]:
    required: dict[str, SearchStrategy[Plain]] = {}
    optional: dict[str, SearchStrategy[Plain]] = {}
    for field in msgspec.structs.fields(struct):
        annotation = Any if isinstance(field.type, TypeVar) else field.type
        absent = field.default is NODEFAULT and field.default_factory is NODEFAULT
        (required if absent else optional)[field.encode_name] = plain(annotation)
    tag_field = struct.__struct_config__.tag_field
    if tag_field is not None:
        required[tag_field] = st.just(struct.__struct_config__.tag)
    return st.fixed_dictionaries(required, optional=optional)
