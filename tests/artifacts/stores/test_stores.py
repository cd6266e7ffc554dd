"""What is true of every store of this library."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opencode_async.artifacts.stores.directory import DirectoryArtifactStore
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.testing.artifact_stores import (
    CHECKS,
    TYPE,
    Check,
    check_artifact_store,
    put,
    run_check,
)
from tests.artifacts.stores.streams import streamed

MB = 1_000_000


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_conforms(check: Check, store: ArtifactStore) -> None:
    await run_check(check, store)


async def test_the_suite_notices_a_store_that_replaces(tmp_path: Path) -> None:
    async with Replacing(tmp_path) as store:
        with pytest.raises(AssertionError, match="taken was not False"):
            await check_artifact_store(store)


class Replacing(DirectoryArtifactStore):
    async def put(
        self, key: str, chunks: AsyncIterator[bytes], *, size: int, content_type: str
    ) -> bool:
        await self.delete(key)
        return await super().put(key, chunks, size=size, content_type=content_type)


async def test_one_of_fifty_puts_of_a_key_is_first(store: ArtifactStore) -> None:
    rivals = (put(store, "race", bytes([number]) * 1000) for number in range(50))
    assert sorted(await asyncio.gather(*rivals)) == [False] * 49 + [True]


@pytest.mark.parametrize("size", [5 * MB, 10 * MB, 200 * MB])
async def test_memory_does_not_grow_with_the_size(store: ArtifactStore, size: int) -> None:
    sent, got = hashlib.sha256(), hashlib.sha256()
    tracemalloc.start()
    try:
        assert await store.put("large", streamed(size, sent), size=size, content_type=TYPE)
        async with store.open("large") as chunks:
            async for chunk in chunks:
                got.update(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.digest() == sent.digest()
    print(f"{size // MB} MB through a store in {peak / MB:.0f} MB")
    assert peak < 64 * MB
