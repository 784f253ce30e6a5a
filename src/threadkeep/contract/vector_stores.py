"""Vector stores: files made searchable, one at a time or in batches, and the search itself."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import force_setattr

from threadkeep.contract.metadata import Attributes, CarriesMetadata, Metadata, ModifiesMetadata, as_attributes
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.tools import ChunkingStrategy, StaticChunkingStrategy
from threadkeep.contract.wire import FieldRefused, Object, Request

VectorStoreStatus = Literal["expired", "in_progress", "completed"]
# in_progress -> completed | cancelled | failed, for a file and for a batch
IndexingStatus = Literal["in_progress", "completed", "cancelled", "failed"]


class FileCounts(Object):
    """How far a store's or a batch's files are. Poll loops wait for ``in_progress`` to reach 0."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreExpirationAfter(Request):
    """``VectorStoreExpirationAfter``."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Meta(ge=1, le=365)]


class VectorStore(Object):
    """``VectorStoreObject``."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    # Empty when none was given: the schema has no null here.
    name: str
    # Not in the schema of the answer, but what was given is not to be lost.
    description: str | UnsetType = UNSET
    usage_bytes: int
    file_counts: FileCounts
    status: VectorStoreStatus
    expires_after: VectorStoreExpirationAfter | UnsetType = UNSET
    expires_at: int | None = None
    last_active_at: int | None
    metadata: Metadata


class CreateVectorStoreRequest(CarriesMetadata):
    file_ids: Annotated[list[str], Meta(max_length=500)] | None = None
    name: str | None = None
    description: str | None = None
    expires_after: VectorStoreExpirationAfter | None = None
    chunking_strategy: ChunkingStrategy | None = None


class UpdateVectorStoreRequest(ModifiesMetadata):
    name: str | UnsetType | None = UNSET
    # Null: it does not expire any more.
    expires_after: VectorStoreExpirationAfter | UnsetType | None = UNSET


class OtherChunkingStrategy(Object, tag_field="type", tag="other"):
    """``OtherChunkingStrategyResponseParam``: nobody knows how the file was cut."""


class VectorStoreFileError(Object):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class VectorStoreFile(Object):
    """``VectorStoreFileObject``; its id is the file's."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    usage_bytes: int
    created_at: int
    vector_store_id: str
    status: IndexingStatus
    last_error: VectorStoreFileError | None
    # What `auto` came to: never "auto" itself.
    chunking_strategy: StaticChunkingStrategy | OtherChunkingStrategy | UnsetType = UNSET
    attributes: Attributes | None = None


class CarriesAttributes(Request):
    """A request with ``VectorStoreFileAttributes``; null means none."""

    attributes: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "attributes", as_attributes(self.attributes))


class CreateVectorStoreFileRequest(CarriesAttributes):
    file_id: str
    chunking_strategy: ChunkingStrategy | None = None


class UpdateVectorStoreFileAttributesRequest(Request):
    # Null empties them.
    attributes: dict[str, Any] | None

    def __post_init__(self) -> None:
        force_setattr(self, "attributes", as_attributes(self.attributes))


class CreateVectorStoreFileBatchRequest(CarriesAttributes):
    """Either ``file_ids``, all treated alike, or ``files``, each with settings of its own."""

    file_ids: Annotated[list[str], Meta(min_length=1, max_length=2000)] | None = None
    files: Annotated[list[CreateVectorStoreFileRequest], Meta(min_length=1, max_length=2000)] | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.file_ids is None and self.files is None:
            raise FieldRefused("file_ids", "Missing required parameter: '{param}'.", "missing_required_parameter")
        if self.file_ids is not None and self.files is not None:
            raise FieldRefused(
                "files",
                "Mutually exclusive parameters: 'file_ids' and 'files'. Ensure you are only providing one of them.",
                "mutually_exclusive_parameters",
            )


class VectorStoreFileBatch(Object):
    """``VectorStoreFileBatchObject``."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: IndexingStatus
    file_counts: FileCounts


class ListVectorStoreFilesQuery(ListQuery):
    """Of a store or of a batch."""

    filter: IndexingStatus | None = None


class FileContentPart(Object):
    type: Literal["text"] = "text"
    text: str


class VectorStoreFileContent(Object):
    """``VectorStoreFileContentResponse``: the text that was taken from the file."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[FileContentPart]
    has_more: bool
    next_page: str | None


Scalar = str | int | float | bool


class ComparesScalar(Request, tag_field="type"):
    """``ComparisonFilter``: the attribute ``key`` against one value; the schema would let it be a list here too."""

    key: str
    value: Scalar


class ComparesList(Request, tag_field="type"):
    """``ComparisonFilter``: the attribute ``key`` against several values."""

    key: str
    value: list[str | int | float]


class Equals(ComparesScalar, tag="eq"): ...


class DoesNotEqual(ComparesScalar, tag="ne"): ...


class IsGreater(ComparesScalar, tag="gt"): ...


class IsGreaterOrEqual(ComparesScalar, tag="gte"): ...


class IsLess(ComparesScalar, tag="lt"): ...


class IsLessOrEqual(ComparesScalar, tag="lte"): ...


class IsIn(ComparesList, tag="in"): ...


class IsNotIn(ComparesList, tag="nin"): ...


class CombinesFilters(Request, tag_field="type"):
    """``CompoundFilter``; may nest."""

    filters: "list[Filter]"


class AllOf(CombinesFilters, tag="and"): ...


class AnyOf(CombinesFilters, tag="or"): ...


Comparison = Equals | DoesNotEqual | IsGreater | IsGreaterOrEqual | IsLess | IsLessOrEqual | IsIn | IsNotIn
Filter = Comparison | AllOf | AnyOf


class SearchRankingOptions(Request):
    """Of a search; the file search tool has its own, ``tools.RankingOptions``."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: Annotated[float, Meta(ge=0, le=1)] | None = None


class VectorStoreSearchRequest(Request):
    # The schema has no upper bound. Each of them is a search of its own.
    query: str | Annotated[list[str], Meta(min_length=1, max_length=32)]
    rewrite_query: bool | None = None
    # Null and absent mean 10.
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None
    filters: Filter | None = None
    ranking_options: SearchRankingOptions | None = None


class SearchResultContent(Object):
    """``VectorStoreSearchResultContentObject``."""

    type: Literal["text"] = "text"
    text: str


class SearchResult(Object):
    """``VectorStoreSearchResultItem``."""

    file_id: str
    filename: str
    # From 0 to 1.
    score: float
    attributes: Attributes | None
    content: list[SearchResultContent]


class SearchResultsPage(Object):
    """``VectorStoreSearchResultsPage``."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    # What was really searched for, rewritten or not.
    search_query: list[str]
    data: list[SearchResult]
    has_more: bool
    next_page: str | None
