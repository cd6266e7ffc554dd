"""Where the example chat keeps its files, as the environment says."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from examples.chat.storage import create_store
from opencode_async import DirectoryArtifactStore

S3 = {
    "S3_BUCKET": "chat",
    "S3_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "AKEY",
    "AWS_SECRET_ACCESS_KEY": "a secret",
    "AWS_REGION": "eu-central-3",
}


def test_a_folder_unless_a_bucket_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_BUCKET", raising=False)
    assert isinstance(create_store(), DirectoryArtifactStore)


async def test_a_bucket_of_a_store_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3.items():
        monkeypatch.setenv(name, value)
    async with create_store() as store:
        # It is signed without asking the store, and names all that the store was told.
        url = await store.url("a/key", filename="a.txt", content_type="text/plain")
    assert url is not None
    assert url.startswith("http://127.0.0.1:9/chat/a/key?")
    (credential,) = parse_qs(urlsplit(url).query)["X-Amz-Credential"]
    key, _, region, *_ = credential.split("/")
    assert (key, region) == ("AKEY", "eu-central-3")
