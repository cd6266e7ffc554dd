"""The files that a host has in a conversation's sandbox when a turn begins."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import Any

from opencode_async.artifacts.artifact import Artifact
from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.errors import SandboxFileRefused, SeedFailed
from opencode_async.session import Session
from opencode_async.turns.sandboxes import SharedSandbox


async def seeded(
    session: Session[Any],
    policy: ArtifactPolicy | None,
    files: Sequence[Artifact],
    uploaded: Container[str],
    failed: Callable[[Exception], None],
) -> dict[str, str]:
    """Put the files in place; the hash of each, by its path.

    What came with the message, by its paths ``uploaded``, is left as it is, and ``failed`` is told
    of the file that would have been there. Raises ``SandboxUnreachable``, ``SeedFailed`` and what
    the client raises.
    """
    hashes: dict[str, str] = {}
    if not files:
        return hashes
    shared = await SharedSandbox.of(session, policy)
    for file in files:
        if file.path in uploaded:
            failed(SandboxFileRefused(file.path, "name"))
        else:
            hashes[file.path] = await _placed(shared.sandbox, file)
    for path in list(hashes)[:1]:
        await shared.check_seen(path)
    return hashes


async def _placed(sandbox: Sandbox, file: Artifact) -> str:
    sha256 = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for chunk in file.read():
            sha256.update(chunk)
            yield chunk

    try:
        await sandbox.replace(file.path, hashed())
    except Exception as error:  # of the disk, or of wherever the host has the file
        raise SeedFailed(file.path) from error
    return sha256.hexdigest()
