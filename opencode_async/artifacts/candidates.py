"""The files that may be a turn's, wherever this process learns of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from opencode_async.artifacts.artifact import Artifact
from opencode_async.artifacts.distant import DistantSandbox
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.errors import SandboxFileRefused
from opencode_async.protocol.tool_artifacts import ToolArtifact

PlaceOf = Callable[[str], tuple[str, bool] | None]
MOST_REFUSALS = 50  # that are reported one by one


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be the turn's: of the sandbox, or not; ``doubtful``, or surely new."""

    file: Artifact
    inside: bool
    doubtful: bool


async def candidates(
    written: Iterable[ToolArtifact],
    sandbox: Sandbox | DistantSandbox | None,
    place_of: PlaceOf,
    cutoff: float,
    failed: Callable[[Exception], None],
) -> list[Candidate]:
    """The agent's files, by their paths in the sandbox, or else in the server's directory.

    Of the ``sandbox``, those since ``cutoff``, in seconds since 1970, where this process sees it,
    else all that the server gives. ``written`` is what tool calls say they left; ``place_of`` says
    where a path of the server's is. ``failed`` is told of files that cannot be read.
    """
    match sandbox:
        case Sandbox():
            found = await _seen(sandbox, cutoff, failed)
        case DistantSandbox():
            async with aclosing(sandbox.files(failed)) as files:
                found = [Candidate(file, inside=True, doubtful=True) async for file in files]
        case None:
            found = []
    known = {candidate.file.path for candidate in found}
    for left in written:
        place = place_of(left.path)
        if place is None:
            continue
        path, inside = place
        if inside and (isinstance(sandbox, Sandbox) or path in known):
            continue  # as it is by now
        if left.content is not None:
            found.append(Candidate(Artifact.of(path, left.content), inside, doubtful=False))
        elif inside:
            failed(SandboxFileRefused(path, "unreadable"))
    return found


async def _seen(
    sandbox: Sandbox, cutoff: float, failed: Callable[[Exception], None]
) -> list[Candidate]:
    fresh = await sandbox.fresh(cutoff)
    for refused in fresh.refused[:MOST_REFUSALS]:
        failed(refused)
    if len(fresh.refused) > MOST_REFUSALS:
        failed(SandboxFileRefused(".", "too_many"))
    return [
        # The clocks of two machines differ: the turn before may have left it.
        Candidate(Artifact(seen.path, seen.read), inside=True, doubtful=seen.modified < cutoff)
        for seen in fresh.files
    ]
