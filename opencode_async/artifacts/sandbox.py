"""The folder that an agent writes files into, and what of it the host may read.

The agent is not trusted: it makes links to other people's files, swaps a folder for a link while it
is being looked at, dates files as it likes, and writes more than anybody can look at.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

from opencode_async.artifacts.erasing import erased
from opencode_async.artifacts.placing import placed, replaced
from opencode_async.artifacts.sandbox_file import (
    FOLDER,
    OURS,
    SandboxFile,
    checked_path,
    open_folder,
    open_root,
    parent,
    shown,
)
from opencode_async.artifacts.threads import to_its_end
from opencode_async.errors import SandboxFileRefused


@dataclass(frozen=True, slots=True)
class Found:
    """What a walk found, both by path: files that may be read, and why others may not."""

    files: tuple[SandboxFile, ...] = ()
    refused: tuple[SandboxFileRefused, ...] = ()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The folder ``root``, which need not exist, and the bounds of what is looked at in it.

    ``max_bytes`` is of one file; ``max_depth`` is how many folders deep, the root being the first;
    ``max_files`` counts the entries of a walk, folders among them.
    """

    root: Path
    _: KW_ONLY
    max_bytes: int
    max_depth: int = 16
    max_files: int = 1000

    async def fresh(self, since: float, slack: float = 2.0) -> Found:
        """The files that were changed since then, in seconds since 1970, less ``slack`` seconds.

        By their ctime, which the kernel sets, for the mtime is whatever the agent says. Never
        raises for what is in the sandbox. A root that is no folder is refused as ``.``; so are too
        many entries, once, and as are too many levels, with the first folder that lies too deep.
        """
        return await asyncio.to_thread(_Walk(self, since - slack).found)

    async def file(self, path: str) -> SandboxFile:
        """One file by its path, relative to the root, with ``/``. Raises ``SandboxFileRefused``."""
        return await asyncio.to_thread(self._file, checked_path(path))

    async def place(self, filename: str, chunks: AsyncIterator[bytes]) -> str:
        """Write a file into the root, which is made if absent, and return its path there.

        Its name is ``filename`` made safe, or the next one free: ``name-2.ext``. Nothing that is
        there is written to. Where this fails or is cancelled, no file is left. Raises ``OSError``,
        ``SandboxFileRefused`` where the root is no folder, and what ``chunks`` raises.
        """
        return await placed(self.root, filename, chunks)

    async def replace(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a file at a path, relative to the root, with ``/``; folders are made as needed.

        What is in its way gives way to it, whatever it is: a folder of that name, a link on the
        path. Who reads a file that was there goes on reading that. Where this fails a file that was
        there stays; where it is cancelled, that or the new one. Raises ``OSError``,
        ``SandboxFileRefused`` where the path is none, and what ``chunks`` raises.
        """
        await replaced(self.root, path, chunks)

    async def remove(self, path: str) -> None:
        """Take a file away again that was placed; one that is gone is no error."""
        await asyncio.to_thread(self._remove, checked_path(path))

    async def erase(self) -> None:
        """Remove the root and all that is in it; one that is gone is no error.

        No link is followed. What cannot be removed does not keep the rest: the first ``OSError`` is
        raised at the end.
        """
        await to_its_end(self._erase)

    def _erase(self) -> None:
        try:
            above = os.open(self.root.parent, FOLDER)
        except FileNotFoundError:
            return
        try:
            erased(self.root.name, above)
        finally:
            os.close(above)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError), parent(self.root, path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def _file(self, path: str) -> SandboxFile:
        with parent(self.root, path) as (folder, name):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError as error:
                raise SandboxFileRefused(path, "gone") from error
            except OSError as error:
                raise SandboxFileRefused(path, "unreadable") from error
        return SandboxFile.found(self.root, path, status, self.max_bytes)


class _Walk:
    """One walk through a sandbox, in a thread: it blocks."""

    def __init__(self, sandbox: Sandbox, after: float) -> None:
        self._sandbox = sandbox
        self._after = after
        self._files: list[SandboxFile] = []
        self._refused: list[SandboxFileRefused] = []
        self._left = sandbox.max_files
        self._too: set[str] = set()

    def found(self) -> Found:
        try:
            self._enter(partial(open_root, self._sandbox.root), ".", "", 1)
        except SandboxFileRefused as refusal:
            if refusal.reason != "gone":
                self._refused.append(refusal)
        files = sorted(self._files, key=lambda file: file.path)
        refused = sorted(self._refused, key=lambda refusal: (refusal.path, refusal.reason))
        return Found(tuple(files), tuple(refused))

    def _enter(self, opened: Callable[[str], int], path: str, prefix: str, depth: int) -> None:
        """Raises ``SandboxFileRefused`` for the folder itself."""
        if depth > self._sandbox.max_depth:
            self._refuse_once(path, "too_deep")
            return
        descriptor = opened(path)
        try:
            self._look(descriptor, prefix, depth)
        except OSError as error:
            raise SandboxFileRefused(path, "unreadable") from error
        finally:
            os.close(descriptor)

    def _look(self, folder: int, prefix: str, depth: int) -> None:
        """Files before folders: what is deep must not use up what may be looked at."""
        folders: list[tuple[str, bool]] = []
        for name in self._names(folder):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                self._refused.append(SandboxFileRefused(shown(prefix + name), "unreadable"))
                continue
            is_fresh = status.st_ctime >= self._after
            if stat.S_ISDIR(status.st_mode):
                folders.append((name, is_fresh))
            elif is_fresh:
                self._add(prefix + name, status)
        for name, is_fresh in folders:
            path = prefix + name
            try:
                checked_path(path)
                self._enter(partial(open_folder, name, folder), path, f"{path}/", depth + 1)
            except SandboxFileRefused as refusal:
                if is_fresh and refusal.reason != "gone":
                    self._refused.append(refusal)

    def _names(self, folder: int) -> list[str]:
        """What is in a folder, sorted, as far as there may be more to look at."""
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not self._left:
                    self._refuse_once(".", "too_many")
                    break
                self._left -= 1
                if not entry.name.startswith(OURS):
                    names.append(entry.name)
        return sorted(names)

    def _add(self, path: str, status: os.stat_result) -> None:
        try:
            self._files.append(
                SandboxFile.found(
                    self._sandbox.root, checked_path(path), status, self._sandbox.max_bytes
                )
            )
        except SandboxFileRefused as refusal:
            self._refused.append(refusal)

    def _refuse_once(self, path: str, reason: str) -> None:
        if reason not in self._too:
            self._too.add(reason)
            self._refused.append(SandboxFileRefused(path, reason))
