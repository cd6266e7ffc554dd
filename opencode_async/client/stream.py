"""A prompt and its answer without a database, for scripts: ``OpencodeClient.stream``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from opencode_async.client.answer import Answer, become
from opencode_async.client.hub import Nudge, Subscription
from opencode_async.client.stopping import stop_session
from opencode_async.errors import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpencodeError,
)
from opencode_async.protocol.asks import Ask
from opencode_async.protocol.changes import Finished, ReplyChange, Snapshot, merged
from opencode_async.protocol.events import AskAnswered
from opencode_async.protocol.exchange import Outcome
from opencode_async.protocol.limits import Limits, Watchdog, stopped
from opencode_async.protocol.reply import Reply, reply_json
from opencode_async.protocol.tool_display import with_display
from opencode_async.timings import Timings

if TYPE_CHECKING:
    from opencode_async.client.client import OpencodeClient

StreamChange = ReplyChange | Snapshot | Finished
MOST_WAITING = 100  # batches a reader may lag behind before the answer waits for it


class Listener:
    """Listens to one answer and hands on what changes, at the pace of whoever reads it."""

    def __init__(
        self,
        client: OpencodeClient,
        events: Subscription,
        session_id: str,
        body: dict[str, Any],
        limits: Limits,
        told: MemoryObjectSendStream[Sequence[StreamChange]],
    ) -> None:
        self._client = client
        self._events = events
        self._body = body
        self._told = told
        self._exceeded: str | None = None
        self._timings = Timings()
        self._settled = False
        self._heard_out = False
        self._listening: asyncio.Task[None] | None = None
        self._reply = Reply(session_id, body["messageID"])
        self._answer = Answer(
            client,
            events,
            self._reply,
            owner=self,
            watchdog=Watchdog(limits, asyncio.get_running_loop().time()),
            report=client.error_reporter,
            timings=self._timings,
        )

    async def post(self) -> None:
        """Send the prompt and begin to listen. Raises what the client raises."""
        try:
            await self._answer.post()
        except (AuthenticationError, BadRequestError, NotFoundError):
            self._settled = True  # nothing was begun
            raise
        self._listening = asyncio.create_task(self._listen(), name="opencode answer")

    async def read(
        self, telling: MemoryObjectReceiveStream[Sequence[StreamChange]]
    ) -> AsyncGenerator[StreamChange, None]:
        """The changes to the end. Raises what ends it otherwise."""
        async for batch in telling:
            for change in batch:
                yield change
        if self._listening is not None:
            self._heard_out = True
            await self._listening

    async def close(self) -> None:
        """Listen no more; stop an agent that is still at work: it would go on, and cost."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            failed = not self._listening.cancelled() and self._listening.exception()
            if failed and not self._heard_out:
                self._failed(failed, during="listening to an answer")
        if self._settled:
            return
        try:
            async with asyncio.timeout(self._timings.stop):
                reply = self._reply
                await stop_session(self._client, reply.session_id, begun=reply.begun)
        except (OpencodeError, TimeoutError) as error:
            self._failed(error, during="stopping an answer")

    async def _listen(self) -> None:
        with self._told:
            ending = await self._answer.listen(resumed=False)
            if ending.exchange is not None:
                await become(self._reply, ending.exchange, self)
            self._settled = ending.settled
            outcome = stopped(self._exceeded) if self._exceeded else ending.outcome
            await self._told.send([Finished({**outcome_json(outcome), **told_json(self._reply)})])

    async def to_post(self) -> dict[str, Any] | None:
        """See ``Owner``: who wants it no more cancels the whole."""
        return self._body if self._exceeded is None else None

    async def stop(self, reason: str) -> None:
        """See ``Owner``."""
        self._exceeded = reason
        self._events.put(Nudge())

    async def asked(self, ask: Ask) -> None:
        """See ``Owner``: there is nobody to answer."""
        try:
            await self._client.dismiss(ask)
        except OpencodeError as error:
            self._failed(error, during="dismissing an ask")

    async def answered(self, answered: AskAnswered) -> None:
        """See ``Owner``."""

    async def listed(self, asks: Sequence[Ask]) -> None:
        """See ``Owner``."""
        for ask in asks:
            await self.asked(ask)

    async def publish(self, changes: Sequence[ReplyChange] | None) -> None:
        """See ``Owner``."""
        if changes is None:
            await self._told.send([Snapshot(told_json(self._reply))])
        elif changes:
            await self._told.send(list(merged(changes)))

    def _failed(self, error: BaseException, *, during: str) -> None:
        context = {"during": during, "session_id": self._reply.session_id}
        self._client.error_reporter(error, severity="warning", context=context)


@asynccontextmanager
async def stream(
    client: OpencodeClient, session_id: str, body: dict[str, Any], limits: Limits
) -> AsyncIterator[AsyncIterator[StreamChange]]:
    """See ``OpencodeClient.stream``."""
    told, telling = anyio.create_memory_object_stream[Sequence[StreamChange]](MOST_WAITING)
    async with client.hub.subscribe(session_id) as events:
        with told, telling:
            listener = Listener(client, events, session_id, body, limits, told)
            try:
                await listener.post()
                async with aclosing(listener.read(telling)) as changes:
                    yield changes
            finally:
                with anyio.CancelScope(shield=True):  # who left by a cancellation wants it, too
                    await listener.close()


def told_json(reply: Reply) -> dict[str, Any]:
    """An answer in the contract's fields."""
    stored = reply_json(reply)
    return {**stored, "parts": [with_display(part) for part in stored["parts"]]}


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """How an answer ended, in the contract's fields."""
    error = outcome.error and {"code": outcome.error.code, "message": outcome.error.message}
    return {"status": outcome.status, "finish": outcome.finish, "error": error}
