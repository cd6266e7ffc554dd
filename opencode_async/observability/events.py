"""What an ``Instrumentation`` is told: one table, of which all that is said about it is derived.

An event's class is its row of the table: its name, and its payload as fields. A payload holds ids,
names, numbers and codes, never a prompt, an answer, a path, a credential or who a person is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

Value = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; ``name`` says what, ``payload`` to which turn and how."""

    name: ClassVar[str]

    @property
    def payload(self) -> dict[str, Value]:
        """The fields by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class TurnPosted(Event):
    """A turn is stored (and committed): ``pending``, or ``queued`` behind another."""

    name: ClassVar[str] = "turn.posted"
    message_id: str
    conversation_id: str
    status: str


@dataclass(frozen=True, kw_only=True)
class TurnStarted(Event):
    """A worker runs a turn; one whose ``epoch`` is above 1 was begun by another worker."""

    name: ClassVar[str] = "turn.started"
    message_id: str
    conversation_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class TurnFirstToken(Event):
    """The agent has begun to answer, so many ``seconds`` after this worker sent the prompt."""

    name: ClassVar[str] = "turn.first_token"
    message_id: str
    agent: str | None
    model: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TurnStopping(Event):
    """The worker of a turn has seen that it is to stop: cancelled, interrupted, at a limit."""

    name: ClassVar[str] = "turn.stopping"
    message_id: str


@dataclass(frozen=True, kw_only=True)
class TurnFinished(Event):
    """A turn has ended and is stored: told at least once, as ``on_turn_finished`` is.

    ``seconds`` are from its post to its end, its wait in the queue included; ``ran`` are those
    since this worker took it, 0 if it only told of it. ``error`` is the message's ``code``,
    ``model`` the one that answered, or was asked for.
    """

    name: ClassVar[str] = "turn.finished"
    message_id: str
    conversation_id: str
    epoch: int
    status: str
    finish: str | None
    error: str | None
    agent: str | None
    model: str | None
    seconds: float
    ran: float
    cost: float
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int


@dataclass(frozen=True, kw_only=True)
class TurnGivenUp(Event):
    """A worker runs a turn no more that has not ended; ``error`` is the kind of what ended that."""

    name: ClassVar[str] = "turn.given_up"
    message_id: str
    epoch: int
    error: str


@dataclass(frozen=True, kw_only=True)
class TurnRecovered(Event):
    """A turn that nobody ran, or whose host was not told, was found and is dispatched again."""

    name: ClassVar[str] = "turn.recovered"
    message_id: str


@dataclass(frozen=True, kw_only=True)
class TurnPromoted(Event):
    """A queued turn's time has come: the one before it, ``after`` if it is known, has ended."""

    name: ClassVar[str] = "turn.promoted"
    message_id: str
    after: str | None


@dataclass(frozen=True, kw_only=True)
class LeaseClaimed(Event):
    """A worker has claimed a turn, to run it or to tell its host of it."""

    name: ClassVar[str] = "lease.claimed"
    message_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class LeaseReleased(Event):
    """A worker has given a turn back, for another to claim at once."""

    name: ClassVar[str] = "lease.released"
    message_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class LeaseTaken(Event):
    """A worker that slept finds that its turn is another's by now, or was erased."""

    name: ClassVar[str] = "lease.lost"
    message_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class SessionCreated(Event):
    """A conversation has its OpenCode session."""

    name: ClassVar[str] = "session.created"
    conversation_id: str
    session_id: str


@dataclass(frozen=True, kw_only=True)
class SessionRecreated(Event):
    """A conversation has another session: ``stale`` is forgotten, or of another folder."""

    name: ClassVar[str] = "session.recreated"
    conversation_id: str
    session_id: str
    stale: str


@dataclass(frozen=True, kw_only=True)
class SessionDiscarded(Event):
    """Two created a session for one conversation; this is the one that is deleted again."""

    name: ClassVar[str] = "session.discarded"
    conversation_id: str
    session_id: str


@dataclass(frozen=True, kw_only=True)
class PromptAccepted(Event):
    """OpenCode has the prompt, as its stream or its REST API shows."""

    name: ClassVar[str] = "prompt.accepted"
    message_id: str
    session_id: str
    prompt_id: str


@dataclass(frozen=True, kw_only=True)
class PromptReposted(Event):
    """The prompt is posted again under the same ids: lost on its way, or its server crashed."""

    name: ClassVar[str] = "prompt.reposted"
    message_id: str
    session_id: str
    prompt_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class ResponseUpstreamError(Event):
    """An answer failed upstream: its model is asked again, or it has ended with that ``code``."""

    name: ClassVar[str] = "response.upstream_error"
    message_id: str
    session_id: str
    attempt: int | None
    code: str | None


@dataclass(frozen=True, kw_only=True)
class AskAsked(Event):
    """The agent asks people something: ``kind`` is ``permission`` or ``question``."""

    name: ClassVar[str] = "ask.asked"
    message_id: str
    session_id: str
    ask_id: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class AskResolved(Event):
    """What people were asked is ``answered``, ``expired`` or ``gone``."""

    name: ClassVar[str] = "ask.resolved"
    message_id: str
    session_id: str
    ask_id: str
    kind: str
    status: str


@dataclass(frozen=True, kw_only=True)
class AskDecided(Event):
    """What the agent asks is answered without people.

    ``by`` says by what: ``rules``, ``decide``, an earlier ``always``, or ``nobody``, for it is
    refused for want of a table. ``ask_id`` is OpenCode's.
    """

    name: ClassVar[str] = "ask.decided"
    message_id: str
    session_id: str
    ask_id: str
    kind: str
    by: str


@dataclass(frozen=True, kw_only=True)
class ArtifactKept(Event):
    """A file of a turn's is kept; ``trusted`` is one that the host rendered."""

    name: ClassVar[str] = "artifact.kept"
    message_id: str
    artifact_id: str
    content_type: str
    size: int
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class ArtifactRefused(Event):
    """A file is not kept: the ``reason`` of ``SandboxFileRefused``, or the kind of the error."""

    name: ClassVar[str] = "artifact.refused"
    message_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StreamConnected(Event):
    """The event stream of an OpenCode server stands, after so many ``failures`` to connect."""

    name: ClassVar[str] = "stream.connected"
    server: str
    reconnected: bool
    failures: int


@dataclass(frozen=True, kw_only=True)
class StreamBroken(Event):
    """It broke, or could not be opened; so many ``sessions`` were listened to."""

    name: ClassVar[str] = "stream.broken"
    server: str
    sessions: int
    error: str


@dataclass(frozen=True, kw_only=True)
class StreamOverflowed(Event):
    """A turn lagged so far behind that it was not given its events; it reads REST instead."""

    name: ClassVar[str] = "stream.overflowed"
    server: str
    session_id: str


@dataclass(frozen=True, kw_only=True)
class FollowerJoined(Event):
    """Somebody follows: ``of`` is ``turn`` or ``conversation``, ``id`` says which."""

    name: ClassVar[str] = "follower.joined"
    of: str
    id: str


@dataclass(frozen=True, kw_only=True)
class FollowerLeft(Event):
    """They follow no more."""

    name: ClassVar[str] = "follower.left"
    of: str
    id: str


@dataclass(frozen=True, kw_only=True)
class FollowerDropped(Event):
    """A follower was so slow that what it has not had is gone: it gets a snapshot instead."""

    name: ClassVar[str] = "follower.dropped"
    message_id: str


@dataclass(frozen=True, kw_only=True)
class FollowerStalled(Event):
    """A browser took nothing for so long that its stream ends; once it reads, it may go on."""

    name: ClassVar[str] = "follower.stalled"
    of: str
    id: str


EVENTS: tuple[type[Event], ...] = tuple(Event.__subclasses__())
