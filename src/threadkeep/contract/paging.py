"""Lists come in pages, cut by object id: the contract's ``limit``, ``order``, ``after``, ``before``."""

from collections.abc import Callable
from typing import Annotated, Generic, Literal, TypeVar

from msgspec import Meta

from threadkeep.contract.wire import Object, Request

T = TypeVar("T")


class ListQuery(Request):
    """Query parameters that every cursor-paged list takes."""

    # The most that the page may hold.
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    # By creation; newest first unless asked otherwise.
    order: Literal["asc", "desc"] = "desc"
    # The page begins behind this id, in the order asked for.
    after: str | None = None
    # The page ends ahead of this id, in the order asked for.
    before: str | None = None


class Page(Object, Generic[T]):
    """``List…Response`` of the contract. An empty page has null ``first_id`` and ``last_id``."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page_of(items: list[T], identify: Callable[[T], str], *, has_more: bool) -> Page[T]:
    """A page of ``items`` as they stand."""
    return Page(
        data=items,
        first_id=identify(items[0]) if items else None,
        last_id=identify(items[-1]) if items else None,
        has_more=has_more,
    )
