"""A session as a server lists it, and how it is told whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from opencode_async.protocol.wire import mapping, text


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session of a list: ``metadata`` is what whoever created it, or changed it since, put there.

    ``metadata`` has what is text in it.
    """

    session_id: str
    metadata: Mapping[str, str]

    @classmethod
    def from_wire(cls, raw: object) -> Self:
        """The session in a REST answer."""
        info = mapping(raw)
        metadata = info.get("metadata")
        told = metadata.items() if isinstance(metadata, Mapping) else ()
        return cls(text(info, "id"), {k: v for k, v in told if isinstance(v, str)})

    @property
    def conversation_id(self) -> str | None:
        """The key of the conversation that it says it is of; of which database it does not say."""
        return self.metadata.get("conversation_id")

    def is_of(self, conversation_id: object, sandbox_key: str | None) -> bool:
        """Whether it was created for that conversation, and not for one of another database.

        Keys are the same in many databases, so the sandbox's, which is random, tells.
        """
        if sandbox_key is None:
            return False
        return metadata_of(conversation_id, sandbox_key).items() <= self.metadata.items()


def metadata_of(conversation_id: object, sandbox_key: str) -> dict[str, str]:
    """What a conversation's session says of its owner.

    ``owner`` proves it to who knows the ``sandbox_key``, and does not tell that: it is a folder's
    name, which who reads metadata need not know.
    """
    owner = hashlib.sha256(f"{conversation_id} {sandbox_key}".encode()).hexdigest()
    return {"conversation_id": str(conversation_id), "owner": owner}
