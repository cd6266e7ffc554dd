"""A conversation's sandbox as this process reaches it: the same folder that the agent sees."""

from __future__ import annotations

import asyncio
import posixpath
from dataclasses import dataclass
from typing import Any

from opencode_async.artifacts.policy import ArtifactPolicy, sandbox_here
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.client.client import OpencodeClient
from opencode_async.errors import SandboxUnreachable
from opencode_async.session import Session


@dataclass(frozen=True, slots=True)
class SharedSandbox:
    """A sandbox on a disk that both see: ``folder`` is its path as the agent's server calls it."""

    sandbox: Sandbox
    folder: str
    client: OpencodeClient

    @classmethod
    async def of(cls, session: Session[Any], policy: ArtifactPolicy | None) -> SharedSandbox:
        """That of the session's conversation; there is no folder yet, perhaps.

        Raises ``SandboxUnreachable`` where the directory that it is in is not seen here.
        """
        client = await session.find_client()
        paths = await client.paths()
        key = await session.sandbox_key()
        sandbox = sandbox_here(policy, paths.directory, key)
        if sandbox is None or not await asyncio.to_thread(sandbox.root.parents[1].is_dir):
            raise SandboxUnreachable(paths.directory)
        return cls(sandbox, paths.sandbox(key), client)

    async def check_seen(self, path: str) -> None:
        """Raise ``SandboxUnreachable`` where the agent does not see the file placed there.

        Another machine may have a folder of that name.
        """
        folder, name = posixpath.split(posixpath.join(self.folder, path))
        if name not in await self.client.entries_of(folder):
            raise SandboxUnreachable(self.folder)
