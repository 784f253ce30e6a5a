"""Files that the code of a thread wrote under /mnt/data: by path, the newest that was kept.

A row goes with its thread and with its file. What an earlier content was kept as stays a file of the project.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.storage.statements import PROJECT, Bound, Statement, number, text
from threadkeep.storage.tables import code_files

# Of so many paths a thread is told; older ones are files still.
MAX_LISTED: Final = 1_000
# A path is part of a key, and PostgreSQL takes no longer ones into an index.
MAX_PATH_BYTES: Final = 1_024

_put = postgresql.insert(code_files).values(
    project_id=PROJECT, thread_id=text("thread"), path=text("path"), file_id=text("file")
)

PUT = Statement(
    _put.on_conflict_do_update(
        index_elements=["project_id", "thread_id", "path"], set_={"file_id": _put.excluded.file_id}
    )
)
FORGET = Statement(
    sa.delete(code_files).where(
        code_files.c.project_id == PROJECT,
        code_files.c.thread_id == text("thread"),
        code_files.c.path == text("path"),
    )
)
NEWEST = Statement(
    sa.select(code_files.c.path, code_files.c.file_id)
    .where(code_files.c.project_id == PROJECT, code_files.c.thread_id == text("thread"))
    # Ids sort by the time of creation.
    .order_by(code_files.c.file_id.desc(), code_files.c.path)
    .limit(number("limit"))
)


class CodeFiles:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def put(self, thread_id: str, path: str, file_id: str) -> None:
        """The thread's code wrote this file to ``path``, relative to /mnt/data. It replaces an earlier one."""
        self._bound.run(PUT, thread=thread_id, path=path, file=file_id)

    def forget(self, thread_id: str, path: str) -> None:
        """The thread's code has deleted the file there. What was kept of it stays a file of the project."""
        self._bound.run(FORGET, thread=thread_id, path=path)

    def newest(self, thread_id: str) -> dict[str, str]:
        """The file ids by path, the newest first."""
        return dict(row for row in self._bound.rows(NEWEST, thread=thread_id, limit=MAX_LISTED))
