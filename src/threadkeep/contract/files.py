"""Files: what is uploaded for assistants, or written by their code."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from threadkeep.contract.wire import Object, Request

MAX_FILE_BYTES: Final = 512 * 1024**2
# A name is only ever told again, so that longer ones than a file system takes are welcome.
MAX_FILENAME_LENGTH: Final = 1024

# What a client may upload a file for.
FilePurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
# What a file may be for; the schema of the answer lacks "evals", though the request's has it.
AnyFilePurpose = Literal[
    "assistants",
    "assistants_output",
    "batch",
    "batch_output",
    "fine-tune",
    "fine-tune-results",
    "vision",
    "user_data",
    "evals",
]
# uploaded -> processed | error
FileStatus = Literal["uploaded", "processed", "error"]


class File(Object):
    """``OpenAIFile``."""

    id: str
    bytes: int
    created_at: int
    expires_at: int | UnsetType = UNSET
    filename: str
    object: Literal["file"] = "file"
    purpose: AnyFilePurpose
    # Deprecated in the contract, but the SDK's `wait_for_processing` polls it.
    status: FileStatus
    status_details: str | UnsetType = UNSET


class FileExpirationAfter(Request):
    """``FileExpirationAfter``: from one hour to 30 days after the upload."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class CreateFileRequest(Request):
    """The fields of the form that come with a file; the file itself is streamed past them."""

    purpose: FilePurpose
    expires_after: FileExpirationAfter | None = None


class ListFilesQuery(Request):
    """``listFiles``: pages are larger than elsewhere, and there is no ``before``."""

    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
