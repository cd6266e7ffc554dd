"""The reply as it grows: ``apply(event) -> changes``.

Responsibilities: which events belong to our turn; the parts in their order, with their text,
subagents' among them; what each step cost; whether our prompt was accepted; whether the session has
come to rest since. Not responsibilities: IO, time, storing, deciding how the turn ended (read from
REST, see ``exchange``).

What made it a state machine of its own: text arrives as deltas whose sum exists nowhere else until
the part ends; ``session.idle`` can be an earlier turn's, can come twice and can come before the
last ``message.updated``; a failed attempt's text is silently void (OpenCode 1.18.33, measured).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
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
from opencode_async.protocol.subagents import Subagent, child_of, is_task, linked
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
        self._lineage = Lineage(prompt_id)
        self._parts: list[Part] = []
        self._text: list[list[str]] = []
        self._index: dict[str, int] = {}
        self._open: set[int] = set()
        self._torn: set[str] = set()
        self._subagents: dict[str, Subagent] = {}
        # Of our session, and of each subagent's whose call is known.
        self._answers: dict[str, dict[str, MessageInfo]] = {session_id: {}}
        self._ledger = {charge.message_id: charge for charge in ledger}
        self._early: dict[str, list[Event]] = {}
        self._early_count = 0
        self._dropped: set[str] = set()  # parts of which deltas were: they would have a hole
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
        return self._newest is not None

    @property
    def concluded(self) -> bool:
        """Whether the newest answer says itself that it is the last; a step's does not."""
        return self._newest is not None and self._newest.last

    @property
    def steps(self) -> int:
        """How many answers there are: calls of the model."""
        return len(self._answers[self.session_id])

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
        if isinstance(event, SessionCreated):
            return self._started(event.subagent)
        session_id = getattr(event, "session_id", None)
        if session_id not in self._answers:
            return self._hold(event, session_id) if session_id in self._subagents else []
        match event:
            case MessagePartDelta():
                return self._delta(event)
            case MessagePartUpdated():
                return self._part_updated(event)
            case MessageUpdated():
                return self._message(event)
            case SessionStatus():
                return self._status(event)
            case _ if session_id != self.session_id:
                return []
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
        theirs = {child: exchange.theirs.get(child, ()) for child in exchange.children}
        for session_id, answers in {self.session_id: exchange.answers, **theirs}.items():
            known = self._answers.setdefault(session_id, {})
            for answer in answers:
                if answer.info.id not in known or answer.info.completed:
                    known[answer.info.id] = answer.info
                self._forget(answer.info.id)
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
        # Of subagents that REST tells of, nothing is added that was held: it may lack a beginning.
        for held in [*self._early] if final else filter(None, map(child_of, parts)):
            self._forget(held)
        known, truth = _by_session(self._parts), _by_session(parts)
        # Each session's last text, if it is empty, unless that is the truth.
        unknown = set() if final else {_last_empty(told) for told in truth.values()}
        # REST may still lag behind the stream; only at the end does it lack what never was.
        in_order = all(
            _continues(_ids(truth.get(session, ())), _ids(had), final=final)
            for session, had in known.items()
        )
        planned = self._plan(todos_of(parts, final=final))
        # What the stream has not brought yet it may bring from its middle on.
        self._torn |= {part.id for part in parts} - self._index.keys()
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
        return next(reversed(self._answers[self.session_id].values()), None)

    def _message(self, event: MessageUpdated) -> Changes:
        info = event.info
        early = self._forget(info.id)
        ours = event.session_id == self.session_id
        if info.role == "user":
            if ours:
                self._lineage.user(info.id, info.created)
            return []
        if ours and not self._lineage.owns(info):
            return []
        answers = self._answers[event.session_id]
        new = info.id not in answers
        # A later answer means that what an earlier one left open will never be completed.
        changes = self._withdraw(event.session_id) if new else []
        if new or info.completed or not answers[info.id].completed:
            answers[info.id] = info  # else from before its end, which REST told first
        for earlier in early:
            changes += self.apply(earlier)
        return changes + self.charge([Charge.of(info)])

    def _part_updated(self, event: MessagePartUpdated) -> Changes:
        if event.message_id == self.prompt_id:
            self.accept()
            return []
        ours = event.session_id == self.session_id
        if event.kind == "compaction":
            if ours:
                self._lineage.compaction(event.message_id)
            return []
        answer = self._answers[event.session_id].get(event.message_id)
        if answer is None:
            return self._keep(event, event.message_id)
        if answer.summary:
            return []
        if event.kind == "step-start":
            return self._withdraw(event.session_id)
        if event.part is None:
            return []
        part = event.part if ours else replace(event.part, subagent=event.session_id)
        if not event.ended and not _content(part):
            self._torn.discard(part.id)  # its beginning
        return self._put(part, ended=event.ended or _is_done(part))

    def _delta(self, event: MessagePartDelta) -> Changes:
        index = self._index.get(event.part_id)
        if index is None:
            if event.message_id in self._answers[event.session_id]:
                return []  # of a part that a gap swallowed: REST will tell
            return self._keep(event, event.message_id)
        if index not in self._open or event.part_id in self._torn or event.part_id in self._dropped:
            return []  # REST gave the whole part before the stream did, or will
        if isinstance(self._parts[index], ToolPart):
            return []  # it has no text to append to
        self._text[index].append(event.delta)
        return [PartDelta(index, event.delta)] if event.delta else []

    def _status(self, event: SessionStatus) -> Changes:
        ours = event.session_id == self.session_id
        if event.kind == "retry":
            self.idle = self.idle and not ours
            retrying = Retrying(event.attempt, event.message, event.next_at)
            return [*self._withdraw(event.session_id), retrying]
        if ours and event.kind == "idle":
            self.idle = self.accepted
        elif ours and event.kind == "busy":
            self.idle = False
            self.error = None  # it was not the end: compaction reports one and goes on
        return []

    def _plan(self, todos: tuple[Todo, ...] | None) -> Changes:
        if todos is None or todos == self.todos:
            return []
        self.todos = todos
        return [TodosChanged(todos)]

    def _put(self, part: Part, *, ended: bool) -> Changes:
        index = self._index.get(part.id)
        part = self._with_child(part, None if index is None else self._parts[index])
        if index is None:
            index = self._append(part)
            changes: Changes = [PartAdded(index, part)]
        elif index not in self._open and not ended:
            return []  # from before its end, which REST told first
        elif (current := self.part(index)) == part or not (ended or _has_text(part)):
            changes = []
        else:
            changes = [_difference(index, current, part)]
            self._parts[index] = part
            self._text[index] = [_content(part)]
        (self._open.discard if ended else self._open.add)(index)
        return [*changes, *self._heard(child_of(part))]

    def _append(self, part: Part) -> int:
        index = self._index[part.id] = len(self._parts)
        self._parts.append(part)
        self._text.append([_content(part)])
        return index

    def _with_child(self, part: Part, known: Part | None) -> Part:
        """The part, a ``task`` call with its subagent: OpenCode may not say, or no more."""
        if not isinstance(part, ToolPart) or not is_task(part) or part.session_id is not None:
            return part
        if known is not None and (child := child_of(known)) is not None:
            return replace(part, session_id=child)
        parent = part.subagent or self.session_id
        (part,) = linked([part], (c for c in self._unclaimed if c.parent_id == parent))
        return part

    @property
    def _unclaimed(self) -> list[Subagent]:
        """The subagents whose calls are not known."""
        return [s for s in self._subagents.values() if s.session_id not in self._answers]

    def _started(self, subagent: Subagent | None) -> Changes:
        """A subagent has begun; which call started it may be known before its parts come."""
        ours = self._answers.keys() | self._subagents.keys()
        if subagent is None or subagent.parent_id not in ours:
            return []
        self._subagents[subagent.session_id] = subagent
        calls = [part for part in self._parts if is_task(part) and child_of(part) is None]
        return [c for call in calls for c in self._put(call, ended=_is_done(call))]

    def _hold(self, event: Event, session_id: str) -> Changes:
        """Hold what a subagent does until its call is known; what it costs is told at once."""
        self._keep(event, session_id)
        if not isinstance(event, MessageUpdated) or event.info.role != "assistant":
            return []
        return self.charge([Charge.of(event.info)])

    def _heard(self, child: str | None) -> Changes:
        """The call of a subagent is known: what it has done so far can be told."""
        if child is None or child in self._answers:
            return []
        self._answers[child] = {}
        return [change for event in self._forget(child) for change in self.apply(event)]

    def _withdraw(self, session_id: str) -> Changes:
        """Empty what a session's failed attempt left open: that text exists nowhere any more.

        It stays open: behind a gap REST may have told of an answer before the events of its
        beginning arrive, which then look like the end of an attempt.
        """
        changes: Changes = []
        for index in sorted(self._open):
            part = self.part(index)
            if isinstance(part, ToolPart) or (part.subagent or self.session_id) != session_id:
                continue
            if part.content:
                self._parts[index] = part = replace(part, content="")
                self._text[index] = [""]
                changes.append(PartUpdated(index, part))
        return changes

    def _keep(self, event: Event, until: str) -> Changes:
        """Hold an event whose message, or whose subagent's call, is not known yet."""
        if self.accepted and self._early_count < MOST_EARLY:
            self._early.setdefault(until, []).append(event)
            self._early_count += 1
        elif isinstance(event, MessagePartDelta):
            self._dropped.add(event.part_id)
        return []

    def _forget(self, until: str) -> list[Event]:
        """Hold no longer what was waiting for that message or subagent."""
        early = self._early.pop(until, [])
        self._early_count -= len(early)
        return early


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


def _by_session(parts: Iterable[Part]) -> dict[str | None, list[Part]]:
    grouped: dict[str | None, list[Part]] = {}
    for part in parts:
        grouped.setdefault(part.subagent, []).append(part)
    return grouped


def _ids(parts: Iterable[Part]) -> list[str]:
    return [part.id for part in parts]


def _continues(truth: list[str], known: list[str], *, final: bool) -> bool:
    """Whether what is known is the beginning of the truth or, before the end, the other way."""
    return truth[: len(known)] == known or (not final and known[: len(truth)] == truth)


def _last_empty(parts: Iterable[Part]) -> str | None:
    texts = [part for part in parts if isinstance(part, (TextPart, ReasoningPart))]
    return texts[-1].id if texts and not texts[-1].content else None


def _has_text(part: Part) -> bool:
    return not isinstance(part, (TextPart, ReasoningPart)) or bool(part.content)


def _is_done(part: Part) -> bool:
    """Whether a tool call is over; other parts do not tell."""
    return isinstance(part, ToolPart) and part.status in ("completed", "error")


def _is_over(part: Part, unknown: Container[str | None]) -> bool:
    """Whether a part that REST has will not change any more."""
    return _is_done(part) if isinstance(part, ToolPart) else part.id not in unknown


def _difference(index: int, old: Part, new: Part) -> ReplyChange:
    """The shortest way to tell a follower who has ``old``."""
    was, now = _content(old), _content(new)
    alike = type(old) is type(new) and old.subagent == new.subagent
    if alike and was and now.startswith(was):
        return PartDelta(index, now[len(was) :])
    return PartUpdated(index, new)
