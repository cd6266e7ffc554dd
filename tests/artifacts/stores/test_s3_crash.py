"""A real Ceph whose gateway is killed in the middle of things."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from opencode_async.artifacts.stores.s3 import PART
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.errors import ArtifactMissing, ArtifactStoreError
from opencode_async.testing.artifact_stores import TYPE, content, put
from tests.artifacts.stores.conftest import NewS3Store
from tests.artifacts.stores.streams import interrupted
from tests.support.ceph import Ceph


@pytest.fixture
def mortal(ceph: Ceph) -> Iterator[Ceph]:
    """The cluster, whose gateway runs again behind the test."""
    yield ceph
    ceph.start_gateway()


@pytest.fixture
async def store(mortal: Ceph, new_s3_store: NewS3Store) -> AsyncIterator[ArtifactStore]:
    async with new_s3_store() as store:
        yield store


DATA = secrets.token_bytes(3 * PART)


async def test_an_upload_whose_gateway_is_gone_leaves_nothing(
    store: ArtifactStore, mortal: Ceph
) -> None:
    chunks = interrupted(DATA, PART + 1, mortal.kill_gateway)
    with pytest.raises(ArtifactStoreError):
        await store.put("object", chunks, size=len(DATA), content_type=TYPE)
    mortal.start_gateway()
    with pytest.raises(ArtifactMissing):
        await content(store, "object")
    assert await put(store, "object", DATA) is True
    assert await content(store, "object") == DATA


async def test_an_upload_goes_on_with_a_gateway_that_is_back(
    store: ArtifactStore, mortal: Ceph
) -> None:
    def restart() -> None:
        mortal.kill_gateway()
        mortal.start_gateway()

    chunks = interrupted(DATA, PART + 1, restart)
    assert await store.put("object", chunks, size=len(DATA), content_type=TYPE) is True
    assert await content(store, "object") == DATA


async def test_a_gateway_killed_in_the_middle_of_a_part_leaves_all_or_nothing(
    store: ArtifactStore, mortal: Ceph
) -> None:
    restarts: list[asyncio.Future[None]] = []

    def restart() -> None:
        mortal.kill_gateway()
        mortal.start_gateway()

    def soon() -> None:
        restarts.append(asyncio.ensure_future(asyncio.to_thread(restart)))

    try:
        kept = await store.put(
            "object", interrupted(DATA, PART, soon), size=len(DATA), content_type=TYPE
        )
    except ArtifactStoreError:
        kept = False
    await asyncio.gather(*restarts)
    assert await put(store, "object", DATA) is not kept
    assert await content(store, "object") == DATA


async def test_a_download_that_breaks_off_is_an_error_of_the_store(
    store: ArtifactStore, mortal: Ceph
) -> None:
    await put(store, "object", DATA)

    async def drained(chunks: AsyncIterator[bytes]) -> None:
        async for _ in chunks:
            pass

    async with store.open("object") as chunks:
        await anext(chunks)
        mortal.kill_gateway()
        with pytest.raises(ArtifactStoreError, match="broke off"):
            await drained(chunks)
