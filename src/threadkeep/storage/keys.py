"""Keys and the projects they open. These belong to no project's view: they decide which one a caller sees."""

import builtins
import hashlib
import secrets
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.contract.ids import created_at, new_id
from threadkeep.storage.statements import Connection, Statement, number, text
from threadkeep.storage.tables import keys, projects

DEFAULT_PROJECT_ID = "proj_default"
DEFAULT_PROJECT_NAME = "default"

INSERT_PROJECT = Statement(
    postgresql.insert(projects)
    .values(id=text("id_"), name=text("name_"), created_at=number("now"))
    .on_conflict_do_nothing(index_elements=["name"])
)
FIND_PROJECT = Statement(sa.select(projects.c.id).where(projects.c.name == text("name_")))
INSERT = Statement(
    sa.insert(keys).values(
        id=text("id_"), project_id=text("project_"), hash=text("hash_"), hint=text("hint_"), created_at=number("now")
    )
)
FIND = Statement(
    sa.select(keys.c.id, keys.c.project_id).where(keys.c.hash == text("hash_"), keys.c.revoked_at.is_(None))
)
REVOKE = Statement(
    sa.update(keys).where(keys.c.id == text("id_"), keys.c.revoked_at.is_(None)).values(revoked_at=number("now"))
)
PROJECTS = Statement(sa.select(projects.c.id).order_by(projects.c.id))
ANY = Statement(sa.select(keys.c.id).limit(1))
LIST = Statement(
    sa.select(keys.c.id, projects.c.id, projects.c.name, keys.c.hint, keys.c.created_at, keys.c.revoked_at)
    .join(projects, projects.c.id == keys.c.project_id)
    .order_by(keys.c.id)
)


class Key(NamedTuple):
    """A key without its secret."""

    id: str
    project_id: str
    project_name: str
    # How the key ends.
    hint: str
    created_at: int
    # Null while the key is good.
    revoked_at: int | None


def hash_of(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Projects:
    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ensure(self, name: str) -> str:
        """The id of the project, which is made when there is none of the name."""
        if (row := self._connection.row(FIND_PROJECT, {"name_": name})) is not None:
            return row[0]
        self._connection.run(INSERT_PROJECT, {"id_": new_id("proj"), "name_": name, "now": created_at()})
        row = self._connection.row(FIND_PROJECT, {"name_": name})
        assert row is not None
        return row[0]

    def ids(self) -> builtins.list[str]:
        """All there are."""
        return [row[0] for row in self._connection.rows(PROJECTS, {})]


class Keys:
    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, project_name: str) -> tuple[str, str]:
        """The id of a new key, and the key itself: it can never be read again."""
        project_id = Projects(self._connection).ensure(project_name)
        key_id, key = new_id("key"), f"sk-threadkeep-{secrets.token_urlsafe(32)}"
        self._connection.run(
            INSERT,
            {"id_": key_id, "project_": project_id, "hash_": hash_of(key), "hint_": key[-4:], "now": created_at()},
        )
        return key_id, key

    def list(self) -> builtins.list[Key]:
        """All that were ever made, oldest first."""
        return [Key(*row) for row in self._connection.rows(LIST, {})]

    def revoke(self, key_id: str) -> bool:
        """Whether there was such a key and it was good until now."""
        return self._connection.run(REVOKE, {"id_": key_id, "now": created_at()}) > 0

    def find(self, key_hash: str) -> tuple[str, str] | None:
        """The ids of the good key with this hash (see `hash_of`) and of its project."""
        row = self._connection.row(FIND, {"hash_": key_hash})
        return None if row is None else (row[0], row[1])

    def any(self) -> bool:
        """Whether a key was ever made: from then on every caller must show one, also when all were revoked."""
        return self._connection.row(ANY, {}) is not None
