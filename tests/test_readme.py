"""The README's code is run, on the real server."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sentry_sdk
import structlog
from fastapi import FastAPI, Request
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sqlalchemy import func, select

from opencode_async import Artifact, MessageMixin, Permission, ReasoningPart, Server, ToolPart
from opencode_async.testing import Impostor, ScriptedServer
from tests.support.readme import PYTHON, SERVER, blocks, create_tables, quickstart
from tests.support.serving import listening, serving
from tests.support.valkey import ValkeyServer

PROMPT = "Sesame."


async def execute(code: str, names: dict[str, Any]) -> None:
    """Run a block that awaits, in those names."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(code, "README", "exec", flags=flags, dont_inherit=True)
    result = eval(compiled, names)  # noqa: S307
    if inspect.isawaitable(result):
        await result


def test_each_block_is_run_by_a_test() -> None:
    """Python here, JavaScript in `tests/browser`, commands by `test_readme_commands`."""
    assert set(PYTHON) == {
        *("quickstart", "turn", "turns", "settings", "asks", "tenants"),
        *("show", "display", "script", "testing", "impostor", "deleting", "errors", "files"),
        *("structlog", "sentry", "otel", "postgres_broker", "redis_broker", "taskiq", "cleanup"),
    }
    languages = [language for language, _ in blocks()]
    assert languages.count("python") == len(PYTHON)
    assert set(languages) == {"python", "js", "console", ""}
    (picture,) = [text for language, text in blocks() if not language]
    assert "web processes ── OpenCode, tenant A" in picture  # no code


async def test_the_quickstart_answers(database_url: str, opencode: ScriptedServer) -> None:
    names = quickstart(database_url, opencode)
    app: FastAPI = names["app"]
    async with serving(app) as client:
        cid = (await client.post("/agent/conversations")).json()["id"]
        path = f"/agent/conversations/{cid}/events"
        async with listening(client, path) as events:
            body = {"text": "SCRIPT:text What is in this folder?"}
            await client.post(f"/agent/conversations/{cid}/messages", json=body)
            async for event in events:
                if event.event == "finished":
                    break
    await names["engine"].dispose()
    assert event.data["message"]["content"] == "What is in this folder?"


async def test_the_blocks_for_python_run_in_turn(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, capsys: Any
) -> None:
    names = quickstart(database_url, opencode)
    await create_tables(names)
    async with names["agent"] as agent, agent.sessionmaker() as db:
        conversation = names["Conversation"](user_id=1)
        db.add(conversation)
        await db.commit()
        await db.refresh(conversation)
        names |= {"db": db, "conversation": conversation, "conversation_id": conversation.id}
        await execute(PYTHON["turn"], names)
        assert names["result"].status == "completed"
        await db.refresh(conversation)
        await execute(PYTHON["turns"], names)
        assert names["result"].status == "completed"
        message: MessageMixin = names["message"]
        names["message"] = await db.get_one(type(message), message.id)
        await execute(PYTHON["errors"], names)
        third = names["Conversation"](user_id=1)
        db.add(third)
        await db.commit()
        names["tmp_path"] = tmp_path
        await execute(PYTHON["impostor"], names | {"conversation": third})
        await execute(PYTHON["script"].replace(SERVER, "server"), names)
        await execute(PYTHON["cleanup"], names)
        await execute(PYTHON["show"], names)
        assert names["show"](ReasoningPart("prt_1", "Hm.")) is None
        call = ToolPart("prt_1", "task", "1", "completed", {}, output="Hm.", session_id="ses_1")
        assert names["show"](call) == replace(call, output=None)
        await execute(PYTHON["display"], names)
        call = ToolPart("prt_1", "read", "1", "completed", {"filePath": "notes.txt"})
        assert names["line"](call) == "✓ Read notes.txt"
        assert names["line"](replace(call, status="running")) == "… Reading notes.txt"
        await execute(PYTHON["settings"], names)
        settings = await names["settings_for"](conversation)
        assert settings.system == "You work for user 1."
        await execute(PYTHON["asks"].replace(SERVER, "server"), names)
        settings = await names["settings_for"](conversation)
        assert settings.asks.within == 600
        ask = Permission("ses_1", "per_1", "bash", ("ls", "rm -rf build"))
        assert (await names["decide"](ask, conversation)).action == "reject"
        ask = Permission("ses_1", "per_1", "bash", ("ls rm",))
        assert (await names["decide"](ask, conversation)).action == "ask"
        await execute(PYTHON["files"].replace(SERVER, "server"), names)
        page = await names["Report"]().render(Artifact.of("report.md", "<b>"))
        assert await page.content() == b"<pre>&lt;b&gt;</pre>"
        await execute(PYTHON["tenants"], names)
        server = await names["client_for"](conversation)
        assert server.url == "http://agent-1:4096"
        server.check_inside(Server("http://localhost:4096", directory="/srv/agents"))
    await names["engine"].dispose()
    assert "You said: And now the tests." in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_the_blocks_for_several_processes_run(
    postgres_database: str, opencode: ScriptedServer, valkey: ValkeyServer, kind: str
) -> None:
    names = quickstart(postgres_database, opencode)
    url = '"redis://localhost:6379/0"'
    assert url in PYTHON["redis_broker"]
    code = PYTHON[f"{kind}_broker"].replace(SERVER, "server").replace(url, repr(valkey.url))
    await execute(code, names)
    await create_tables(names)
    async with names["agent"] as agent, agent.sessionmaker() as db:
        conversation = names["Conversation"](user_id=1)
        db.add(conversation)
        await db.commit()
        message = await agent.turns.start(conversation.id, "SCRIPT:text Hello.")
        async with agent.turns.follow(message.id) as changes:
            assert [change.event async for change in changes][-1] == "finished"
    await names["engine"].dispose()


async def test_the_block_for_a_job_queue_runs(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = Impostor(tmp_path)
    names = quickstart(postgres_database, impostor.server)
    # taskiq looks for the module that a task is of.
    monkeypatch.setitem(sys.modules, names["__name__"], ModuleType(names["__name__"]))
    await create_tables(names)
    await execute(PYTHON["taskiq"].replace(SERVER, "server"), names)
    async with impostor, names["agent"] as agent, agent.sessionmaker() as db:
        conversation = names["Conversation"](user_id=1)
        db.add(conversation)
        await db.commit()
        for _ in range(2):
            message = await agent.turns.start(
                conversation.id, "SCRIPT:text Hello.", idempotency_key="once"
            )
            await names["answer"].kiq(str(message.id))  # delivered again
        await names["queue"].wait_all()
        row = await db.get_one(names["Message"], message.id)
        assert (row.status, row.content) == ("completed", "Hello.")
        assert len(impostor.requests) == 1
    await names["queue"].shutdown()
    await names["engine"].dispose()


async def watched(code: str, url: str, server: ScriptedServer) -> str:
    """Run a turn, and one that fails, on the agent of a recipe; the message's id."""
    names = quickstart(url, server)
    await create_tables(names)
    await execute(code.replace(SERVER, "server"), names)
    async with names["agent"] as agent, agent.sessionmaker() as db:
        conversation = names["Conversation"](user_id=1)
        db.add(conversation)
        await db.commit()
        message = await agent.turns.start(conversation.id, f"SCRIPT:text {PROMPT}")
        await agent.turns.run(message.id)
        prompt = PROMPT  # in a frame of the error, as it is in the library's
        try:
            raise LookupError(len(prompt))
        except LookupError as error:
            context = {"during": "a test", "message_id": str(message.id)}
            agent.error_reporter(error, severity="warning", context=context)
    await names["engine"].dispose()
    return str(message.id)


async def test_the_recipe_for_structlog(database_url: str, opencode: ScriptedServer) -> None:
    with structlog.testing.capture_logs() as logs:
        message_id = await watched(PYTHON["structlog"], database_url, opencode)
    finished = next(entry for entry in logs if entry["event"] == "turn.finished")
    assert (finished["message_id"], finished["status"]) == (message_id, "completed")
    (failed,) = [entry for entry in logs if entry["event"] == "opencode"]
    assert (failed["log_level"], failed["during"]) == ("warning", "a test")
    assert isinstance(failed["exc_info"], LookupError)
    assert PROMPT not in str(logs)


async def test_the_recipe_for_sentry(database_url: str, opencode: ScriptedServer) -> None:
    sent: list[Any] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            sent.append(envelope.get_event())

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Kept,
        default_integrations=False,
        include_local_variables=False,
    )
    try:
        message_id = await watched(PYTHON["sentry"], database_url, opencode)
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)
    (event,) = sent
    assert (event["level"], event["tags"]["message_id"]) == ("warning", message_id)
    crumbs = {crumb["category"]: crumb["data"] for crumb in event["breadcrumbs"]["values"]}
    assert crumbs["turn.finished"]["message_id"] == message_id
    assert PROMPT not in str(sent)


async def test_the_recipe_for_opentelemetry(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", tracers)
    message_id = await watched(PYTHON["otel"], database_url, opencode)
    turns = [s for s in exporter.get_finished_spans() if s.name.startswith("invoke_agent")]
    assert [(s.attributes or {})["opencode.message.id"] for s in turns] == [message_id]
    tracers.shutdown()


async def test_the_block_for_tests_is_one_and_its_rows_can_be_deleted(
    database_url: str, tmp_path: Path
) -> None:
    impostor = Impostor(tmp_path)
    names = quickstart(database_url, impostor.server)
    asked: list[dict[str, Any]] = []

    def create_app(server: Server, url: str) -> FastAPI:
        assert (server, url) == (impostor.server, f"sqlite+aiosqlite:///{tmp_path}/app.db")
        app: FastAPI = names["app"]

        @app.get("/about")
        async def about(request: Request) -> None:
            asked.append(dict(request.headers))

        return app

    names["create_app"] = create_app
    await execute(PYTHON["testing"], names)
    await names["test_the_agent_is_told_no"](impostor, tmp_path)
    assert asked[0]["x-user"] == "ann"
    count = select(func.count()).select_from(names["Message"])
    async with names["sessions"]() as db:
        assert await db.scalar(count) == 2
        await execute(PYTHON["deleting"], names)
        assert await db.scalar(count) == 0
    await names["engine"].dispose()
