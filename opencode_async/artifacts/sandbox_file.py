"""A file of an agent's, read without leaving its sandbox, whatever the agent does meanwhile.

Nothing here goes by a path: a folder is opened in the folder above it, and no link is followed, so
that what was a folder when it was looked at, and is a link now, leads nowhere. What counts about a
file is what its descriptor says. Functions block unless they are ``async``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from opencode_async.errors import SandboxFileRefused

CHUNK = 256 * 1024  # bytes
OURS = ".opencode-async-"  # how names begin of files that are not there yet
MOST_OF_A_PATH = 1024  # characters
MOST_OF_A_NAME = 255  # characters
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # a surrogate stands for a byte that is not UTF-8

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK, or a FIFO is waited for until somebody writes into it.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

REASONS = {  # why something was not opened or read -> what that means here
    errno.ENOENT: "gone",
    errno.ELOOP: "symlink",
    errno.ENAMETOOLONG: "name",
    errno.ENXIO: "not_regular",  # a socket
    errno.EOPNOTSUPP: "not_regular",  # a socket, on macOS
}


@dataclass(frozen=True, slots=True)
class SandboxFile:
    """A regular file in a sandbox, as it was when it was found; nothing of it is open.

    ``path`` is relative to the sandbox, with ``/``; ``size`` in bytes; ``modified`` in seconds
    since 1970, when it last changed by the kernel's account (its ctime).
    """

    path: str
    size: int
    modified: float
    root: Path = field(repr=False)
    identity: tuple[int, ...] = field(repr=False)

    @classmethod
    def found(cls, root: Path, path: str, status: os.stat_result, max_bytes: int) -> SandboxFile:
        """A file that was looked at, not through a link. Raises ``SandboxFileRefused``."""
        reason = _unfit(status)
        if reason is None and status.st_size > max_bytes:
            reason = "too_large"
        if reason is not None:
            raise SandboxFileRefused(path, reason)
        return cls(path, status.st_size, status.st_ctime, root, _identity(status))

    async def read(self) -> AsyncIterator[bytes]:
        """Its bytes, 256 KiB at a time. Raises ``SandboxFileRefused`` once it is not as found.

        Each chunk is checked before it is given: all of them together are ``size`` bytes of one
        file that nobody changed in between. Whoever stops early need close nothing.
        """
        position = 0
        while position < self.size or not self.size:
            chunk = await asyncio.to_thread(self._chunk, position)
            if not chunk:
                return
            yield chunk
            position += len(chunk)

    def _chunk(self, start: int) -> bytes:
        """Some bytes, none only of an empty file.

        It is opened anew each time: a thread cannot be cancelled, so what one opens it also closes.
        """
        with parent(self.root, self.path) as (folder, name):
            try:
                descriptor = os.open(name, FILE, dir_fd=folder)
                try:
                    self._check(os.fstat(descriptor), first=start == 0)
                    # Not more than it had: one that grows ends, too.
                    chunk = os.pread(descriptor, min(CHUNK, self.size - start), start)
                    self._check(os.fstat(descriptor), first=False)
                finally:
                    os.close(descriptor)
            except OSError as error:
                reason = REASONS.get(error.errno or 0, "unreadable")
                raise SandboxFileRefused(self.path, reason) from error
        if self.size and not chunk:
            raise SandboxFileRefused(self.path, "changed")
        return chunk

    def _check(self, status: os.stat_result, *, first: bool) -> None:
        """Raises ``SandboxFileRefused``; its size, being the same, needs no second look."""
        reason = _unfit(status) if first else None
        if reason is None and _identity(status) != self.identity:
            reason = "changed"
        if reason is not None:
            raise SandboxFileRefused(self.path, reason)


def open_root(root: Path, path: str, *, make: bool = False) -> int:
    """The descriptor of a sandbox's own folder, made if wanted, which the caller closes.

    The folder above it is in the agent's reach, too, so neither may be a link; where the sandbox is
    to be made, what else has its name gives way. Raises ``SandboxFileRefused`` with that ``path``,
    and ``OSError`` where it cannot be made.
    """
    try:
        here = os.open(root.parent.parent, FOLDER & ~os.O_NOFOLLOW)
    except OSError as error:
        raise SandboxFileRefused(path, REASONS.get(error.errno or 0, "unreadable")) from error
    if make:
        with suppress(FileExistsError):  # what else is of that name is refused below
            os.mkdir(root.parent.name, dir_fd=here)
    for name, opened in (
        (root.parent.name, open_folder),
        (root.name, make_folder if make else open_folder),
    ):
        above = here
        try:
            here = opened(name, above, path)
        finally:
            os.close(above)
    return here


def open_folder(name: str, within: int, path: str) -> int:
    """A folder's descriptor, which the caller closes; ``path`` is its name in what is raised.

    ``within`` is the descriptor of the folder above. Raises ``SandboxFileRefused``.
    """
    try:
        return os.open(name, FOLDER, dir_fd=within)
    except OSError as error:
        reason = REASONS.get(error.errno or 0, "unreadable")
        if error.errno == errno.ENOTDIR:  # a link is none, either
            reason = "symlink" if _is_link(name, within) else "not_regular"
        raise SandboxFileRefused(path, reason) from error


def make_folder(name: str, within: int, path: str) -> int:
    """What ``open_folder`` gives, of a folder that is made; a file or link there gives way to it.

    Raises ``SandboxFileRefused``, and ``OSError`` where it cannot be made.
    """
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=within)
    try:
        return open_folder(name, within, path)
    except SandboxFileRefused:
        os.unlink(name, dir_fd=within)
        os.mkdir(name, dir_fd=within)
        return open_folder(name, within, path)


@contextmanager
def parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """The descriptor of the folder that a file is in, and the file's name there.

    Raises ``SandboxFileRefused``.
    """
    *folders, name = path.split("/")
    with ExitStack() as opened:
        here = open_root(root, path)
        opened.callback(os.close, here)
        for folder in folders:
            here = open_folder(folder, here, path)
            opened.callback(os.close, here)
        yield here, name


def checked_path(path: str) -> str:
    """The relative path, if it can be one; raises ``SandboxFileRefused`` with reason ``name``."""
    names = path.split("/")
    unfit = any(name in ("", ".", "..") or len(name) > MOST_OF_A_NAME for name in names)
    if unfit or shown(path) != path:
        raise SandboxFileRefused(shown(path), "name")
    return path


def shown(path: str) -> str:
    """The path as text that can be kept and sent: names may be of any bytes, and of any length."""
    return NO_TEXT.sub("\ufffd", path)[:MOST_OF_A_PATH]


def _unfit(status: os.stat_result) -> str | None:
    """Why no such file is read; ``None`` where it is a file, and in no other folder as well."""
    if stat.S_ISLNK(status.st_mode):
        return "symlink"
    if not stat.S_ISREG(status.st_mode):
        return "not_regular"
    if status.st_nlink != 1:
        return "hard_link" if status.st_nlink else "gone"
    return None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Which file it is, and in which state: whatever is done to it changes its ctime."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_mode, status.st_nlink, status.st_size, *times


def _is_link(name: str, within: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
    except OSError:
        return False
