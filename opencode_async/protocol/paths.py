"""Where an OpenCode server works, and where in it a conversation's sandbox is."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Self

from opencode_async.protocol.wire import mapping, text


@dataclass(frozen=True, slots=True)
class Paths:
    """A server's ``directory`` and the git ``worktree`` it is in, without git ``/``.

    Both absolute and without symbolic links, also where the server was given one. Tools resolve
    relative paths against the directory and follow no link in what is matched against rules: a
    path through a link to the directory is outside of it (OpenCode 1.18.33, measured).
    """

    directory: str
    worktree: str

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """The answer of ``GET /path``."""
        paths = mapping(value)
        return cls(text(paths, "directory"), text(paths, "worktree"))

    def sandbox(self, key: str) -> str:
        """The folder of the conversation with that ``sandbox_key``; ``ValueError`` for no name."""
        return posixpath.join(self.directory, "sandbox", checked_key(key))

    def place_of(self, path: str, sandbox: str) -> tuple[str, bool] | None:
        """Where a file of the server's stands, and whether that is relative to the sandbox.

        Else it is relative to the directory; ``None`` for one that is elsewhere, also if that is
        another conversation's sandbox.
        """
        path = posixpath.normpath(path)
        for root, inside in ((sandbox, True), (self.directory, False)):
            below = root.rstrip("/") + "/"
            if path.startswith(below):
                place = path.removeprefix(below)
                return None if place.split("/")[0] == "sandbox" and not inside else (place, inside)
        return None

    def pattern(self, path: str) -> str:
        """The path as ``read`` and ``edit`` match it, relative to the work tree.

        A pattern has no way to say that a ``*`` in it is one: ``?`` matches little more.
        """
        return posixpath.relpath(path, self.worktree).replace("*", "?")


def checked_key(key: str) -> str:
    """The ``sandbox_key``, which is one folder's name; raises ``ValueError`` for anything else."""
    if key in ("", ".", "..") or any(separator in key for separator in "/\\\0"):
        raise ValueError(f"a sandbox_key is the name of a folder, not {key!r}")
    return key
