"""What a turn asks and what it may take, in its row before anything is sent.

It is decided once, by the first worker, for it may be sent again: whoever takes the turn over asks
the same and is held to the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.models import MessageMixin
from opencode_async.protocol.asks import AskPolicy
from opencode_async.protocol.limits import Limits
from opencode_async.protocol.permissions import Permissions
from opencode_async.protocol.prompt import with_fresh_ids
from opencode_async.session import Session
from opencode_async.turns.lease import Lease
from opencode_async.turns.prompt import body_of, with_images
from opencode_async.turns.seeding import seeded


class TurnRequest:
    """The request of one turn in the hands of its worker."""

    def __init__(
        self,
        row: MessageMixin,
        lease: Lease[Any],
        session: Session[Any],
        policy: ArtifactPolicy | None,
        *,
        heed_stop: Callable[[], None],
        check_lease: Callable[[], Awaitable[None]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._row = row
        self._lease = lease
        self._session = session
        self._policy = policy
        self._heed_stop = heed_stop
        self._check_lease = check_lease
        self._failed = failed

    @property
    def decided(self) -> bool:
        """Whether it is in the row, where it stays; until then nothing was sent."""
        return "body" in self._stored

    @property
    def began(self) -> float:
        """When it was decided, in seconds since 1970; before that, infinity."""
        return float(self._stored.get("began", math.inf))

    @property
    def uploaded(self) -> dict[str, str]:
        """The hashes of the files that were put into the sandbox for it, by path."""
        return dict(self._stored.get("uploaded", {}))

    @property
    def limits(self) -> Limits:
        """When the turn is stopped."""
        return Limits.from_json(self._stored.get("limits", {}))

    @property
    def conversation_budget(self) -> float | None:
        """What all turns of the conversation may cost."""
        budget: float | None = self._stored.get("conversation_budget")
        return budget

    @property
    def asks(self) -> AskPolicy:
        """How long people have to answer the agent."""
        stored = self._stored.get("asks")
        return AskPolicy.from_json(stored) if stored else AskPolicy()

    @property
    def permissions(self) -> Permissions:
        """What the agent may do in this turn."""
        return Permissions.from_json(self._stored.get("permissions", {}))

    @property
    def agent(self) -> str | None:
        """Which of OpenCode's agents answers."""
        agent: str | None = self._stored.get("body", {}).get("agent")
        return agent

    @property
    def model(self) -> str | None:
        """Which model is asked for, as ``provider/model``."""
        model = self._stored.get("body", {}).get("model")
        return model and f"{model['providerID']}/{model['modelID']}"

    @property
    def trace(self) -> Mapping[str, str]:
        """What its spans go on with; see ``Tracer``."""
        trace: Mapping[str, str] = self._stored.get("trace", {})
        return trace

    async def decide(self, trace: Mapping[str, str]) -> None:
        """Ask the host, put its files in place, and store what is to be asked, unless it is there.

        Whoever takes the turn over goes on with that ``trace``, unless it came with one. Raises
        what the host's hook, ``seeded`` and the client raise, and ``LeaseLost``.
        """
        if self.decided:
            return
        settings = await self._session.settings()
        uploaded = self.uploaded
        seeds = await seeded(
            self._session,
            self._policy,
            settings.seed,
            uploaded,
            check_lease=self._check_lease,
            failed=self._failed,
        )
        now = time.time()
        await self._store(
            {
                "uploaded": uploaded | seeds,
                "trace": self.trace or dict(trace),
                "body": body_of(self._row, settings, now),
                "limits": settings.limits.to_json(),
                "asks": settings.asks.to_json(),
                "conversation_budget": settings.conversation_budget,
                "permissions": settings.permissions.to_json(),
                "began": now,
            }
        )

    async def readdress(self) -> str:
        """Give it ids of its own, for another session than it was meant for; the prompt's."""
        body = with_fresh_ids(self._stored["body"], time.time())
        await self._store({**self._stored, "body": body})
        return str(body["messageID"])

    async def body(self) -> dict[str, Any]:
        """What is posted. Raises ``ArtifactStoreError`` where an image cannot be read."""
        body: dict[str, Any] = self._stored["body"]
        return body if self._policy is None else await with_images(body, self._policy.store)

    async def _store(self, request: dict[str, Any]) -> None:
        body = request["body"]
        ids = [part["id"] for part in body["parts"]]
        columns = {"request": request, "prompt_id": body["messageID"], "part_ids": ids}
        if await self._lease.store(columns) is not None:
            self._heed_stop()
        self._row.request, self._row.prompt_id = request, body["messageID"]

    @property
    def _stored(self) -> dict[str, Any]:
        return self._row.request or {}
