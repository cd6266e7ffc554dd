"""When a turn has gone on for too long or cost too much: pure, the time is passed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from opencode_async.protocol.asks import Permission, Question
from opencode_async.protocol.events import (
    AskAnswered,
    Event,
)
from opencode_async.protocol.exchange import Outcome, TurnError
from opencode_async.protocol.messages import Usage

CANCELLED, INTERRUPTED = "cancelled", "interrupted"  # what people stop a turn for; limits are below
BUDGET = "budget"
EXCEEDED: Mapping[str, str] = {
    "limit_first_event": "The agent did not begin to answer in time.",
    "limit_silence": "The agent was silent for too long.",
    "limit_total": "The answer took too long.",
    BUDGET: "The budget is used up.",
    "limit_tokens": "The answer used more tokens than it may.",
    "limit_steps": "The answer took more steps than it may.",
}


@dataclass(frozen=True)
class Limits:
    """What a turn may take before it is stopped and ends ``error``; ``None`` is no limit.

    In seconds: ``first_event`` from the prompt to the first part of the answer, ``silence`` between
    two signs of life (of subagents, too), both anew where another worker takes the turn over;
    ``total`` from the prompt to the end, whoever runs it. All three stand still while the agent
    waits for a person. ``cost`` in the currency of the model's prices and ``tokens``, in and out,
    cached ones not counted, both with subagents; ``steps`` are calls of the model in the answer
    itself. Cost and tokens are known at the end of each step, so what was begun is paid for. The
    error's code is ``limit_`` and the limit's name, for the cost ``budget``.
    """

    first_event: float | None = 300.0
    silence: float | None = 1800.0
    total: float | None = None
    cost: float | None = None
    tokens: int | None = None
    steps: int | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The limits as a worker stored them, of this version or another."""
        return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def within(self, left: float) -> Self:
        """These limits, with no more cost than is ``left`` of a budget that turns share."""
        return replace(self, cost=left if self.cost is None else min(self.cost, left))


def stopped(reason: str) -> Outcome:
    """How a turn ends that was stopped for that reason."""
    if reason in EXCEEDED:
        return Outcome("error", None, TurnError(reason, EXCEEDED[reason]))
    return Outcome("cancelled", reason)


class Watchdog:
    """Watches one turn: told what happens, it says which limit is exceeded.

    Times are seconds of any clock; the prompt is ``elapsed`` of them older than ``now``.
    """

    def __init__(self, limits: Limits, now: float, *, elapsed: float = 0.0) -> None:
        self._limits = limits
        self._asked_for = now - elapsed
        self._watched_since = self._heard = now
        self._begun = False
        self._asks: Set[str] = frozenset()
        self._asked_at = now
        self._usage = Usage()
        self._steps = 0

    def take(self, event: Event, now: float) -> None:
        """An event of the turn's session or of a subagent's: a sign of life."""
        match event:
            case Permission(id=id_) | Question(id=id_):
                self.open_asks(self._asks | {id_}, now)
            case AskAnswered(id=id_):
                self.open_asks(self._asks - {id_}, now)
        self._heard = now

    def open_asks(self, ids: Set[str], now: float) -> None:
        """These wait for a person, and no others, whose answers may have been missed."""
        if ids and not self._asks:
            self._asked_at = now
        elif self._asks and not ids:
            self._asked_for += now - self._asked_at
            self._watched_since += now - self._asked_at
            self._heard = now
        self._asks = frozenset(ids)

    def answered(self, usage: Usage, steps: int, *, begun: bool) -> None:
        """What the turn has cost so far; in how many steps of its own; whether a part is there."""
        self._begun = self._begun or begun
        self._steps = max(self._steps, steps)
        self._usage = usage

    def exceeded(self, now: float) -> str | None:
        """The limit that is exceeded, as the code of the turn's error; ``None`` if none is."""
        used = {
            BUDGET: (self._usage.cost, self._limits.cost),
            "limit_tokens": (self._usage.input + self._usage.output, self._limits.tokens),
            "limit_steps": (self._steps, self._limits.steps),
        }
        beyond = [name for name, (n, most) in used.items() if most is not None and n > most]
        passed = [name for name, moment in self._deadlines().items() if moment <= now]
        return next(iter(beyond + passed), None)

    def due(self) -> float:
        """When to ask again at the latest, though nothing happens."""
        return min(self._deadlines().values(), default=math.inf)

    def _deadlines(self) -> dict[str, float]:
        if self._asks:
            return {}
        limits = self._limits
        first = None if self._begun else limits.first_event
        deadlines = {
            "limit_first_event": _after(self._watched_since, first),
            "limit_silence": _after(self._heard, limits.silence),
            "limit_total": _after(self._asked_for, limits.total),
        }
        return {name: moment for name, moment in deadlines.items() if moment is not None}


def _after(moment: float, seconds: float | None) -> float | None:
    return None if seconds is None else moment + seconds
