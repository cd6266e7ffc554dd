"""What a turn asks of the agent and what it may take, decided once and stored before it is sent.

It may be sent again, by another worker, and is then the same and held to the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from opencode_async.models import MessageMixin
from opencode_async.protocol.asks import AskPolicy
from opencode_async.protocol.limits import Limits
from opencode_async.protocol.permissions import Permissions
from opencode_async.protocol.prompt import with_fresh_ids
from opencode_async.settings import TurnSettings
from opencode_async.turns.lease import Lease
from opencode_async.turns.prompt import body_of


class TurnRequest:
    """The ``request`` of a turn's row in the hands of the worker that holds its lease.

    ``on_stop`` is called where writing it finds that the turn is to stop.
    """

    def __init__(
        self, row: MessageMixin, lease: Lease[Any], *, on_stop: Callable[[], None]
    ) -> None:
        self._row = row
        self._lease = lease
        self._on_stop = on_stop

    @property
    def decided(self) -> bool:
        """Whether the host was asked already, by an earlier worker, say."""
        return "body" in self._stored

    async def decide(self, settings: TurnSettings, trace: Mapping[str, str]) -> None:
        """Store what is asked, as the host has decided it. Raises ``LeaseLost``.

        Whoever takes the turn over goes on with that ``trace``, unless it came with one.
        """
        request = {
            "uploaded": self.uploaded,
            "trace": self.trace or dict(trace),
            "body": body_of(self._row, settings),
            "limits": settings.limits.to_json(),
            "asks": settings.asks.to_json(),
            "conversation_budget": settings.conversation_budget,
            "permissions": settings.permissions.to_json(),
            "began": time.time(),
        }
        await self._store(request)

    async def readdress(self) -> None:
        """Give the body ids of its own, for another session than it was meant for."""
        body = with_fresh_ids(self.body)
        ids = {"prompt_id": body["messageID"], "part_ids": [part["id"] for part in body["parts"]]}
        await self._store({**self._stored, "body": body}, **ids)

    @property
    def body(self) -> dict[str, Any]:
        """What is posted; empty until it is decided."""
        body: dict[str, Any] = self._stored.get("body", {})
        return body

    @property
    def agent(self) -> str | None:
        """Which of OpenCode's agents is asked for."""
        agent: str | None = self.body.get("agent")
        return agent

    @property
    def model(self) -> str | None:
        """Which model is asked for, as ``provider/model``."""
        model = self.body.get("model")
        return model and f"{model['providerID']}/{model['modelID']}"

    @property
    def limits(self) -> Limits:
        """When the turn is stopped."""
        return Limits.from_json(self._stored.get("limits", {}))

    @property
    def budget(self) -> float | None:
        """What all turns of the conversation may cost together."""
        budget: float | None = self._stored.get("conversation_budget")
        return budget

    @property
    def asks(self) -> AskPolicy:
        """How long people have to answer the agent."""
        stored = self._stored.get("asks")
        return AskPolicy.from_json(stored) if stored else AskPolicy()

    @property
    def permissions(self) -> Permissions:
        """What the agent may do."""
        return Permissions.from_json(self._stored.get("permissions", {}))

    @property
    def uploaded(self) -> Mapping[str, str]:
        """The hashes of the files that came with it, by their paths in the sandbox."""
        uploaded: Mapping[str, str] = self._stored.get("uploaded", {})
        return uploaded

    @property
    def trace(self) -> Mapping[str, str]:
        """What its spans go on with; see ``Tracer``."""
        trace: Mapping[str, str] = self._stored.get("trace", {})
        return trace

    @property
    def began(self) -> float:
        """When it was decided, in s since 1970; infinity until it is."""
        began: float = self._stored.get("began", math.inf)
        return began

    @property
    def _stored(self) -> dict[str, Any]:
        return self._row.request or {}

    async def _store(self, request: dict[str, Any], **ids: Any) -> None:
        if await self._lease.store({"request": request, **ids}) is not None:
            self._on_stop()
        self._row.request = request
