"""Artifacts in a folder of this machine, or of a network that all workers mount."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import IO, Self, TypeVar

from opencode_async.artifacts.stores.incoming import blocks, check_key, check_range
from opencode_async.artifacts.threads import to_its_end
from opencode_async.errors import ArtifactMissing, ArtifactStoreError

Returned = TypeVar("Returned")

WRITTEN = 1 << 20  # bytes that are written at once: chunks may be small, and a thread costs 50 µs
READ = 256 << 10
PARTIAL = "~partial"  # no key has a "~"
ABANDONED = 86400.0  # s without a write, after which an unfinished file is a crashed process's
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DirectoryArtifactStore:
    """Keeps each object as the file ``root/key``, which only this user may read.

    The file system needs hard links (most have them), and ``root`` belongs where no agent writes.
    A part of a key between two ``/`` is a file name, of 255 characters at most, and a key is not
    the folder of others: ``put`` raises ``ArtifactStoreError``. What a crash left unfinished goes
    a day later, when a store of this root is next entered.
    """

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root).absolute()
        self._partial = self._root / PARTIAL

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._root)!r})"

    async def __aenter__(self) -> Self:
        """Make the folder; raises ``ArtifactStoreError`` where that cannot be done."""
        await self._disk(str(self._root), "cannot use its folder", self._make_ready)
        return self

    async def __aexit__(self, *raised: object) -> None:
        """There is nothing to close."""

    async def put(
        self, key: str, chunks: AsyncIterator[bytes], *, size: int, content_type: str
    ) -> bool:
        """Keep these bytes, flushed to the disk; nothing is read where the key is taken already."""
        target, files, what = self._path(key), ExitStack(), "could not keep"
        if await self._disk(key, what, target.is_file):
            return False
        try:
            file = await self._disk(key, what, lambda: files.enter_context(self._new_file()))
            async with aclosing(blocks(chunks, size, WRITTEN)) as incoming:
                async for block in incoming:
                    await self._disk(key, what, file.write, block)
            return await self._disk(key, what, publish, file, target)
        finally:
            await self._disk(key, "could not clear away", files.close)

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from ``start`` up to ``end``, as far as there are any.

        Raises ``ArtifactMissing`` and ``ArtifactStoreError``, the latter between chunks, too.
        """
        check_range(start, end)
        return self._open(key, self._path(key), start, end)

    async def delete(self, key: str) -> None:
        """Forget a key; its folders stay, for another key may be about to use them."""
        path = self._path(key)
        await self._disk(key, "could not delete", remove, path)

    async def url(self, key: str, *, filename: str, content_type: str) -> str | None:
        """``None``: only the app itself can hand out a file."""
        check_key(key)
        return None

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _make_ready(self) -> None:
        self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._partial.iterdir():
            with suppress(FileNotFoundError):  # another process is ready with it
                if time.time() - left.stat().st_mtime > ABANDONED:
                    left.unlink()

    def _new_file(self) -> IO[bytes]:
        return tempfile.NamedTemporaryFile(dir=self._partial)

    @asynccontextmanager
    async def _open(
        self, key: str, path: Path, start: int, end: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        files, what = ExitStack(), "could not read"

        def opened() -> IO[bytes]:
            try:
                file = files.enter_context(path.open("rb", buffering=0))
            except ABSENT as error:
                raise ArtifactMissing(key) from error
            file.seek(start)
            return file

        async def read(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
            left = None if end is None else end - start
            while left is None or left > 0:
                most = READ if left is None else min(READ, left)
                if not (chunk := await self._disk(key, what, file.read, most)):
                    return
                left = None if left is None else left - len(chunk)
                yield chunk

        try:
            file = await self._disk(key, what, opened)
            async with aclosing(read(file)) as chunks:
                yield chunks
        finally:
            await self._disk(key, what, files.close)

    async def _disk(
        self, key: str, what: str, function: Callable[..., Returned], *args: object
    ) -> Returned:
        try:
            return await to_its_end(partial(function, *args))
        except OSError as error:
            raise ArtifactStoreError(key, what) from error


def publish(file: IO[bytes], target: Path) -> bool:
    """Give the file its name, unless that is taken: a link, unlike a rename, replaces nothing."""
    file.flush()
    os.fsync(file.fileno())  # before it has the name, or a power cut leaves it empty under it
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.link(file.name, target)
    except FileExistsError:
        if target.is_dir():
            raise
        return False
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def remove(path: Path) -> None:
    with suppress(*ABSENT):
        path.unlink()
