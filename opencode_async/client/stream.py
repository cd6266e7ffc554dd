"""A prompt and its answer without a database, for scripts: ``OpencodeClient.stream``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from opencode_async.client.answer import Answer, become
from opencode_async.client.hub import Subscription
from opencode_async.errors import OpencodeError
from opencode_async.protocol.changes import Finished, ReplyChange, Snapshot, merged
from opencode_async.protocol.exchange import Outcome
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.reply import Reply, reply_json
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
        told: MemoryObjectSendStream[Sequence[StreamChange]],
    ) -> None:
        self.settled = False
        self._told = told
        self._reply = Reply(session_id, body["messageID"])
        self._answer = Answer(
            client,
            events,
            self._reply,
            body,
            publish=self._publish,
            report=client.error_reporter,
            timings=Timings(),
        )

    async def post(self) -> None:
        """Send the prompt. Raises what the client raises."""
        await self._answer.post()

    async def listen(self) -> None:
        """Follow the answer to its end. Raises what ends it otherwise."""
        with self._told:
            ending = await self._answer.listen(resumed=False)
            usage = self._reply.usage
            if ending.exchange is not None:
                await become(self._reply, ending.exchange, self._publish)
                usage = ending.exchange.usage
            self.settled = ending.settled
            await self._told.send(
                [Finished({**outcome_json(ending.outcome), **self._state(usage)})]
            )

    async def _publish(self, changes: Sequence[ReplyChange] | None) -> None:
        if changes is None:
            await self._told.send([Snapshot(self._state(self._reply.usage))])
        elif changes:
            await self._told.send(list(merged(changes)))

    def _state(self, usage: Usage) -> dict[str, Any]:
        return reply_json(self._reply.result(), self._reply.todos, usage)


@asynccontextmanager
async def stream(
    client: OpencodeClient, session_id: str, body: dict[str, Any]
) -> AsyncIterator[AsyncIterator[StreamChange]]:
    """See ``OpencodeClient.stream``."""
    told, telling = anyio.create_memory_object_stream[Sequence[StreamChange]](MOST_WAITING)
    async with client.hub.subscribe(session_id) as events:
        with told, telling:
            listener = Listener(client, events, session_id, body, told)
            await listener.post()
            listening = asyncio.create_task(listener.listen(), name=f"opencode {session_id}")
            try:
                async with aclosing(_read(telling, listening)) as changes:
                    yield changes
            finally:
                listening.cancel()
                await asyncio.wait([listening])
                if not listener.settled:
                    await _abandon(client, session_id)


async def _read(
    telling: MemoryObjectReceiveStream[Sequence[StreamChange]], listening: asyncio.Task[None]
) -> AsyncGenerator[StreamChange, None]:
    async for batch in telling:
        for change in batch:
            yield change
    await listening


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """How an answer ended, in the contract's fields."""
    error = outcome.error and {"code": outcome.error.code, "message": outcome.error.message}
    return {"status": outcome.status, "finish": outcome.finish, "error": error}


async def _abandon(client: OpencodeClient, session_id: str) -> None:
    """Stop an agent that nobody listens to any more; it would go on, and cost."""
    try:
        async with asyncio.timeout(Timings().stop):
            await client.abort_tree(session_id)
    except (OpencodeError, TimeoutError) as error:
        context = {"during": "abandoning an answer", "session_id": session_id}
        client.error_reporter(error, severity="warning", context=context)
