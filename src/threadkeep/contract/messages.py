"""Messages: what user and assistant said, in parts.

A part has no id on the wire; it is named by its message's id and its index, which never changes once written.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field
from msgspec.structs import force_setattr

from threadkeep.contract.metadata import CarriesMetadata, Metadata, ModifiesMetadata
from threadkeep.contract.tools import AttachmentTool
from threadkeep.contract.wire import Object, Request

Role = Literal["user", "assistant"]
Detail = Literal["auto", "low", "high"]
MessageStatus = Literal["in_progress", "incomplete", "completed"]
IncompleteReason = Literal["content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"]
# Beyond the contract, which knows "reject" alone: what becomes of a message, or of a run, for a thread with an active
# run. Behind it and all that waits; or next, and the active run is cancelled.
IfActive = Literal["reject", "enqueue", "interrupt"]

MAX_TEXT_LENGTH = 256_000
Text256k = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]


class ImageFile(Request):
    file_id: str
    detail: Detail | None = "auto"

    def __post_init__(self) -> None:
        if self.detail is None:
            force_setattr(self, "detail", "auto")


class ImageUrl(Request):
    url: str
    detail: Detail | None = "auto"

    def __post_init__(self) -> None:
        if self.detail is None:
            force_setattr(self, "detail", "auto")


class ImageFileContent(Request, tag_field="type", tag="image_file"):
    """``MessageContentImageFileObject``, sent and answered alike."""

    image_file: ImageFile


class ImageUrlContent(Request, tag_field="type", tag="image_url"):
    """``MessageContentImageUrlObject``."""

    image_url: ImageUrl


class ImageUrlRequest(ImageUrl):
    """An address in the web, or the image itself: some model servers would also open files of their own machine."""

    url: Annotated[str, Meta(pattern=r"^([Hh][Tt][Tt][Pp][Ss]?://|[Dd][Aa][Tt][Aa]:)")]


class ImageUrlRequestContent(ImageUrlContent, tag_field="type", tag="image_url"):
    """``MessageContentImageUrlObject``, as it is sent."""

    image_url: ImageUrlRequest


class TextRequestContent(Request, tag_field="type", tag="text"):
    """``MessageRequestContentTextObject``: a bare string, unlike the text part that is answered."""

    text: Text256k


class FileCitation(Object):
    file_id: str
    # Not in the v2 schema, but clients read it.
    quote: str = ""


class FilePath(Object):
    file_id: str


class FileCitationAnnotation(Object, tag_field="type", tag="file_citation"):
    """``text`` stands literally in the part's value, from ``start_index`` to before ``end_index``, in code points."""

    text: str
    file_citation: FileCitation
    start_index: int
    end_index: int


class FilePathAnnotation(Object, tag_field="type", tag="file_path"):
    """As a citation, for a file that code wrote."""

    text: str
    file_path: FilePath
    start_index: int
    end_index: int


Annotation = FileCitationAnnotation | FilePathAnnotation


class Text(Object):
    value: str
    annotations: list[Annotation] = field(default_factory=list[Annotation])


class TextContent(Object, tag_field="type", tag="text"):
    """``MessageContentTextObject``."""

    text: Text


class RefusalContent(Object, tag_field="type", tag="refusal"):
    """``MessageContentRefusalObject``."""

    refusal: str


Content = TextContent | ImageFileContent | ImageUrlContent | RefusalContent
RequestContent = TextRequestContent | ImageFileContent | ImageUrlRequestContent


class Attachment(Request):
    """A file given with a message and the tools that may see it; some clients leave ``tools`` out."""

    file_id: str
    tools: list[AttachmentTool] | None = None


class SharedAttachment(Attachment):
    """A message's file of the first beta, for whichever tools can use it. No client sends this."""


class MessageAttachment(Object):
    """An attachment as it is answered."""

    file_id: str
    tools: list[AttachmentTool] = field(default_factory=list[AttachmentTool])


class MessageIncompleteDetails(Object):
    reason: IncompleteReason


class Message(Object):
    """``MessageObject``."""

    id: str
    object: Literal["thread.message"] = "thread.message"
    created_at: int
    thread_id: str
    status: MessageStatus
    incomplete_details: MessageIncompleteDetails | None
    completed_at: int | None
    incomplete_at: int | None
    role: Role
    content: list[Content]
    # Both null for messages that a client wrote.
    assistant_id: str | None
    run_id: str | None
    attachments: list[MessageAttachment]
    metadata: Metadata


class CreateMessageRequest(CarriesMetadata):
    role: Role
    content: Text256k | Annotated[list[RequestContent], Meta(min_length=1)]
    attachments: list[Attachment] | None = None


class AddMessageRequest(CreateMessageRequest):
    """``CreateMessageRequest``, for a thread that may be busy."""

    # Beyond the contract: what to do while a run is active. "reject", unless given; "enqueue" puts the message behind
    # all that the runs before it write; "interrupt" cancels the active run, and puts the message ahead of waiting runs.
    if_active: IfActive | None = None


class ModifyMessageRequest(ModifiesMetadata):
    """Only the metadata of a message can change."""


class TextDelta(Object, omit_defaults=True):
    value: str | UnsetType = UNSET
    annotations: "list[AnnotationDelta] | UnsetType" = UNSET


class FileCitationAnnotationDelta(Object, tag_field="type", tag="file_citation"):
    """``index`` counts the annotations of the part."""

    index: int
    text: str
    start_index: int
    end_index: int
    file_citation: FileCitation


class FilePathAnnotationDelta(Object, tag_field="type", tag="file_path"):
    index: int
    text: str
    start_index: int
    end_index: int
    file_path: FilePath


AnnotationDelta = FileCitationAnnotationDelta | FilePathAnnotationDelta


class TextContentDelta(Object, tag_field="type", tag="text"):
    """``index`` is the position in the message's content: a new index opens a new part."""

    index: int
    text: TextDelta


class RefusalContentDelta(Object, tag_field="type", tag="refusal"):
    index: int
    refusal: str


class ImageFileContentDelta(Object, tag_field="type", tag="image_file"):
    index: int
    image_file: ImageFile


class ImageUrlContentDelta(Object, tag_field="type", tag="image_url"):
    index: int
    image_url: ImageUrl


ContentDelta = TextContentDelta | RefusalContentDelta | ImageFileContentDelta | ImageUrlContentDelta


class MessageDeltaContent(Object):
    role: Role | UnsetType = UNSET
    content: list[ContentDelta]


class MessageDelta(Object):
    """``MessageDeltaObject``: only what is new since the delta before."""

    id: str
    object: Literal["thread.message.delta"] = "thread.message.delta"
    delta: MessageDeltaContent
