"""What a server keeps on disk: sessions, messages and parts, which survive its crash."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


class NotFound(Exception):
    """There is no such session or message; says so as OpenCode does."""


@dataclass
class Stored:
    """A message and its parts, by their ids, in the order in which they came."""

    info: Json
    parts: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> Json:
        return {"info": self.info, "parts": list(self.parts.values())}


class Ids:
    """Ids of OpenCode's form that are the same in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self, prefix: str) -> str:
        """The next one: 26 characters behind the prefix."""
        number = next(self._numbers)
        return f"{prefix}_{number:012x}Impostor{number:06d}"


class Store:
    """Rows as OpenCode has them. What goes in and comes out is copied."""

    def __init__(self) -> None:
        self._sessions: dict[str, Json] = {}
        self._messages: dict[str, dict[str, Stored]] = {}
        self.todos: dict[str, list[Json]] = {}

    def put_session(self, info: Json) -> None:
        """Store a session, new or changed."""
        self._sessions[info["id"]] = deepcopy(info)
        self._messages.setdefault(info["id"], {})

    def __contains__(self, session_id: str) -> bool:
        """Whether there is such a session."""
        return session_id in self._sessions

    def session(self, session_id: str) -> Json:
        """A session; raises ``NotFound``."""
        if session_id not in self:
            raise NotFound(f"Session not found: {session_id}")
        return deepcopy(self._sessions[session_id])

    def sessions(self) -> list[Json]:
        """All sessions, oldest first."""
        return deepcopy(list(self._sessions.values()))

    def children(self, session_id: str) -> list[Json]:
        """The sessions that subagents of that one ran in; raises ``NotFound``."""
        self.session(session_id)
        found = (info for info in self._sessions.values() if info.get("parentID") == session_id)
        return deepcopy(list(found))

    def forget(self, session_id: str) -> None:
        """Delete a session with all that belongs to it; raises ``NotFound``."""
        self.session(session_id)
        del self._sessions[session_id], self._messages[session_id]
        self.todos.pop(session_id, None)

    def put_message(self, info: Json) -> None:
        """Store a message, new or changed; raises ``NotFound`` for one of no session."""
        self.session(info["sessionID"])
        messages = self._messages[info["sessionID"]]
        if info["id"] in messages:
            messages[info["id"]].info = deepcopy(info)
        else:
            messages[info["id"]] = Stored(deepcopy(info))

    def put_part(self, part: Json) -> None:
        """Store a part, new or changed; raises ``NotFound`` for one of no message."""
        kept = deepcopy(part)
        if kept.get("state", {}).get("status") == "error":
            kept["state"].pop("title", None)  # an aborted call's event has one, REST has not
        self._stored(part["sessionID"], part["messageID"]).parts[part["id"]] = kept

    def message(self, session_id: str, message_id: str) -> Json:
        """A message with its parts; raises ``NotFound``."""
        return deepcopy(self._stored(session_id, message_id).to_json())

    def messages(self, session_id: str) -> list[Json]:
        """All messages of a session with their parts, oldest first; raises ``NotFound``."""
        self.session(session_id)
        return [deepcopy(stored.to_json()) for stored in self._messages[session_id].values()]

    def newest(self, session_id: str) -> tuple[Json | None, Json | None]:
        """The user message that was posted last, and the assistant message that was begun last."""
        infos = [stored.info for stored in self._messages[session_id].values()]
        users = [info for info in infos if info["role"] == "user"]
        answers = [info for info in infos if info["role"] == "assistant"]
        # Posting again moves a message's time, not its place (OpenCode 1.18.33, measured).
        user = max(reversed(users), key=lambda info: info["time"]["created"], default=None)
        return deepcopy(user), deepcopy(answers[-1] if answers else None)

    def _stored(self, session_id: str, message_id: str) -> Stored:
        self.session(session_id)
        try:
            return self._messages[session_id][message_id]
        except KeyError:
            raise NotFound(f"Message not found: {message_id}") from None


def page(
    messages: list[Json], limit: int | None, before: str | None
) -> tuple[list[Json], str | None]:
    """The newest messages, or those before a cursor, and the cursor of the page before."""
    if before is not None:
        edge = json.loads(base64.urlsafe_b64decode(before + "=" * (-len(before) % 4)))["id"]
        messages = list(itertools.takewhile(lambda m: m["info"]["id"] != edge, messages))
    if limit is None or limit >= len(messages):
        return messages, None
    found = messages[-limit:]
    info = found[0]["info"]
    edge = json.dumps({"id": info["id"], "time": info["time"]["created"]}, separators=(",", ":"))
    return found, base64.urlsafe_b64encode(edge.encode()).decode().rstrip("=")


def chat(messages: list[Json]) -> Iterator[Json]:
    """The messages as a model provider is sent them.

    A call counts as answered whatever became of it, also one that a crash left running. What was
    summed up is not sent any more.
    """
    summed_up = [n for n, m in enumerate(messages) if any("overflow" in p for p in m["parts"])]
    for message in messages[summed_up[-1] + 1 if summed_up else 0 :]:
        if message["info"]["role"] == "user":
            texts = [part["text"] for part in message["parts"] if part["type"] == "text"]
            yield {"role": "user", "content": "\n".join(texts)}
            continue
        for part in message["parts"]:
            if part["type"] == "tool":
                yield {"role": "tool", "tool_call_id": part["callID"]}
