"""Where the chat keeps its rows and its files: of what the environment names, else in `.demo`."""

import os
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from examples import database
from opencode_async import ArtifactStore, DirectoryArtifactStore

FOLDER = Path(".demo")


def create_engine(url: str | None) -> AsyncEngine:
    """An engine for the URL, or for a SQLite file."""
    if url is None:
        FOLDER.mkdir(exist_ok=True)
        url = f"sqlite+aiosqlite:///{FOLDER / 'chat.db'}"
    return database.create_engine(url)


def create_store() -> ArtifactStore:
    """The bucket S3_BUCKET, on S3 or on the store at S3_ENDPOINT_URL; a folder without one.

    AWS_REGION is read here; who may use the bucket, boto reads itself: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and whatever else AWS's programs know.
    """
    bucket = os.environ.get("S3_BUCKET")
    if not bucket:
        return DirectoryArtifactStore(FOLDER / "files")
    # Here, for it needs the extra `s3`, which a chat with a folder does without.
    from opencode_async.artifacts.stores.s3 import S3ArtifactStore

    endpoint = os.environ.get("S3_ENDPOINT_URL") or None
    return S3ArtifactStore(
        bucket,
        endpoint_url=endpoint,
        region_name=os.environ.get("AWS_REGION") or None,  # boto knows AWS_DEFAULT_REGION only
        path_style=endpoint is not None,  # a store of one's own has no host name for each bucket
    )
