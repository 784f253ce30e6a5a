"""The two kinds of JSON object the contract knows: what we answer, and what a client sends."""

from typing import Any, Final, dataclass_transform

from msgspec import UNSET, Meta, Struct, StructMeta, field
from msgspec.structs import force_setattr

# Larger ones do not fit a database's columns, nor an upstream's.
MAX_INTEGER: Final = 2**63 - 1
# Annotates a property that is stored and never answered: descriptions of the API leave it out.
KEPT: Final = Meta(extra={"kept": True})


def is_kept(annotation: Any) -> bool:
    """Whether a property of this type is only stored."""
    return KEPT in getattr(annotation, "__metadata__", ())


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class _KeywordOnly(StructMeta):
    """Makes every field a keyword; msgspec's ``kw_only`` would have to be repeated on every class."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.setdefault("kw_only", True)
        return super().__new__(mcls, name, bases, namespace, **options)


class Object(Struct, metaclass=_KeywordOnly, frozen=True):
    """A JSON object that the server answers or stores.

    Every property is written, ``null`` rather than absent; a property whose type admits ``UNSET`` is left out
    while unset. Decoding tolerates unknown properties, so that objects written by a newer version stay readable.
    """


class Request(Struct, metaclass=_KeywordOnly, frozen=True, forbid_unknown_fields=True):
    """A JSON object that a client sends; an unknown property is refused with its path."""


class FieldRefused(ValueError):
    """Raised in the ``__post_init__`` of a request: a rule that its types cannot say is broken.

    ``param`` is relative to the object that raises; ``reading`` knows the way there and writes the whole path wherever
    the message says ``{param}``. A ValueError, because only that (or a TypeError) passes through msgspec's decoder.
    """

    def __init__(self, param: str, message: str, code: str | None = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.message = message
        self.code = code


def absent_if_null(request: Request, *names: str) -> None:
    """Takes null for an optional field as if it were absent: many clients send null for what they do not set."""
    for name in names:
        if getattr(request, name) is None:
            force_setattr(request, name, UNSET)
