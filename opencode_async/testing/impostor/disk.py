"""What the routes for files tell of the disk: nothing outside of the directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def listed(directory: str, folder: str) -> list[Json]:
    """What is in a folder, folders first; links and devices are left out.

    Raises ``OSError`` for what cannot be listed.
    """
    with os.scandir(within(directory, folder)) as entries:
        found = [entry for entry in entries if kind_of(entry)]
    return [
        {
            "name": entry.name,
            "path": os.path.relpath(entry.path, directory) + "/" * entry.is_dir(),
            "absolute": os.path.normpath(entry.path),
            "type": kind_of(entry),
            "ignored": False,
        }
        for entry in sorted(found, key=lambda entry: (entry.is_file(), entry.name))
    ]


def kind_of(entry: os.DirEntry[str]) -> str | None:
    """``None`` for a link or a device."""
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else None


def content(directory: str, path: str) -> bytes:
    """What is in a file, nothing where none is. Raises ``OSError`` for what is no file."""
    found = Path(within(directory, path))
    try:
        if not stat.S_ISREG(found.stat().st_mode):
            raise PermissionError(path)
        return found.read_bytes()
    except FileNotFoundError:
        return b""


def within(directory: str, path: str) -> str:
    """The path; raises ``PermissionError`` where it, or a link in it, leads out."""
    whole, root = os.path.join(directory, path), os.path.realpath(directory)
    if os.path.commonpath([root, os.path.realpath(whole)]) != root:
        raise PermissionError(path)
    return whole
