"""Our types against those of the ``openai`` SDK that is installed: what it reads we write, what it sends we accept."""

import inspect
import types
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec
import openai.types as sdk
import openai.types.beta as sdk_beta
import openai.types.beta.threads as sdk_threads
import openai.types.beta.threads.runs as sdk_steps
import openai.types.uploads as sdk_uploads
import openai.types.vector_stores as sdk_stores
import pytest
from msgspec import Struct, UnsetType
from openai.types import vector_store_search_params
from openai.types.beta import thread_create_and_run_params
from openai.types.beta.threads import run_create_params, run_submit_tool_outputs_params
from pydantic import BaseModel

from threadkeep.contract.assistants import Assistant, CreateAssistantRequest, ModifyAssistantRequest
from threadkeep.contract.files import CreateFileRequest, File, ListFilesQuery
from threadkeep.contract.messages import CreateMessageRequest, Message, MessageDelta, ModifyMessageRequest
from threadkeep.contract.models import Deleted, Model
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.run_steps import RunStep, RunStepDelta
from threadkeep.contract.runs import (
    CreateRunRequest,
    CreateThreadAndRunRequest,
    ModifyRunRequest,
    Run,
    SubmitToolOutputsRequest,
)
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest, Thread
from threadkeep.contract.uploads import CompleteUploadRequest, CreateUploadRequest, Upload, UploadPart
from threadkeep.contract.vector_stores import (
    CreateVectorStoreFileBatchRequest,
    CreateVectorStoreFileRequest,
    CreateVectorStoreRequest,
    ListVectorStoreFilesQuery,
    SearchResult,
    UpdateVectorStoreFileAttributesRequest,
    UpdateVectorStoreRequest,
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
    VectorStoreSearchRequest,
)
from threadkeep.contract.wire import is_kept

ANSWERS: list[tuple[type[Struct], type[BaseModel]]] = [
    (Assistant, sdk_beta.Assistant),
    (Thread, sdk_beta.Thread),
    (Message, sdk_threads.Message),
    (MessageDelta, sdk_threads.MessageDeltaEvent),
    (Run, sdk_threads.Run),
    (RunStep, sdk_steps.RunStep),
    (RunStepDelta, sdk_steps.RunStepDeltaEvent),
    (File, sdk.FileObject),
    (Upload, sdk.Upload),
    (UploadPart, sdk_uploads.UploadPart),
    (VectorStore, sdk.VectorStore),
    (VectorStoreFile, sdk_stores.VectorStoreFile),
    (VectorStoreFileBatch, sdk_stores.VectorStoreFileBatch),
    (SearchResult, sdk.VectorStoreSearchResponse),
    (Model, sdk.Model),
    (Deleted, sdk_beta.AssistantDeleted),
]

# Where we differ, and why.
DELIBERATE = {
    "Assistant.reasoning_effort: only ours": "shown when it was given, to those who look for it",
    "Run.reasoning_effort: only ours": "as on the assistant",
    "Run.tool_resources: only ours": "the service really answered it",
    "Run.usage.prompt_token_details: only ours": "the service really answered it, spelt so",
    "Run.usage.completion_tokens_details: only ours": "the service really answered it",
    "RunStep.usage.prompt_token_details: only ours": "as on the run",
    "RunStep.usage.completion_tokens_details: only ours": "as on the run",
    "RunStep.expires_at: only ours": "the service really answered it",
    "RunStep.last_error.code: only ours: invalid_prompt": "one type for run and step; the journal writes server_error",
    "Message.content[].text.annotations[].file_citation.quote: only ours": "clients of v1 and AG2 read it",
    "RunStepDelta.delta.step_details: not ours: message_creation": "there are no deltas of such steps",
    "Model.shutdown_date: only theirs": "upstreams do not tell",
    "VectorStore.description: only ours": "what was given is not to be lost",
    "File.purpose: only ours: evals": "may be asked for, so must be answered",
    "Upload.file.purpose: only ours: evals": "may be asked for, so must be answered",
}

REQUESTS: list[tuple[type[Struct], Any]] = [
    (CreateAssistantRequest, sdk_beta.AssistantCreateParams),
    (ModifyAssistantRequest, sdk_beta.AssistantUpdateParams),
    (ListQuery, sdk_beta.AssistantListParams),
    (CreateThreadRequest, sdk_beta.ThreadCreateParams),
    (ModifyThreadRequest, sdk_beta.ThreadUpdateParams),
    (CreateThreadAndRunRequest, thread_create_and_run_params.ThreadCreateAndRunParamsStreaming),
    (CreateMessageRequest, sdk_threads.MessageCreateParams),
    (ModifyMessageRequest, sdk_threads.MessageUpdateParams),
    (CreateRunRequest, run_create_params.RunCreateParamsStreaming),
    (ModifyRunRequest, sdk_threads.RunUpdateParams),
    (ListQuery, sdk_threads.RunListParams),
    (SubmitToolOutputsRequest, run_submit_tool_outputs_params.RunSubmitToolOutputsParamsStreaming),
    (CreateFileRequest, sdk.FileCreateParams),
    (ListFilesQuery, sdk.FileListParams),
    (CreateUploadRequest, sdk.UploadCreateParams),
    (CompleteUploadRequest, sdk.UploadCompleteParams),
    (CreateVectorStoreRequest, sdk.VectorStoreCreateParams),
    (UpdateVectorStoreRequest, sdk.VectorStoreUpdateParams),
    (VectorStoreSearchRequest, vector_store_search_params.VectorStoreSearchParams),
    (CreateVectorStoreFileRequest, sdk_stores.FileCreateParams),
    (UpdateVectorStoreFileAttributesRequest, sdk_stores.FileUpdateParams),
    (ListVectorStoreFilesQuery, sdk_stores.FileListParams),
    (CreateVectorStoreFileBatchRequest, sdk_stores.FileBatchCreateParams),
]

# Not in our types, because they travel elsewhere than in the body.
ELSEWHERE = {
    "CreateRunRequest.include": "a query parameter",
    "CreateFileRequest.file": "streamed, not decoded",
    "ModifyMessageRequest.thread_id": "in the path",
    "ModifyRunRequest.thread_id": "in the path",
    "SubmitToolOutputsRequest.thread_id": "in the path",
    "UpdateVectorStoreFileAttributesRequest.vector_store_id": "in the path",
}


def test_answers_have_the_fields_values_and_nulls_that_the_sdk_reads() -> None:
    found = [difference for ours, theirs in ANSWERS for difference in _differences(ours.__name__, ours, theirs)]

    assert sorted(set(found) - set(DELIBERATE)) == []
    assert sorted(set(DELIBERATE) - set(found)) == [], "no difference any more"


def test_everything_that_the_sdk_sends_is_accepted() -> None:
    found = [refused for ours, theirs in REQUESTS for refused in _not_accepted(ours.__name__, ours, theirs)]

    assert sorted(set(found) - set(ELSEWHERE)) == []
    assert sorted(set(ELSEWHERE) - set(found)) == [], "accepted by now"


@pytest.mark.parametrize(("ours", "theirs"), ANSWERS)
def test_the_comparison_notices_a_field_that_is_missing(ours: type[Struct], theirs: type[BaseModel]) -> None:
    class Nothing(Struct):
        pass

    missing = {f"x.{name}: only theirs" for name in theirs.model_fields}

    assert missing <= set(_differences("x", Nothing, theirs))


# ── how they are compared ───────────────────────────────────────────────────────────────────────────────────────────


def _differences(path: str, ours: type[Struct], theirs: type[BaseModel]) -> list[str]:
    our_types = {field.encode_name: field.type for field in msgspec.structs.fields(ours) if not is_kept(field.type)}
    config = ours.__struct_config__
    if config.tag_field is not None:
        our_types[config.tag_field] = Literal[config.tag]
    their_types = {name: field.annotation for name, field in theirs.model_fields.items()}
    their_types = {theirs.model_fields[name].alias or name: each for name, each in their_types.items()}
    found = [f"{path}.{name}: only ours" for name in our_types.keys() - their_types.keys()]
    found += [f"{path}.{name}: only theirs" for name in their_types.keys() - our_types.keys()]
    for name in our_types.keys() & their_types.keys():
        found += _different_types(f"{path}.{name}", _members(our_types[name]), _members(their_types[name]))
    return found


def _different_types(path: str, ours: list[Any], theirs: list[Any]) -> list[str]:
    found: list[str] = []
    if type(None) in ours and type(None) not in theirs:
        found.append(f"{path}: only ours is null")
    if str not in theirs:
        found += [f"{path}: only ours: {value}" for value in _literals(ours) - _literals(theirs)]
    our_lists, their_lists = _items(ours), _items(theirs)
    if our_lists and their_lists:
        found += _different_types(f"{path}[]", our_lists, their_lists)
    structs: dict[str | None, type[Struct]] = {_our_tag(each): each for each in ours if _is(each, Struct)}
    models: dict[str | None, type[BaseModel]] = {_their_tag(each): each for each in theirs if _is(each, BaseModel)}
    if len(structs) == len(models) == 1:
        return found + _differences(path, next(iter(structs.values())), next(iter(models.values())))
    found += [f"{path}: not ours: {tag}" for tag in models.keys() - structs.keys()]
    found += [f"{path}: only ours: {tag}" for tag in (structs.keys() - models.keys() if models else ())]
    for tag in structs.keys() & models.keys():
        found += _differences(path, structs[tag], models[tag])
    return found


def _not_accepted(path: str, ours: type[Struct], theirs: Any) -> list[str]:
    our_types = {field.encode_name: field.type for field in msgspec.structs.fields(ours)}
    tag_field = ours.__struct_config__.tag_field
    found: list[str] = []
    for name, annotation in _sent(theirs).items():
        if name == tag_field:
            continue
        if name not in our_types:
            found.append(f"{path}.{name}")
        else:
            found += _not_accepted_types(f"{path}.{name}", _members(our_types[name]), _members(annotation))
    return found


def _not_accepted_types(path: str, ours: list[Any], theirs: list[Any]) -> list[str]:
    found: list[str] = []
    if str not in ours:
        found += [f"{path}: {value}" for value in _literals(theirs) - _literals(ours)]
    found += [f"{path}: null"] if type(None) in theirs and type(None) not in ours else []
    our_lists, their_lists = _items(ours), _items(theirs)
    if our_lists and their_lists:
        found += _not_accepted_types(f"{path}[]", our_lists, their_lists)
    structs: dict[str | None, type[Struct]] = {_our_tag(each): each for each in ours if _is(each, Struct)}
    for params in (each for each in theirs if is_typeddict(each)):
        tag = _literals(_members(_sent(params).get("type", None)))
        matching = [struct for name, struct in structs.items() if name is None or name in tag]
        if not matching and path.rpartition(".")[2] not in ("filters", "filters[]"):
            found.append(f"{path}: {sorted(tag)}")
        for struct in matching[:1]:
            found += _not_accepted(path, struct, params) if path.count("filters") < 2 else []
    return found


def _is(annotation: Any, kind: type) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, kind)


def _sent(params: Any) -> dict[str, Any]:
    return get_type_hints(params, include_extras=True)


def _members(annotation: Any) -> list[Any]:
    """The union's members, or the one type; ``Annotated``, ``Required`` and aliases are looked through."""
    while True:
        origin = get_origin(annotation)
        if origin in (Union, types.UnionType):
            return [each for member in get_args(annotation) for each in _members(member)]
        if origin is Annotated or (origin is not None and "equired" in str(origin)):
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return [] if annotation is UnsetType or isinstance(annotation, TypeVar | ForwardRef) else [annotation]


def _literals(members: list[Any]) -> set[str]:
    values = {value for member in members if get_origin(member) is Literal for value in get_args(member)}
    return {value for value in values if isinstance(value, str)}


def _items(members: list[Any]) -> list[Any]:
    sequences = [each for each in members if get_origin(each) is list or "Sequence" in str(get_origin(each))]
    sequences += [each for each in members if "Iterable" in str(get_origin(each))]
    return [item for each in sequences for item in _members(get_args(each)[0])]


def _our_tag(struct: type[Struct]) -> str | None:
    tag = struct.__struct_config__.tag
    if isinstance(tag, str):
        return tag
    types_of = [_literals(_members(field.type)) for field in msgspec.structs.fields(struct) if field.name == "type"]
    return next(iter(types_of[0])) if types_of and len(types_of[0]) == 1 else None


def _their_tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("type")
    values = _literals(_members(field.annotation)) if field is not None else set[str]()
    return next(iter(values)) if len(values) == 1 else None
