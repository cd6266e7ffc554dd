"""Removing what an agent made, whatever that is: nothing here goes by a path or follows a link.

Functions block.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress

from opencode_async.artifacts.sandbox_file import FOLDER

MOST_ROUNDS = 10_000  # one for each level; who still writes must not keep this going for ever


def erased(name: str, within: int) -> None:
    """Remove what has that name in a folder, with all that is in it; one that is gone is no error.

    Folders are taken out of each other first, so that however deep they lie three descriptors are
    enough. What cannot be removed does not keep the rest: the first ``OSError`` is raised at the
    end.
    """
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=within)
            return
        folder = _opened(name, within)
    except FileNotFoundError:
        return
    try:
        _empty(folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=within)


def _empty(root: int) -> None:
    for _ in range(MOST_ROUNDS):
        failed: OSError | None = None
        before = _names(root)
        for name in before:
            try:
                _remove_or_flatten(name, root)
            except OSError as error:
                failed = failed or error
        left = _names(root)
        if not left:
            return
        if set(left) <= set(before):  # no folder was taken out of another one
            break
    raise failed or OSError(errno.ENOTEMPTY, "it is still being written to")


def _remove_or_flatten(name: str, root: int) -> None:
    """Remove what has that name in ``root``; of a folder, the folders in it are there then."""
    try:
        os.unlink(name, dir_fd=root)
    except OSError:
        folder = _opened(name, root)  # raises for anything else
        try:
            for child in _names(folder):
                try:
                    os.unlink(child, dir_fd=folder)
                except OSError:
                    # Its own entry for the folder above changes, which takes a right on it.
                    os.close(_opened(child, folder))
                    os.rename(child, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=root)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=root)


def _opened(name: str, within: int) -> int:
    """The descriptor of a folder, from which something may be taken as far as its owner goes."""
    folder = os.open(name, FOLDER, dir_fd=within)
    with suppress(OSError):  # another user's: what follows says so
        os.fchmod(folder, stat.S_IMODE(os.fstat(folder).st_mode) | stat.S_IRWXU)
    return folder


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]
