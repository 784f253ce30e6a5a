"""Uploads: create, add part, complete, cancel."""

from collections.abc import Mapping

from threadkeep.api.call import Call
from threadkeep.api.form import read_form
from threadkeep.contract.errors import InvalidRequest, TooLarge
from threadkeep.contract.uploads import (
    MAX_PART_BYTES,
    CompleteUploadRequest,
    CreateUploadRequest,
    Upload,
    UploadPart,
)
from threadkeep.files.uploads import too_many_bytes


async def create_upload(call: Call) -> Upload:
    request = await call.body(CreateUploadRequest)
    return await call.context.uploads.create(call.project, request, once=await call.once())


async def add_upload_part(call: Call) -> UploadPart:
    upload_id = call.path["upload_id"]
    uploads = call.context.uploads
    # Asked now, so that nobody sends 64 MB for nothing, and again when they have arrived.
    room = await uploads.room(call.project, upload_id)
    try:
        form = await read_form(
            call, "data", max_bytes=min(room, MAX_PART_BYTES), before_file=_refuse_any, read=_refuse_any
        )
    except TooLarge:
        if room < MAX_PART_BYTES:
            raise too_many_bytes() from None
        raise
    return await uploads.add_part(call.project, upload_id, form.blob)


async def complete_upload(call: Call) -> Upload:
    request = await call.body(CompleteUploadRequest)
    return await call.context.uploads.complete(call.project, call.path["upload_id"], request)


async def cancel_upload(call: Call) -> Upload:
    return await call.context.uploads.cancel(call.project, call.path["upload_id"], once=await call.once())


def _refuse_any(fields: Mapping[str, str]) -> None:
    """The form has no field beside its file."""
    for name in fields:
        raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
