"""The blob stores, a folder and S3: one promise, two places."""

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.support.s3 import S3
from threadkeep.contract.errors import Unavailable
from threadkeep.storage import Blob, BlobMissing, Blobs, StoreError, open_blobs
from threadkeep.storage.blobs import PIECE_BYTES, S3Blobs, new_key

MIB = 1024**2


async def pieces_of(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(blobs: Blobs, key: str, start: int, end: int) -> Sequence[bytes]:
    return [piece async for piece in blobs.read(key, start, end)]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 5 * MIB - 1, 5 * MIB, 17 * MIB + 5])
async def test_what_is_written_is_read_in_bounded_pieces(blobs: Blobs, size: int) -> None:
    content, key = os.urandom(size), new_key()

    blob = await blobs.write(key, pieces_of(content))

    assert blob == Blob(key, size)
    pieces = await read(blobs, key, 0, size)
    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 5), (999_999, 2_000_001), (5 * MIB - 1, 5 * MIB)])
async def test_any_range_can_be_read(blobs: Blobs, start: int, end: int) -> None:
    content, key = os.urandom(5 * MIB), new_key()
    await blobs.write(key, pieces_of(content))

    assert b"".join(await read(blobs, key, start, end)) == content[start:end]


async def test_a_missing_blob_is_said_to_be_missing(blobs: Blobs) -> None:
    with pytest.raises(BlobMissing):
        await read(blobs, new_key(), 0, 1)


async def test_a_shorter_blob_than_its_row_says_is_no_answer(blobs: Blobs) -> None:
    key = new_key()
    await blobs.write(key, pieces_of(b"short"))

    with pytest.raises(BlobMissing):
        await read(blobs, key, 0, 10)


async def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(blobs: Blobs) -> None:
    key = new_key()
    await blobs.write(key, pieces_of(b"x"))

    await blobs.delete(key)
    await blobs.delete(key)

    with pytest.raises(BlobMissing):
        await read(blobs, key, 0, 1)


@pytest.mark.parametrize("size", [1000, 20 * MIB])
async def test_a_source_that_breaks_leaves_nothing(blobs: Blobs, size: int, s3: S3) -> None:
    key = new_key()

    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces_of(bytes(size)):
            yield piece
        raise KeyError("the client went away")

    with pytest.raises(KeyError):
        await blobs.write(key, breaking())

    with pytest.raises(BlobMissing):
        await read(blobs, key, 0, 1)
    assert s3.count_unfinished() == 0


async def test_a_store_that_can_be_written_is_well(blobs: Blobs) -> None:
    await blobs.check()


async def test_a_folder_keeps_nothing_of_a_check(tmp_path: Path) -> None:
    blobs = await open_blobs((tmp_path / "kept").as_uri(), tmp_path)

    await blobs.check()

    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


async def test_file_and_folder_are_synced_before_a_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = await open_blobs(None, tmp_path)
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    key = new_key()

    await blobs.write(key, pieces_of(b"x"))

    folder = tmp_path / "blobs" / key[:2]
    assert synced == [str(folder / key), str(folder)]


async def test_a_full_disk_is_told_as_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = await open_blobs(None, tmp_path)

    def full(descriptor: int, piece: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    key = new_key()

    with pytest.raises(Unavailable):
        await blobs.write(key, pieces_of(b"x"))
    assert not (tmp_path / "blobs" / key[:2] / key).exists()


async def test_a_bucket_that_is_not_there_is_told_as_unavailable(s3: S3) -> None:
    blobs = S3Blobs("no-such-bucket", "")

    with pytest.raises(Unavailable):
        await blobs.check()


async def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")

    with pytest.raises(StoreError, match="--blobs-url"):
        await open_blobs(None, tmp_path)
