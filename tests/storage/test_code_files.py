import pytest

from tests.support.objects import a_file, a_thread
from threadkeep.contract.files import File
from threadkeep.contract.threads import Thread
from threadkeep.storage import Blob, Transaction
from threadkeep.storage.code_files import MAX_LISTED, MAX_PATH_BYTES


def stored(tx: Transaction) -> File:
    file = a_file(purpose="assistants_output")
    tx.files.insert(file, [Blob("a", 5)])
    return file


@pytest.fixture
def file(tx: Transaction) -> File:
    return stored(tx)


def test_newest_file_of_a_path_is_the_path_s_and_the_earlier_stays_a_file(tx: Transaction, thread: Thread) -> None:
    first, second, other = stored(tx), stored(tx), stored(tx)
    tx.code_files.put(thread.id, "report.csv", first.id)
    tx.code_files.put(thread.id, "charts/a.png", other.id)
    tx.code_files.put(thread.id, "report.csv", second.id)
    assert tx.code_files.newest(thread.id) == {"charts/a.png": other.id, "report.csv": second.id}
    tx.code_files.forget(thread.id, "report.csv")
    assert tx.code_files.newest(thread.id) == {"charts/a.png": other.id}
    assert tx.files.get(first.id) == first


def test_newest_come_first_and_their_number_is_bounded(tx: Transaction, thread: Thread) -> None:
    files = [stored(tx) for _ in range(MAX_LISTED + 2)]
    for number, file in enumerate(files):
        tx.code_files.put(thread.id, f"{number}.txt", file.id)
    assert list(tx.code_files.newest(thread.id).values()) == [file.id for file in reversed(files)][:MAX_LISTED]


def test_each_thread_has_its_own(tx: Transaction, thread: Thread, file: File) -> None:
    other = a_thread()
    tx.threads.insert(other)
    tx.code_files.put(thread.id, "report.csv", file.id)
    assert tx.code_files.newest(other.id) == {}


def test_path_of_a_deleted_file_is_forgotten(tx: Transaction, thread: Thread, file: File) -> None:
    tx.code_files.put(thread.id, "report.csv", file.id)
    tx.files.delete(file.id)
    assert tx.code_files.newest(thread.id) == {}


def test_thread_that_is_deleted_takes_its_paths_along_and_leaves_the_files(
    tx: Transaction, thread: Thread, file: File
) -> None:
    tx.code_files.put(thread.id, "report.csv", file.id)
    tx.threads.delete(thread.id)
    assert tx.code_files.newest(thread.id) == {}
    assert tx.files.find(file.id) == file


def test_longest_path_can_be_stored(tx: Transaction, thread: Thread, file: File) -> None:
    # Every character another one: PostgreSQL would compress repetitions.
    path = "".join(chr(0x4E00 + number * 7) for number in range(MAX_PATH_BYTES // 3))
    tx.code_files.put(thread.id, path, file.id)
    assert tx.code_files.newest(thread.id) == {path: file.id}
