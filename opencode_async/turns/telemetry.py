"""What operators are told of one turn: its events and its spans.

Most of it is read off what passes through anyway: the changes that followers are told.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

from opencode_async.client.answer import Ending
from opencode_async.database import key_of
from opencode_async.errors import SandboxFileRefused
from opencode_async.models import MessageMixin
from opencode_async.observability.events import (
    ArtifactKept,
    ArtifactRefused,
    AskAsked,
    AskDecided,
    AskResolved,
    PromptAccepted,
    PromptReposted,
    ResponseUpstreamError,
    TurnFinished,
    TurnFirstToken,
    TurnGivenUp,
    TurnStarted,
    TurnStopping,
)
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.observability.tracer import NO_SPAN, Aside, Attributes, Span, Tracer
from opencode_async.protocol.asks import PERMISSION, QUESTION, Ask, kind_of
from opencode_async.protocol.changes import (
    ArtifactAdded,
    PartAdded,
    PartDelta,
    PartUpdated,
    PermissionAsked,
    PermissionResolved,
    QuestionAsked,
    QuestionResolved,
    ReplyChange,
    Retrying,
    RowChange,
)
from opencode_async.protocol.parts import INTERRUPTED, Part, ToolPart
from opencode_async.protocol.reply import Reply
from opencode_async.turns.message import ledger_of
from opencode_async.turns.request import TurnRequest


class TurnTelemetry:
    """Tells of one turn in the hands of its worker."""

    def __init__(
        self, row: MessageMixin, request: TurnRequest, tell: Instrumentation, tracer: Tracer
    ) -> None:
        self._tell = tell
        self._tracer = tracer
        self._request = request
        self._message: dict[str, Any] = {"message_id": str(key_of(row))}
        self._conversation: dict[str, Any] = {"conversation_id": str(row.conversation_id)}
        self._epoch = row.epoch
        self._to_stop = row.stop_requested is not None
        self._span: Span = NO_SPAN
        self._reply: Reply | None = None
        self._accepted = False
        self._posts = 0
        self._prompted = 0.0
        self._began: float | None = None
        self.trace: Mapping[str, str] = {}  # of the span, for whoever takes the turn over
        self._finished = False
        self._first: Aside | None = None
        self._tools: dict[str, Aside | None] = {}  # by their parts; None once they are at their end

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the block lasts this worker runs the turn."""
        self._began = time.monotonic()
        self._tell(TurnStarted(**self._message, **self._conversation, epoch=self._epoch))
        if self._to_stop:
            self.stopping()
        attributes: Attributes = {**self._message, **self._conversation, "epoch": self._epoch}
        with self._tracer.span("turn", attributes, parent=self._request.trace) as self._span:
            self.trace = self._tracer.inject()
            try:
                yield
            except BaseException as error:
                if not self._finished:
                    self._given_up(error)
                raise
            finally:
                self._end_open()

    def span(self, name: str) -> AbstractContextManager[Span]:
        """A span of that kind, within the turn's."""
        return self._tracer.span(name, {})

    @contextmanager
    def prompting(self) -> Iterator[None]:
        """While the block lasts the prompt is posted for the first time."""
        self._end_open()  # of a session that was lost meanwhile
        self._prompted = time.monotonic()
        self._first = Aside(self._tracer.span("first_token", {}))
        with self.span("prompt"):
            yield

    def answering(self, reply: Reply, *, anew: bool) -> None:
        """This is the reply from now on; unless ``anew`` it was prompted before."""
        self._reply = reply
        self._accepted = False
        self._posts = 0 if anew else 1
        request = {"agent": self._request.agent, "model": self._request.model}
        self._span.set({"session_id": reply.session_id, **request})
        for part in reply.result():
            if isinstance(part, ToolPart) and not is_open(part):
                self._tools[part.id] = None
            self._called(part)

    def posting(self) -> None:
        """The prompt is about to be posted."""
        self._posts += 1
        if self._posts > 1:
            self._tell(PromptReposted(**self._message, **self._prompt, attempt=self._posts))

    def heard(self, changes: Iterable[ReplyChange | RowChange]) -> None:
        """Followers are told that."""
        if self._reply is not None and self._reply.accepted and not self._accepted:
            self._accepted = True
            self._tell(PromptAccepted(**self._message, **self._prompt))
        for change in changes:
            match change:
                case PartDelta():
                    self._answered()
                case PartAdded(part=part) | PartUpdated(part=part):
                    if isinstance(part, ToolPart) or part.content:
                        self._answered()
                    self._called(part)
                case Retrying(attempt=attempt):
                    self._failed(attempt, None)
                case PermissionAsked(permission=ask):
                    self._tell(AskAsked(**self._asked(ask, PERMISSION)))
                case QuestionAsked(question=ask):
                    self._tell(AskAsked(**self._asked(ask, QUESTION)))
                case PermissionResolved(permission=ask):
                    self._tell(AskResolved(**self._asked(ask, PERMISSION), status=ask["status"]))
                case QuestionResolved(question=ask):
                    self._tell(AskResolved(**self._asked(ask, QUESTION), status=ask["status"]))
                case ArtifactAdded(artifact=file):
                    names = ("content_type", "size", "trusted")
                    kept = {name: file[name] for name in names}
                    self._tell(ArtifactKept(**self._message, artifact_id=file["id"], **kept))

    def stopping(self) -> None:
        """The turn is to stop."""
        self._tell(TurnStopping(**self._message))

    def decided(self, ask: Ask, by: str) -> None:
        """An ask was answered without people."""
        about = {"session_id": ask.session_id, "ask_id": ask.id, "kind": kind_of(ask)}
        self._tell(AskDecided(**self._message, **about, by=by))

    def not_kept(self, error: Exception) -> None:
        """A file is not kept."""
        reason = error.reason if isinstance(error, SandboxFileRefused) else type(error).__name__
        self._tell(ArtifactRefused(**self._message, reason=reason))

    def ended(self, ending: Ending) -> None:
        """That is how OpenCode has ended the answer."""
        if ending.exchange is not None and ending.outcome.error is not None:
            self._failed(None, ending.outcome.error.code)

    def finished(self, row: MessageMixin) -> None:
        """The turn is at its end, and stored."""
        self._finished = True
        usage = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
        about: dict[str, Any] = {
            "status": row.status,
            "finish": row.finish,
            "error": row.error_code,
            "cost": row.cost,
            **{name: getattr(row, name) for name in usage},
        }
        agent, model = self._request.agent, answered_by(row)
        self._span.set({**about, "response_model": model})
        self._tell(
            TurnFinished(
                **self._message,
                **self._conversation,
                **about,
                epoch=self._epoch,
                agent=agent,
                model=model or self._request.model,
                seconds=seconds_of(row),
                ran=0.0 if self._began is None else time.monotonic() - self._began,
            )
        )

    @property
    def _prompt(self) -> dict[str, str]:
        """Which prompt it is, in which session."""
        if self._reply is None:
            return {"session_id": "", "prompt_id": ""}
        return {"session_id": self._reply.session_id, "prompt_id": self._reply.prompt_id}

    def _asked(self, ask: Any, kind: str) -> dict[str, str]:
        about = {"session_id": ask["session_id"], "ask_id": ask["id"], "kind": kind}
        return {**self._message, **about}

    def _answered(self) -> None:
        """A word or a call of the answer is there; the first ends the wait for it."""
        if self._first is not None:
            self._first.end({})
            self._first = None
            self._tell(
                TurnFirstToken(
                    **self._message,
                    agent=self._request.agent,
                    model=self._request.model,
                    seconds=time.monotonic() - self._prompted,
                )
            )

    def _called(self, part: Part) -> None:
        """If the part is a call, follow it from its beginning to its end."""
        if not isinstance(part, ToolPart):
            return
        if part.id not in self._tools:
            call = {"tool": part.tool, "call_id": part.call_id, "subagent": part.subagent}
            self._tools[part.id] = Aside(self._tracer.span("tool", call))
        span = self._tools[part.id]
        if span is not None and not is_open(part):
            # Its own words may be the agent's, or of what it worked on.
            failed = INTERRUPTED if part.error == INTERRUPTED else "tool_error"
            span.end({"status": part.status, "error": failed if part.status == "error" else None})
            self._tools[part.id] = None

    def _failed(self, attempt: int | None, code: str | None) -> None:
        session_id = self._prompt["session_id"]
        self._tell(
            ResponseUpstreamError(
                **self._message, session_id=session_id, attempt=attempt, code=code
            )
        )

    def _given_up(self, error: BaseException) -> None:
        kind = type(error).__name__
        failed = kind if isinstance(error, Exception) else None  # a shutdown is no failure
        self._span.set({"status": "given_up", "error": failed})
        self._tell(TurnGivenUp(**self._message, epoch=self._epoch, error=kind))

    def _end_open(self) -> None:
        """End what is under way: this worker sees no more of it."""
        for span in filter(None, [self._first, *self._tools.values()]):
            span.end({})
        self._first = None
        self._tools.clear()


def is_open(call: ToolPart) -> bool:
    """Whether the call is yet to come to its end."""
    return call.status in ("pending", "running")


def seconds_of(row: MessageMixin) -> float:
    """How long it took from the row's making to its end, by the database's clock."""
    if row.finished_at is None:
        return 0.0
    return (row.finished_at - row.created_at).total_seconds()


def answered_by(row: MessageMixin) -> str | None:
    """The model that made the last step of the answer; ``None`` if none is known."""
    return next((c.model for c in reversed(ledger_of(row)) if c.model), None)
