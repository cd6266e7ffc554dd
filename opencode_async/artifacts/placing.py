"""Putting a file of the host's, or of a user's, into a sandbox: whole, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from opencode_async.artifacts.erasing import erased
from opencode_async.artifacts.filenames import numbered, safe_filename
from opencode_async.artifacts.sandbox_file import OURS, checked_path, make_folder, open_root
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


async def _written(writing: _Writing, chunks: AsyncIterator[bytes]) -> str:
    try:
        path = await to_its_end(writing.begin)
        async for chunk in chunks:
            await to_its_end(partial(writing.write, chunk))
        await to_its_end(writing.finish)
    except BaseException:
        await to_its_end(writing.undo)
        raise
    finally:
        writing.close()
    return path


class _Writing:
    """A new file that is being written; methods block, except ``close``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = ""
        self._folder = self._file = -1  # descriptors
        self._identity: tuple[int, int] | None = None

    def begin(self) -> str:
        """Make the file; the path that it will have."""
        raise NotImplementedError

    def _create(self, name: str) -> None:
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


class _Placing(_Writing):
    """A file at the top, under its name or the next one that is free."""

    def __init__(self, root: Path, filename: str) -> None:
        super().__init__(root)
        self._wanted = safe_filename(filename)

    def begin(self) -> str:
        self._folder = open_root(self._root, ".", make=True)
        for number in range(1, MOST_OF_A_NAME + 1):
            name = self._wanted if number == 1 else numbered(self._wanted, number)
            with suppress(FileExistsError):
                self._create(name)
                return name
        raise SandboxFileRefused(self._wanted, "too_many")


class _Replacing(_Writing):
    """A file that is written beside the one whose place it takes, in a folder at any depth."""

    def __init__(self, root: Path, path: str) -> None:
        super().__init__(root)
        self._path = checked_path(path)

    def begin(self) -> str:
        self._folder = open_root(self._root, self._path, make=True)
        for name in self._path.split("/")[:-1]:
            above = self._folder
            self._folder = make_folder(name, above, self._path)
            os.close(above)
        self._create(f"{OURS}{uuid.uuid4().hex}")
        return self._path

    def finish(self) -> None:
        super().finish()
        name = self._path.rpartition("/")[2]
        try:
            os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except IsADirectoryError:
            erased(name, self._folder)
            os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
