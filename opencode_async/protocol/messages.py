"""OpenCode's messages: what an info object and a ``{info, parts}`` pair of a REST answer say."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from opencode_async.protocol.parts import Part, part_from_wire
from opencode_async.protocol.wire import amount, mapping, number, objects, optional_text, text

URL = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
ABORTED = "MessageAbortedError"
LONGEST_REASON = 500  # characters: enough for every message of the recordings


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error object of OpenCode: its ``name`` (``APIError``, …) and the reason in it.

    ``message`` is safe to show: its first line, without URLs. Response bodies and headers, which an
    ``APIError`` carries along, are not kept.
    """

    name: str
    message: str

    @classmethod
    def from_wire(cls, raw: object) -> Self:
        error = mapping(raw, "error")
        data = error.get("data")
        message = optional_text(data, "message") if isinstance(data, Mapping) else None
        line = (message or "").strip().split("\n", 1)[0]
        return cls(text(error, "name"), URL.sub("[url]", line)[:LONGEST_REASON])


@dataclass(frozen=True, slots=True)
class Usage:
    """What model calls cost: ``cost`` in the currency of the model's prices, the rest in tokens.

    As OpenCode reports them: ``input`` excludes cached tokens, ``output`` excludes reasoning tokens
    (which ``cost`` includes).
    """

    cost: float = 0.0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @classmethod
    def from_wire(cls, info: Mapping[str, Any]) -> Self:
        tokens = info.get("tokens")
        tokens = tokens if isinstance(tokens, Mapping) else {}
        cache = tokens.get("cache")
        cache = cache if isinstance(cache, Mapping) else {}
        return cls(
            cost=float(amount(info, "cost")),
            input=int(amount(tokens, "input")),
            output=int(amount(tokens, "output")),
            cache_read=int(amount(cache, "read")),
            cache_write=int(amount(cache, "write")),
        )

    @classmethod
    def total(cls, parts: Iterable[Usage]) -> Self:
        """The sum; money is summed exactly and rounded once, so the order does not matter."""
        usages = list(parts)
        return cls(
            cost=math.fsum(u.cost for u in usages),
            input=sum(u.input for u in usages),
            output=sum(u.output for u in usages),
            cache_read=sum(u.cache_read for u in usages),
            cache_write=sum(u.cache_write for u in usages),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The usage as ``to_json`` wrote it, among other fields perhaps."""
        fields = ("input", "output", "cache_read", "cache_write")
        return cls(data["cost"], *(data[f"{name}_tokens"] for name in fields))

    def to_json(self) -> dict[str, Any]:
        """The fields under the names that a message has for them."""
        return {
            "cost": self.cost,
            "input_tokens": self.input,
            "output_tokens": self.output,
            "cache_read_tokens": self.cache_read,
            "cache_write_tokens": self.cache_write,
        }


@dataclass(frozen=True, slots=True)
class MessageInfo:
    """A message without its parts. Times are milliseconds since 1970, OpenCode's clock.

    ``model`` is ``provider/model``, of an assistant's message only.
    """

    id: str
    session_id: str
    role: str
    parent_id: str | None = None
    created: float = 0
    completed: bool = False
    error: UpstreamError | None = None
    finish: str | None = None
    summary: bool = False
    structured: bool = False
    model: str | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def last(self) -> bool:
        """Whether this answer says itself that it is the last; one that called tools does not.

        It may say so a moment before it is ``completed`` (OpenCode 1.18.33, seen under load).
        """
        return self.error is not None or self.finish not in (None, "tool-calls")

    @classmethod
    def from_wire(cls, raw: object) -> Self:
        info = mapping(raw, "info")
        time = info.get("time")
        time = time if isinstance(time, Mapping) else {}
        error = info.get("error")
        model = optional_text(info, "providerID"), optional_text(info, "modelID")
        return cls(
            id=text(info, "id"),
            session_id=text(info, "sessionID"),
            role=text(info, "role"),
            parent_id=optional_text(info, "parentID"),
            created=number(time, "created"),
            completed=time.get("completed") is not None,
            error=UpstreamError.from_wire(error) if error is not None else None,
            finish=optional_text(info, "finish"),
            # On a user message `summary` is an object with its diffs; on an assistant's, a flag.
            summary=info.get("summary") is True,
            structured=info.get("structured") is not None,
            model="/".join(filter(None, model)) if all(model) else None,
            usage=Usage.from_wire(info),
        )


@dataclass(frozen=True, slots=True)
class WireMessage:
    """A message of a REST answer. ``has_parts`` counts every kind, ``parts`` holds those shown."""

    info: MessageInfo
    parts: tuple[Part, ...]
    has_parts: bool
    compaction: bool

    @classmethod
    def from_wire(cls, raw: object) -> Self:
        message = mapping(raw, "message")
        parts = objects(message.get("parts"))
        return cls(
            info=MessageInfo.from_wire(message.get("info")),
            parts=tuple(p for p in map(part_from_wire, parts) if p is not None),
            has_parts=bool(parts),
            compaction=any(p.get("type") == "compaction" for p in parts),
        )
