"""Every operation that is served, as one list, and the application made of it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from threadkeep.api import (
    assistants,
    files,
    health,
    messages,
    metrics,
    models,
    passthrough,
    run_steps,
    runs,
    threads,
    uploads,
    vector_stores,
)
from threadkeep.api import assistants_v1 as v1
from threadkeep.api.call import Context
from threadkeep.api.cors import Cors
from threadkeep.api.edge import Edge
from threadkeep.api.reference import Reference
from threadkeep.api.resource import FormBody, Operation, Public, PublicEndpoint, Resource
from threadkeep.contract.assistants import CreateAssistantRequest, ModifyAssistantRequest
from threadkeep.contract.errors import NotFound
from threadkeep.contract.files import CreateFileRequest, ListFilesQuery
from threadkeep.contract.messages import AddMessageRequest, ModifyMessageRequest
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.runs import (
    CreateRunRequest,
    CreateThreadAndRunRequest,
    ModifyRunRequest,
    SubmitToolOutputsRequest,
)
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest
from threadkeep.contract.uploads import CompleteUploadRequest, CreateUploadRequest
from threadkeep.contract.vector_stores import (
    CreateVectorStoreFileBatchRequest,
    CreateVectorStoreFileRequest,
    CreateVectorStoreRequest,
    ListVectorStoreFilesQuery,
    UpdateVectorStoreFileAttributesRequest,
    UpdateVectorStoreRequest,
    VectorStoreSearchRequest,
)

# Operations of one path stand together. The paths asked for most come first: a path is matched from the top.
OPERATIONS: Final[Sequence[Operation]] = (
    Operation("GET", "/threads/{thread_id}/runs/{run_id}", "getRun", runs.get_run),
    Operation("POST", "/threads/{thread_id}/runs/{run_id}", "modifyRun", runs.modify_run, body=ModifyRunRequest),
    Operation(
        "GET", "/threads/{thread_id}/messages", "listMessages", messages.list_messages, query=messages.ListMessagesQuery
    ),
    Operation(
        "POST", "/threads/{thread_id}/messages", "createMessage", messages.create_message, body=AddMessageRequest
    ),
    Operation("GET", "/threads/{thread_id}/runs", "listRuns", runs.list_runs, query=ListQuery),
    Operation(
        "POST",
        "/threads/{thread_id}/runs",
        "createRun",
        runs.create_run,
        body=CreateRunRequest,
        query=runs.CreateRunQuery,
    ),
    Operation(
        "GET", "/threads", "listThreads", threads.list_threads, query=threads.ListThreadsQuery, is_extension=True
    ),
    Operation("POST", "/threads", "createThread", threads.create_thread, body=CreateThreadRequest),
    # Ahead of the path of one thread, which would take "runs" for an id.
    Operation(
        "POST", "/threads/runs", "createThreadAndRun", runs.create_thread_and_run, body=CreateThreadAndRunRequest
    ),
    Operation("GET", "/threads/{thread_id}", "getThread", threads.get_thread),
    Operation("POST", "/threads/{thread_id}", "modifyThread", threads.modify_thread, body=ModifyThreadRequest),
    Operation("DELETE", "/threads/{thread_id}", "deleteThread", threads.delete_thread),
    Operation("GET", "/threads/{thread_id}/messages/{message_id}", "getMessage", messages.get_message),
    Operation(
        "POST",
        "/threads/{thread_id}/messages/{message_id}",
        "modifyMessage",
        messages.modify_message,
        body=ModifyMessageRequest,
    ),
    Operation("DELETE", "/threads/{thread_id}/messages/{message_id}", "deleteMessage", messages.delete_message),
    Operation(
        "GET",
        "/threads/{thread_id}/runs/{run_id}/stream",
        "streamRun",
        runs.stream_run,
        query=runs.StreamQuery,
        is_extension=True,
    ),
    Operation("POST", "/threads/{thread_id}/runs/{run_id}/cancel", "cancelRun", runs.cancel_run),
    Operation(
        "POST",
        "/threads/{thread_id}/runs/{run_id}/submit_tool_outputs",
        # Misspelt in the contract.
        "submitToolOuputsToRun",
        runs.submit_tool_outputs,
        body=SubmitToolOutputsRequest,
    ),
    Operation(
        "GET",
        "/threads/{thread_id}/runs/{run_id}/steps",
        "listRunSteps",
        run_steps.list_run_steps,
        query=run_steps.ListRunStepsQuery,
    ),
    Operation(
        "GET",
        "/threads/{thread_id}/runs/{run_id}/steps/{step_id}",
        "getRunStep",
        run_steps.get_run_step,
        query=run_steps.GetRunStepQuery,
    ),
    Operation("GET", "/assistants", "listAssistants", assistants.list_assistants, query=ListQuery),
    Operation("POST", "/assistants", "createAssistant", assistants.create_assistant, body=CreateAssistantRequest),
    Operation("GET", "/assistants/{assistant_id}", "getAssistant", assistants.get_assistant),
    Operation(
        "POST",
        "/assistants/{assistant_id}",
        "modifyAssistant",
        assistants.modify_assistant,
        body=ModifyAssistantRequest,
    ),
    Operation("DELETE", "/assistants/{assistant_id}", "deleteAssistant", assistants.delete_assistant),
    Operation("GET", "/files", "listFiles", files.list_files, query=ListFilesQuery, in_beta=False),
    Operation(
        "POST", "/files", "createFile", files.create_file_, body=FormBody("file", CreateFileRequest), in_beta=False
    ),
    Operation("GET", "/files/{file_id}", "retrieveFile", files.retrieve_file, in_beta=False),
    Operation("DELETE", "/files/{file_id}", "deleteFile", files.delete_file_, in_beta=False),
    Operation("GET", "/files/{file_id}/content", "downloadFile", files.download_file, in_beta=False),
    Operation("POST", "/uploads", "createUpload", uploads.create_upload, body=CreateUploadRequest, in_beta=False),
    Operation(
        "POST",
        "/uploads/{upload_id}/parts",
        "addUploadPart",
        uploads.add_upload_part,
        body=FormBody("data"),
        in_beta=False,
    ),
    Operation(
        "POST",
        "/uploads/{upload_id}/complete",
        "completeUpload",
        uploads.complete_upload,
        body=CompleteUploadRequest,
        in_beta=False,
    ),
    Operation("POST", "/uploads/{upload_id}/cancel", "cancelUpload", uploads.cancel_upload, in_beta=False),
    Operation(
        "GET", "/vector_stores", "listVectorStores", vector_stores.list_vector_stores, query=ListQuery, in_beta=False
    ),
    Operation(
        "POST",
        "/vector_stores",
        "createVectorStore",
        vector_stores.create_vector_store,
        body=CreateVectorStoreRequest,
        in_beta=False,
    ),
    Operation(
        "GET", "/vector_stores/{vector_store_id}", "getVectorStore", vector_stores.get_vector_store, in_beta=False
    ),
    Operation(
        "POST",
        "/vector_stores/{vector_store_id}",
        "modifyVectorStore",
        vector_stores.modify_vector_store,
        body=UpdateVectorStoreRequest,
        in_beta=False,
    ),
    Operation(
        "DELETE",
        "/vector_stores/{vector_store_id}",
        "deleteVectorStore",
        vector_stores.delete_vector_store,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/vector_stores/{vector_store_id}/search",
        "searchVectorStore",
        vector_stores.search_vector_store,
        body=VectorStoreSearchRequest,
        in_beta=False,
    ),
    Operation(
        "GET",
        "/vector_stores/{vector_store_id}/files",
        "listVectorStoreFiles",
        vector_stores.list_vector_store_files,
        query=ListVectorStoreFilesQuery,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/vector_stores/{vector_store_id}/files",
        "createVectorStoreFile",
        vector_stores.create_vector_store_file,
        body=CreateVectorStoreFileRequest,
        in_beta=False,
    ),
    Operation(
        "GET",
        "/vector_stores/{vector_store_id}/files/{file_id}",
        "getVectorStoreFile",
        vector_stores.get_vector_store_file,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/vector_stores/{vector_store_id}/files/{file_id}",
        "updateVectorStoreFileAttributes",
        vector_stores.update_vector_store_file_attributes,
        body=UpdateVectorStoreFileAttributesRequest,
        in_beta=False,
    ),
    Operation(
        "DELETE",
        "/vector_stores/{vector_store_id}/files/{file_id}",
        "deleteVectorStoreFile",
        vector_stores.delete_vector_store_file,
        in_beta=False,
    ),
    Operation(
        "GET",
        "/vector_stores/{vector_store_id}/files/{file_id}/content",
        "retrieveVectorStoreFileContent",
        vector_stores.retrieve_vector_store_file_content,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/vector_stores/{vector_store_id}/file_batches",
        "createVectorStoreFileBatch",
        vector_stores.create_vector_store_file_batch,
        body=CreateVectorStoreFileBatchRequest,
        in_beta=False,
    ),
    Operation(
        "GET",
        "/vector_stores/{vector_store_id}/file_batches/{batch_id}",
        "getVectorStoreFileBatch",
        vector_stores.get_vector_store_file_batch,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel",
        "cancelVectorStoreFileBatch",
        vector_stores.cancel_vector_store_file_batch,
        in_beta=False,
    ),
    Operation(
        "GET",
        "/vector_stores/{vector_store_id}/file_batches/{batch_id}/files",
        "listFilesInVectorStoreBatch",
        vector_stores.list_files_in_vector_store_batch,
        query=ListVectorStoreFilesQuery,
        in_beta=False,
    ),
    Operation(
        "GET",
        "/assistants/{assistant_id}/files",
        "listAssistantFiles",
        v1.list_assistant_files,
        query=ListQuery,
        only="v1",
    ),
    Operation(
        "POST",
        "/assistants/{assistant_id}/files",
        "createAssistantFile",
        v1.create_assistant_file,
        body=v1.CreateAssistantFileRequest,
        only="v1",
    ),
    Operation(
        "GET", "/assistants/{assistant_id}/files/{file_id}", "getAssistantFile", v1.get_assistant_file, only="v1"
    ),
    Operation(
        "DELETE",
        "/assistants/{assistant_id}/files/{file_id}",
        "deleteAssistantFile",
        v1.delete_assistant_file,
        only="v1",
    ),
    Operation(
        "GET",
        "/threads/{thread_id}/messages/{message_id}/files",
        "listMessageFiles",
        v1.list_message_files,
        query=ListQuery,
        only="v1",
    ),
    Operation(
        "GET",
        "/threads/{thread_id}/messages/{message_id}/files/{file_id}",
        "getMessageFile",
        v1.get_message_file,
        only="v1",
    ),
    Operation("GET", "/models", "listModels", models.list_models, in_beta=False),
    # Names of models may contain slashes.
    Operation("GET", "/models/{model:path}", "retrieveModel", models.retrieve_model, in_beta=False),
    Operation("POST", "/chat/completions", "createChatCompletion", passthrough.create_chat_completion, in_beta=False),
    Operation("POST", "/completions", "createCompletion", passthrough.create_completion, in_beta=False),
    Operation("POST", "/embeddings", "createEmbedding", passthrough.create_embedding, in_beta=False),
    Operation("POST", "/moderations", "createModeration", passthrough.create_moderation, in_beta=False),
    # Azure's form, where the path names the model.
    Operation(
        "POST",
        "/deployments/{deployment:path}/chat/completions",
        "createDeploymentChatCompletion",
        passthrough.create_chat_completion,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/deployments/{deployment:path}/completions",
        "createDeploymentCompletion",
        passthrough.create_completion,
        in_beta=False,
    ),
    Operation(
        "POST",
        "/deployments/{deployment:path}/embeddings",
        "createDeploymentEmbedding",
        passthrough.create_embedding,
        in_beta=False,
    ),
)

# Where the operations are served; every one of them at each. The last two are where clients of Azure OpenAI look,
# in its v1 form and in its classic one, whose parameter `api-version` says nothing here.
PREFIXES: Final[Sequence[str]] = ("/v1", "/openai/v1", "/openai")

_HEALTH: Final[Sequence[tuple[str, PublicEndpoint]]] = (
    ("/health/live", health.liveness),
    ("/health/ready", health.readiness),
    ("/metrics", metrics.scrape),
)
REFERENCE: Final = Reference(OPERATIONS, _HEALTH, PREFIXES[0])
# For whoever can reach the server, without a key.
PUBLIC: Final[Sequence[tuple[str, PublicEndpoint]]] = REFERENCE.public


def build(context: Context, *, lifespan: Lifespan[Any] | None = None) -> ASGIApp:
    """The ASGI application. ``lifespan`` runs when the server starts and stops."""
    paths = [(path, list(operations)) for path, operations in groupby(OPERATIONS, lambda operation: operation.path)]
    routes = [
        Route(prefix + path, Resource(context, path, operations)) for prefix in PREFIXES for path, operations in paths
    ]
    routes += [Route(path, Public(context, path, endpoint)) for path, endpoint in PUBLIC]
    app = Edge(Router(routes, redirect_slashes=False, default=unrouted, lifespan=lifespan))
    return Cors(app, context.cors_origins) if context.cors_origins else app


async def unrouted(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    raise NotFound("Not found")
