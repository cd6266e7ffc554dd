"""What stands beside messages in tables of their own: what they ask, the files they produced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.transform import NOBODY, Trust
from opencode_async.models import ArtifactMixin, AskMixin


@dataclass(frozen=True)
class Beside:
    """The rows of some messages, in order; ``trust`` tells which files are the host's own."""

    asks: Sequence[AskMixin] = ()
    artifacts: Sequence[ArtifactMixin] = ()
    trust: Trust = NOBODY


NOTHING = Beside()


@dataclass(frozen=True)
class Besides:
    """The host's classes for them, ``None`` for what it has no table for, and how to read them."""

    ask: type[AskMixin] | None = None
    artifact: type[ArtifactMixin] | None = None
    trust: Trust = NOBODY

    async def of(self, db: AsyncSession, messages: Collection[Any]) -> Beside:
        """What stands beside those messages."""
        asks: Sequence[AskMixin] = ()
        artifacts: Sequence[ArtifactMixin] = ()
        if messages and (ask := self.ask) is not None:
            mine = select(ask).where(ask.message_id.in_(messages))
            asks = (await db.scalars(mine.order_by(ask.created_at, ask.upstream_id))).all()
        if messages and (kind := self.artifact) is not None:
            theirs = select(kind).where(kind.message_id.in_(messages))
            artifacts = (await db.scalars(theirs.order_by(kind.created_at, kind.path))).all()
        return Beside(asks, artifacts, self.trust)
