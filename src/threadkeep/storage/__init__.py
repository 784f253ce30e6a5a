"""What is remembered: the only room that knows SQL."""

from pathlib import Path
from sqlite3 import Error as _DatabaseError

from threadkeep.storage.blobs import Blob, BlobMissing, Blobs, blobs_folder, open_blobs
from threadkeep.storage.checkup import Look, look
from threadkeep.storage.errors import BadDatabaseUrl, DatabaseTooNew, FolderInUse, StoreError, Unusable
from threadkeep.storage.keys import DEFAULT_PROJECT_ID, DEFAULT_PROJECT_NAME, Key, hash_of
from threadkeep.storage.notices import Notices, open_notices
from threadkeep.storage.outcomes import Once, do_once
from threadkeep.storage.schema import SqlitePlace as _SqlitePlace
from threadkeep.storage.schema import migrate as _migrate
from threadkeep.storage.schema import place_of as _place_of
from threadkeep.storage.store import Store, open_store
from threadkeep.storage.transaction import Transaction
from threadkeep.storage.work import Lease, LeaseTerms, Renewal, WorkItem

__all__ = [
    "DEFAULT_PROJECT_ID",
    "DEFAULT_PROJECT_NAME",
    "BadDatabaseUrl",
    "Blob",
    "BlobMissing",
    "Blobs",
    "DatabaseTooNew",
    "FolderInUse",
    "Key",
    "Lease",
    "LeaseTerms",
    "Look",
    "Notices",
    "Once",
    "Renewal",
    "Store",
    "StoreError",
    "Transaction",
    "Unusable",
    "WorkItem",
    "blobs_folder",
    "do_once",
    "hash_of",
    "look",
    "migrate",
    "open_blobs",
    "open_notices",
    "open_store",
]


def migrate(database_url: str | None, data_dir: Path) -> tuple[str | None, str]:
    """Brings the database to this program's revision; the revisions before (null: it was empty) and after."""
    place = _place_of(database_url, data_dir)
    if not isinstance(place, _SqlitePlace):
        return _migrate(place)
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        return _migrate(place)
    except (OSError, _DatabaseError) as error:
        raise Unusable(place.path, error) from error
