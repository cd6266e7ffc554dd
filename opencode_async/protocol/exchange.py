"""The authoritative messages of one turn, as REST has them, and how they say it ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Self

from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.lineage import Lineage
from opencode_async.protocol.messages import ABORTED, UpstreamError, Usage, WireMessage
from opencode_async.protocol.parts import Part, ToolPart, interrupted
from opencode_async.protocol.subagents import Subagent, child_of, is_task, linked
from opencode_async.protocol.tool_artifacts import ToolArtifact, tool_artifacts

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
    ``theirs``: what the subagents answered, by their sessions. ``ledger``: what each step cost,
    children's and compactions' included.
    """

    accepted: bool
    newest: bool
    answers: tuple[WireMessage, ...]
    theirs: Mapping[str, tuple[WireMessage, ...]]
    ledger: tuple[Charge, ...]

    @classmethod
    def read(
        cls,
        prompt_id: str,
        messages: Iterable[WireMessage],
        children: Sequence[Subagent] = (),
        theirs: Mapping[str, Sequence[WireMessage]] = MappingProxyType({}),
    ) -> Self:
        """Pick the turn out of a session's messages, oldest first.

        ``children`` are the subagents that were started meanwhile, oldest first; ``theirs`` what
        these and those that the calls themselves name have answered in this turn.
        """
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
        everything = (*made, *(m for answers in theirs.values() for m in answers))
        return cls(
            accepted=accepted,
            newest=newest,
            answers=_shown(made, children),
            theirs={key: _shown(answers, children) for key, answers in theirs.items()},
            ledger=tuple(Charge.of(message.info) for message in everything),
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
    def delegates(self) -> bool:
        """Whether a call of the answers had a subagent work."""
        return any(is_task(part) for message in self.answers for part in message.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The answers' parts in order, a subagent's behind the call that started it."""
        return tuple(self._told(self.answers, None, set()))

    @property
    def final_parts(self) -> tuple[Part, ...]:
        """The parts of a turn that is over: a tool still running will never end."""
        return tuple(interrupted(part) for part in self.parts)

    @property
    def tool_artifacts(self) -> tuple[ToolArtifact, ...]:
        """The files that its tool calls say they left, subagents' included."""
        return tool_artifacts(self.parts)

    def _told(
        self, answers: Iterable[WireMessage], subagent: str | None, seen: set[str]
    ) -> Iterator[Part]:
        for part in (part for message in answers for part in message.parts):
            yield part if subagent is None else replace(part, subagent=subagent)
            child = child_of(part)
            if child is not None and child not in seen:
                seen.add(child)
                yield from self._told(self.theirs.get(child, ()), child, seen)

    @property
    def children(self) -> tuple[str, ...]:
        """The sessions of the subagents, of the answers and of one another."""
        return tuple(dict.fromkeys(filter(None, map(child_of, self.parts))))

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


def _shown(made: Iterable[WireMessage], children: Sequence[Subagent]) -> tuple[WireMessage, ...]:
    """The answers among one session's messages, their calls with the subagents they started."""
    answers = [message for message in made if not message.info.summary]
    own = {message.info.session_id for message in answers}
    parts = iter(
        linked(
            (part for message in answers for part in message.parts),
            (child for child in children if child.parent_id in own),
        )
    )
    return tuple(replace(m, parts=tuple(next(parts) for _ in m.parts)) for m in answers)


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
