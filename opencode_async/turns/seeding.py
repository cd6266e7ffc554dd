"""The files that a host has in a conversation's sandbox when a turn begins."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from opencode_async.artifacts.artifact import Artifact
from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.errors import LeaseLost, SandboxFileRefused, SeedFailed
from opencode_async.session import Session
from opencode_async.turns.sandboxes import SharedSandbox


async def seeded(
    session: Session[Any],
    policy: ArtifactPolicy | None,
    files: Sequence[Artifact],
    uploaded: Iterable[str],
    *,
    check_lease: Callable[[], Awaitable[None]],
    failed: Callable[[Exception], None],
) -> dict[str, str]:
    """Put the files in place; the hash of each, by its path.

    What came with the message, by its paths ``uploaded``, is left as it is, and ``failed`` is told
    of the file that would have taken its place. ``check_lease`` raises where the turn is another
    worker's by now, whose agent may be at work with these files. Raises that,
    ``SandboxUnreachable``, ``SeedFailed`` and what the client raises.
    """
    hashes: dict[str, str] = {}
    if not files:
        return hashes
    try:
        shared = await SharedSandbox.of(session, policy)
    except (SandboxFileRefused, OSError) as error:
        raise SeedFailed(".") from error
    for file in files:
        if any(in_each_others_way(file.path, other) for other in uploaded):
            failed(SandboxFileRefused(file.path, "name"))
        else:
            hashes[file.path] = await _placed(shared.sandbox, file, check_lease)
    return hashes


def in_each_others_way(one: str, other: str) -> bool:
    """Whether two paths cannot both be of files: they are the same, or lead through each other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


async def _placed(
    sandbox: Sandbox, file: Artifact, check_lease: Callable[[], Awaitable[None]]
) -> str:
    sha256 = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for chunk in file.read():
            sha256.update(chunk)
            yield chunk
        await check_lease()  # before it is put in place: where it comes from may have been slow

    try:
        await sandbox.replace(file.path, hashed())
    except LeaseLost:
        raise
    except Exception as error:  # of the disk, or of wherever the host has the file
        raise SeedFailed(file.path) from error
    return sha256.hexdigest()
