"""Which messages of a session belong to one turn.

An answer belongs to our prompt by its ``parentID``, except after automatic compaction: then
OpenCode stores a user message that holds a ``compaction`` part, an assistant message with the
summary, and our prompt once more under a new id (or, where no earlier turn exists, a message of its
own making); the answer's parent is that copy (OpenCode 1.18.33, measured). Streaming and recovery
share this one rule.
"""

from __future__ import annotations

from opencode_async.protocol.messages import MessageInfo


class Lineage:
    """The user messages that stand for our prompt; feed it the messages in their order."""

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self._prompts: set[str] = set()
        self._foreign: set[str] = set()
        self._copy_due = False

    @property
    def seen(self) -> bool:
        """Whether our prompt itself was there."""
        return self.prompt_id in self._prompts

    def user(self, message_id: str) -> None:
        """A user message; one seen before changes nothing."""
        if message_id in self._prompts or message_id in self._foreign:
            return
        if message_id == self.prompt_id or self._copy_due:
            self._prompts.add(message_id)
            self._copy_due = False
        else:
            self._foreign.add(message_id)

    def compaction(self, message_id: str) -> None:
        """The user message turned out to hold a ``compaction`` part."""
        if self.seen and message_id not in self._prompts:
            self._foreign.discard(message_id)
            self._prompts.add(message_id)
            self._copy_due = True

    def owns(self, info: MessageInfo) -> bool:
        """Whether the assistant message was made for our prompt; a summary is one of them."""
        return info.parent_id in self._prompts
