"""Putting a file of the host's, or of a user's, into a sandbox: whole, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from opencode_async.artifacts.filenames import numbered, safe_filename
from opencode_async.artifacts.sandbox_file import checked_path, open_root, parent
from opencode_async.artifacts.threads import to_its_end
from opencode_async.errors import SandboxFileRefused

MOST_OF_A_NAME = 1000  # files of one name: the agent may have made them all
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MODE = 0o644


async def placed(root: Path, filename: str, chunks: AsyncIterator[bytes]) -> str:
    """What ``Sandbox.place`` does."""
    return await _written(_Placing(root, filename), chunks)


async def replaced(root: Path, path: str, chunks: AsyncIterator[bytes]) -> None:
    """What ``Sandbox.replace`` does."""
    await _written(_Replacing(root, path), chunks)


async def _written(placing: _Placing, chunks: AsyncIterator[bytes]) -> str:
    try:
        name = await to_its_end(placing.create)
        async for chunk in chunks:
            await to_its_end(partial(placing.write, chunk))
        await to_its_end(placing.finish)
    except BaseException:
        await to_its_end(placing.undo)
        raise
    finally:
        placing.close()
    return name


class _Placing:
    """A file that is being written; methods block, except ``close``."""

    def __init__(self, root: Path, filename: str) -> None:
        self._root = root
        self._wanted = safe_filename(filename)
        self._name = ""
        self._folder = self._file = -1  # descriptors
        self._identity: tuple[int, int] | None = None

    def create(self) -> str:
        self._folder = open_root(self._root, ".", make=True)
        for number in range(1, MOST_OF_A_NAME + 1):
            name = self._wanted if number == 1 else numbered(self._wanted, number)
            with suppress(FileExistsError):
                self._begin(name)
                return name
        raise SandboxFileRefused(self._wanted, "too_many")

    def _begin(self, name: str) -> None:
        self._file = os.open(name, NEW, MODE, dir_fd=self._folder)
        status = os.fstat(self._file)
        self._name, self._identity = name, (status.st_dev, status.st_ino)
        os.fchmod(self._file, MODE)  # whatever this process's umask is

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def finish(self) -> None:
        descriptor, self._file = self._file, -1
        os.close(descriptor)  # some file systems find out only now that there is no room

    def undo(self) -> None:
        """Remove the file, unless the agent has put another one in its place."""
        with suppress(OSError):
            status = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self._name, dir_fd=self._folder)
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)

    def close(self) -> None:
        """Close the folder, for which there is nothing to wait."""
        if self._folder >= 0:
            os.close(self._folder)


class _Replacing(_Placing):
    """A file that is written beside the one it takes the place of, in a folder at any depth."""

    def __init__(self, root: Path, path: str) -> None:
        super().__init__(root, path)
        self._path = checked_path(path)

    def create(self) -> str:
        with parent(self._root, self._path, make=True) as (folder, self._wanted):
            self._folder = os.dup(folder)
        self._begin(f".{uuid.uuid4().hex}")
        return self._path

    def finish(self) -> None:
        super().finish()
        try:
            os.replace(self._name, self._wanted, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except IsADirectoryError as error:
            raise SandboxFileRefused(self._path, "not_regular") from error
