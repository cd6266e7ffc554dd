"""The files of an upload in a private temp folder: written, hashed and sniffed as they arrive.

The event loop queues what it receives, and threads write it in batches. A ``Spool`` never knows
how large its files may be, nor how many: that is the form's business, before anything is queued.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import anyio
import anyio.to_thread

from opencode_async.artifacts.content_type import HEAD

BATCH = 1 << 20  # bytes that wait for one hop to a thread: a chunk of uvicorn's is 64 KiB

Type = Callable[[int, bytes], str]


@dataclass(frozen=True)
class ReceivedFile:
    """A file that was uploaded, on disk until ``received`` is left."""

    filename: str
    """As sent; never a path to open, nor a name to store by."""
    path: Path
    """In a folder of mode 0700; the file's mode is 0600 and its name is the library's."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""
    content_type: str
    """By what is in it, whatever the client or the name says."""


class Incoming:
    """One file on its way; ``size`` is what was received of it, in bytes.

    All but ``size`` belongs to the thread that writes.
    """

    def __init__(self, number: int, filename: str) -> None:
        self.number = number
        self.filename = filename
        self.size = 0
        self.result: ReceivedFile | None = None
        self._out: BinaryIO | None = None
        self._content_type: str | None = None
        self._head = bytearray()
        self._sha256 = hashlib.sha256()

    def write(self, folder: Path, data: bytes, type_of: Type) -> None:
        """Append; the type is told, or refused, as soon as there is enough to tell it by."""
        if self._content_type is None:
            self._head += data[: HEAD - len(self._head)]
            if len(self._head) == HEAD:
                self._content_type = type_of(self.number, bytes(self._head))
        self._sha256.update(data)
        self._opened(folder).write(data)

    def finish(self, folder: Path, type_of: Type) -> None:
        """Nothing more comes."""
        self._opened(folder).close()
        content_type = self._content_type or type_of(self.number, bytes(self._head))
        self.result = ReceivedFile(
            self.filename, self._path(folder), self.size, self._sha256.hexdigest(), content_type
        )

    def close(self) -> None:
        """Close the file, whatever was written of it."""
        if self._out is not None:
            self._out.close()

    def _path(self, folder: Path) -> Path:
        return folder / str(self.number)

    def _opened(self, folder: Path) -> BinaryIO:
        if self._out is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._out = os.fdopen(os.open(self._path(folder), flags, 0o600), "wb")
        return self._out


class Spool:
    """The files of one upload, from the first byte until ``discard``.

    ``type_of`` is given a file's number, from 1 on, and its first 8 KiB, in a thread, and returns
    its media type or raises.
    """

    def __init__(self, type_of: Type) -> None:
        self._type_of = type_of
        self._files: list[Incoming] = []
        self._queue: list[tuple[Incoming, bytes | None]] = []  # None: the file ends
        self._waiting = 0
        self._due = False
        self._folder: Path | None = None
        self._discarded = False
        self._lock = Lock()

    def begin(self, filename: str) -> Incoming:
        """A file; the folder is created when the first bytes are written."""
        file = Incoming(len(self._files) + 1, filename)
        self._files.append(file)
        return file

    def write(self, file: Incoming, data: bytes) -> None:
        """Queue bytes of a file."""
        before, file.size = file.size, file.size + len(data)
        self._queue.append((file, data))
        self._waiting += len(data)
        # A file of a type that is not taken is refused at its head, not a batch later.
        self._due |= before < HEAD <= file.size or self._waiting >= BATCH

    def end(self, file: Incoming) -> None:
        """Queue the end of a file."""
        self._queue.append((file, None))

    @property
    def due(self) -> bool:
        """Whether enough is queued for a ``flush``."""
        return self._due

    async def flush(self) -> None:
        """Write what is queued.

        Raises what ``type_of`` does, and ``OSError`` for a disk that is full.
        """
        queue, self._queue = self._queue, []
        self._waiting, self._due = 0, False
        if queue:
            await anyio.to_thread.run_sync(self._write, queue)

    def results(self) -> tuple[ReceivedFile, ...]:
        """The files, all of which have ended and are written."""
        return tuple(file.result for file in self._files if file.result is not None)

    async def discard(self) -> None:
        """Remove the folder with everything in it, also if this is cancelled."""
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._discard)
        finally:
            # A shield does not stop a raw `task.cancel()`. What the thread has done is not done
            # again; what it is doing is waited for.
            self._discard()

    def _write(self, queue: list[tuple[Incoming, bytes | None]]) -> None:
        # A raw `task.cancel()` leaves this thread behind. Hence the lock: the folder is not removed
        # while something is written into it, and nothing is written once it is removed.
        with self._lock:
            if self._discarded:
                return
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="opencode-upload-"))
            for file, data in queue:
                if data is None:
                    file.finish(self._folder, self._type_of)
                else:
                    file.write(self._folder, data, self._type_of)

    def _discard(self) -> None:
        with self._lock:
            if self._discarded:
                return
            self._discarded = True
            try:
                for file in self._files:
                    with suppress(OSError):  # a full disk, said again for what is in the buffer
                        file.close()
            finally:
                if self._folder is not None:
                    with suppress(FileNotFoundError):  # somebody cleans the temp folder
                        shutil.rmtree(self._folder)
