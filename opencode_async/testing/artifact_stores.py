"""What every artifact store must do, for the tests of one of the host's own.

One line of a test runs all of it::

    async with MyStore() as store:
        await check_artifact_store(store)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.errors import ArtifactMissing

Check = Callable[[ArtifactStore, str], Awaitable[None]]

CHUNK = 64 << 10  # bytes
SIZES = (0, 1, CHUNK, 1_000_000)
RIVALS = 20  # puts of one key at once
TYPE = "application/octet-stream"
PATHS = ("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b")
BAD_KEYS = (*PATHS, "a b", "a\\b", "a\n", "a\0", "a?b", "a%2fb", "a~", "caf\u00e9", "a" * 513)


async def check_artifact_store(store: ArtifactStore) -> None:
    """Try everything with a store that was entered; objects of its own are deleted in the end.

    Raises ``AssertionError``, which says what is amiss, or what the store raises and must not.
    """
    for check in CHECKS:
        await run_check(check, store)


async def run_check(check: Check, store: ArtifactStore) -> None:
    """Try one of ``CHECKS``, under a key of its own; raises what ``check_artifact_store`` does."""
    key = f"conformance/{secrets.token_hex(16)}/An_object-1.bin"
    try:
        await check(store, key)
    finally:
        await store.delete(key)


async def whole_objects_come_back(store: ArtifactStore, key: str) -> None:
    for size in SIZES:
        data = secrets.token_bytes(size)
        must(await put(store, key, data) is True, f"put of {size} bytes was not True")
        must(await content(store, key) == data, f"{size} bytes came back as others")
        await store.delete(key)


async def ranges_come_back(store: ArtifactStore, key: str) -> None:
    data = secrets.token_bytes(2 * CHUNK)
    await put(store, key, data)
    last = len(data)
    starts, ends = (0, 1, CHUNK - 1, last - 1, last, last + 1), (None, 0, 1, CHUNK, last, 2 * last)
    for start, end in [(a, b) for a in starts for b in ends if b is None or a <= b]:
        got = await content(store, key, start, end)
        must(got == data[start:end], f"open({start}, {end}) gave other bytes ({len(got)})")


async def an_object_never_changes(store: ArtifactStore, key: str) -> None:
    await put(store, key, b"first")
    must(await put(store, key, b"other") is False, "put of a key that is taken was not False")
    must(await content(store, key) == b"first", "put of a key that is taken changed the object")


async def what_fails_leaves_nothing(store: ArtifactStore, key: str) -> None:
    size = 3 * CHUNK
    with raises(Broken, "put, whose chunks did,"):
        await store.put(key, breaking(), size=size, content_type=TYPE)
    await must_be_missing(store, key, "a put whose chunks raised")
    for wrong in (size - 1, size + 1, 0):
        with raises(ValueError, f"put of {size} bytes with size={wrong}"):
            await store.put(key, chunked(bytes(size)), size=wrong, content_type=TYPE)
        await must_be_missing(store, key, "a put of another size")
    must(await put(store, key, b"whole") is True, "put was not True behind puts that failed")


async def what_is_cancelled_leaves_nothing(store: ArtifactStore, key: str) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(CHUNK)
        reached.set()
        await never.wait()

    kept = asyncio.ensure_future(store.put(key, stalling(), size=2 * CHUNK, content_type=TYPE))
    kept.add_done_callback(lambda _: reached.set())
    await reached.wait()
    kept.cancel()
    with raises(asyncio.CancelledError, "a put that was cancelled"):
        await kept
    await must_be_missing(store, key, "a put that was cancelled")


async def a_missing_key_is_missing(store: ArtifactStore, key: str) -> None:
    await must_be_missing(store, key, "nothing at all")
    await store.delete(key)
    await put(store, key, b"here")
    await store.delete(key)
    await store.delete(key)
    await must_be_missing(store, key, "its deletion")
    must(await put(store, key, b"again") is True, "put of a deleted key was not True")


async def one_of_many_puts_is_first(store: ArtifactStore, key: str) -> None:
    data = [secrets.token_bytes(1000) for _ in range(RIVALS)]
    first = await asyncio.gather(*(put(store, key, each) for each in data))
    must(first.count(True) == 1, f"{first.count(True)} of {RIVALS} puts of one key were True")
    must(first.count(False) == RIVALS - 1, "put gave neither True nor False")
    must(await content(store, key) == data[first.index(True)], "the object is not the first put's")


async def bad_keys_are_refused(store: ArtifactStore, key: str) -> None:
    for bad in BAD_KEYS:
        with raises(ValueError, f"put({bad!r})"):
            await put(store, bad, b"")
        with raises(ValueError, f"open({bad!r})"):
            await content(store, bad)
        with raises(ValueError, f"delete({bad!r})"):
            await store.delete(bad)
        with raises(ValueError, f"url({bad!r})"):
            await store.url(bad, filename="a", content_type=TYPE)


async def a_long_key_is_a_key(store: ArtifactStore, key: str) -> None:
    long = f"{key}.d/{'0123456789abcdef/' * 32}"[:511] + "Z"
    try:
        must(await put(store, long, b"long") is True, "put under 512 characters was not True")
        must(await content(store, long) == b"long", "512 characters gave other bytes")
    finally:
        await store.delete(long)


async def a_url_is_none_or_for_browsers(store: ArtifactStore, key: str) -> None:
    await put(store, key, b"<script>")
    url = await store.url(key, filename='a "b"; ö\r\n.html', content_type="text/html")
    fine = url is None or (url.startswith(("http://", "https://")) and url.isascii())
    must(fine and not (url and set(url) & set(' "\r\n')), f"url gave {url!r}")


CHECKS: tuple[Check, ...] = (
    whole_objects_come_back,
    ranges_come_back,
    an_object_never_changes,
    what_fails_leaves_nothing,
    what_is_cancelled_leaves_nothing,
    a_missing_key_is_missing,
    one_of_many_puts_is_first,
    bad_keys_are_refused,
    a_long_key_is_a_key,
    a_url_is_none_or_for_browsers,
)


class Broken(Exception):
    """What the chunks of a test raise."""


async def chunked(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


async def breaking() -> AsyncIterator[bytes]:
    yield bytes(CHUNK)
    raise Broken


async def put(store: ArtifactStore, key: str, data: bytes) -> bool:
    return await store.put(key, chunked(data), size=len(data), content_type=TYPE)


async def content(store: ArtifactStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    async with store.open(key, start, end) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def must_be_missing(store: ArtifactStore, key: str, behind: str) -> None:
    with raises(ArtifactMissing, f"open behind {behind}"):
        await content(store, key)


def must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


@contextmanager
def raises(kind: type[BaseException], what: str) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{what} did not raise {kind.__name__}")
