"""A transaction sees one project, through a collection for each noun of the contract."""

from threadkeep.storage.assistants import Assistants
from threadkeep.storage.code_files import CodeFiles
from threadkeep.storage.contents import Contents
from threadkeep.storage.files import Files
from threadkeep.storage.keys import Keys, Projects
from threadkeep.storage.messages import Messages
from threadkeep.storage.outcomes import Outcomes
from threadkeep.storage.passages import Passages
from threadkeep.storage.run_steps import RunSteps
from threadkeep.storage.runs import Runs
from threadkeep.storage.statements import Bound, Connection
from threadkeep.storage.threads import Threads
from threadkeep.storage.uploads import Uploads
from threadkeep.storage.vector_store_files import VectorStoreBatches, VectorStoreFiles
from threadkeep.storage.vector_stores import VectorStores
from threadkeep.storage.vectors import Vectors
from threadkeep.storage.work import Work


class Transaction:
    """What a function given to `Store.read` or `Store.write` works with, for as long as it runs."""

    __slots__ = ("_connection", "_project")

    def __init__(self, connection: Connection, project: str | None) -> None:
        self._connection = connection
        self._project = project

    @property
    def project(self) -> str:
        if self._project is None:
            raise RuntimeError("this transaction was opened without a project: it sees only work, keys and projects")
        return self._project

    @property
    def assistants(self) -> Assistants:
        return Assistants(Bound(self._connection, self.project))

    @property
    def files(self) -> Files:
        return Files(Bound(self._connection, self.project))

    @property
    def code_files(self) -> CodeFiles:
        return CodeFiles(Bound(self._connection, self.project))

    @property
    def outcomes(self) -> Outcomes:
        return Outcomes(Bound(self._connection, self.project))

    @property
    def uploads(self) -> Uploads:
        return Uploads(Bound(self._connection, self.project))

    @property
    def threads(self) -> Threads:
        return Threads(Bound(self._connection, self.project))

    @property
    def messages(self) -> Messages:
        return Messages(Bound(self._connection, self.project))

    @property
    def runs(self) -> Runs:
        return Runs(Bound(self._connection, self.project))

    @property
    def steps(self) -> RunSteps:
        return RunSteps(Bound(self._connection, self.project))

    @property
    def vector_stores(self) -> VectorStores:
        return VectorStores(Bound(self._connection, self.project))

    @property
    def vector_store_files(self) -> VectorStoreFiles:
        return VectorStoreFiles(Bound(self._connection, self.project))

    @property
    def vector_store_batches(self) -> VectorStoreBatches:
        return VectorStoreBatches(Bound(self._connection, self.project))

    @property
    def contents(self) -> Contents:
        return Contents(Bound(self._connection, self.project))

    @property
    def passages(self) -> Passages:
        return Passages(Bound(self._connection, self.project))

    @property
    def vectors(self) -> Vectors:
        return Vectors(Bound(self._connection, self.project))

    @property
    def work(self) -> Work:
        return Work(self._connection, self._project)

    @property
    def keys(self) -> Keys:
        return Keys(self._connection)

    @property
    def projects(self) -> Projects:
        return Projects(self._connection)
