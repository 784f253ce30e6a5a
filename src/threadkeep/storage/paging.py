"""Pages by key, never by number: the thousandth page costs what the first does.

A cursor is compared as a key and not looked up, so an id that was deleted meanwhile, or never was, is as good.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from threadkeep.contract.paging import ListQuery, Page, page_of
from threadkeep.storage.statements import Bound, Row, Statement, Value, number, text

# Every id lies between the two.
LOWEST = ""
HIGHEST = "~"


class Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Identified)


class Listing(Generic[T]):
    """One list of the contract: ``key`` is the id it is ordered by.

    ``select`` gives the column `object`, or what ``read`` makes an object of.
    """

    def __init__(
        self,
        select: sa.Select[*tuple[Any, ...]],
        key: sa.ColumnElement[str],
        decoder: msgspec.json.Decoder[T] | None = None,
        *,
        read: Callable[[Row], T] | None = None,
    ) -> None:
        between = select.where(key > text("low"), key < text("high"))
        self.up = Statement(between.order_by(key.asc()).limit(number("limit")))
        self.down = Statement(between.order_by(key.desc()).limit(number("limit")))
        if read is None:
            if decoder is None:
                raise TypeError("a listing needs a decoder, or a function that reads its rows")
            decode = decoder.decode
            read = lambda row: decode(row[0])  # noqa: E731 - a parameter has a type already
        self._read = read

    def page(self, bound: Bound, query: ListQuery, **values: Value) -> Page[T]:
        ascending = query.order == "asc"
        low, high = (query.after, query.before) if ascending else (query.before, query.after)
        # With `before` alone the page is the one that ends at the cursor: read away from it, then turn it round.
        backwards = query.before is not None and query.after is None
        rows = bound.rows(
            self.up if ascending != backwards else self.down,
            low=LOWEST if low is None else low,
            high=HIGHEST if high is None else high,
            limit=query.limit + 1,
            **values,
        )
        items = [self._read(row) for row in rows[: query.limit]]
        if backwards:
            items.reverse()
        return page_of(items, _identify, has_more=len(rows) > query.limit)


def _identify(item: Identified) -> str:
    return item.id


def encode(item: msgspec.Struct) -> str:
    return _encoder.encode(item).decode()


_encoder = msgspec.json.Encoder()
