"""A broker on Redis or Valkey, from version 6: a stream per turn, a channel for where there is new.

An entry's id in its stream is ``<epoch>-<number>``. Redis itself then refuses what comes twice, and
what a worker that was replaced still publishes (XADD: "equal or smaller than the target stream top
item").
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

from opencode_async.brokers.broker import Frame
from opencode_async.brokers.journal import Bell, Entry, Place, decoded, encoded
from opencode_async.brokers.shared import SharedBroker

KEPT, KEPT_SIZE = 4000, 16_000_000  # entries of a stream, and characters of theirs, about
QUIET = 3.0  # s without a message behind which the connection is tried
LONGEST = 1 << 20  # bytes of a message
REFUSED, FOREIGN = "equal or smaller", "WRONGTYPE"
PROMPT = 3.0  # s that Redis may take to answer, or to let somebody in


class RedisBroker(SharedBroker):
    """An ``EventBroker`` for several processes, on a Redis URL or on a client of the host's.

    ``prefix`` begins every key and channel, and is to be another one for each database of messages,
    whose ids it tells apart; a turn's stream is kept for ``retention`` seconds behind its last
    frame. Per process it holds one connection that listens, and those it writes and reads with. A
    client of the host's is not closed.
    """

    def __init__(
        self, redis: Redis | str, *, prefix: str = "opencode_async", retention: int = 600
    ) -> None:
        super().__init__(RedisJournal(redis, prefix, retention))


class RedisJournal:
    """Keeps entries in streams."""

    def __init__(self, redis: Redis | str, prefix: str, retention: int) -> None:
        self._owned = isinstance(redis, str)
        self._redis = _client(redis) if isinstance(redis, str) else redis
        self._prefix = prefix
        self._retention = retention

    async def append(self, entries: Sequence[Entry], news: Collection[str]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            place, fields = "-".join(map(str, entry.place)), _fields(entry.frame)
            size = sum(map(len, fields.values()))
            # As if all were as large: those that are small leave room for more again.
            most = min(KEPT, KEPT_SIZE // max(size, 1))
            pipeline.xadd(self._key(entry.topic), fields, id=place, maxlen=most)
        for topic in {entry.topic for entry in entries}:
            pipeline.expire(self._key(topic), self._retention)
        for message in encoded(entries, news, most=LONGEST):
            pipeline.publish(self._prefix, message)
        for answer in await pipeline.execute(raise_on_error=False):
            refused = isinstance(answer, ResponseError) and REFUSED in str(answer)
            if isinstance(answer, Exception) and not refused:
                raise answer

    async def read(self, behind: Mapping[str, Place]) -> Mapping[str, Sequence[Entry]]:
        pipeline = self._redis.pipeline(transaction=False)
        for topic, (epoch, number) in behind.items():
            pipeline.xrange(self._key(topic), min=f"({epoch}-{number}")
        answers = await pipeline.execute(raise_on_error=False)
        # A key that is not ours to read is a gap, which followers are told, and so is an entry.
        for answer in answers:
            if isinstance(answer, Exception) and FOREIGN not in str(answer):
                raise answer
        return {
            topic: [] if isinstance(items, Exception) else list(_readable(topic, items))
            for topic, items in zip(behind, answers, strict=True)
        }

    async def listen(self, bell: Bell) -> None:
        tried = False
        async with self._redis.pubsub() as channel:
            await channel.subscribe(self._prefix)
            while True:
                message = await channel.get_message(timeout=QUIET)
                if message is None:
                    if tried:
                        raise Disconnected("the connection that listens does not answer")
                    await channel.ping()
                elif message["type"] == "message":
                    bell.ring(decoded(message["data"]))
                elif message["type"] == "subscribe":
                    if bell.connected.is_set():  # a client of a host's tries again by itself
                        raise Disconnected("the connection that listens was lost for a while")
                    bell.connected.set()
                tried = message is None

    async def close(self) -> None:
        if self._owned:
            await self._redis.aclose()

    def _key(self, topic: str) -> str:
        return f"{self._prefix}:{topic}"


def _client(url: str) -> Redis:
    # What failed is tried again by the broker, who tells followers meanwhile.
    once = Retry(NoBackoff(), 0)
    return Redis.from_url(url, socket_timeout=PROMPT, socket_connect_timeout=PROMPT, retry=once)


def _bytes(value: bytes | str) -> bytes:
    """What Redis answered, also where a host's client decodes it."""
    return value.encode() if isinstance(value, str) else value


def _fields(frame: Frame | None) -> dict[Any, Any]:
    """A stream's entry has a field at least; the end of an epoch has that alone."""
    if frame is None:
        return {"end": ""}
    return {"id": frame.id, "event": frame.event, "data": frame.data}


def _readable(topic: str, items: Sequence[Any]) -> Iterator[Entry]:
    for item in items:
        with suppress(KeyError, ValueError):
            yield _entry(topic, *item)


def _entry(topic: str, place: bytes | str, fields: Mapping[bytes | str, bytes | str]) -> Entry:
    epoch, seq = map(int, _bytes(place).split(b"-"))
    found = {_bytes(name): _bytes(value).decode() for name, value in fields.items()}
    if b"end" in found:
        return Entry(topic, epoch, None)
    return Entry(topic, epoch, Frame(found[b"id"], seq, found[b"event"], found[b"data"]))
