"""The two kinds of JSON object the contract knows: what we answer, and what a client sends."""

from typing import Any, dataclass_transform

from msgspec import Struct, StructMeta, field


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
