"""What a host decides about a turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from opencode_async.artifacts.artifact import Artifact
from opencode_async.models import ConversationMixin, ConversationT
from opencode_async.protocol.asks import AskPolicy
from opencode_async.protocol.limits import Limits
from opencode_async.protocol.permissions import Permissions
from opencode_async.protocol.prompt import check_model


@dataclass(frozen=True)
class TurnSettings:
    """How the agent is to answer in one conversation; everything unset is OpenCode's own default.

    ``agent`` names one of OpenCode's agents (``build`` unless set), ``model`` is
    ``provider/model`` (unless set the one that the session used last, at first the server's
    default: OpenCode 1.18.33, measured), ``system`` is appended to OpenCode's system prompt.
    ``permissions`` say what the agent may do in this turn and its subagents in it, ``limits`` when
    the turn is stopped, ``asks`` how long people have to answer the agent. ``conversation_budget``
    is what the conversation's turns may cost in all, those there are rows of, in the currency of
    the model's prices: the turn that goes beyond it is stopped, and no later one is begun
    (``error``, ``budget``).

    ``seed`` are files of the host's, by their paths in the conversation's sandbox: each is there,
    with that content, when the turn begins, whatever was; what came with the message itself stays.
    The agent is told of the folder, not of the files. They are not what the turn produced, unless
    the agent changes them. Where this process does not see the agent's disk the turn ends
    ``error``, ``sandbox_unreachable``.
    """

    agent: str | None = None
    model: str | None = None
    system: str | None = None
    permissions: Permissions = field(default_factory=Permissions)
    limits: Limits = field(default_factory=Limits)
    asks: AskPolicy = field(default_factory=AskPolicy)
    conversation_budget: float | None = None
    seed: Sequence[Artifact] = ()

    def __post_init__(self) -> None:
        check_model(self.model)


SettingsFor = Callable[[ConversationT], Awaitable[TurnSettings]]


async def default_settings(conversation: ConversationMixin) -> TurnSettings:
    """OpenCode's own defaults, for every conversation."""
    return TurnSettings()
