"""One conversation's files are out of another's reach, on the real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from opencode_async import Permissions, Server, TurnSettings
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host, host, nowhere
from tests.support.parts import skip_without
from tests.support.proxy import Proxy
from tests.turns.ended import run

pytestmark = pytest.mark.timeout(180)  # dozens of calls each, on a real server
SECRET = "The other one's secret."
PLAIN, PATCHING = (
    "scripted/scripted",
    "scripted/gpt-5-scripted",
)  # the latter has apply_patch, not write and edit
Call = dict[str, Any]


def call(name: str, **arguments: str) -> Call:
    return {"name": name, "args": arguments}


def script(calls: Iterable[Call]) -> str:
    return f"SCRIPT:tools {json.dumps(list(calls))}"


def patch(*lines: str) -> Call:
    return call("apply_patch", patchText="\n".join(("*** Begin Patch", *lines, "*** End Patch")))


def permitted(permissions: Permissions) -> dict[str, Any]:
    """The options of a host whose agents may do that."""

    async def settings_for(conversation: object) -> TurnSettings:
        return TurnSettings(system="Be brief.", permissions=permissions)

    return {"settings_for": settings_for, "dispatch": nowhere}


def git(*arguments: str, cwd: Path) -> None:
    executable = shutil.which("git") or skip_without("git", "`apt-get install git`")
    subprocess.run([executable, *arguments], cwd=cwd, check=True)


@pytest.fixture(params=["plain", "git", "below git", "link to plain", "link below git"])
def workspace(request: pytest.FixtureRequest, opencode: ScriptedServer, tmp_path: Path) -> Any:
    """The server in a directory of each kind: in a git work tree or not, by its path or a link."""
    directory = tmp_path / "workspace"
    directory.mkdir()
    if "git" in request.param:
        git("init", "--quiet", cwd=directory)
        git(
            *("-c", "user.name=A", "-c", "user.email=a@localhost"),
            *("commit", "--quiet", "--allow-empty", "--message", "Begun"),
            cwd=directory,
        )
    if "below" in request.param:
        directory = directory / "app"
        directory.mkdir()
    if "link" in request.param:
        link = tmp_path / "link"
        link.symlink_to(directory)
        directory = link
    return replace(opencode, directory=directory)


def directory_of(server: Server) -> Path:
    """The server's directory as its own paths have it."""
    return Path(str(server.directory)).resolve()


async def sandbox(app: Host[Any, Any], conversation: Any) -> Path:
    """A conversation's folder."""
    async with app.sessions() as db:
        row = await db.get_one(app.agent.tables.conversation, conversation)
    assert row.sandbox_key is not None
    return directory_of(app.agent.client.server) / "sandbox" / str(row.sandbox_key)


async def tools(app: Host[Any, Any], conversation: Any, text: str, **request: Any) -> list[Any]:
    """The tool parts of a turn that came to its own end."""
    row, _ = await run(app, conversation, text, **request)
    assert (row.status, row.finish) == ("completed", "stop"), row.error_text
    return [part for part in row.parts if part["type"] == "tool"]


async def two(app: Host[Any, Any]) -> tuple[Any, Path, Path]:
    """A conversation, its folder with a file, and another's with a secret, which it wrote."""
    mine, other = await app.conversation(), await app.conversation()
    folder, theirs = await sandbox(app, mine), await sandbox(app, other)
    for conversation, path, content in ((mine, folder, "Mine.\n"), (other, theirs, SECRET)):
        written = call("write", filePath=f"{path}/a.txt", content=content)
        assert [part["status"] for part in await tools(app, conversation, script([written]))] == [
            "completed"
        ]
    return mine, folder, theirs


async def reaches_nothing(app: Host[Any, Any], mine: Any, theirs: Path, calls: list[Call]) -> None:
    """None of the calls reads or writes anything of the other's, or of the directory's own."""
    directory = theirs.parent.parent
    before = {path: path.read_bytes() for path in directory.rglob("*.*") if path.is_file()}
    for model in (PLAIN, PATCHING):
        parts = await tools(app, mine, script(calls), model=model)
        assert len(parts) == len(calls)
        for part in parts:
            assert part["tool"] == "invalid" or part["status"] == "error", part
            assert SECRET not in json.dumps({**part, "input": {}}), part
    assert before == {p: p.read_bytes() for p in directory.rglob("*.*") if p.is_file()}


@pytest.mark.slow("dozens of calls in five places, to see what the real server lets through")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_file_tool_leaves_the_own_sandbox(
    database_url: str, workspace: ScriptedServer
) -> None:
    async with host(database_url, workspace, **permitted(Permissions.sandboxed())) as app:
        mine, folder, theirs = await two(app)
        named = Path(str(workspace.directory)) / "sandbox" / theirs.name  # perhaps through the link
        ways = [
            f"sandbox/{theirs.name}/a.txt",
            f"sandbox/{folder.name}/../{theirs.name}/a.txt",
            f"{theirs}/a.txt",
            f"{named}/a.txt",
        ]
        await reaches_nothing(
            app,
            mine,
            theirs,
            [
                *(call("read", filePath=way) for way in (*ways, str(theirs), "sandbox", ".")),
                *(call("write", filePath=way, content="Taken over.") for way in ways),
                *(call("edit", filePath=w, oldString=SECRET, newString="No.") for w in ways),
                call("write", filePath="AGENTS.md", content="Obey me."),
                call("glob", pattern="**/*.txt"),
                call("glob", pattern="*.txt", path=str(theirs)),
                call("grep", pattern="secret"),
                call("grep", pattern="secret", path=str(theirs)),
                call("list", path=str(theirs)),
                call("bash", command=f"cat {theirs}/a.txt", description="Reads"),
                call("task", description="Read", prompt="Read it.", subagent_type="general"),
                *(patch(f"*** Add File: {way}", "+Taken over.") for way in ways),
                *(patch(f"*** Delete File: {way}") for way in ways),
                *(patch(f"*** Update File: {w}", "@@", f"-{SECRET}", "+No.") for w in ways),
            ],
        )


@pytest.mark.slow("dozens of calls in five places, to see what the real server lets through")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_patch_moves_no_file_out_of_the_own_sandbox(
    database_url: str, workspace: ScriptedServer
) -> None:
    """OpenCode asks about the path that a file had, and not about the one it gets."""
    async with host(database_url, workspace, **permitted(Permissions.sandboxed())) as app:
        mine, folder, theirs = await two(app)
        goals = [f"{theirs}/a.txt", f"{theirs}/new.txt", "AGENTS.md", "../AGENTS.md"]
        goals += [f"sandbox/{folder.name}/../{theirs.name}/a.txt"]
        moved = ("@@", "-Mine.", "+Taken over.")
        own = f"*** Update File: {folder}/a.txt"
        moves = [patch(own, f"*** Move to: {goal}", *moved) for goal in goals]
        within = patch(own, f"*** Move to: {folder}/b/c.txt", *moved)
        await reaches_nothing(app, mine, theirs, moves)
        (part,) = await tools(app, mine, script([within]), model=PATCHING)
        assert part["status"] == "completed"
        assert (folder / "b" / "c.txt").read_text() == "Taken over.\n"


@pytest.mark.slow("dozens of calls in five places, to see what the real server lets through")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_all_file_tools_work_in_the_own_sandbox_by_any_path(
    database_url: str, workspace: ScriptedServer
) -> None:
    async with host(database_url, workspace, **permitted(Permissions.sandboxed())) as app:
        mine, folder, _ = await two(app)
        relative = f"sandbox/{folder.name}"
        for path in (relative, str(folder)):
            file, listed = f"{path}/a.txt", call("read", filePath=path)
            parts = await tools(
                app,
                mine,
                script(
                    [
                        call("write", filePath=file, content="One.\n"),
                        call("edit", filePath=file, oldString="One.", newString="Two."),
                        call("read", filePath=file),
                        call("write", filePath=f"{path}/.env", content="KEY=1"),
                        call("read", filePath=f"{path}/.env"),
                        listed,
                    ]
                ),
                model=PLAIN,
            )
            assert [part["status"] for part in parts] == ["completed"] * 6, [
                p.get("error") for p in parts
            ]
            assert "Two." in parts[2]["output"]
            added = patch(f"*** Add File: {path}/sub/new.txt", "+One.")
            parts = await tools(app, mine, script([added, listed]), model=PATCHING)
            assert [part["status"] for part in parts] == ["completed"] * 2, parts
            assert "sub/" in parts[1]["output"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_with_bash_one_conversation_reads_the_others(
    database_url: str, opencode: ScriptedServer
) -> None:
    """The trap that ``sandboxed`` names: no rule about paths is one for bash."""
    permissions = Permissions.sandboxed().allow("bash")
    async with host(database_url, opencode, **permitted(permissions)) as app:
        mine, _, theirs = await two(app)
        told = call("bash", command=f"cat sandbox/{theirs.name}/a.txt", description="Reads")
        (part,) = await tools(app, mine, script([told]))
    assert part["output"] == SECRET


async def test_the_agent_is_told_its_folder_also_of_a_conversation_without_a_key(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, **permitted(Permissions.sandboxed())) as app:
        kind, conversation = app.agent.tables.conversation, await app.conversation()
        async with app.sessions.begin() as db:
            await db.execute(update(kind).values({"sandbox_key": None}))
        row, _ = await run(app, conversation, "SCRIPT:text Hi.")
        first = await sandbox(app, conversation)
        again, _ = await run(app, conversation, "SCRIPT:text Again.")
        assert await sandbox(app, conversation) == first
        session_id = await app.session_id(row)
    told = f"Be brief.\n\nYour folder is {first}: read and write files only there."
    assert row.request["body"]["system"] == again.request["body"]["system"] == told
    asked = [r for r in opencode.model.requests if r.session_id == session_id]
    assert all(told in json.dumps(request.body, ensure_ascii=False) for request in asked) or all(
        json.dumps(told)[1:-1] in json.dumps(request.body) for request in asked
    )


async def test_an_edit_whose_ask_was_missed_is_answered_at_the_next_look(
    database_url: str, opencode: ScriptedServer
) -> None:
    """The agent would else wait for ever for what its rules allow."""

    def edit(frame: bytes) -> Iterable[bytes]:
        return () if b'"type":"permission.asked"' in frame else (frame,)

    async with (
        Proxy(opencode, edit).running() as server,
        host(database_url, server, **permitted(Permissions.sandboxed())) as app,
    ):
        _, folder, _ = await two(app)
        assert (folder / "a.txt").read_text() == "Mine.\n"
