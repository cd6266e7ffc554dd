"""What followers of a turn are told: the events of the HTTP contract as typed values.

``Snapshot`` replaces the state of its message; ``PartAdded``, ``PartDelta`` and ``PartUpdated``
address a part by its index, which never changes. Replaying a snapshot and what follows gives the
stored message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, TypeVar

from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import Part, part_from_json
from opencode_async.protocol.todos import Todo, todos_from_wire
from opencode_async.protocol.tool_display import with_display


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole message as the HTTP contract shows it."""

    event: ClassVar[str] = "snapshot"
    message: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"message": self.message}


@dataclass(frozen=True, slots=True)
class MessageAdded:
    """A message is new in the conversation (told on the conversation's stream only)."""

    event: ClassVar[str] = "message.added"
    message: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"message": self.message}


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The message's status is now this."""

    event: ClassVar[str] = "status"
    status: str

    def to_json(self) -> dict[str, Any]:
        return {"status": self.status}


@dataclass(frozen=True, slots=True)
class PartAdded:
    """A part was appended; ``index`` is its place."""

    event: ClassVar[str] = "part.added"
    index: int
    part: Part

    def to_json(self) -> dict[str, Any]:
        return {"index": self.index, "part": with_display(self.part.to_json())}


@dataclass(frozen=True, slots=True)
class PartDelta:
    """Text to append to the content of the part at ``index``."""

    event: ClassVar[str] = "part.delta"
    index: int
    delta: str

    def to_json(self) -> dict[str, Any]:
        return {"index": self.index, "delta": self.delta}


@dataclass(frozen=True, slots=True)
class PartUpdated:
    """The part at ``index`` is now this one; text may have been withdrawn (a failed attempt)."""

    event: ClassVar[str] = "part.updated"
    index: int
    part: Part

    def to_json(self) -> dict[str, Any]:
        return {"index": self.index, "part": with_display(self.part.to_json())}


@dataclass(frozen=True, slots=True)
class TodosChanged:
    """The agent's todo list is now this one."""

    event: ClassVar[str] = "todos"
    todos: tuple[Todo, ...]

    def to_json(self) -> dict[str, Any]:
        return {"todos": [todo.to_json() for todo in self.todos]}


@dataclass(frozen=True, slots=True)
class Retrying:
    """The provider failed and is asked again at ``next_at`` (ms since 1970); not stored."""

    event: ClassVar[str] = "retrying"
    attempt: int
    message: str
    next_at: float

    def to_json(self) -> dict[str, Any]:
        return {"attempt": self.attempt, "message": self.message, "next_at": self.next_at}


@dataclass(frozen=True, slots=True)
class UsageChanged:
    """What the turn has cost so far, subagents included."""

    event: ClassVar[str] = "usage"
    usage: Usage

    def to_json(self) -> dict[str, Any]:
        return self.usage.to_json()


@dataclass(frozen=True, slots=True)
class PermissionAsked:
    """The agent waits for leave; the permission as the message has it."""

    event: ClassVar[str] = "permission.asked"
    permission: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"permission": self.permission}


@dataclass(frozen=True, slots=True)
class PermissionResolved:
    """A permission was answered, has expired or is gone."""

    event: ClassVar[str] = "permission.resolved"
    permission: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"permission": self.permission}


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """The agent waits for an answer; the question as the message has it."""

    event: ClassVar[str] = "question.asked"
    question: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"question": self.question}


@dataclass(frozen=True, slots=True)
class QuestionResolved:
    """A question was answered, has expired or is gone."""

    event: ClassVar[str] = "question.resolved"
    question: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"question": self.question}


@dataclass(frozen=True, slots=True)
class ArtifactAdded:
    """A file that the turn produced is kept; the artifact as the message has it."""

    event: ClassVar[str] = "artifact"
    artifact: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"artifact": self.artifact}


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn has ended; the message as stored. Nothing follows."""

    event: ClassVar[str] = "finished"
    message: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"message": self.message}


ReplyChange = PartAdded | PartDelta | PartUpdated | TodosChanged | Retrying | UsageChanged
AskChange = PermissionAsked | PermissionResolved | QuestionAsked | QuestionResolved
RowChange = AskChange | ArtifactAdded  # of what stands beside the message, in rows of its own
Change = Snapshot | MessageAdded | StatusChanged | ReplyChange | RowChange | Finished
ChangeT = TypeVar("ChangeT", bound=Change)


def merged(changes: Iterable[ChangeT]) -> Iterator[ChangeT | PartDelta]:
    """The changes with neighbouring deltas of one part made one: what a burst of tokens becomes."""
    for index, run in groupby(changes, lambda c: c.index if isinstance(c, PartDelta) else None):
        if index is None:
            yield from run
        else:
            yield PartDelta(index, "".join(c.delta for c in run if isinstance(c, PartDelta)))


def change_from_json(event: str, data: Mapping[str, Any]) -> Change:
    """The change that ``to_json`` wrote under that event name; ``KeyError`` for any other name."""
    return READERS[event](data)


READERS: Mapping[str, Callable[[Mapping[str, Any]], Change]] = {
    Snapshot.event: lambda d: Snapshot(d["message"]),
    MessageAdded.event: lambda d: MessageAdded(d["message"]),
    StatusChanged.event: lambda d: StatusChanged(d["status"]),
    PartAdded.event: lambda d: PartAdded(d["index"], part_from_json(d["part"])),
    PartDelta.event: lambda d: PartDelta(d["index"], d["delta"]),
    PartUpdated.event: lambda d: PartUpdated(d["index"], part_from_json(d["part"])),
    TodosChanged.event: lambda d: TodosChanged(todos_from_wire(d["todos"])),
    Retrying.event: lambda d: Retrying(d["attempt"], d["message"], d["next_at"]),
    UsageChanged.event: lambda d: UsageChanged(Usage.from_json(d)),
    PermissionAsked.event: lambda d: PermissionAsked(d["permission"]),
    PermissionResolved.event: lambda d: PermissionResolved(d["permission"]),
    QuestionAsked.event: lambda d: QuestionAsked(d["question"]),
    QuestionResolved.event: lambda d: QuestionResolved(d["question"]),
    ArtifactAdded.event: lambda d: ArtifactAdded(d["artifact"]),
    Finished.event: lambda d: Finished(d["message"]),
}
