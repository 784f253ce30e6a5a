"""Files on their way into a session and out of it.

    the run's files  ─▶ /mnt/data/<file id> and /mnt/data/<name>      once for each session
    code_files       ─▶ /mnt/data/<path>                              into a fresh session
    written, changed ─▶ blob durable ─▶ in one fenced transaction: file, and its row of code_files

What a session holds is never overwritten. A file that cannot be placed or kept is news for the model, no failure.
"""

import re
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from threadkeep.contract.files import File
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.run_steps import CodeInterpreterToolCall, ToolCallsDetails
from threadkeep.contract.tools import CodeInterpreterResources
from threadkeep.files.contents import Contents, keep
from threadkeep.files.files import create_file
from threadkeep.sandbox.box import BoxFailed, FileRefused, SeenFile
from threadkeep.sandbox.limits import Limits
from threadkeep.sandbox.sessions import Session
from threadkeep.storage import Blob, BlobMissing
from threadkeep.storage.code_files import MAX_PATH_BYTES
from threadkeep.storage.store import Store, Transaction
from threadkeep.tools.code_interpreter.outcome import Outcome
from threadkeep.tools.toolbox import CallContext

_MAX_NAME_BYTES: Final = 255
# How many names are told one by one.
_MAX_TOLD: Final = 10
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Written by libraries for themselves.
_CACHES: Final = frozenset({"__pycache__"})
# In how many of the thread's runs an earlier session is looked for.
_RUNS: Final = 20
# What a session notes of a file that could not be placed, so that the model is told once.
_NOT_PLACED: Final = ""


class Given(NamedTuple):
    """A file of the run, and what it is called in /mnt/data beside its id."""

    file_id: str
    name: str


class _Stored(NamedTuple):
    """What there is to place: ``file`` is None if it was deleted meanwhile."""

    path: str
    file_id: str
    file: tuple[File, list[Blob]] | None


def given(tx: Transaction, context: CallContext) -> list[Given]:
    """The files of the run that are still there, with their names; the same for the same files in the same order."""
    files = [file for file_id in file_ids_of(context) if (file := tx.files.find(file_id)) is not None]
    names = distinct_names([file.filename for file in files], taken=[file.id for file in files])
    return [Given(file.id, name) for file, name in zip(files, names, strict=True)]


def file_ids_of(context: CallContext) -> list[str]:
    """The files that assistant and thread have for the code interpreter."""
    resources = context.run.tool_resources.code_interpreter
    return list(resources.file_ids) if isinstance(resources, CodeInterpreterResources) else []


def distinct_names(filenames: Sequence[str], *, taken: Iterable[str] = ()) -> list[str]:
    """A name in one folder for each file: its own where possible, else with a number."""
    used = set(taken)
    names: list[str] = []
    for filename in filenames:
        name = safe_name(filename)
        number = 1
        while name in used:
            number += 1
            name = safe_name(filename, suffix=f" ({number})")
        used.add(name)
        names.append(name)
    return names


def safe_name(filename: str, *, suffix: str = "") -> str:
    """``filename`` as the name of a file on any system, with ``suffix`` ahead of its extension."""
    name = _CONTROL.sub("_", filename.replace("/", "_").replace("\\", "_")).strip()
    if name.strip(".") == "":
        name = "file"
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > _MAX_NAME_BYTES // 4:
        stem, dot, extension = name, "", ""
    end = f"{suffix}{dot}{extension}"
    return stem.encode()[: _MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore") + end


class SessionFiles:
    """Brings files into sessions and out of them."""

    def __init__(self, store: Store, contents: Contents, limits: Limits) -> None:
        self._store = store
        self._contents = contents
        self._limits = limits

    async def place(self, session: Session, context: CallContext, outcome: Outcome) -> None:
        """Everything that belongs into the session is in it, or the model is told why not."""
        is_new = session.is_fresh

        def read(tx: Transaction) -> tuple[list[Given], dict[str, str], bool]:
            inputs = given(tx, context)
            written = tx.code_files.newest(context.run.thread_id) if is_new else {}
            # An earlier session may have been on another node, or before this server was started.
            return inputs, written, is_new and (session.lost or bool(written) or _ran_before(tx, context))

        inputs, written, restarted = await self._store.read(context.project, read)
        if restarted:
            files = "; files under /mnt/data were restored" if inputs or written else ""
            outcome.tell_news(f"The session was restarted: variables are lost{files}.")
        there = set(session.placed)
        # The newest first, so that the least is lost where there is no room for all.
        await self._place_each(session, context, outcome, written.items())
        await self._place_each(session, context, outcome, [(file_id, file_id) for file_id in file_ids_of(context)])
        for file_id, name in inputs:
            if session.placed.get(file_id) == file_id and (file_id not in there or name not in session.placed):
                await self._name(session, outcome, file_id, name)
        if not there.issuperset(session.placed):
            for file in await session.files():
                if is_new or (session.placed.get(file.path) and file.path not in there):
                    session.seen[file.path] = file

    async def _place_each(
        self, session: Session, context: CallContext, outcome: Outcome, files: Iterable[tuple[str, str]]
    ) -> None:
        missing = [(path, file_id) for path, file_id in files if path not in session.placed]
        if not missing:
            return
        stored = await self._store.read(
            context.project, lambda tx: [_Stored(*each, tx.files.content(each[1])) for each in missing]
        )
        problems: list[str] = []
        for path, file_id, content in stored:
            problem = "it was deleted" if content is None else await self._put(session, path, *content)
            session.placed[path] = _NOT_PLACED if problem else file_id
            if problem:
                problems.append(f"{path}: {problem}")
        if problems:
            outcome.tell_news(f"Not available in /mnt/data: {_listed(problems)}.")

    async def _put(self, session: Session, path: str, file: File, blobs: list[Blob]) -> str | None:
        """Why not, if not."""
        if file.bytes > self._limits.file_bytes:
            return f"it is larger than {self._limits.file_bytes} bytes"
        try:
            async with aclosing(self._contents.read(blobs)) as pieces:
                await session.put(path, file.bytes, pieces)
        except FileRefused as refused:
            return _shown(refused.message.rstrip("."))
        except BlobMissing:
            return "it was deleted"
        return None

    async def _name(self, session: Session, outcome: Outcome, file_id: str, name: str) -> None:
        """The file's own name as well, unless something else has it already."""
        other = session.placed.get(name, _NOT_PLACED)
        if other > file_id:
            # What is newer than the file and has its name is what code made of it.
            return
        is_free = other == _NOT_PLACED and name not in session.seen
        if is_free:
            session.placed[name] = file_id
            try:
                await session.link(file_id, name)
            except FileRefused:
                is_free = False
        if not is_free:
            # Told once.
            session.placed.setdefault(name, _NOT_PLACED)
            outcome.tell_news(f"Another file is called /mnt/data/{name}: the attached one is /mnt/data/{file_id}.")

    async def collect(self, session: Session, context: CallContext, outcome: Outcome) -> None:
        """What the code wrote or changed become files of the project."""
        listed = await session.files()
        files = {file.path: file for file in listed if _is_wanted(file.path)}
        # A list that is cut short does not say what is missing.
        gone = session.seen.keys() - files.keys() if len(listed) < self._limits.listed_files else set[str]()
        changed = [file for file in files.values() if session.seen.get(file.path) != file]
        # Several names of one file are one file.
        by_inode: dict[int, list[SeenFile]] = {}
        for file in sorted(changed, key=lambda file: (file.path.count("/"), file.path)):
            by_inode.setdefault(file.inode, []).append(file)
        kept: list[tuple[list[str], Blob]] = []
        problems: list[str] = []
        try:
            for names in by_inode.values():
                # A file of the run is known by its name; the id goes on meaning the file as it was given.
                paths = [file.path for file in names if session.placed.get(file.path) != file.path] or [names[0].path]
                if len(kept) >= self._limits.files_out:
                    problems.append(f"{_shown(paths[0])}: a call may leave {self._limits.files_out} files")
                elif not all(map(_is_storable, paths)):
                    problems.append(f"{_shown(paths[0])}: its name is too long, or no text")
                else:
                    try:
                        async with aclosing(session.read(names[0])) as pieces:
                            blob = await self._contents.write(context.project, pieces)
                    except FileRefused as refused:
                        problems.append(f"{_shown(paths[0])}: {_shown(refused.message.rstrip('.'))}")
                    except BoxFailed:
                        problems.append(f"{_shown(paths[0])}: the session ended")
                        break
                    else:
                        kept.append((paths, blob))
            if kept or gone:
                await context.write(lambda tx: _write(tx, context.run.thread_id, kept, gone))
        except Exception:
            for _, blob in kept:
                await self._contents.discard(blob.key)
            raise
        session.seen = files
        if problems:
            outcome.tell_news(f"Not kept, so nobody can download it: {_listed(problems)}.")

    async def keep_picture(self, context: CallContext, filename: str, content: bytes) -> str:
        """The id of a file with the picture."""
        blob = await self._contents.write(context.project, _once(content))

        def write(tx: Transaction) -> str:
            keep(tx, [blob])
            return create_file(tx, filename=filename, purpose="assistants_output", blobs=[blob]).id

        try:
            return await context.write(write)
        except Exception:
            await self._contents.discard(blob.key)
            raise


def _ran_before(tx: Transaction, context: CallContext) -> bool:
    """Whether code of this thread ran in an earlier session."""
    runs = tx.runs.list(context.run.thread_id, ListQuery(limit=_RUNS)).data
    return any(
        (step.status != "in_progress" or run.id != context.run.id)
        and isinstance(step.step_details, ToolCallsDetails)
        and any(isinstance(call, CodeInterpreterToolCall) for call in step.step_details.tool_calls)
        for run in runs
        for step in tx.steps.all(run.id)
    )


def _write(tx: Transaction, thread_id: str, kept: Sequence[tuple[list[str], Blob]], gone: Collection[str]) -> None:
    for path in sorted(gone):
        tx.code_files.forget(thread_id, path)
    keep(tx, [blob for _, blob in kept])
    for paths, blob in kept:
        filename = paths[0].rpartition("/")[2]
        file = create_file(tx, filename=filename, purpose="assistants_output", blobs=[blob])
        for path in paths:
            tx.code_files.put(thread_id, path, file.id)


def _is_wanted(path: str) -> bool:
    return not any(part.startswith(".") or part in _CACHES for part in path.split("/"))


def _is_storable(path: str) -> bool:
    try:
        return len(path.encode()) <= MAX_PATH_BYTES and "\0" not in path
    except UnicodeEncodeError:
        return False


def _shown(text: str) -> str:
    return _CONTROL.sub("?", text)[:_MAX_NAME_BYTES]


def _listed(problems: Sequence[str]) -> str:
    more = len(problems) - _MAX_TOLD
    return "; ".join(problems[:_MAX_TOLD]) + (f"; and {more} more" if more > 0 else "")


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content
