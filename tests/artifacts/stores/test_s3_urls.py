"""URLs that let a browser download from the bucket, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import unquote

import httpx
import pytest

from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.testing.artifact_stores import put
from tests.artifacts.stores.conftest import NewS3Store

NAME = 'Übersicht "Q1";\r\nx: y.html'


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


async def url_of(store: ArtifactStore, key: str, content_type: str = "text/plain") -> str:
    url = await store.url(key, filename=NAME, content_type=content_type)
    assert url is not None
    return url


async def test_a_url_downloads_as_an_attachment(
    new_s3_store: NewS3Store, browser: httpx.AsyncClient
) -> None:
    async with new_s3_store() as store:
        await put(store, "ab/object", b"<script>")
        answer = await browser.get(await url_of(store, "ab/object", "text/csv"))
    assert (answer.status_code, answer.content) == (200, b"<script>")
    assert answer.headers["content-type"] == "text/csv"
    kind, _, name = answer.headers["content-disposition"].partition("; filename*=UTF-8''")
    assert (kind, unquote(name)) == ("attachment", NAME)


async def test_a_url_that_is_altered_is_refused(
    new_s3_store: NewS3Store, browser: httpx.AsyncClient
) -> None:
    async with new_s3_store() as store:
        await put(store, "mine", b"mine")
        await put(store, "else", b"another's")
        url = await url_of(store, "mine")
    altered = [
        url.replace("/mine?", "/else?"),
        url.replace("X-Amz-Expires=900", "X-Amz-Expires=9000"),
        url.replace("attachment", "inline"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.partition("?")[0],
    ]
    assert url not in altered
    assert (await browser.get(url)).status_code == 200
    assert [(await browser.get(each)).status_code for each in altered] == [403] * len(altered)
    assert (await browser.put(url, content=b"new")).status_code == 403
    assert (await browser.delete(url)).status_code == 403


async def test_a_url_expires(new_s3_store: NewS3Store, browser: httpx.AsyncClient) -> None:
    async with new_s3_store(expires=1.0) as store:
        await put(store, "object", b"data")
        url = await url_of(store, "object")
    async with asyncio.timeout(10):
        while (answer := await browser.get(url)).status_code == 200:
            pass
    assert answer.status_code == 403
