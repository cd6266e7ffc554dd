"""What the agent asks of people: permissions and questions, and what may be replied to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from opencode_async.errors import InvalidReply
from opencode_async.protocol.permissions import Permissions, like
from opencode_async.protocol.wire import clean, mapping, objects, optional_text, text

PERMISSION, QUESTION = "permission", "question"
DENIED = "The rules of this conversation do not allow it. Go on without it."
NOBODY = "Nobody answered. Go on without it, or say what you would have needed."


@dataclass(frozen=True, slots=True)
class Permission:
    """The agent waits for leave; OpenCode knows no time limit for that.

    ``permission`` is what for (``bash``, ``edit``, …), ``patterns`` what it is applied to,
    ``metadata`` the details (the ``command``, the ``diff``); ``always`` are the patterns that a
    reply of ``always`` grants. ``session_id`` may be a subagent's, ``message_id`` is OpenCode's
    message with the tool call.
    """

    session_id: str
    id: str
    permission: str
    patterns: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    always: tuple[str, ...] = ()
    message_id: str | None = None

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any]) -> Self:
        """A pending permission, in an event or in the list of ``GET /permission``."""
        metadata = raw.get("metadata")
        return cls(
            session_id=text(raw, "sessionID"),
            id=text(raw, "id"),
            permission=text(raw, "permission"),
            patterns=_texts(raw.get("patterns")),
            metadata=metadata if isinstance(metadata, Mapping) else {},
            always=_texts(raw.get("always")),
            message_id=_message_of(raw),
        )

    @property
    def about(self) -> tuple[str, ...]:
        """The patterns, and the paths that a patch moves files to.

        OpenCode shows those, but matches no rule against them (1.18.33, measured).
        """
        files = objects((self.metadata or {}).get("files"))
        # One without a name matches only rules for everything.
        moved = (optional_text(file, "relativePath") or "" for file in files)
        return tuple(dict.fromkeys([*self.patterns, *moved]))

    def to_json(self) -> dict[str, Any]:
        """What a person is shown, in the contract's fields."""
        return {
            "permission": self.permission,
            "patterns": list(self.patterns),
            "metadata": dict(self.metadata or {}),
            "always": list(self.always),
        }


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One of the things a question asks: ``options`` are pairs of label and description.

    ``custom``: a person may use words of their own. The agent cannot forbid that; whoever asks
    through OpenCode's own API can (1.18.33, measured).
    """

    question: str
    header: str
    options: tuple[tuple[str, str], ...]
    multiple: bool
    custom: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "header": self.header,
            "options": [{"label": label, "description": about} for label, about in self.options],
            "multiple": self.multiple,
            "custom": self.custom,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """The agent waits for an answer to each of ``questions``, without any time limit."""

    session_id: str
    id: str
    questions: tuple[Inquiry, ...] = ()
    message_id: str | None = None

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any]) -> Self:
        """A pending question, in an event or in the list of ``GET /question``."""
        return cls(
            session_id=text(raw, "sessionID"),
            id=text(raw, "id"),
            questions=inquiries(raw.get("questions")),
            message_id=_message_of(raw),
        )

    def to_json(self) -> dict[str, Any]:
        """What a person is shown, in the contract's fields."""
        return {"questions": [inquiry.to_json() for inquiry in self.questions]}


Ask = Permission | Question


def kind_of(ask: Ask) -> str:
    """``permission`` or ``question``, as its row says."""
    return PERMISSION if isinstance(ask, Permission) else QUESTION


@dataclass(frozen=True, slots=True)
class PermissionReply:
    """A reply to a permission.

    ``always`` also grants what else matches the permission's ``always`` patterns in the same
    conversation. ``message`` goes with ``reject``: with words the agent hears them and goes on,
    without any its turn ends (OpenCode 1.18.33, measured).
    """

    reply: Literal["once", "always", "reject"]
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        words = {"message": clean(self.message)} if self.message else {}
        return {"reply": self.reply, **words}


@dataclass(frozen=True, slots=True)
class QuestionReply:
    """A reply to a question: for each of its questions the labels that were chosen.

    ``custom`` holds a person's own words for each question, or ``None``. A reply without
    ``answers`` dismisses the question, which ends the turn.
    """

    answers: Sequence[Sequence[str]] | None = None
    custom: Sequence[str | None] = ()

    def checked(self, question: Sequence[Inquiry]) -> dict[str, Any]:
        """The reply to those questions as it is stored; raises ``InvalidReply``.

        OpenCode itself takes any number of answers and any label (1.18.33, measured).
        """
        if self.answers is None:
            if self.custom:
                raise InvalidReply("custom goes with answers")
            return {"reject": True}
        if len(self.answers) != len(question):
            raise InvalidReply(f"{len(question)} answers are wanted, not {len(self.answers)}")
        if self.custom and len(self.custom) != len(question):
            raise InvalidReply(f"custom has a place for each of the {len(question)} questions")
        words = self.custom or [None] * len(question)
        return {
            "answers": [
                _answer(inquiry, chosen, own)
                for inquiry, chosen, own in zip(question, self.answers, words, strict=True)
            ]
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """What a host's ``decide`` says to an ask, instead of a person: see its three makers."""

    action: Literal["allow", "reject", "ask"]
    message: str | None = None

    @classmethod
    def allow(cls) -> Self:
        """Grant the permission, this once; a question has nothing to allow and is asked."""
        return cls("allow")

    @classmethod
    def reject(cls, message: str | None = None) -> Self:
        """Refuse it. With a message the agent is told and goes on; a question is dismissed."""
        return cls("reject", message)

    @classmethod
    def ask(cls) -> Self:
        """Ask a person."""
        return cls("ask")

    def reply_to(self, kind: str) -> dict[str, Any] | None:
        """The reply to store; ``None`` where a person is to be asked."""
        if self.action == "reject":
            refusal = PermissionReply("reject", self.message).to_json()
            return refusal if kind == PERMISSION else {"reject": True}
        if self.action == "allow" and kind == PERMISSION:
            return PermissionReply("once").to_json()
        return None

    def to_json(self) -> dict[str, Any]:
        return {"action": self.action, "message": self.message}


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """How long people have to answer what a turn asks, and what is replied when they did not.

    ``within`` is in seconds from the asking, ``None`` for ever. ``default`` is a rejection with
    words, at which the agent goes on, unless given; a question that is not answered is dismissed.
    """

    within: float | None = 3600.0
    default: Decision = Decision("reject", NOBODY)

    def __post_init__(self) -> None:
        if self.default.action == "ask":
            raise ValueError("the default is what is replied without asking: allow or reject")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The policy as a worker stored it with its turn."""
        return cls(stored["within"], Decision(**stored["default"]))

    def to_json(self) -> dict[str, Any]:
        return {"within": self.within, "default": self.default.to_json()}

    def reply_to(self, kind: str) -> dict[str, Any]:
        """The reply to store of an ask that nobody answered in time."""
        return self.default.reply_to(kind) or {"reject": True}


def ruled(ask: Ask, permissions: Permissions) -> dict[str, Any] | None:
    """The reply that the rules of the conversation give; ``None`` where they leave it to people."""
    if not isinstance(ask, Permission):
        return None
    match permissions.action(ask.permission, ask.about):
        case "allow":
            return PermissionReply("once").to_json()
        case "deny":
            return PermissionReply("reject", DENIED).to_json()
    return None


def granted(ask: Permission, permission: str, patterns: Iterable[str]) -> bool:
    """Whether what was granted for ``permission`` covers all that is asked for."""
    grants = list(patterns)
    covered = [any(like(pattern, grant) for grant in grants) for pattern in ask.about]
    return ask.permission == permission and bool(covered) and all(covered)


def inquiries(raw: object) -> tuple[Inquiry, ...]:
    """The questions in OpenCode's payload, or as a row holds them."""
    return tuple(_inquiry(question) for question in objects(raw))


def _inquiry(raw: Mapping[str, Any]) -> Inquiry:
    return Inquiry(
        question=optional_text(raw, "question") or "",
        header=optional_text(raw, "header") or "",
        options=tuple(
            (text(option, "label"), optional_text(option, "description") or "")
            for option in objects(raw.get("options"))
        ),
        multiple=raw.get("multiple") is True,
        custom=raw.get("custom") is not False,
    )


def _answer(inquiry: Inquiry, chosen: Sequence[str], own: str | None) -> list[str]:
    labels = {label for label, _ in inquiry.options}
    for label in chosen:
        if label not in labels:
            raise InvalidReply(f"{label!r} is not among the options of {inquiry.header!r}")
    if len(set(chosen)) != len(chosen):
        raise InvalidReply(f"a label was chosen twice in {inquiry.header!r}")
    words = clean(own).strip() if own else ""
    if words and not inquiry.custom:
        raise InvalidReply(f"{inquiry.header!r} takes no words of one's own")
    answer = [*chosen, *([words] if words else [])]
    if len(answer) > 1 and not inquiry.multiple:
        raise InvalidReply(f"{inquiry.header!r} takes one answer")
    return answer


def _message_of(raw: Mapping[str, Any]) -> str | None:
    tool = raw.get("tool")
    return optional_text(mapping(tool), "messageID") if isinstance(tool, Mapping) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()
