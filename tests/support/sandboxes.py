"""What is asked of sandboxes, and of this process, in tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opencode_async.artifacts.sandbox import Found, Sandbox
from opencode_async.artifacts.sandbox_file import CHUNK, SandboxFile
from opencode_async.errors import SandboxFileRefused

MAX_BYTES = 4 * CHUNK
EVERYTHING = 0.0  # since 1970


def descriptors_below(folder: Path) -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the one that was listing
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found


async def contents(file: SandboxFile) -> bytes:
    return b"".join([chunk async for chunk in file.read()])


def paths(found: Found) -> list[str]:
    return [file.path for file in found.files]


def reasons(found: Found) -> dict[str, str]:
    assert len({refusal.path for refusal in found.refused}) == len(found.refused)
    return {refusal.path: refusal.reason for refusal in found.refused}


async def refusal(sandbox: Sandbox, path: str) -> str:
    with pytest.raises(SandboxFileRefused) as raised:
        await contents(await sandbox.file(path))
    return raised.value.reason


async def refused_when_read(file: SandboxFile) -> str:
    with pytest.raises(SandboxFileRefused) as raised:
        await contents(file)
    assert raised.value.path == file.path
    return raised.value.reason


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
