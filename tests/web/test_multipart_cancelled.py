"""An upload that ends in any other way leaves nothing in the temp folder, either.

Without a socket: this is what a server does to the task of a request.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from starlette.requests import Request

from opencode_async.web.multipart import UploadLimits, received
from opencode_async.web.problems import InvalidForm, TooLarge, UploadRefused
from opencode_async.web.spool import Spool
from tests.support.forms import END, FORM, PNG, SMALL, file, left_in, sniff, text


def request_of(*chunks: bytes, ends: bool = False, length: str = "") -> Request:
    """A request that sends these chunks, and then its end or nothing more."""
    coming = iter(chunks)

    async def receive() -> dict[str, Any]:
        for chunk in coming:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if ends:
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Future()

    headers = {**FORM, "Content-Length": length}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


class Upload:
    """An upload that its client never finishes, and whether it has begun to be written."""

    def __init__(self, root: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._root = root
        self.writing = asyncio.Event()
        self.go_on = threading.Event()
        self.kept = False
        sent = text(b"hi") + file(PNG + b"x" * 2_000_000)
        self.task = asyncio.create_task(self._receive(request_of(sent)))

    async def _receive(self, request: Request) -> None:
        async with received(request, UploadLimits(), self._sniff):
            raise AssertionError

    def _sniff(self, head: bytes) -> str:
        assert len(left_in(self._root)) == 1
        self._loop.call_soon_threadsafe(self.writing.set)
        assert self.go_on.wait(30)
        self.kept = len(left_in(self._root)) == 1
        return sniff(head)


async def test_a_request_cancelled_while_it_waits_leaves_nothing(root: Path) -> None:
    upload = Upload(root)
    upload.go_on.set()
    await upload.writing.wait()
    upload.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload.task
    assert left_in(root) == []


async def test_a_request_cancelled_while_it_writes_leaves_nothing(root: Path) -> None:
    upload = Upload(root)
    await upload.writing.wait()
    upload.task.cancel()
    # In the next round, when the task has had its cancellation and a thread still writes.
    asyncio.get_running_loop().call_soon(upload.go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await upload.task
    assert upload.kept  # nothing is removed under the thread's hands
    assert left_in(root) == []


async def test_a_request_cancelled_while_it_cleans_up_leaves_nothing(root: Path) -> None:
    upload = Upload(root)
    await upload.writing.wait()
    upload.task.cancel()

    def again() -> None:
        upload.go_on.set()
        upload.task.cancel()

    asyncio.get_running_loop().call_soon(again)
    with pytest.raises(asyncio.CancelledError):
        await upload.task
    assert left_in(root) == []


async def test_a_thread_that_comes_too_late_writes_nothing(root: Path) -> None:
    spool = Spool(lambda number, head: sniff(head))
    spool.write(spool.begin("a.png"), PNG)
    await spool.discard()
    await spool.flush()
    assert left_in(root) == []


async def test_a_scope_cancelled_leaves_nothing(root: Path) -> None:
    with anyio.CancelScope() as scope:

        def sniffed(head: bytes) -> str:
            anyio.from_thread.run_sync(scope.cancel)
            return sniff(head)

        request = request_of(file(PNG + b"x" * 10_000))
        async with received(request, UploadLimits(), sniffed):
            raise AssertionError
    assert scope.cancelled_caught
    assert left_in(root) == []


async def test_a_block_that_fails_leaves_nothing(root: Path) -> None:
    async def failing() -> None:
        async with received(request_of(file(PNG) + END, ends=True), SMALL, sniff) as got:
            assert got.files[0].path.read_bytes() == PNG
            assert len(left_in(root)) == 1
            raise LookupError

    with pytest.raises(LookupError):
        await failing()
    assert left_in(root) == []


async def test_a_sniffer_that_fails_leaves_nothing(root: Path) -> None:
    def broken(head: bytes) -> str:
        raise LookupError

    with pytest.raises(LookupError):
        async with received(request_of(file(b"x" * 9000)), UploadLimits(), broken):
            raise AssertionError
    assert left_in(root) == []


async def test_a_file_may_be_moved_away(root: Path, tmp_path: Path) -> None:
    request = request_of(file(PNG) + END, ends=True)
    async with received(request, SMALL, sniff) as got:
        kept = got.files[0].path.rename(tmp_path / "kept")
    assert kept.read_bytes() == PNG
    assert left_in(root) == []


@pytest.mark.parametrize("length", ["300000", "9" * 30, "9" * 5000])
async def test_a_length_beyond_the_limits_is_refused_before_anything_is_read(length: str) -> None:
    request = request_of(length=length)
    with pytest.raises(TooLarge):
        async with received(request, SMALL, sniff):
            raise AssertionError


async def test_the_refusals_are_one_family() -> None:
    request = request_of(text(b"hi", "system"), length="x")
    with pytest.raises(UploadRefused) as refused:
        async with received(request, SMALL, sniff):
            raise AssertionError
    assert isinstance(refused.value, InvalidForm)
