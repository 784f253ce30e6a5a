"""Time that has passed: due work of files is made due now, and waited for until it is done."""

import time

import sqlalchemy as sa

from tests.files.conftest import Tenant
from threadkeep.storage.statements import Statement, Value, number, text
from threadkeep.storage.tables import files, work

PATIENCE_S = 60

_WORK = Statement(sa.select(work.c.key).where(work.c.kind == text("kind_"), work.c.project_id == text("project_")))
_MOVE_FILE = Statement(sa.update(files).where(files.c.id == text("id_")).values(expires_at=number("expires_at")))


def waiting(tenant: Tenant, kind: str) -> list[str]:
    """The keys of the tenant's due work of this kind."""
    values: dict[str, Value] = {"kind_": kind, "project_": tenant.project}
    return tenant.read(lambda tx: [row[0] for row in tx._connection.rows(_WORK, values)])


def until_done(tenant: Tenant, kind: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while waiting(tenant, kind):
        assert time.monotonic() < deadline, f"there is still work of kind {kind}"
        time.sleep(0.02)


def expire_file(tenant: Tenant, file_id: str) -> None:
    """Its time is up, and nobody has swept it yet."""
    tenant.write(lambda tx: tx._connection.run(_MOVE_FILE, {"id_": file_id, "expires_at": int(time.time()) - 1}))


def make_due(tenant: Tenant, kind: str, key: str) -> None:
    tenant.write(lambda tx: tx.work.touch(kind, key))
