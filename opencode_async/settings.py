"""What a host decides about a turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from opencode_async.models import ConversationMixin, ConversationT
from opencode_async.protocol.permissions import PermissionRule
from opencode_async.protocol.prompt import check_model


@dataclass(frozen=True)
class TurnSettings:
    """How the agent is to answer in one conversation; everything unset is OpenCode's own default.

    ``agent`` names one of OpenCode's agents (``build`` unless set), ``model`` is
    ``provider/model`` (unless set the one that the session used last, at first the server's
    default: OpenCode 1.18.33, measured), ``system`` is appended to OpenCode's system prompt.
    ``permissions`` take effect when the conversation's session is created.
    """

    agent: str | None = None
    model: str | None = None
    system: str | None = None
    permissions: Sequence[PermissionRule] = ()

    def __post_init__(self) -> None:
        check_model(self.model)


SettingsFor = Callable[[ConversationT], Awaitable[TurnSettings]]


async def default_settings(conversation: ConversationMixin) -> TurnSettings:
    """OpenCode's own defaults, for every conversation."""
    return TurnSettings()
