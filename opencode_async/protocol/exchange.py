"""The authoritative messages of one turn, as REST has them, and how they say it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.lineage import Lineage
from opencode_async.protocol.messages import ABORTED, UpstreamError, Usage, WireMessage
from opencode_async.protocol.parts import Part, ToolPart, interrupted

TerminalStatus = Literal["completed", "cancelled", "error"]

# OpenCode's names of errors (1.18.33) -> our stable codes.
ERROR_CODES = {
    "APIError": "provider_error",
    "ProviderAuthError": "provider_auth",
    "ContextOverflowError": "context_overflow",
    "MessageOutputLengthError": "output_length",
    "ContentFilterError": "content_filter",
    "StructuredOutputError": "structured_output",
}


# How the error of a tool call begins that somebody declined, which ends the turn; declined with
# words, the agent hears them and goes on (OpenCode 1.18.33, measured).
DECLINED = ("The user rejected permission", "The user dismissed")
WITH_WORDS = "with the following feedback"


@dataclass(frozen=True, slots=True)
class TurnError:
    """Why a turn ended ``error``: a stable ``code`` and a ``message`` that is safe to show."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended: its terminal status, OpenCode's finish reason in snake case, the error."""

    status: TerminalStatus
    finish: str | None = None
    error: TurnError | None = None


@dataclass(frozen=True)
class Exchange:
    """One turn's messages.

    ``accepted``: our prompt is there, with its parts. ``newest``: no other prompt came after it.
    ``ledger``: what each step cost, children's and compactions' included.
    """

    accepted: bool
    newest: bool
    answers: tuple[WireMessage, ...]
    ledger: tuple[Charge, ...]

    @classmethod
    def read(
        cls, prompt_id: str, messages: Iterable[WireMessage], spent: Sequence[Charge] = ()
    ) -> Self:
        """Pick the turn out of a session's messages, oldest first; ``spent`` by children."""
        lineage = Lineage(prompt_id)
        accepted, newest = False, True
        made: list[WireMessage] = []
        for message in messages:
            if message.info.role == "user":
                newest = message.info.id == prompt_id
                accepted = accepted or (newest and message.has_parts)
                lineage.user(message.info.id, message.info.created)
                if message.compaction:
                    lineage.compaction(message.info.id)
            elif lineage.owns(message.info):
                made.append(message)
        return cls(
            accepted=accepted,
            newest=newest,
            answers=tuple(m for m in made if not m.info.summary),
            ledger=(*(Charge.of(m.info) for m in made), *spent),
        )

    @property
    def usage(self) -> Usage:
        """What the turn cost, all in all."""
        return Usage.total(charge.usage for charge in self.ledger)

    @property
    def complete(self) -> bool:
        """Whether the newest answer is completed; with none yet, nothing is."""
        return bool(self.answers) and self.answers[-1].info.completed

    @property
    def concluded(self) -> bool:
        """Whether the newest answer says itself that it is the last; a step's does not."""
        return self.complete and self.answers[-1].info.last

    @property
    def stranded(self) -> bool:
        """Whether the answer is not at its end: with the session at rest, its server crashed.

        A step that called tools is an end only where somebody declined a call.
        """
        if not self.complete:
            return True
        info = self.answers[-1].info
        on_its_way = info.finish == "tool-calls" and info.error is None and not info.structured
        return on_its_way and not any(map(_is_declined, self.answers[-1].parts))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The answers' parts in order."""
        return tuple(part for message in self.answers for part in message.parts)

    @property
    def final_parts(self) -> tuple[Part, ...]:
        """The parts of a turn that is over: a tool still running will never end."""
        return tuple(interrupted(part) for part in self.parts)

    @property
    def children(self) -> tuple[str, ...]:
        """The sessions of the subagents that the answers started."""
        ids = (p.session_id for p in self.parts if isinstance(p, ToolPart) and p.session_id)
        return tuple(dict.fromkeys(ids))

    def outcome(self, error: UpstreamError | None = None) -> Outcome:
        """How the turn ended; ``error`` is the stream's last one, for turns that left no answer."""
        if not self.answers:
            return failed(error) if error else NO_ANSWER
        info = self.answers[-1].info
        if info.error is not None:
            return failed(info.error)
        if self.stranded:
            return INTERRUPTED if self.newest else ORPHANED
        if info.structured:
            return Outcome("completed", "stop")
        match info.finish:
            case None:
                return ABORTED_OUTCOME
            case "tool-calls":
                return Outcome("completed", "rejected")
            case "content-filter":
                return failed(UpstreamError("ContentFilterError", "The answer was filtered."))
            case "error":
                return failed(error or UpstreamError("UnknownError", "The model call failed."))
        return Outcome("completed", info.finish.replace("-", "_"))


def _is_declined(part: Part) -> bool:
    error = (isinstance(part, ToolPart) and part.error) or ""
    return error.startswith(DECLINED) and WITH_WORDS not in error


def failed(error: UpstreamError) -> Outcome:
    """The outcome of an error OpenCode reports; an abort that we did not ask for is one too."""
    if error.name == ABORTED:
        return ABORTED_OUTCOME
    code = ERROR_CODES.get(error.name, "agent_error")
    finish = "content_filter" if code == "content_filter" else None
    return Outcome("error", finish, TurnError(code, error.message or error.name))


NO_ANSWER = Outcome("error", None, TurnError("no_answer", "The agent gave no answer."))
INTERRUPTED = Outcome(
    "error",
    None,
    TurnError("interrupted", "The agent's server stopped before the answer was done."),
)
ORPHANED = Outcome(
    "error",
    None,
    TurnError("orphaned", "The agent's server stopped, and this answer cannot be taken up again."),
)
ABORTED_OUTCOME = Outcome("cancelled", "aborted")
