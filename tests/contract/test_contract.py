"""One suite for both: what is done to a real OpenCode is done to an Impostor, and told the same.

Compared are the sequences of events and the answers of REST, with ids named in the order in which
they came and without times. Left out, and why:

* ``plugin.*``, ``catalog.*``, ``integration.*``, ``reference.*``, ``project.*``: of parts of the
  server that an Impostor has not; ``file.watcher.updated``: of the file system, whenever it likes;
* ``session.diff`` (always empty), ``session.updated`` and the user's message with its ``summary``:
  the real server sends them anywhere in a turn; what they say is compared where REST says it;
* what the first news of a message or of a command says beyond who it is: the real server sends what
  is true a moment later;
* the order between what goes on at the same time: the end of a text and the calls behind it, an ask
  and the news that its call runs, events of several sessions, events and answers of REST;
* a retry's time (the real one's is jittered) and the headers of a provider's answer;
* in messages of errors the server's stacks and queries, and its guess which model was meant;
* how a turn ends whose session is deleted meanwhile: the real server's fails on its database, now
  at once, now behind a retry, and now and then it says nothing;
* a command's output and exit when it writes in several pieces: how many there are is the system's.

Older versions differ, each in what is known of it; see ``versions``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from opencode_async.client.http import Lent
from opencode_async.client.server import Server
from opencode_async.testing import Impostor, ScriptedServer
from opencode_async.testing.impostor import RealClock
from tests.contract.normal import normal
from tests.contract.scenarios import SCENARIOS, said
from tests.contract.versions import CRASH, DIFFERING, OUT_OF_TIME
from tests.contract.witness import witness
from tests.support.parts import REPOSITORY

pytestmark = pytest.mark.timeout(180)
TRIES = 3  # of a real server that does not tell the same twice: one of what it tells is ours


async def told_by(server: Server, name: str, *, older: bool) -> list[str]:
    async with witness(server) as found:
        await SCENARIOS[name](found)
    return normal(found, older=older)


def compare(ours: list[str], theirs: list[str], *, known: str | None) -> None:
    """They are alike, unless for a known reason they differ."""
    if known is None:
        assert ours == theirs
    else:
        assert ours != theirs, f"no difference any more: {known}"


@pytest.fixture(scope="module")
def real(opencode: ScriptedServer) -> Server:
    """The real server, in a folder that no other tests use: each new one costs it 40 MB."""
    folder = Path(str(opencode.directory)) / "contract"
    folder.mkdir()
    return replace(opencode, directory=folder)


@pytest.fixture(scope="module")
def version(real: Server) -> str:
    """The real server's."""
    auth = httpx.BasicAuth(real.username, real.password or "")
    answer = httpx.get(f"{real.url}/global/health", auth=auth, trust_env=False)
    found: str = answer.raise_for_status().json()["version"]
    return found


async def one_like(
    ours: list[str], tell: Callable[[Server], Awaitable[list[str]]], real: Server
) -> list[str]:
    """What the real server tells: ours, if that is among what it tells in some tries.

    Each has a folder of its own, for what was always allowed in one stays so.
    """
    told = await tell(real)
    for _ in range(1, TRIES):
        if told == ours:
            break
        folder = Path(str(real.directory)) / uuid4().hex
        folder.mkdir()
        told = await tell(replace(real, directory=folder))
    return told


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_impostor_tells_what_the_real_one_does(
    name: str, real: Server, version: str, tmp_path: Path
) -> None:
    older = version in DIFFERING
    async with Impostor(tmp_path, clock=RealClock()) as impostor:
        ours = await told_by(impostor.server, name, older=older)

    async def theirs(server: Server) -> list[str]:
        return await told_by(server, name, older=older)

    known = DIFFERING.get(version, {}).get(name)
    compare(ours, await one_like(ours, theirs, real), known=known)


@pytest.mark.parametrize("version", DIFFERING)
def test_the_readme_counts_what_a_version_tells_alike(version: str) -> None:
    differing = DIFFERING[version].keys() - {CRASH, OUT_OF_TIME}
    assert differing <= SCENARIOS.keys()
    alike = len(SCENARIOS) - len(differing)
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert f"| OpenCode {version} | {alike} of the {len(SCENARIOS)} scenarios of" in readme


async def test_both_refuse_a_stranger(real: Server, tmp_path: Path) -> None:
    async def told(server: Server) -> tuple[int, bytes, str]:
        transport = server.transport and Lent(server.transport)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
            answer = await http.get(f"{server.url}/global/health", auth=("opencode", "wrong"))
        return answer.status_code, answer.content, answer.headers["www-authenticate"]

    async with Impostor(tmp_path) as impostor:
        assert await told(impostor.server) == await told(real)


@pytest.mark.parametrize("command", ["echo begun; sleep 30", "sleep 30"])
async def test_a_command_that_is_out_of_time_is_told_alike(
    command: str, real: Server, version: str, tmp_path: Path
) -> None:
    older = version in DIFFERING
    arguments = {"command": command, "description": "Waits", "timeout": 300}
    calls = json.dumps([{"name": "bash", "args": arguments}])

    async def told(server: Server) -> list[str]:
        async with witness(server) as w:
            await said(w, f"SCRIPT:tools {calls}")
        return normal(w, older=older)

    theirs = await told(real)
    assert "exceeding timeout 300 ms" in str(theirs)
    async with Impostor(tmp_path, clock=RealClock()) as impostor:
        ours = await told(impostor.server)
    compare(ours, theirs, known=DIFFERING.get(version, {}).get(OUT_OF_TIME))


async def crashed(
    server: Server,
    kill: Callable[[], Awaitable[None]],
    restart: Callable[[], Awaitable[None]],
    *,
    older: bool,
) -> list[str]:
    """What is told before and after a crash in a text, in a command and in an ask."""
    async with witness(server) as w:
        prompts = {
            await w.session(): "SCRIPT:hang some words",
            await w.session(): 'SCRIPT:bash {"command": "echo begun; sleep 20"}',
            await w.session(("edit", "*", "ask")): 'SCRIPT:write {"path": "crashed.txt"}',
        }
        posted = {session: await w.prompt(session, text) for session, text in prompts.items()}
        await w.kind("message.part.delta")
        await w.tool_running("begun\n")
        await w.kind("permission.asked")
        await kill()
    await restart()
    async with witness(server) as again:
        await again.ask("GET", "/session/status")
        await again.ask("GET", "/permission")
        for session, prompt in posted.items():
            await again.ask("GET", f"/session/{session}/message")
            prompt["parts"][0]["text"] = "SCRIPT:text again"
            await again.post(session, prompt)
            await again.idle(session)
            await again.truth(session)
    return normal(again, older=older)


async def test_both_crash_alike(
    real: Server, opencode: ScriptedServer, version: str, tmp_path: Path
) -> None:
    older = version in DIFFERING

    async def kill() -> None:
        opencode.process.kill()

    async with Impostor(tmp_path, clock=RealClock()) as impostor:

        async def restart() -> None:
            impostor.restart()

        ours = await crashed(impostor.server, impostor.crash, restart, older=older)

    async def theirs(server: Server) -> list[str]:
        return await crashed(server, kill, opencode.process.restart, older=older)

    compare(ours, await one_like(ours, theirs, real), known=DIFFERING.get(version, {}).get(CRASH))
