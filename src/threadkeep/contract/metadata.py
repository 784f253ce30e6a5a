"""Metadata: at most 16 pairs of strings; scalars of other types are accepted and become strings.

The v1 beta converted scalars, later versions refused them. Both kinds of client are served by converting: booleans
and numbers are rendered as JSON writes them (``true``, ``4.5``). Anything nested is refused.
"""

from typing import Any, Final

import msgspec

from .wire import Request

Metadata = dict[str, str]

MAX_PAIRS: Final = 16
MAX_KEY_LENGTH: Final = 64
MAX_VALUE_LENGTH: Final = 512

_NAMES: Final[dict[type, str]] = {dict: "an object", list: "an array", type(None): "null"}


class MetadataRefused(ValueError):
    """``param`` is relative to the object that carries the metadata; ``reading`` adds the way there.

    A ValueError, because that is what msgspec wraps together with the path of the object it was decoding.
    """

    def __init__(self, message: str, param: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def as_strings(given: dict[str, Any] | None) -> Metadata:
    """The metadata as it is stored and answered; null means none."""
    if not given:
        return {}
    if len(given) > MAX_PAIRS:
        raise MetadataRefused(
            f"Invalid 'metadata': too many properties. Expected an object with at most {MAX_PAIRS} properties, "
            f"but got an object with {len(given)} properties instead.",
            "metadata",
            "object_above_max_properties",
        )
    return {_checked_key(key): _as_string(key, value) for key, value in given.items()}


def _checked_key(key: str) -> str:
    if len(key) > MAX_KEY_LENGTH:
        raise MetadataRefused(
            f"Invalid property name in 'metadata': '{key[:MAX_KEY_LENGTH]}…' is too long. Expected a string with "
            f"maximum length {MAX_KEY_LENGTH}, but got a string with length {len(key)} instead.",
            "metadata",
            "property_name_above_max_length",
        )
    return key


def _as_string(key: str, value: object) -> str:
    if isinstance(value, bool | int | float):
        value = msgspec.json.encode(value).decode()
    if not isinstance(value, str):
        raise MetadataRefused(
            f"Invalid type for 'metadata.{key}': expected a string, but got {_NAMES[type(value)]} instead.",
            f"metadata.{key}",
            "invalid_type",
        )
    if len(value) > MAX_VALUE_LENGTH:
        raise MetadataRefused(
            f"Invalid 'metadata.{key}': string too long. Expected a string with maximum length {MAX_VALUE_LENGTH}, "
            f"but got a string with length {len(value)} instead.",
            f"metadata.{key}",
            "string_above_max_length",
        )
    return value


class CarriesMetadata(Request):
    """A request with metadata. After decoding the values are strings; absent and null both mean none."""

    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "metadata", as_strings(self.metadata))


class ModifiesMetadata(Request):
    """A request that replaces the metadata when it names it; null empties it, absent leaves it."""

    metadata: dict[str, Any] | None | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.metadata is not msgspec.UNSET:
            msgspec.structs.force_setattr(self, "metadata", as_strings(self.metadata))
