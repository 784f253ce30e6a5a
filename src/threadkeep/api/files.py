"""Files: upload, list, retrieve, delete, content."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from threadkeep.api.call import Call
from threadkeep.api.download import Download
from threadkeep.api.form import read_form
from threadkeep.contract.errors import InvalidRequest, no_such
from threadkeep.contract.files import CreateFileRequest, File, ListFilesQuery
from threadkeep.contract.models import Deleted
from threadkeep.contract.paging import Page
from threadkeep.contract.reading import check_id, read_json
from threadkeep.files.files import create_file, delete_file
from threadkeep.search import stores
from threadkeep.storage.store import Transaction

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MEMBER: Final = re.compile(r"(\w{1,100})\[(\w{1,100})\]")
# How many stores a file is taken out of before its deletion is answered.
_AT_ONCE: Final = 20
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")


async def create_file_(call: Call) -> File:
    form = await read_form(
        call, "file", max_bytes=call.context.limits.file_bytes, before_file=_check_early, read=_request
    )
    request = form.request
    expires_s = None if request.expires_after is None else request.expires_after.seconds

    def write(tx: Transaction) -> File:
        return create_file(tx, filename=form.filename, purpose=request.purpose, blobs=[form.blob], expires_s=expires_s)

    return await call.context.contents.commit(call.project, form.blob, write)


async def list_files(call: Call) -> Page[File]:
    query = call.query(ListFilesQuery)
    if query.after is not None:
        check_id("after", query.after, "file")
    return await call.read(lambda tx: tx.files.list(query))


async def retrieve_file(call: Call) -> File:
    file_id = _file_id(call)
    return await call.read(lambda tx: tx.files.get(file_id))


async def delete_file_(call: Call) -> Deleted:
    file_id = _file_id(call)

    def delete(tx: Transaction) -> None:
        delete_file(tx, file_id)
        # Few have it, as a rule: then nobody sees it there any more. The rest is due work.
        stores.forget(tx, file_id, most=_AT_ONCE)

    await call.write(delete)
    call.context.ingestion.wake()
    return Deleted(id=file_id, object="file")


async def download_file(call: Call) -> Download:
    file_id = _file_id(call)
    found = await call.read(lambda tx: tx.files.content(file_id))
    if found is None:
        raise no_such("File", file_id)
    file, blobs = found
    if file.purpose == "assistants" and call.context.refuses_assistants_downloads:
        raise InvalidRequest("Not allowed to download files of purpose: assistants")

    async def is_there() -> bool:
        return await call.read(lambda tx: tx.files.find(file_id)) is not None

    return Download(
        call.context.contents,
        file,
        blobs,
        dict(call.headers),
        is_there=is_there,
        stall_s=call.context.limits.body_s,
    )


def _file_id(call: Call) -> str:
    """Unlike the other nouns' ids, one that cannot be a file's is just not found."""
    file_id = call.path["file_id"]
    if _ID.fullmatch(file_id) is None:
        raise no_such("File", file_id[:64].replace("\0", ""))
    return file_id


def _check_early(fields: Mapping[str, str]) -> None:
    """Refuses a form by what comes ahead of its file, before that is taken."""
    if "purpose" in fields:
        _request(fields)


def _request(fields: Mapping[str, str]) -> CreateFileRequest:
    """The fields as the object that they describe: ``a[b]`` is a member, and only members are numbers."""
    given: dict[str, object] = {}
    members: dict[str, dict[str, object]] = {}
    for name, text in fields.items():
        if (member := _MEMBER.fullmatch(name)) is None:
            given[name] = text
        else:
            members.setdefault(member[1], {})[member[2]] = int(text) if _INTEGER.fullmatch(text) else text
    return read_json(CreateFileRequest, msgspec.json.encode(given | members))
