"""Metadata: at most 16 pairs of strings; scalars of other types are accepted and become strings.

The v1 beta converted scalars, later versions refused them. Both kinds of client are served by converting: booleans
and numbers are rendered as JSON writes them (``true``, ``4.5``). Anything nested is refused.
"""

from typing import Annotated, Any, Final

import msgspec

from threadkeep.contract.wire import FieldRefused, Request

Metadata = dict[str, str]
Attributes = dict[str, str | float | bool]

MAX_PAIRS: Final = 16
MAX_KEY_LENGTH: Final = 64
MAX_VALUE_LENGTH: Final = 512

# Of a request: checked below, in the contract's words; what stands here is for those who read about it.
GivenMetadata = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="Keys have at most 64 characters, values 512. Numbers and booleans become strings.",
        extra_json_schema={
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "maxProperties": MAX_PAIRS,
        },
    ),
]

_NAMES: Final[dict[type, str]] = {dict: "an object", list: "an array", type(None): "null"}


def as_strings(given: dict[str, Any] | None) -> Metadata:
    """The metadata as it is stored and answered; null means none."""
    if not given:
        return {}
    _check_keys("metadata", given)
    return {key: _as_string(key, value) for key, value in given.items()}


def as_attributes(given: dict[str, Any] | None) -> Attributes:
    """``VectorStoreFileAttributes``: as metadata, but numbers and booleans stay what they are; null means none."""
    if not given:
        return {}
    _check_keys("attributes", given)
    return {key: _as_scalar(key, value) for key, value in given.items()}


def _check_keys(name: str, given: dict[str, Any]) -> None:
    if len(given) > MAX_PAIRS:
        raise FieldRefused(
            name,
            f"Invalid '{{param}}': too many properties. Expected an object with at most {MAX_PAIRS} properties, "
            f"but got an object with {len(given)} properties instead.",
            "object_above_max_properties",
        )
    for key in given:
        if len(key) > MAX_KEY_LENGTH:
            raise FieldRefused(
                name,
                f"Invalid property name in '{{param}}': '{key[:MAX_KEY_LENGTH]}…' is too long. Expected a string with "
                f"maximum length {MAX_KEY_LENGTH}, but got a string with length {len(key)} instead.",
                "property_name_above_max_length",
            )


def _as_string(key: str, value: object) -> str:
    if isinstance(value, bool | int | float):
        value = msgspec.json.encode(value).decode()
    if not isinstance(value, str):
        raise _wrong_type(f"metadata.{key}", "a string", value)
    return _checked_length(f"metadata.{key}", value)


def _as_scalar(key: str, value: object) -> str | float | bool:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # A number is a number: 2020 and 2020.0 are the same to a filter. Beyond the range of a double is neither.
        try:
            float(value)
        except OverflowError:
            raise FieldRefused(f"attributes.{key}", "Invalid '{param}': number out of range.") from None
        return value
    if not isinstance(value, str):
        raise _wrong_type(f"attributes.{key}", "one of a string, decimal, or boolean", value)
    return _checked_length(f"attributes.{key}", value)


def _checked_length(param: str, value: str) -> str:
    if len(value) > MAX_VALUE_LENGTH:
        raise FieldRefused(
            param,
            f"Invalid '{{param}}': string too long. Expected a string with maximum length {MAX_VALUE_LENGTH}, "
            f"but got a string with length {len(value)} instead.",
            "string_above_max_length",
        )
    return value


def _wrong_type(param: str, expected: str, value: object) -> FieldRefused:
    message = f"Invalid type for '{{param}}': expected {expected}, but got {_NAMES[type(value)]} instead."
    return FieldRefused(param, message, "invalid_type")


class CarriesMetadata(Request):
    """A request with metadata. After decoding the values are strings; absent and null both mean none."""

    metadata: GivenMetadata | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "metadata", as_strings(self.metadata))


class ModifiesMetadata(Request):
    """A request that replaces the metadata when it names it; null empties it, absent leaves it."""

    metadata: GivenMetadata | msgspec.UnsetType | None = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.metadata is not msgspec.UNSET:
            msgspec.structs.force_setattr(self, "metadata", as_strings(self.metadata))
