"""Models that the server's upstreams answer for: list and retrieve."""

from threadkeep.api.call import Call
from threadkeep.contract.errors import NotFound
from threadkeep.contract.models import Model, ModelList


async def list_models(call: Call) -> ModelList:
    return ModelList(data=await call.context.upstreams.models())


async def retrieve_model(call: Call) -> Model:
    if not (model := call.path["model"]):
        raise NotFound("Not found")
    return await call.context.upstreams.model(model)
