"""A sandbox, what lies beside it, and an agent that moves within the very call it races with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from opencode_async.artifacts.sandbox import Sandbox
from tests.support.sandboxes import MAX_BYTES, descriptors_below


@pytest.fixture(autouse=True)
def no_descriptor_leaks(tmp_path: Path) -> Iterator[None]:
    yield
    if sys.platform == "linux":
        assert descriptors_below(tmp_path) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "sandbox" / "conversation"
    root.mkdir(parents=True)
    return root


@pytest.fixture
def sandbox(root: Path) -> Sandbox:
    return Sandbox(root, max_bytes=MAX_BYTES)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder with a file of another conversation's, on the same file system."""
    folder = tmp_path / "sandbox" / "another"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text("secret")
    return folder


class Race(Protocol):
    def __call__(self, call: str, move: Callable[[], object], *, of: object = None) -> None: ...


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> Race:
    """``race("open", move, of="a")``: the agent moves once, just before ``os.open("a", …)``."""

    def arm(call: str, move: Callable[[], object], *, of: object = None) -> None:
        original: Callable[..., Any] = getattr(os, call)
        moves = [move]

        def raced(*args: Any, **named: Any) -> Any:
            if moves and (of is None or args[0] == of):
                moves.pop()()
            return original(*args, **named)

        monkeypatch.setattr(os, call, raced)

    return arm
