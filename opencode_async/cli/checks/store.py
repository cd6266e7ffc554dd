"""The artifact store: it takes, gives and forgets."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.cli.checks.finding import Finding
from opencode_async.errors import ArtifactStoreError

PROBE = b"opencode-async doctor"


async def check_store(store: ArtifactStore) -> AsyncIterator[Finding]:
    """Put a few bytes under a key of their own, read them, and delete them."""
    key = f"doctor/{uuid.uuid4().hex}"
    try:
        async with store:
            try:
                await store.put(key, _probe(), size=len(PROBE), content_type="text/plain")
                async with store.open(key) as chunks:
                    read = b"".join([chunk async for chunk in chunks])
            finally:
                await store.delete(key)
    except ArtifactStoreError as error:
        reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        remedy = "look at its bucket or folder, its credentials, and what they allow"
        yield Finding("error", reason, remedy)
        return
    if read == PROBE:
        yield Finding("ok", f"{store!r} takes, gives and deletes")
    else:
        remedy = "what is stored must come back as it is: try it with check_artifact_store"
        yield Finding("error", f"{type(store).__name__} gives other bytes than it took", remedy)


async def _probe() -> AsyncIterator[bytes]:
    yield PROBE
