"""Stores on real parts: a folder, and a bucket of a real Ceph."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from opencode_async.artifacts.stores.directory import DirectoryArtifactStore
from opencode_async.artifacts.stores.s3 import S3ArtifactStore
from opencode_async.artifacts.stores.store import ArtifactStore
from tests.support.ceph import Ceph, ceph_cluster

NewS3Store = Callable[..., S3ArtifactStore]


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """One for all tests."""
    with ceph_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3(ceph: Ceph) -> Any:
    """A client that does, and looks at, what a store does not."""
    return boto3.client(
        "s3",
        endpoint_url=ceph.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=ceph.access_key_id,
        aws_secret_access_key=ceph.secret_access_key,
    )


@pytest.fixture
def bucket(s3: Any) -> str:
    """The name of an empty bucket."""
    name = f"test-{secrets.token_hex(8)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def new_s3_store(ceph: Ceph, bucket: str) -> NewS3Store:
    """Makes stores of that bucket, which are to be entered; arguments replace the usual ones."""

    def new(**settings: Any) -> S3ArtifactStore:
        usual: dict[str, Any] = {
            "endpoint_url": ceph.endpoint_url,
            "region_name": "us-east-1",
            "access_key_id": ceph.access_key_id,
            "secret_access_key": ceph.secret_access_key,
            "path_style": True,
            "prefix": "artifacts/",
        }
        return S3ArtifactStore(bucket, **{**usual, **settings})

    return new


@pytest.fixture(params=["directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    """An empty store of each kind."""
    kept: ArtifactStore
    if request.param == "directory":
        kept = DirectoryArtifactStore(tmp_path / "artifacts")
    else:
        kept = request.getfixturevalue("new_s3_store")()
    async with kept:
        yield kept
