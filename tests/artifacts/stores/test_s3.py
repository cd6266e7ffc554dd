"""Artifacts in a bucket of a real Ceph."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from botocore.exceptions import ClientError

from opencode_async.artifacts.stores.s3 import PART
from opencode_async.errors import ArtifactMissing, ArtifactStoreError, NotRunning
from opencode_async.testing.artifact_stores import (
    CHECKS,
    TYPE,
    chunked,
    content,
    one_of_many_puts_is_first,
    put,
    run_check,
)
from tests.artifacts.stores.conftest import NewS3Store
from tests.artifacts.stores.streams import Stalling
from tests.support.ceph import Ceph


@pytest.fixture
def remains(s3: Any, bucket: str) -> Any:
    """What is in the bucket: its objects, and uploads that were not completed."""

    def remaining() -> tuple[list[str], int]:
        objects = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [found["Key"] for found in objects], len(uploads)

    return remaining


async def test_objects_in_parts_conform_but_for_races(
    new_s3_store: NewS3Store, remains: Any
) -> None:
    async with new_s3_store(multipart_above=0) as store:
        for check in CHECKS:
            if check is not one_of_many_puts_is_first:
                await run_check(check, store)
    assert remains() == ([], 0)


async def test_racing_puts_in_parts_leave_the_same_bytes(
    new_s3_store: NewS3Store, remains: Any
) -> None:
    async with new_s3_store(multipart_above=0) as store:
        kept = await asyncio.gather(*(put(store, "hash", b"data") for _ in range(5)))
        assert any(kept)
        assert await content(store, "hash") == b"data"
        assert await put(store, "hash", b"data") is False
    assert remains() == (["artifacts/hash"], 0)


async def test_nothing_is_read_where_the_key_of_a_large_object_is_taken(
    new_s3_store: NewS3Store,
) -> None:
    async with new_s3_store(multipart_above=0) as store:
        await put(store, "object", b"data")
        unread = chunked(b"other")
        assert await store.put("object", unread, size=5, content_type=TYPE) is False
        assert await anext(unread) == b"other"


@pytest.mark.parametrize("size", [1000, 2 * PART])
async def test_a_put_that_is_cancelled_leaves_nothing(
    new_s3_store: NewS3Store, remains: Any, size: int
) -> None:
    async with new_s3_store() as store:
        stalling = Stalling(bytes(size - 1))
        task = asyncio.ensure_future(
            store.put("object", stalling.chunks(), size=size, content_type=TYPE)
        )
        await stalling.reached.wait()
        assert remains() == ([], int(size > PART))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert remains() == ([], 0)


async def test_an_object_has_its_type_and_what_the_host_adds(
    new_s3_store: NewS3Store, s3: Any, bucket: str
) -> None:
    for above in (0, PART):
        extra = {"Metadata": {"origin": "agent"}}
        async with new_s3_store(multipart_above=above, extra_put_args=extra) as store:
            await store.put(f"object{above}", chunked(b"a,b"), size=3, content_type="text/csv")
        head = s3.head_object(Bucket=bucket, Key=f"artifacts/object{above}")
        assert (head["ContentType"], head["Metadata"]) == ("text/csv", {"origin": "agent"})


@pytest.mark.parametrize("above", [0, PART])
async def test_a_wrong_secret_is_an_error_of_the_store(
    new_s3_store: NewS3Store, above: int
) -> None:
    secret = "a-secret-that-is-none"
    async with new_s3_store(secret_access_key=secret, multipart_above=above) as store:
        for attempt in (put(store, "object", b"data"), content(store, "object"), store.delete("a")):
            with pytest.raises(ArtifactStoreError) as raised:
                await attempt
            assert not isinstance(raised.value, ArtifactMissing)
            assert isinstance(raised.value.__cause__, ClientError)
            assert secret not in f"{raised.value} {raised.value.__cause__} {store!r}"


async def test_a_bucket_that_is_not_there_is_an_error_of_the_store(
    new_s3_store: NewS3Store,
) -> None:
    async with new_s3_store() as store:
        store._bucket = "no-such-bucket"
        for attempt in (put(store, "object", b"data"), content(store, "object")):
            with pytest.raises(ArtifactStoreError, match="NoSuchBucket"):
                await attempt


async def test_a_store_that_is_not_entered_says_so(new_s3_store: NewS3Store, ceph: Ceph) -> None:
    store = new_s3_store()
    with pytest.raises(NotRunning, match="S3ArtifactStore"):
        await put(store, "object", b"data")
    async with store:
        await put(store, "object", b"data")
    with pytest.raises(NotRunning):
        await content(store, "object")
