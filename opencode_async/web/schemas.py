"""The JSON of the routes, for validation and OpenAPI; every schema's name begins with Agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from opencode_async.protocol.parts import ToolStatus
from opencode_async.protocol.tool_names import ToolKind
from opencode_async.turns.posting import OnBusy
from opencode_async.web.multipart import UploadLimits


@dataclass(frozen=True)
class PostRules:
    """What a browser may post: agents and models it may ask for, the longest text, files."""

    agents: tuple[str, ...]
    models: tuple[str, ...]
    max_text: int
    uploads: UploadLimits


class AgentRequest(BaseModel):
    """A request body: an unknown field is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")


class AgentNewConversation(AgentRequest):
    title: str | None = Field(default=None, max_length=500)


class AgentNewMessage(AgentRequest):
    """What a person says; ``agent`` and ``model`` only if the app offers them.

    ``on_busy``: what to do while the agent is answering.
    """

    text: str
    on_busy: OnBusy = "reject"
    agent: str | None = None
    model: str | None = None


class AgentPermissionReply(AgentRequest):
    """`always` grants what is like it in this conversation; `message` goes with `reject`."""

    reply: Literal["once", "always", "reject"]
    message: str | None = Field(default=None, max_length=10_000)


class AgentQuestionReply(AgentRequest):
    """For each question the labels that were chosen, and in `custom` words of one's own.

    Or `reject`, which ends the turn.
    """

    answers: list[list[str]] | None = None
    custom: list[Annotated[str, Field(max_length=10_000)] | None] = Field(default_factory=list)
    reject: Literal[True] | None = None


class AgentConversation(BaseModel):
    id: str
    title: str | None
    busy: bool = Field(description="Whether a turn is pending or queued.")
    created_at: str


class AgentConversations(BaseModel):
    items: list[AgentConversation]
    next: str | None = Field(description="The `before` of the next page; null on the last.")


class AgentError(BaseModel):
    code: str
    message: str


class AgentArtifact(BaseModel):
    id: str
    filename: str
    path: str
    content_type: str = Field(description="Told from the bytes, unless `trusted`.")
    size: int
    sha256: str
    trusted: bool = Field(description="Made by the host, not by the agent: it may be shown.")
    url: str = Field(description="Below this API's prefix.")


class AgentToolDisplay(BaseModel):
    """A tool call in words, for a line of a page: plain text, never markup."""

    kind: ToolKind
    status: ToolStatus = Field(description="`error` also for a call that could not be made.")
    gerund: str = Field(description="What it does: `Reading`.")
    past: str = Field(description="What it has done, once `status` is `completed`: `Read`.")
    icon: str = Field(description="The name of an icon of Lucide's set.")
    target: str | None = Field(description="The file, command, URL or query, in one short line.")
    title: str = Field(description="All in one line, by its status.")
    language: str | None = Field(description="What the file is written in, for a highlighter.")
    diff: str | None = Field(description="What it changed, unified; null if that is very long.")
    error: str | None = Field(description="Why it failed; null if that is very long.")


class AgentPart(BaseModel):
    """Text or reasoning with its `content`, a call of a tool, or the place of a hidden part.

    What a part does not have is left out.
    """

    id: str
    type: Literal["text", "reasoning", "tool", "hidden"]
    content: str | None = None
    tool: str | None = None
    call_id: str | None = None
    status: ToolStatus | None = None
    input: dict[str, Any] | None = None
    output: str | None = None
    title: str | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None
    session_id: str | None = Field(default=None, description="The subagent that a `task` started.")
    subagent: str | None = Field(
        default=None,
        description="Whose it is, if not the agent's: that of the `task` call with this "
        "`session_id`, which stands before it.",
    )
    display: AgentToolDisplay | None = Field(default=None, description="Of every tool call.")


class AgentMessage(BaseModel):
    id: str
    conversation_id: str
    reply_to: str | None
    role: Literal["user", "assistant"]
    status: Literal["queued", "pending", "completed", "cancelled", "error"]
    finish: str | None
    content: str = Field(description="The agent's own text parts, joined by a blank line.")
    reasoning: str
    parts: list[AgentPart] = Field(description="Subagents' among them.")
    todos: list[dict[str, Any]]
    error: AgentError | None
    cost: float
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    questions: list[dict[str, Any]]
    permissions: list[dict[str, Any]]
    artifacts: list[AgentArtifact]
    created_at: str
    finished_at: str | None


class AgentConversationDetail(AgentConversation):
    messages: list[AgentMessage] = Field(description="Oldest first.")


class AgentProblem(BaseModel):
    """RFC 9457; `type` is stable."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None
