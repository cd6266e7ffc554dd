"""The reply as it grows: ``apply(event) -> changes``.

Responsibilities: which events belong to our turn; the parts in their order, with their text; what
each step cost; whether our prompt was accepted; whether the session has come to rest since. Not
responsibilities: IO, time, storing, deciding how the turn ended (read from REST, see ``exchange``).

What made it a state machine of its own: text arrives as deltas whose sum exists nowhere else until
the part ends; ``session.idle`` can be an earlier turn's, can come twice and can come before the
last ``message.updated``; a failed attempt's text is silently void (OpenCode 1.18.33, measured).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from opencode_async.protocol.changes import (
    PartAdded,
    PartDelta,
    PartUpdated,
    ReplyChange,
    Retrying,
    TodosChanged,
    UsageChanged,
)
from opencode_async.protocol.events import (
    Event,
    MessagePartDelta,
    MessagePartUpdated,
    MessageUpdated,
    SessionCreated,
    SessionError,
    SessionIdle,
    SessionStatus,
    TodoUpdated,
)
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.lineage import Lineage
from opencode_async.protocol.messages import ABORTED, MessageInfo, UpstreamError, Usage
from opencode_async.protocol.parts import Part, ReasoningPart, TextPart, ToolPart, joined
from opencode_async.protocol.todos import Todo, todos_of

Changes = list[ReplyChange]
MOST_EARLY = 1000  # events kept for messages not announced yet; 300 ms of deltas were seen


class Reply:
    """The state of one turn's answer in one session; illegal or foreign events change nothing."""

    def __init__(
        self,
        session_id: str,
        prompt_id: str,
        parts: Iterable[Part] = (),
        ledger: Iterable[Charge] = (),
    ) -> None:
        self.session_id = session_id
        self.prompt_id = prompt_id
        self.accepted = False
        self.idle = False
        self.error: UpstreamError | None = None
        self.todos: tuple[Todo, ...] = ()
        self.children: set[str] = set()
        self._lineage = Lineage(prompt_id)
        self._parts: list[Part] = []
        self._text: list[list[str]] = []
        self._index: dict[str, int] = {}
        self._open: set[int] = set()
        self._torn: set[str] = set()
        self._answers: dict[str, MessageInfo] = {}
        self._ledger = {charge.message_id: charge for charge in ledger}
        self._early: dict[str, list[Event]] = {}
        self._early_count = 0
        for part in parts:
            self._put(part, ended=_is_done(part))
        self.tear()

    @property
    def settled(self) -> bool:
        """Whether the turn seems over: idle since our prompt was seen, nothing left incomplete."""
        if not (self.accepted and self.idle):
            return False
        return self._newest is None or self._newest.completed

    @property
    def begun(self) -> bool:
        """Whether there is an answer, however short."""
        return bool(self._answers)

    @property
    def concluded(self) -> bool:
        """Whether the newest answer says itself that it is the last; a step's does not."""
        return self._newest is not None and self._newest.last

    @property
    def steps(self) -> int:
        """How many answers there are: calls of the model."""
        return len(self._answers)

    @property
    def has_parts(self) -> bool:
        """Whether anything of the answer is there."""
        return bool(self._parts)

    @property
    def ledger(self) -> tuple[Charge, ...]:
        """What each step so far has cost, subagents' included."""
        return tuple(self._ledger.values())

    @property
    def usage(self) -> Usage:
        """What all of them have cost."""
        return Usage.total(charge.usage for charge in self._ledger.values())

    def part(self, index: int) -> Part:
        """The part at that index as it is now."""
        part, text = self._parts[index], self._text[index]
        if isinstance(part, (TextPart, ReasoningPart)) and len(text) > 1:
            text[:] = ["".join(text)]
            part = self._parts[index] = replace(part, content=text[0])
        return part

    def result(self) -> tuple[Part, ...]:
        """All parts as they are now."""
        return tuple(self.part(index) for index in range(len(self._parts)))

    def apply(self, event: Event) -> Changes:
        """Take in one event of our session or a child's; what followers must be told comes back."""
        match event:
            case SessionCreated(session_id, parent_id):
                if parent_id == self.session_id or parent_id in self.children:
                    self.children.add(session_id)
                return []
            case MessageUpdated(session_id, info) if session_id in self.children:
                return self.charge([Charge.of(info)]) if info.role == "assistant" else []
            case _ if getattr(event, "session_id", None) != self.session_id:
                return []
            case MessagePartDelta():
                return self._delta(event)
            case MessagePartUpdated():
                return self._part_updated(event)
            case MessageUpdated(info=info):
                return self._message(info)
            case SessionStatus():
                return self._status(event)
            case SessionIdle():
                self.idle = self.accepted
                return []
            case SessionError(error=error):
                # Some errors come twice, the second time as a stack trace. And before our prompt is
                # there, an abort is the end of an earlier turn.
                if self.error is None and (self.accepted or error.name != ABORTED):
                    self.error = error
                return []
            case TodoUpdated(todos=todos):
                return self._plan(todos)
        return []

    def tear(self) -> None:
        """Events were missed: what is appended to an open text from now on would leave a hole.

        Such a text stands still until its end, when OpenCode says all of it.
        """
        self._torn |= {self._parts[index].id for index in self._open}

    def accept(self) -> None:
        """Our prompt is there, as a look-up over REST found."""
        self.accepted = True
        self._lineage.user(self.prompt_id)

    def catch_up(self, exchange: Exchange) -> Changes | None:
        """Take from REST what the stream did not bring; ``None`` as with ``reconcile``."""
        for answer in exchange.answers:
            known = self._answers.get(answer.info.id)
            if known is None or answer.info.completed:
                self._answers[answer.info.id] = answer.info
            self._early_count -= len(self._early.pop(answer.info.id, []))
        changes = self.reconcile(exchange.parts, final=False)
        charged = self.charge(exchange.ledger)
        return changes if changes is None else [*changes, *charged]

    def charge(self, charges: Iterable[Charge]) -> Changes:
        """Note what steps cost. A step says so at its end: nothing takes that back."""
        before = self.usage
        for charge in charges:
            if charge.usage != Usage() or charge.message_id not in self._ledger:
                self._ledger[charge.message_id] = charge
        usage = self.usage
        return [UsageChanged(usage)] if usage != before else []

    def reconcile(self, parts: Sequence[Part], *, final: bool) -> Changes | None:
        """Become what REST says; ``None`` when only a new snapshot can tell followers.

        While the answer is not ``final`` the last text in REST, if empty, is unknown: a part gets
        its text there only when it has ended, so what streamed is kept. Any earlier empty one is
        the truth, of an attempt that failed.
        """
        known, truth = [p.id for p in self._parts], [p.id for p in parts]
        texts = [part for part in parts if isinstance(part, (TextPart, ReasoningPart))]
        unknown = texts[-1].id if texts and not final and not texts[-1].content else None
        # REST may still lag behind the stream; only at the end does it lack what never was.
        in_order = truth[: len(known)] == known or (not final and known[: len(truth)] == truth)
        planned = self._plan(todos_of(parts, final=final))
        # What the stream has not brought yet it may bring from its middle on.
        self._torn |= set(truth) - set(known)
        if in_order:
            changes = [c for p in parts for c in self._put(p, ended=final or _is_over(p, unknown))]
            return changes + planned
        streamed = {part.id: part for part in self.result()}
        self._parts, self._text, self._index, self._open = [], [], {}, set()
        for part in parts:
            whole = final or _is_over(part, unknown)
            self._put(part if whole else streamed.get(part.id, part), ended=whole)
        return None

    @property
    def _newest(self) -> MessageInfo | None:
        return next(reversed(self._answers.values()), None)

    def _message(self, info: MessageInfo) -> Changes:
        early = self._early.pop(info.id, [])
        self._early_count -= len(early)
        if info.role == "user":
            self._lineage.user(info.id, info.created)
            return []
        if not self._lineage.owns(info):
            return []
        new = info.id not in self._answers
        # A later answer means that what an earlier one left open will never be completed.
        changes = self._withdraw() if new else []
        if new or info.completed or not self._answers[info.id].completed:
            self._answers[info.id] = info  # else from before its end, which REST told first
        for event in early:
            changes += self.apply(event)
        return changes + self.charge([Charge.of(info)])

    def _part_updated(self, event: MessagePartUpdated) -> Changes:
        if event.message_id == self.prompt_id:
            self.accept()
            return []
        if event.kind == "compaction":
            self._lineage.compaction(event.message_id)
            return []
        answer = self._answers.get(event.message_id)
        if answer is None:
            return self._keep(event, event.message_id)
        if answer.summary:
            return []
        if event.kind == "step-start":
            return self._withdraw()
        if event.part is None:
            return []
        if not event.ended and not _content(event.part):
            self._torn.discard(event.part.id)  # its beginning
        return self._put(event.part, ended=event.ended or _is_done(event.part))

    def _delta(self, event: MessagePartDelta) -> Changes:
        index = self._index.get(event.part_id)
        if index is None:
            if event.message_id in self._answers:
                return []  # of a part that a gap swallowed: REST will tell
            return self._keep(event, event.message_id)
        if index not in self._open or event.part_id in self._torn:
            return []  # REST gave the whole part before the stream did, or will
        self._text[index].append(event.delta)
        return [PartDelta(index, event.delta)] if event.delta else []

    def _status(self, event: SessionStatus) -> Changes:
        if event.kind == "idle":
            self.idle = self.accepted
        elif event.kind == "busy":
            self.idle = False
            self.error = None  # it was not the end: compaction reports one and goes on
        elif event.kind == "retry":
            self.idle = False
            return [*self._withdraw(), Retrying(event.attempt, event.message, event.next_at)]
        return []

    def _plan(self, todos: tuple[Todo, ...] | None) -> Changes:
        if todos is None or todos == self.todos:
            return []
        self.todos = todos
        return [TodosChanged(todos)]

    def _put(self, part: Part, *, ended: bool) -> Changes:
        index = self._index.get(part.id)
        if index is None:
            index = self._append(part)
            changes: Changes = [PartAdded(index, part)]
        elif index not in self._open and not ended:
            return []  # from before its end, which REST told first
        elif (current := self.part(index)) == part or not (ended or _has_text(part)):
            changes = []
        else:
            changes = [_difference(index, current, part)]
            self.children |= _child(part)
            self._parts[index] = part
            self._text[index] = [_content(part)]
        (self._open.discard if ended else self._open.add)(index)
        return changes

    def _append(self, part: Part) -> int:
        index = self._index[part.id] = len(self._parts)
        self.children |= _child(part)
        self._parts.append(part)
        self._text.append([_content(part)])
        return index

    def _withdraw(self) -> Changes:
        """Empty what a failed attempt left open: that text exists nowhere any more.

        It stays open: behind a gap REST may have told of an answer before the events of its
        beginning arrive, which then look like the end of an attempt.
        """
        changes: Changes = []
        for index in sorted(self._open):
            part = self.part(index)
            if isinstance(part, (TextPart, ReasoningPart)) and part.content:
                self._parts[index] = part = replace(part, content="")
                self._text[index] = [""]
                changes.append(PartUpdated(index, part))
        return changes

    def _keep(self, event: Event, message_id: str) -> Changes:
        """Hold an event that came before its message; whose it is cannot be known yet."""
        if self.accepted and self._early_count < MOST_EARLY:
            self._early.setdefault(message_id, []).append(event)
            self._early_count += 1
        return []


def reply_json(reply: Reply) -> dict[str, Any]:
    """A reply in the contract's fields: its parts, their texts, the todo list, what it cost."""
    parts = reply.result()
    return {
        "parts": [part.to_json() for part in parts],
        "content": joined(parts, TextPart),
        "reasoning": joined(parts, ReasoningPart),
        "todos": [todo.to_json() for todo in reply.todos],
        **reply.usage.to_json(),
    }


def _content(part: Part) -> str:
    return part.content if isinstance(part, (TextPart, ReasoningPart)) else ""


def _child(part: Part) -> set[str]:
    """The session of the subagent that a tool call runs, if it does."""
    session_id = part.session_id if isinstance(part, ToolPart) else None
    return {session_id} if session_id else set()


def _has_text(part: Part) -> bool:
    return not isinstance(part, (TextPart, ReasoningPart)) or bool(part.content)


def _is_done(part: Part) -> bool:
    """Whether a tool call is over; other parts do not tell."""
    return isinstance(part, ToolPart) and part.status in ("completed", "error")


def _is_over(part: Part, unknown: str | None) -> bool:
    """Whether a part that REST has will not change any more."""
    return _is_done(part) if isinstance(part, ToolPart) else part.id != unknown


def _difference(index: int, old: Part, new: Part) -> ReplyChange:
    """The shortest way to tell a follower who has ``old``."""
    was, now = _content(old), _content(new)
    if type(old) is type(new) and was and now.startswith(was):
        return PartDelta(index, now[len(was) :])
    return PartUpdated(index, new)
