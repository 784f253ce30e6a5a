"""Why a store does not open. Whoever starts the program reads these; no client of the server ever does.

StoreError
├── BadDatabaseUrl   the setting names no database that we know
├── FolderInUse      another server works on the folder
├── Unusable         the folder or file is not ours to write, full, or no database
├── UnusableBlobs    the place for files is no such place, or not ours to write
└── DatabaseTooNew   the database was migrated by a newer version of the program
"""

from pathlib import Path

from threadkeep.contract.errors import ThreadkeepError


class StoreError(ThreadkeepError):
    """The store cannot be opened; the message says what to do."""


class BadDatabaseUrl(StoreError):
    """The database URL is of no kind that we know, or cannot be read."""

    def __init__(self) -> None:
        # The URL is not repeated: it may hold a password, wherever the mistake in it is.
        super().__init__(
            "The database URL cannot be read. Expected postgresql://user@host/name or sqlite:///path/to/file.db."
        )


class FolderInUse(StoreError):
    """Another process holds the folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"The folder {folder} is in use by another server ({holder or 'which left no name'}). "
            "Stop that one, or choose another folder with --data-dir."
        )
        self.folder = folder
        self.holder = holder


class Unusable(StoreError):
    """The embedded database can't be opened where it is to be."""

    def __init__(self, path: Path, cause: Exception) -> None:
        reason = cause.strerror if isinstance(cause, OSError) else str(cause)
        super().__init__(f"The database {path} cannot be used: {reason}.")


class UnusableBlobs(StoreError):
    """Files can't be kept where they are to be; ``place`` holds no secret."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"Files cannot be kept at {place}: {reason}. Name another place with --blobs-url.")


class DatabaseTooNew(StoreError):
    """The database has a revision that this version of the program does not know."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"The database is at revision {revision}, which this version of Threadkeep does not know: "
            "a newer version has migrated it. Run that version, or restore a backup from before."
        )
        self.revision = revision
