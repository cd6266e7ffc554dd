"""What S3 answers, in the words of an artifact store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from opencode_async.errors import ArtifactMissing, ArtifactStoreError

READ = 256 << 10  # bytes
FAILURES = (BotoCoreError, ClientError, aiohttp.ClientError, TimeoutError)


async def made(key: str, request: Awaitable[object]) -> bool:
    """Whether the request made the object; ``False`` if its condition was that there is none."""
    with translated(key, "did not take"):
        try:
            await request
        except ClientError as error:
            if code_of(error) != "PreconditionFailed":
                raise
            return False
    return True


async def nothing() -> AsyncGenerator[bytes, None]:
    for chunk in tuple[bytes, ...]():
        yield chunk


async def read(key: str, body: Any) -> AsyncGenerator[bytes, None]:
    while True:
        with translated(key, "broke off"):
            chunk: bytes = await body.read(READ)
        if not chunk:
            return
        yield chunk


@contextmanager
def translated(key: str, what: str) -> Iterator[None]:
    """Raise as ``ArtifactMissing`` or ``ArtifactStoreError`` what a request raises."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in ("NoSuchKey", "404"):  # the latter to HEAD, whose answers have no body
            raise ArtifactMissing(key) from error
        raise ArtifactStoreError(key, f"{what} ({code})") from error
    except FAILURES as error:
        raise ArtifactStoreError(key, what) from error


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "no code"))
