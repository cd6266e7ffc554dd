"""Which messages of a session belong to one turn.

An answer belongs to our prompt by its ``parentID``, except after automatic compaction: then
OpenCode stores a user message that holds a ``compaction`` part, an assistant message with the
summary, and our prompt once more under a new id (or, where no earlier turn exists, a message of its
own making); the answer's parent is that copy (OpenCode 1.18.33, measured). A compaction is made for
the newest prompt, so one that follows a later prompt is not ours. Streaming and recovery share this
one rule.
"""

from __future__ import annotations

import math

from opencode_async.protocol.messages import MessageInfo


class Lineage:
    """The user messages that stand for our prompt.

    Feed it the messages in their order. A user message of an earlier turn may come late (its diff
    is added to it after that turn's end), so which one is newer is told by their times.
    """

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self._prompts: set[str] = set()
        self._made: dict[str, float] = {}
        self._compactions: set[str] = set()
        self._copy_due_since: float | None = None

    def user(self, message_id: str, created: float = math.inf) -> None:
        """A user message, ``created`` in ms where that is known; ours may be looked up instead."""
        new = message_id not in self._made
        self._made[message_id] = min(created, self._made.get(message_id, math.inf))
        if message_id == self.prompt_id:
            self._prompts.add(message_id)
        elif new and self._copy_due_since is not None and created >= self._copy_due_since:
            self._prompts.add(message_id)
            self._copy_due_since = None

    def compaction(self, message_id: str) -> None:
        """The user message turned out to hold a ``compaction`` part."""
        if message_id in self._compactions:
            return
        self._compactions.add(message_id)
        others = self._made.keys() - {message_id}
        if max(others, key=self._made.__getitem__, default=None) in self._prompts:
            self._prompts.add(message_id)
            self._copy_due_since = self._made.get(message_id, 0)

    def owns(self, info: MessageInfo) -> bool:
        """Whether the assistant message was made for our prompt; a summary is one of them."""
        return info.parent_id in self._prompts
