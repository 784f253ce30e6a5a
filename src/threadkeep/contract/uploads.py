"""Uploads: a large file, sent in parts."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from threadkeep.contract.files import MAX_FILENAME_LENGTH, File, FileExpirationAfter, FilePurpose
from threadkeep.contract.wire import Object, Request

MAX_UPLOAD_BYTES: Final = 8 * 1024**3
MAX_PART_BYTES: Final = 64 * 1024**2
# The contract names no bound; one of full size needs 128 parts.
MAX_PARTS: Final = 10_000

# pending -> completed | cancelled | expired
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]


class Upload(Object):
    """``Upload``."""

    id: str
    created_at: int
    filename: str
    bytes: int
    purpose: FilePurpose
    status: UploadStatus
    expires_at: int
    object: Literal["upload"] = "upload"
    # Null until completed.
    file: File | None


class UploadPart(Object):
    """``UploadPart``."""

    id: str
    created_at: int
    upload_id: str
    object: Literal["upload.part"] = "upload.part"


class CreateUploadRequest(Request):
    filename: Annotated[str, Meta(min_length=1, max_length=MAX_FILENAME_LENGTH)]
    # The schema names fewer, but the SDK offers the same purposes as for files.
    purpose: FilePurpose
    bytes: Annotated[int, Meta(ge=0, le=MAX_UPLOAD_BYTES)]
    mime_type: str
    expires_after: FileExpirationAfter | None = None


class CompleteUploadRequest(Request):
    # In the order in which the bytes belong together.
    part_ids: Annotated[list[str], Meta(max_length=MAX_PARTS)]
    # In hexadecimal, of all the bytes.
    md5: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{32}\Z")] | None = None
