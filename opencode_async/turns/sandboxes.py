"""A conversation's sandbox as this process reaches it: the same folder that the agent sees."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from opencode_async.artifacts.policy import ArtifactPolicy, sandbox_here
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.sandbox_file import OURS
from opencode_async.errors import SandboxUnreachable
from opencode_async.session import Session


@dataclass(frozen=True, slots=True)
class SharedSandbox:
    """A sandbox on a disk that both see: ``folder`` is its path as the agent's server calls it."""

    sandbox: Sandbox
    folder: str

    @classmethod
    async def of(cls, session: Session[Any], policy: ArtifactPolicy | None) -> SharedSandbox:
        """That of the session's conversation, which is made if need be.

        Another machine may have a folder of the same name, and files in it: the agent's server is
        asked for one that is new. Raises ``SandboxUnreachable`` where it does not see that,
        ``OSError`` and ``SandboxFileRefused`` where none can be made, and what the client raises.
        """
        client = await session.find_client()
        paths = await client.paths()
        key = await session.sandbox_key()
        sandbox = sandbox_here(policy, paths.directory, key)
        if sandbox is None or not await asyncio.to_thread(sandbox.root.parents[1].is_dir):
            raise SandboxUnreachable(paths.directory)
        folder = paths.sandbox(key)
        probe = f"{OURS}{uuid.uuid4().hex}"
        await sandbox.replace(probe, _nothing())
        try:
            seen = await client.entries_of(folder) or {}
        finally:
            with suppress(Exception):  # the agent may be quicker
                await sandbox.remove(probe)
        if probe not in seen:
            raise SandboxUnreachable(paths.directory)
        return cls(sandbox, folder)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""
