"""Keeping the files of a turn that is at its end, before its row says so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from opencode_async.artifacts.distant import DistantSandbox
from opencode_async.artifacts.message_artifacts import MessageArtifacts
from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.database import Sessions, is_away
from opencode_async.errors import LeaseLost
from opencode_async.models import MessageMixin
from opencode_async.protocol.changes import ArtifactAdded
from opencode_async.protocol.paths import Paths
from opencode_async.protocol.tool_artifacts import ToolArtifact
from opencode_async.session import Session
from opencode_async.turns.beside import Besides
from opencode_async.turns.lease import Lease
from opencode_async.turns.message import artifact_json

NOWHERE = "\0"  # the sandbox of a conversation that has none


class Attaching:
    """The files of one turn in the hands of its worker; a failure is told, and ends nothing."""

    def __init__(
        self,
        besides: Besides,
        policy: ArtifactPolicy,
        row: MessageMixin,
        lease: Lease[Any],
        session: Session[Any],
        sessions: Sessions,
        *,
        tell: Callable[[Sequence[ArtifactAdded]], Awaitable[None]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._besides = besides
        self._policy = policy
        self._row = row
        self._lease = lease
        self._session = session
        self._sessions = sessions
        self._tell = tell
        self._failed = failed

    async def attach(
        self, written: Iterable[ToolArtifact], cutoff: float, uploaded: Mapping[str, str]
    ) -> None:
        """Keep what was ``written``, and what is new in the sandbox since ``cutoff``.

        ``uploaded`` are the hashes of files that were put there. Cancelled, what is kept by then
        stays. Raises ``LeaseLost``, and where the database is away.
        """
        if self._besides.artifact is None:
            return
        files = MessageArtifacts(
            self._besides.artifact,
            self._row,
            self._sessions,
            self._policy,
            holds=self._lease.locked_row,
            failed=self._failed,
        )
        try:
            paths = await self._session.client.paths()
            key = (await self._session.row()).sandbox_key
            folder = paths.sandbox(key) if key else NOWHERE
            place_of = partial(paths.place_of, sandbox=folder)
            sandbox = await asyncio.to_thread(self._sandbox, paths, key)
            found = files.attach_from(written, sandbox, place_of, cutoff, uploaded)
            async with aclosing(found) as rows:
                async for row in rows:
                    await self._tell([ArtifactAdded(artifact_json(row, self._besides.trust))])
        except Exception as error:
            if isinstance(error, LeaseLost) or is_away(error):
                raise  # whoever takes the turn over keeps the rest
            self._failed(error)

    def _sandbox(self, paths: Paths, key: str | None) -> Sandbox | DistantSandbox | None:
        """The conversation's sandbox, if it has one, as this process sees it or is told of it."""
        if key is None:
            return None
        sandbox = self._policy.sandbox(paths.directory, key)
        if sandbox is not None and os.path.lexists(sandbox.root):
            return sandbox
        client = self._session.client
        most = self._policy.max_bytes
        return DistantSandbox(paths.sandbox(key), client.entries_of, client.binary, most)
