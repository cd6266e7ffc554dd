"""Which files are a turn's, under which names, and what becomes of those that are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from opencode_async import (
    Artifact,
    ArtifactPolicy,
    DirectoryArtifactStore,
    LeaseLost,
    Sandbox,
    SandboxFileRefused,
    Transform,
)
from opencode_async.artifacts.filenames import free
from opencode_async.artifacts.message_artifacts import MessageArtifacts, safe_path
from opencode_async.protocol.tool_artifacts import ToolArtifact
from tests.support.hosts import Base, Conversation, File, Message, engine_for

Json = dict[str, Any]


class Rendering(Transform):
    source_filename, destination_filename = "report.md", "report.html"

    async def render(self, file: Artifact) -> Artifact:
        return Artifact.of("", b"<p>" + await file.content(), "text/html")


@dataclass
class Lab:
    """A conversation with messages of two turns, its sandbox and its store."""

    sessions: async_sessionmaker[AsyncSession]
    root: Path
    kept: Path
    rows: list[Message]
    failed: list[Exception] = field(default_factory=list)

    async def attach(
        self,
        message: int = 1,
        *,
        written: list[ToolArtifact] | None = None,
        cutoff: float = 0.0,
        uploaded: Mapping[str, str] | None = None,
        holds: Any = None,
        **policy: Any,
    ) -> dict[str, File]:
        """What is kept of what is there, by path."""

        async def holding(db: AsyncSession) -> None:
            if holds is not None:
                await holds(db)

        def place_of(path: str) -> tuple[str, bool] | None:
            return path, False

        store = policy.pop("store", None) or DirectoryArtifactStore(self.kept)
        async with store:
            files = MessageArtifacts(
                File,
                self.rows[message],
                self.sessions,
                ArtifactPolicy(store, **policy),
                holds=holding,
                failed=self.failed.append,
            )
            sandbox = Sandbox(self.root, max_bytes=1000)
            rows = files.attach_from(written or [], sandbox, place_of, cutoff, uploaded or {})
            return {row.path or "": row async for row in rows}  # type: ignore[misc]

    async def sent(self, path: str, sha256: str) -> None:
        """A file that came with the person's message."""
        async with self.sessions.begin() as db:
            db.add(File(message_id=self.rows[0].id, path=path, sha256=sha256, key="k"))

    def objects(self) -> int:
        return len([path for path in self.kept.rglob("*") if path.is_file()])

    @property
    def refused(self) -> list[tuple[str, str]]:
        return [(e.path, e.reason) for e in self.failed if isinstance(e, SandboxFileRefused)]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    engine = engine_for(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    root = tmp_path / "agent" / "sandbox" / "key"
    root.mkdir(parents=True)
    async with sessions() as db:
        conversation = Conversation(user_id=1)
        db.add(conversation)
        await db.flush()
        roles = ("user", "assistant", "assistant")
        rows = [Message(conversation_id=conversation.id, role=role) for role in roles]
        db.add_all(rows)
        await db.commit()
    yield Lab(sessions, root, tmp_path / "kept", rows)
    await engine.dispose()


async def test_what_a_person_sends_meanwhile_is_not_the_running_turns(lab: Lab) -> None:
    (lab.root / "report.md").write_text("theirs")
    (lab.root / "mine.txt").write_text("mine")
    theirs = (await lab.attach(2))["report.md"].sha256 or ""
    async with lab.sessions.begin() as db:
        for row in await db.scalars(select(File)):
            await db.delete(row)
    await lab.sent("report.md", theirs)
    policy: Json = {"transforms": [Rendering()], "secret": "s"}
    assert set(await lab.attach(1, **policy)) == {"mine.txt"}
    (lab.root / "report.md").write_text("changed by the agent")
    assert set(await lab.attach(2, **policy)) == {"report.md", "report.html", "mine.txt"}


async def test_what_the_turn_before_left_is_neither_kept_nor_rendered_again(lab: Lab) -> None:
    (lab.root / "report.md").write_text("one")
    policy: Json = {"transforms": [Rendering()], "secret": "s"}
    assert set(await lab.attach(1, **policy)) == {"report.md", "report.html"}
    changed = (lab.root / "report.md").stat().st_ctime
    assert await lab.attach(2, cutoff=changed + 1, **policy) == {}
    assert set(await lab.attach(2, cutoff=changed - 1, **policy)) == {"report.md", "report.html"}


async def test_what_the_host_renders_is_not_crowded_out(lab: Lab) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "report.md"):
        (lab.root / name).write_text(name)
    policy: Json = {"transforms": [Rendering()], "secret": "s", "max_files": 3}
    assert set(await lab.attach(**policy)) == {"report.html", "report.md", "a.txt"}
    assert lab.refused == [("b.txt", "too_many")]


async def test_renderings_count_and_uploads_do_not(lab: Lab) -> None:
    class Every(Rendering):
        def applies_to(self, file: Artifact) -> bool:
            return True

    uploaded = {}
    for number in range(5):
        (lab.root / f"{number}.txt").write_text(str(number))
    for path, row in (await lab.attach(2)).items():
        uploaded[path] = row.sha256 or ""
        (lab.root / f"own-{path}").write_text("own")
    kept = await lab.attach(1, uploaded=uploaded, max_files=5)
    assert len(kept) == 5
    assert lab.refused == []
    policy: Json = {"transforms": [Every()], "secret": "s", "default_attach": "none"}
    await lab.attach(0, uploaded=uploaded, max_files=3, **policy)
    assert [reason for _, reason in lab.refused] == ["too_many"]


async def test_names_that_are_the_same_once_safe_are_told_apart(lab: Lab) -> None:
    (lab.root / "a\u200bb.txt").write_text("one")
    (lab.root / "a_b.txt").write_text("two")
    written = [ToolArtifact("a_b.txt", "three"), ToolArtifact("x" * 300 + "/" + "y" * 900, "long")]
    kept = await lab.attach(written=written)
    assert set(kept) >= {"a_b.txt", "a_b-2.txt", "a_b-3.txt"}
    assert set(await lab.attach(written=written)) == set()  # a second time nothing is new
    assert free("a/b.txt", {"a/b.txt"}) == "a/b-2.txt"
    assert safe_path("a\n/../b\u202e") == "a_/file/b_"


async def test_a_path_that_no_row_holds_is_refused_before_anything_is_stored(lab: Lab) -> None:
    path = "/".join(["d" * 200] * 6)
    assert await lab.attach(written=[ToolArtifact(path, "x")]) == {}
    assert lab.refused == [(path, "name")]
    assert lab.objects() == 0


async def test_of_many_refusals_only_the_first_are_told_one_by_one(lab: Lab) -> None:
    for number in range(80):
        (lab.root / f"{number:03}").symlink_to("/etc/passwd")
    assert await lab.attach() == {}
    assert len(lab.refused) == 51
    assert lab.refused[-1] == (".", "too_many")


async def test_a_database_that_is_away_costs_no_file(lab: Lab) -> None:
    """The turn is given up instead, and whoever takes it over keeps them."""
    (lab.root / "a.txt").write_text("one")

    async def away(db: AsyncSession) -> None:
        raise OperationalError("SELECT", None, OSError("it is restarting"))

    with pytest.raises(OperationalError):
        await lab.attach(holds=away)
    assert set(await lab.attach()) == {"a.txt"}
    assert lab.objects() == 1


@pytest.mark.parametrize("erased", [True, False])
async def test_a_worker_that_lost_its_turn_leaves_an_object_only_to_another(
    erased: bool, lab: Lab
) -> None:
    (lab.root / "a.txt").write_text("one")

    async def lost(db: AsyncSession) -> None:
        raise LeaseLost(lab.rows[1].id)

    if erased:
        async with lab.sessions.begin() as db:
            await db.delete(await db.get_one(Message, lab.rows[1].id))
    with pytest.raises(LeaseLost):
        await lab.attach(holds=lost)
    assert lab.objects() == (0 if erased else 1)


async def test_a_row_that_the_hosts_table_does_not_take_leaves_no_object(lab: Lab) -> None:
    (lab.root / "a.txt").write_text("one")

    async def refusing(db: AsyncSession) -> None:
        raise ValueError("a host's validator")

    assert await lab.attach(holds=refusing) == {}
    assert [type(error) for error in lab.failed] == [ValueError]
    assert lab.objects() == 0


async def test_a_cancelled_attachment_leaves_what_is_kept_and_no_more(lab: Lab) -> None:
    for name in ("a.txt", "b.txt"):
        (lab.root / name).write_text(name)
    began, forever = asyncio.Event(), asyncio.Event()

    class Stuck(DirectoryArtifactStore):
        async def put(self, key: str, chunks: AsyncIterator[bytes], **more: Any) -> bool:
            if began.is_set():
                await forever.wait()
            began.set()
            return await super().put(key, chunks, **more)

    attaching = asyncio.create_task(lab.attach(store=Stuck(lab.kept)))
    async with asyncio.timeout(5):
        await began.wait()
        while not lab.objects():  # noqa: ASYNC110
            await asyncio.sleep(0)
    attaching.cancel()
    await asyncio.wait([attaching])
    assert attaching.cancelled()
    assert set(await lab.attach()) >= {"b.txt"}
    assert lab.objects() == 2
