"""Objects of the contract, complete and unremarkable: a test names only what it is about."""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from threadkeep.contract.assistants import Assistant
from threadkeep.contract.files import File
from threadkeep.contract.ids import new_id
from threadkeep.contract.messages import Message, MessageStatus, Text, TextContent
from threadkeep.contract.run_steps import MessageCreation, MessageCreationDetails, RunStep
from threadkeep.contract.runs import Run
from threadkeep.contract.threads import Thread
from threadkeep.contract.tools import StaticChunking, StaticChunkingStrategy, ToolResources, TruncationStrategy
from threadkeep.contract.uploads import Upload
from threadkeep.contract.vector_stores import FileCounts, VectorStore, VectorStoreFile, VectorStoreFileBatch
from threadkeep.storage import Transaction
from threadkeep.tools.toolbox import CallContext, Toolbox

T = TypeVar("T")

CREATED_AT = 1_700_000_000


def an_assistant(**changes: Any) -> Assistant:
    return replace(
        Assistant(
            id=new_id("asst"),
            created_at=CREATED_AT,
            name=None,
            description=None,
            model="offline",
            instructions=None,
            tools=[],
            tool_resources=ToolResources(),
            metadata={},
            temperature=1.0,
            top_p=1.0,
            response_format="auto",
        ),
        **changes,
    )


def a_thread(**metadata: str) -> Thread:
    return Thread(id=new_id("thread"), created_at=CREATED_AT, metadata=metadata, tool_resources=ToolResources())


def a_message(thread_id: str, text: str = "Hello", *, status: MessageStatus = "completed", **changes: Any) -> Message:
    return replace(
        Message(
            id=new_id("msg"),
            created_at=CREATED_AT,
            thread_id=thread_id,
            status=status,
            incomplete_details=None,
            completed_at=None,
            incomplete_at=None,
            role="user",
            content=[TextContent(text=Text(value=text))],
            assistant_id=None,
            run_id=None,
            attachments=[],
            metadata={},
        ),
        **changes,
    )


def a_run(thread_id: str, **changes: Any) -> Run:
    return replace(
        Run(
            id=new_id("run"),
            created_at=CREATED_AT,
            assistant_id="asst_1",
            thread_id=thread_id,
            status="queued",
            required_action=None,
            last_error=None,
            expires_at=CREATED_AT + 600,
            started_at=None,
            cancelled_at=None,
            failed_at=None,
            completed_at=None,
            incomplete_details=None,
            model="offline",
            instructions="",
            tools=[],
            tool_resources=ToolResources(),
            metadata={},
            usage=None,
            temperature=1.0,
            top_p=1.0,
            max_prompt_tokens=None,
            max_completion_tokens=None,
            truncation_strategy=TruncationStrategy(type="auto", last_messages=None),
            tool_choice="auto",
            parallel_tool_calls=True,
            response_format="auto",
        ),
        **changes,
    )


def a_step(run: Run, **changes: Any) -> RunStep:
    return replace(
        RunStep(
            id=new_id("step"),
            created_at=CREATED_AT,
            run_id=run.id,
            assistant_id=run.assistant_id,
            thread_id=run.thread_id,
            type="message_creation",
            status="in_progress",
            cancelled_at=None,
            completed_at=None,
            expires_at=None,
            expired_at=None,
            failed_at=None,
            last_error=None,
            step_details=MessageCreationDetails(message_creation=MessageCreation(message_id="msg_1")),
            metadata={},
            usage=None,
        ),
        **changes,
    )


def a_file(**changes: Any) -> File:
    return replace(
        File(
            id=new_id("file"),
            bytes=5,
            created_at=CREATED_AT,
            filename="notes.txt",
            purpose="assistants",
            status="processed",
        ),
        **changes,
    )


def an_upload(**changes: Any) -> Upload:
    return replace(
        Upload(
            id=new_id("upload"),
            created_at=CREATED_AT,
            filename="notes.txt",
            bytes=5,
            purpose="assistants",
            status="pending",
            expires_at=CREATED_AT + 3600,
            file=None,
        ),
        **changes,
    )


def a_toolbox() -> Toolbox:
    """Nothing in it."""

    async def write(change: Callable[[Transaction], T]) -> T:
        raise AssertionError(f"nobody calls {change}")

    return Toolbox(CallContext("proj_default", a_run("thread_any"), write), [], {}, {}, {})


def a_vector_store(**changes: Any) -> VectorStore:
    return replace(
        VectorStore(
            id=new_id("vs"),
            created_at=CREATED_AT,
            name="notes",
            usage_bytes=0,
            file_counts=FileCounts(in_progress=0, completed=0, failed=0, cancelled=0, total=0),
            status="completed",
            last_active_at=CREATED_AT,
            metadata={},
        ),
        **changes,
    )


def a_store_file(store_id: str, **changes: Any) -> VectorStoreFile:
    return replace(
        VectorStoreFile(
            id=new_id("file"),
            usage_bytes=0,
            created_at=CREATED_AT,
            vector_store_id=store_id,
            status="in_progress",
            last_error=None,
            chunking_strategy=StaticChunkingStrategy(
                static=StaticChunking(max_chunk_size_tokens=800, chunk_overlap_tokens=400)
            ),
            attributes={},
        ),
        **changes,
    )


def a_batch(store_id: str, **changes: Any) -> VectorStoreFileBatch:
    return replace(
        VectorStoreFileBatch(
            id=new_id("vsfb"),
            created_at=CREATED_AT,
            vector_store_id=store_id,
            status="in_progress",
            file_counts=FileCounts(in_progress=0, completed=0, failed=0, cancelled=0, total=0),
        ),
        **changes,
    )
