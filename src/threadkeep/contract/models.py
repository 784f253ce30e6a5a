"""Models, as ``GET /models`` lists them."""

from typing import Literal

from threadkeep.contract.wire import Object


class Model(Object):
    """``Model``: one that some upstream of this server answers for; upstreams do not tell a ``shutdown_date``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Object):
    """``ListModelsResponse``: not paged."""

    object: Literal["list"] = "list"
    data: list[Model]


class Deleted(Object):
    """``Delete…Response``: the object is gone."""

    id: str
    object: str
    deleted: Literal[True] = True
