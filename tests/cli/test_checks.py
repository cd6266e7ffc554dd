"""Each thing that the doctor looks at, well and ill, on the real parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from opencode_async import DirectoryArtifactStore, OpencodeClient, Server, Tables
from opencode_async.cli.checks import server as server_checks
from opencode_async.cli.checks.database import check_database
from opencode_async.cli.checks.finding import Finding
from opencode_async.cli.checks.routes import check_routes
from opencode_async.cli.checks.server import check_server
from opencode_async.cli.checks.store import check_store
from opencode_async.testing import Impostor, ScriptedServer
from opencode_async.testing.impostor import RealClock
from tests.support.hosts import Ask, Base, Conversation, File, Message, engine_for
from tests.support.proxy import HEARTBEAT, Fate, Proxy

TABLES = Tables(Conversation, Message, File, Ask)


async def of(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


def ill(findings: list[Finding]) -> list[tuple[str, str]]:
    for finding in findings:
        assert (finding.level == "ok") == (not finding.remedy), finding
    return [(finding.level, finding.what) for finding in findings if finding.level != "ok"]


# The server


async def test_a_server_that_is_well(opencode: ScriptedServer) -> None:
    findings = await of(check_server(opencode))
    assert ill(findings) == []
    assert findings[0].what == f"OpenCode 1.18.33 answers at {opencode.url}"
    assert "its event stream delivers" in [finding.what for finding in findings]


async def test_it_leaves_no_session_behind(opencode: ScriptedServer) -> None:
    async with OpencodeClient(opencode) as client:
        before = (await client.http.request("GET", "/session")).json()
        await of(check_server(opencode))
        assert (await client.http.request("GET", "/session")).json() == before


async def test_a_version_that_was_not_tested_is_a_warning(
    opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "TESTED_VERSIONS", ("1.0.0",))
    ((level, what),) = ill(await of(check_server(opencode)))
    assert (level, "1.18.33 was not tested" in what) == ("warning", True)


async def test_a_wrong_password(opencode: ScriptedServer) -> None:
    findings = await of(check_server(Server(opencode.url, password="top secret")))
    assert ill(findings) == [("error", f"{opencode.url} refuses the password")]
    assert "top secret" not in repr(findings)


async def test_nobody_there() -> None:
    ((level, what),) = ill(await of(check_server(Server("http://127.0.0.1:9"))))
    assert (level, what.startswith("no answer: ")) == ("error", True)


async def test_a_server_for_anybody_in_the_network() -> None:
    ((level, what),) = ill(await of(check_server(Server("http://agent.invalid:4096"))))
    assert (level, what) == ("error", "http://agent.invalid:4096 has no password")


async def test_a_stream_that_delivers_heartbeats_alone(
    opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "DELIVERY", 2.0)
    proxy = Proxy(opencode)
    proxy.fate = lambda frame: (
        Fate.PASSED if HEARTBEAT in frame or b"server.connected" in frame else Fate.SILENCED
    )
    async with proxy.running() as silent:
        findings = await of(check_server(silent))
    assert ill(findings) == [("error", "its event stream delivered nothing within 2 s")]


class Off(RealClock):
    """A clock that is so many seconds ahead."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self._ahead = ahead

    def now(self) -> float:
        return super().now() + self._ahead


@pytest.mark.parametrize(
    ("version", "ahead", "told"),
    [
        ("1.18.33", -60.0, "behind"),
        ("1.18.33", 60.0, "ahead"),
        ("1.18.33", -0.5, None),
        ("1.17.19", -0.5, "behind"),
        ("1.17.19", 0.5, "ahead"),
        ("1.17.19", 0.0, None),
        ("2.0.0", 0.5, None),
    ],
)
async def test_a_clock_that_is_off_by_more_than_the_version_bears(
    version: str, ahead: float, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opencode_async.testing.impostor.app.VERSION", version)
    monkeypatch.setattr(server_checks, "TESTED_VERSIONS", (version,))
    async with Impostor(tmp_path, clock=Off(ahead)) as impostor:
        findings = await of(check_server(impostor.server))
    (clock,) = [finding for finding in findings if "its clock" in finding.what]
    assert ill(findings) == ([("warning", clock.what)] if told else [])
    assert (told or "agrees") in clock.what
    assert ("1.18" in clock.remedy) == (told is not None and version == "1.17.19")


# The database


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Any]:
    engine = engine_for(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def database(engine: Any) -> list[Finding]:
    return await of(check_database(async_sessionmaker(engine), TABLES))


async def test_a_database_that_is_well(engine: Any) -> None:
    findings = await database(engine)
    assert ill(findings) == []
    assert "messages has its columns and indexes" in [finding.what for finding in findings]


async def test_what_a_migration_would_bring(engine: Any) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE messages DROP COLUMN ledger"))
        await connection.execute(text("DROP INDEX messages_one_live_turn"))
        await connection.execute(text("DROP INDEX messages_queue"))
        await connection.execute(text("DROP TABLE asks"))
    assert ill(await database(engine)) == [
        ("error", "there is no table asks"),
        ("error", "messages lacks the columns ledger"),
        ("error", "messages lacks the indexes messages_one_live_turn, messages_queue"),
    ]


async def test_an_index_that_covers_all_rows_is_not_the_one(engine: Any) -> None:
    """It would allow a conversation one message."""
    async with engine.begin() as connection:
        await connection.execute(text("DROP INDEX messages_one_live_turn"))
        whole = "CREATE UNIQUE INDEX messages_one_live_turn ON messages (conversation_id)"
        await connection.execute(text(whole))
    assert ill(await database(engine)) == [
        ("error", "messages lacks the indexes messages_one_live_turn")
    ]


async def test_a_database_that_is_not_there() -> None:
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:9/none")
    ((level, what),) = ill(await database(engine))
    assert (level, what.startswith("the database does not answer: ")) == ("error", True)
    await engine.dispose()


async def test_sqlite_without_its_settings(tmp_path: Path) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/a.db", connect_args={"timeout": 0}
    )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    assert ill(await database(engine)) == [
        ("warning", "journal_mode is delete: readers block writers"),
        ("warning", "busy_timeout is 0 ms: two writers at once are an error"),
    ]
    await engine.dispose()


# The files


async def test_a_store_that_is_well(tmp_path: Path) -> None:
    findings = await of(check_store(DirectoryArtifactStore(tmp_path / "files")))
    assert [finding.level for finding in findings] == ["ok"]
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


async def test_a_store_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no folder")
    ((level, what),) = ill(await of(check_store(DirectoryArtifactStore(tmp_path / "files"))))
    assert (level, "the artifact store" in what) == ("error", True)


class Forgetful(DirectoryArtifactStore):
    def open(self, key: str, start: int = 0, end: int | None = None) -> Any:
        return super().open(key, start, 3)


async def test_a_store_that_gives_other_bytes(tmp_path: Path) -> None:
    (finding,) = await of(check_store(Forgetful(tmp_path / "files")))
    assert (finding.level, finding.what) == ("error", "Forgetful gives other bytes than it took")


# The routes


async def get_db() -> AsyncIterator[None]:
    yield


class Connected:
    async def __call__(self) -> AsyncIterator[None]:
        yield


def routes(dependency: Any) -> list[tuple[str, str]]:
    def access(db: None = dependency) -> None: ...

    router = APIRouter()

    @router.get("/a")
    @router.get("/b")
    def route(access: None = Depends(access)) -> None: ...

    return [(f.level, f.what.split(" ")[0]) for f in check_routes([router])]


def test_an_agent_without_routes_is_said_to_be_one() -> None:
    (finding,) = check_routes([])
    assert (finding.level, finding.what) == ("warning", "no router of this agent is made there")


def test_a_dependency_that_stays_open_is_named_once() -> None:
    assert routes(Depends(get_db)) == [("warning", "get_db")]
    assert routes(Depends(Connected()))[0][0] == "warning"


def test_one_that_is_closed_before_the_answer_is_not() -> None:
    assert routes(Depends(get_db, scope="function"))[0][0] == "ok"
    assert routes(Depends(lambda: None))[0][0] == "ok"
