"""Artifacts in a bucket of S3, or of a store that speaks its language."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    suppress,
)
from typing import Any, Self
from urllib.parse import quote

import aioboto3
import anyio
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from opencode_async.artifacts.stores.incoming import blocks, check_key, check_range
from opencode_async.artifacts.stores.s3_answers import (
    FAILURES,
    code_of,
    made,
    nothing,
    read,
    translated,
)
from opencode_async.errors import ArtifactMissing, NotRunning

PART = 8 << 20  # bytes; S3 takes none below 5 MiB but the last
MOST_PARTS = 10_000
ABORT_TIMEOUT = 10.0  # s

SETTINGS: Mapping[str, Any] = {
    "signature_version": "s3v4",  # else a URL is signed the old way, which newer regions refuse
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 100,  # a download that is slow holds one
    "retries": {"mode": "standard", "total_max_attempts": 3},
    # The default sends CRC32 as trailers where there is TLS, which stores other than S3 may lack;
    # without it the signature covers the body instead.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


class S3ArtifactStore:
    """Keeps each object in ``bucket`` under ``prefix`` and its key; one client for the process.

    Credentials and region are those of the environment where none are given, as with any program
    of AWS's. They are to allow ``s3:GetObject``, ``PutObject``, ``DeleteObject``,
    ``AbortMultipartUpload`` and ``ListBucket``: without the last, what is missing looks forbidden.
    ``path_style`` is for a store whose bucket is no host name. URLs hold for ``expires`` seconds,
    604 800 at most, and no longer than the credentials. Objects up to ``multipart_above`` bytes
    are sent in one piece, larger ones in parts of 8 MiB, one of them in memory at a time.
    ``extra_put_args`` go with each new object, as ``{"ServerSideEncryption": "aws:kms"}``.

    Two puts of one key: exactly one gives ``True``, but for parts on a store that knows conditions
    for whole objects only (Ceph 16, measured). There both may, and the later replaces the earlier:
    with the same bytes, where the key holds their hash. Parts that a crash left are not an object,
    but are paid for: give the bucket a lifecycle rule with ``AbortIncompleteMultipartUpload``.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        region_name: str | None = None,
        prefix: str = "",
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        path_style: bool = False,
        expires: float = 900.0,
        extra_put_args: Mapping[str, Any] | None = None,
        multipart_above: int = PART,
    ) -> None:
        self._bucket = bucket
        self._endpoint_url = endpoint_url
        self._session = aioboto3.Session(
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            region_name=region_name,
        )
        self._prefix = prefix
        style = {"addressing_style": "path" if path_style else "auto"}
        self._config = AioConfig(s3=style, **SETTINGS)
        self._expires = int(expires)
        self._extra = dict(extra_put_args or {})
        self._multipart_above = multipart_above
        self._closing = AsyncExitStack()
        self._entered: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._bucket!r})"

    async def __aenter__(self) -> Self:
        """Make the client; it connects when it is used, so a bucket that is away is no error."""
        client = self._session.client("s3", endpoint_url=self._endpoint_url, config=self._config)
        self._entered = await self._closing.enter_async_context(client)
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Close its connections."""
        self._entered = None
        await self._closing.aclose()

    async def put(
        self, key: str, chunks: AsyncIterator[bytes], *, size: int, content_type: str
    ) -> bool:
        """Keep these bytes; behind an ``ArtifactStoreError`` they may be kept, or be it later.

        A request whose answer was lost is sent again, so ``False`` may be said of one's own put.
        """
        about = {**self._object(key), **self._extra, "ContentType": content_type}
        if size > self._multipart_above:
            return await self._put_parts(key, chunks, size, about)
        async with aclosing(blocks(chunks, size, size + 1)) as incoming:
            body = b"".join([block async for block in incoming])
        request = self._client.put_object(**about, Body=body, IfNoneMatch="*")
        return await made(key, request)

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from ``start`` up to ``end``, as far as there are any.

        Raises ``ArtifactMissing`` and ``ArtifactStoreError``, the latter between chunks, too.
        """
        check_range(start, end)
        return self._open(key, self._object(key), start, end)

    async def delete(self, key: str) -> None:
        """Forget a key; a bucket with versions keeps them as its own rules say."""
        # Not an error of S3's, but of some stores that speak its language.
        with suppress(ArtifactMissing), translated(key, "did not delete"):
            await self._client.delete_object(**self._object(key))

    async def url(self, key: str, *, filename: str, content_type: str) -> str:
        """A presigned URL, made without asking the store: also of a key that is not there."""
        # RFC 6266 and 5987: any name, in ASCII, and nothing in it ends the parameter.
        disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"
        answer = {
            "ResponseContentDisposition": disposition,
            "ResponseContentType": content_type,
        }
        with translated(key, "did not sign a URL"):
            url: str = await self._client.generate_presigned_url(
                "get_object", Params={**self._object(key), **answer}, ExpiresIn=self._expires
            )
        return url

    @property
    def _client(self) -> Any:
        if self._entered is None:
            raise NotRunning("S3ArtifactStore")
        return self._entered

    def _object(self, key: str) -> dict[str, Any]:
        check_key(key)
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    async def _put_parts(
        self, key: str, chunks: AsyncIterator[bytes], size: int, about: dict[str, Any]
    ) -> bool:
        if await self._exists(key):
            return False  # not only sooner: some stores heed no condition in the end
        with translated(key, "did not take"):
            begun = await self._client.create_multipart_upload(**about)
        upload = {**self._object(key), "UploadId": begun["UploadId"]}
        kept = False
        try:
            parts = await self._upload(key, chunks, size, upload)
            request = self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
            kept = await made(key, request)
        finally:
            if not kept:
                with anyio.move_on_after(ABORT_TIMEOUT, shield=True), suppress(*FAILURES):
                    await self._client.abort_multipart_upload(**upload)
        return kept

    async def _upload(
        self, key: str, chunks: AsyncIterator[bytes], size: int, upload: dict[str, Any]
    ) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        least = max(PART, -(-size // MOST_PARTS))
        async with aclosing(blocks(chunks, size, least)) as incoming:
            async for block in incoming:
                number = len(parts) + 1
                with translated(key, "did not take a part"):
                    part = await self._client.upload_part(**upload, PartNumber=number, Body=block)
                parts.append({"PartNumber": number, "ETag": part["ETag"]})
        return parts

    async def _exists(self, key: str) -> bool:
        try:
            with translated(key, "could not be asked"):
                await self._client.head_object(**self._object(key))
        except ArtifactMissing:
            return False
        return True

    @asynccontextmanager
    async def _open(
        self, key: str, where: dict[str, Any], start: int, end: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if start or end is not None:
            # An empty range cannot be said: one byte is asked for then, and not read.
            where["Range"] = f"bytes={start}-{'' if end is None else max(start, end - 1)}"
        with translated(key, "did not give"):
            try:
                body = (await self._client.get_object(**where))["Body"]
            except ClientError as error:
                if code_of(error) != "InvalidRange":
                    raise
                body = None  # it begins behind the last byte
        if body is None:
            yield nothing()
            return
        async with body, aclosing(nothing() if start == end else read(key, body)) as chunks:
            yield chunks
