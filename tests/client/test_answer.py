"""When an answer is over: idles that come early, stops that are not obeyed at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from opencode_async.client.answer import Answer, Ending
from opencode_async.client.client import OpencodeClient
from opencode_async.client.hub import Gap, Nudge, Subscription
from opencode_async.client.pace import Pace
from opencode_async.protocol.events import SessionError, SessionIdle
from opencode_async.protocol.exchange import Exchange, Outcome
from opencode_async.protocol.limits import Limits, Watchdog
from opencode_async.protocol.messages import UpstreamError, WireMessage
from opencode_async.protocol.reply import Reply
from opencode_async.timings import Timings
from tests.protocol.wire_events import (
    ANSWER,
    PROMPT,
    SESSION,
    answer_info,
    message,
    raw_text,
    stored,
    stored_prompt,
)
from tests.support.hosts import Reports

TIMINGS = Timings(settle=0.1, stop=0.5, look=60.0)
STEP = stored(answer_info(completed=True, finish="tool-calls"))
LAST = stored(
    answer_info("msg_last", completed=True, finish="stop"),
    raw_text("prt_last", "The answer.", ended=True, message="msg_last"),
)


class Session:
    """What a client knows of a session whose every state the test decides."""

    def __init__(self, *answers: WireMessage, working: bool) -> None:
        self.events = Subscription(SESSION, Pace())
        self.aborts = 0
        self.answers = list(answers)
        self.asked_whether_busy = asyncio.Event()
        self._working = working

    async def prompt(self, *_: object, within: float) -> None:
        """Taken."""

    async def busy(self, _: str) -> bool:
        self.asked_whether_busy.set()
        if not self._working and STEP in self.answers:
            self.answers.append(LAST)  # it came to rest between two looks at it
        return self._working

    async def message(self, *_: object) -> WireMessage:
        return stored_prompt()

    async def exchange(self, *_: object) -> Exchange:
        return Exchange.read(PROMPT, [stored_prompt(), *self.answers])

    async def asked(self) -> list[Any]:
        return []

    async def abort_tree(self, _: str) -> None:
        """An abort always sends an idle, whether it stopped anything or not."""
        self.aborts += 1
        self.events.put(SessionIdle(SESSION))


class Somebody:
    """An owner who lets everything happen."""

    async def publish(self, changes: object) -> None:
        pass

    async def to_post(self) -> dict[str, Any]:
        return {}

    async def stop(self, reason: str) -> None:
        raise AssertionError(reason)

    async def asked(self, ask: object) -> None:
        raise AssertionError(ask)

    async def answered(self, answered: object) -> None:
        raise AssertionError(answered)

    async def listed(self, asks: object) -> None:
        pass


async def ending(session: Session, *events: Any) -> Ending:
    """How the answer ends when the session sends these behind our accepted prompt."""
    reply = Reply(SESSION, PROMPT)
    answer = Answer(
        cast(OpencodeClient, session),
        session.events,
        reply,
        owner=Somebody(),
        watchdog=Watchdog(Limits(), asyncio.get_running_loop().time()),
        report=Reports(),
        timings=TIMINGS,
    )
    await answer.post()
    reply.accept()
    for event in events:
        session.events.put(event)
    async with asyncio.timeout(10):
        return await answer.listen(resumed=False)


async def test_what_was_read_before_the_session_came_to_rest_is_not_its_end() -> None:
    session = Session(STEP, working=False)
    step = message(answer_info(ANSWER, completed=True, finish="tool-calls"))
    ended = await ending(session, step, SessionIdle(SESSION))
    assert ended.outcome == Outcome("completed", "stop")
    assert ended.exchange is not None
    assert LAST in ended.exchange.answers


async def test_a_late_error_and_idle_of_the_turn_before_end_nothing() -> None:
    session = Session(working=True)
    late = SessionError(SESSION, UpstreamError("APIError", "of the turn before"))
    listening = asyncio.create_task(ending(session, late, SessionIdle(SESSION)))
    await session.asked_whether_busy.wait()
    session.answers.append(LAST)
    session.events.put(message(answer_info("msg_last", completed=True, finish="stop")))
    session.events.put(SessionIdle(SESSION))
    assert (await listening).outcome == Outcome("completed", "stop")


async def test_a_session_that_does_not_obey_is_aborted_at_intervals_until_the_time_is_up() -> None:
    session = Session(working=True)
    ended = await ending(session, Nudge())
    assert ended.outcome.status == "cancelled"
    assert not ended.settled
    assert 2 <= session.aborts <= 8


async def test_an_end_that_a_gap_swallowed_is_not_waited_for_long() -> None:
    """Just behind a POST the session's rest proves nothing, so it is looked at again soon."""
    ended = await ending(Session(LAST, working=False), Gap())
    assert ended.outcome == Outcome("completed", "stop")
