"""Artifacts in a folder."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from opencode_async.artifacts.stores.directory import ABANDONED, PARTIAL, DirectoryArtifactStore
from opencode_async.errors import ArtifactMissing, ArtifactStoreError
from opencode_async.testing.artifact_stores import TYPE, chunked, content, put
from tests.artifacts.stores.streams import Stalling


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryArtifactStore]:
    async with DirectoryArtifactStore(tmp_path) as store:
        yield store


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


async def test_an_object_is_a_file_for_its_owner_alone(
    store: DirectoryArtifactStore, tmp_path: Path
) -> None:
    await put(store, "ab/cd.txt", b"text")
    assert files(tmp_path) == ["ab/cd.txt"]
    assert (tmp_path / "ab/cd.txt").read_bytes() == b"text"
    assert (tmp_path / "ab/cd.txt").stat().st_mode & 0o077 == 0
    await store.delete("ab/cd.txt")
    assert files(tmp_path) == []


async def test_a_put_cancelled_anywhere_leaves_the_whole_object_or_nothing(
    store: DirectoryArtifactStore, tmp_path: Path
) -> None:
    data, outcomes = bytes(3 << 20), set()
    for steps in range(60):
        task = asyncio.ensure_future(put(store, "object", data))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        found = files(tmp_path)
        assert found in ([], ["object"])
        if found:
            assert await content(store, "object") == data
            await store.delete("object")
        outcomes.add(len(found))
    assert 0 in outcomes


async def test_a_put_in_a_scope_that_is_cancelled_leaves_nothing(
    store: DirectoryArtifactStore, tmp_path: Path
) -> None:
    stalling = Stalling(bytes(2 << 20))
    async with anyio.create_task_group() as group:

        async def keep() -> None:
            await store.put("object", stalling.chunks(), size=3 << 20, content_type=TYPE)

        group.start_soon(keep)
        await stalling.reached.wait()
        assert len(files(tmp_path)) == 1
        group.cancel_scope.cancel()
    assert files(tmp_path) == []


async def test_what_a_crash_left_is_cleared_away_a_day_later(tmp_path: Path) -> None:
    async with DirectoryArtifactStore(tmp_path):
        old, new = tmp_path / PARTIAL / "old", tmp_path / PARTIAL / "new"
        old.touch()
        new.touch()
        age = new.stat().st_mtime - ABANDONED - 1
        os.utime(old, (age, age))
    async with DirectoryArtifactStore(tmp_path):
        assert files(tmp_path) == [f"{PARTIAL}/new"]


async def test_a_root_that_is_no_folder_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactStoreError, match="cannot use its folder") as raised:
        await DirectoryArtifactStore(tmp_path / "file").__aenter__()
    assert isinstance(raised.value.__cause__, OSError)


async def test_a_failing_disk_is_an_error_of_the_store(
    store: DirectoryArtifactStore, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / PARTIAL)
    with pytest.raises(ArtifactStoreError, match="could not keep: object") as raised:
        await put(store, "object", b"data")
    assert isinstance(raised.value.__cause__, OSError)


async def test_an_error_of_the_chunks_is_not_one_of_the_store(
    store: DirectoryArtifactStore,
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"data"
        raise PermissionError

    with pytest.raises(PermissionError):
        await store.put("object", failing(), size=10, content_type=TYPE)


async def test_a_key_is_not_the_folder_of_another(store: DirectoryArtifactStore) -> None:
    await put(store, "a", b"file")
    await put(store, "b/c", b"file")
    for key in ("a/x", "b"):
        with pytest.raises(ArtifactStoreError):
            await put(store, key, b"other")
        with pytest.raises(ArtifactMissing):
            await content(store, key)
        await store.delete(key)
    assert await content(store, "a") == await content(store, "b/c") == b"file"


async def test_what_is_deleted_while_it_is_read_is_read_to_its_end(
    store: DirectoryArtifactStore,
) -> None:
    data = bytes(2 << 20)
    await put(store, "object", data)
    async with store.open("object") as chunks:
        read = await anext(chunks)
        await store.delete("object")
        assert read + b"".join([chunk async for chunk in chunks]) == data


async def test_nothing_is_read_where_the_key_is_taken(store: DirectoryArtifactStore) -> None:
    await put(store, "object", b"data")
    unread = chunked(b"other")
    assert await store.put("object", unread, size=5, content_type=TYPE) is False
    assert await anext(unread) == b"other"
