"""Tools a model may be given, the resources they work on, and how the model must answer."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType, field
from msgspec.structs import force_setattr

from threadkeep.contract.metadata import CarriesMetadata
from threadkeep.contract.wire import MAX_INTEGER, FieldRefused, Object, Request, absent_if_null

Ranker = Literal["auto", "default_2024_08_21"]
FunctionIdentifier = Annotated[str, Meta(max_length=64, pattern=r"^[a-zA-Z0-9_-]+\Z")]


class RankingOptions(Request):
    """``FileSearchRankingOptions``."""

    ranker: Ranker | None = "auto"
    score_threshold: Annotated[float, Meta(ge=0, le=1)]

    def __post_init__(self) -> None:
        if self.ranker is None:
            force_setattr(self, "ranker", "auto")


class FileSearchOptions(Request):
    """Overrides of the file search tool's defaults."""

    max_num_results: Annotated[int, Meta(ge=1, le=50)] | UnsetType | None = UNSET
    ranking_options: RankingOptions | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        absent_if_null(self, "max_num_results", "ranking_options")


class CodeInterpreterTool(Request, tag_field="type", tag="code_interpreter"):
    """``AssistantToolsCode``."""


class FileSearchTool(Request, tag_field="type", tag="file_search"):
    """``AssistantToolsFileSearch``."""

    file_search: FileSearchOptions | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        absent_if_null(self, "file_search")


class FileSearchToolTypeOnly(Request, tag_field="type", tag="file_search"):
    """``AssistantToolsFileSearchTypeOnly``: attachments name the tool, without options."""


class FunctionDefinition(Request):
    """``FunctionObject``: a function of the client's, described to the model."""

    name: FunctionIdentifier
    description: str | UnsetType | None = UNSET
    # A JSON Schema; absent means a function without parameters.
    parameters: dict[str, Any] | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        absent_if_null(self, "description", "parameters")


class FunctionTool(Request, tag_field="type", tag="function"):
    """``AssistantToolsFunction``."""

    function: FunctionDefinition


# The order in which a refusal lists the supported types.
Tool = CodeInterpreterTool | FunctionTool | FileSearchTool
AttachmentTool = CodeInterpreterTool | FileSearchToolTypeOnly


class FunctionName(Request):
    name: str


class NamedToolChoice(Request):
    """``AssistantsNamedToolChoice``; ``function`` is required when ``type`` says so."""

    type: Literal["function", "code_interpreter", "file_search"]
    function: FunctionName | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        absent_if_null(self, "function")
        if self.type == "function" and self.function is UNSET:
            raise FieldRefused("function", "Missing required parameter: '{param}'.", "missing_required_parameter")


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class TextFormat(Request, tag_field="type", tag="text"):
    """``ResponseFormatText``."""


class JsonObjectFormat(Request, tag_field="type", tag="json_object"):
    """``ResponseFormatJsonObject``."""


class JsonSchema(Request):
    name: FunctionIdentifier
    description: str | UnsetType | None = UNSET
    schema: dict[str, Any] | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        absent_if_null(self, "description", "schema")


class JsonSchemaFormat(Request, tag_field="type", tag="json_schema"):
    """``ResponseFormatJsonSchema``."""

    json_schema: JsonSchema


ResponseFormat = Literal["auto"] | TextFormat | JsonObjectFormat | JsonSchemaFormat

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TruncationStrategy(Request):
    """``TruncationObject``: how the thread is shortened to fit the model's window."""

    type: Literal["auto", "last_messages"]
    # How many of the newest messages stay; only with `last_messages`.
    last_messages: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None

    def __post_init__(self) -> None:
        if self.type == "last_messages" and self.last_messages is None:
            raise FieldRefused("last_messages", "Missing required parameter: '{param}'.", "missing_required_parameter")
        if self.type != "last_messages" and self.last_messages is not None:
            raise FieldRefused("last_messages", "Invalid '{param}': only allowed when 'type' is 'last_messages'.")


MAX_CODE_FILES = 20
FileIds = Annotated[list[str], Meta(max_length=MAX_CODE_FILES)]
VectorStoreIds = Annotated[list[str], Meta(max_length=1)]


class CodeInterpreterResources(Object):
    file_ids: list[str] = field(default_factory=list[str])


class FileSearchResources(Object):
    vector_store_ids: list[str] = field(default_factory=list[str])


class ToolResources(Object, omit_defaults=True):
    """What the tools of an assistant, thread or run work on."""

    code_interpreter: CodeInterpreterResources | UnsetType = UNSET
    file_search: FileSearchResources | UnsetType = UNSET


class ModifyCodeInterpreterResources(Request):
    # Clients send null for "leave it"; so it is read as an empty list would be only when it is one.
    file_ids: FileIds | None = None


class SharedFileResources(ModifyCodeInterpreterResources):
    """The files of an assistant of the first beta, which it had once for all its tools. No client sends this."""


class ModifyFileSearchResources(Request):
    vector_store_ids: VectorStoreIds | None = None


class ModifyToolResources(Request):
    """``tool_resources`` of the modify requests and of create thread and run."""

    code_interpreter: ModifyCodeInterpreterResources | UnsetType | None = UNSET
    file_search: ModifyFileSearchResources | UnsetType | None = UNSET


# What `auto` means, and how many tokens one file of a vector store may hold.
AUTO_CHUNK_TOKENS: Final = 800
AUTO_OVERLAP_TOKENS: Final = 400
MAX_FILE_TOKENS: Final = 5_000_000


class AutoChunkingStrategy(Request, tag_field="type", tag="auto"):
    """``AutoChunkingStrategyRequestParam``: 800 tokens, 400 of them overlapping."""


class StaticChunking(Request):
    max_chunk_size_tokens: Annotated[int, Meta(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        most = self.max_chunk_size_tokens // 2
        if self.chunk_overlap_tokens > most:
            raise FieldRefused(
                "chunk_overlap_tokens",
                "Invalid '{param}': integer above maximum value. Expected a value <= half of 'max_chunk_size_tokens', "
                f"{most}, but got {self.chunk_overlap_tokens} instead.",
                "integer_above_max_value",
            )


class StaticChunkingStrategy(Request, tag_field="type", tag="static"):
    """``StaticChunkingStrategyRequestParam``."""

    static: StaticChunking


ChunkingStrategy = AutoChunkingStrategy | StaticChunkingStrategy


class NewVectorStore(CarriesMetadata):
    """A vector store made together with the assistant or thread that uses it."""

    file_ids: list[str] | None = None
    chunking_strategy: ChunkingStrategy | None = None


class CreateFileSearchResources(Request):
    """Either existing stores or instructions to create one, not both."""

    vector_store_ids: VectorStoreIds | None = None
    vector_stores: Annotated[list[NewVectorStore], Meta(max_length=1)] | None = None

    def __post_init__(self) -> None:
        if self.vector_store_ids and self.vector_stores:
            raise FieldRefused(
                "vector_stores",
                "Mutually exclusive parameters: 'vector_store_ids' and 'vector_stores'. "
                "Ensure you are only providing one of them.",
                "mutually_exclusive_parameters",
            )


class CreateToolResources(Request):
    """``tool_resources`` of create assistant and create thread."""

    code_interpreter: ModifyCodeInterpreterResources | None = None
    file_search: CreateFileSearchResources | None = None
