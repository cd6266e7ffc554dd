"""``client.stream``: a script's prompt and answer on the real server, without a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from opencode_async import (
    Finished,
    OpencodeClient,
    OpencodeConnectionError,
    PartDelta,
    Permissions,
    SessionNotFoundError,
    Snapshot,
    Timings,
)
from opencode_async.client import stream as module
from opencode_async.client.answer import Answer
from opencode_async.protocol.tool_display import with_display
from opencode_async.testing import ScriptedServer, scripted_server
from tests.support.hosts import Reports
from tests.support.replay import STREAMED, replay


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
async def client(opencode: ScriptedServer, reports: Reports) -> AsyncIterator[OpencodeClient]:
    async with OpencodeClient(opencode, error_reporter=reports) as client:
        yield client


@pytest.mark.parametrize("script", ["reasoning", "bash", "task", "todo", "question", "long 2000"])
async def test_what_is_streamed_is_what_rest_says(script: str, client: OpencodeClient) -> None:
    session_id = await client.create_session(title="A script's")
    async with client.stream(session_id, f"SCRIPT:{script}") as changes:
        heard = [change async for change in changes]
    state, finished = replay([start(), *heard])
    assert finished is not None
    assert {key: state[key] for key in STREAMED} == {key: finished[key] for key in STREAMED}
    page = await client.messages(session_id)
    prompt, *_ = page.messages
    exchange = await client.exchange(session_id, prompt.info.id)
    assert finished["parts"] == [with_display(part.to_json()) for part in exchange.final_parts]
    assert finished["cost"] == exchange.usage.cost
    assert (finished["status"], finished["error"]) == ("completed", None)


def start() -> Snapshot:
    """What a reader begins with: nothing."""
    usage = dict.fromkeys(("input_tokens", "output_tokens"), 0)
    cached = dict.fromkeys(("cache_read_tokens", "cache_write_tokens"), 0)
    return Snapshot({"parts": [], "todos": [], "cost": 0.0, **usage, **cached})


async def test_an_error_of_the_provider_is_how_it_ended(client: OpencodeClient) -> None:
    session_id = await client.create_session(title="A script's")
    async with client.stream(session_id, "SCRIPT:error401") as changes:
        (*_, finished) = [change async for change in changes]
    assert isinstance(finished, Finished)
    assert finished.message["status"] == "error"
    assert finished.message["error"] == {"code": "provider_error", "message": "scripted error 401"}


async def test_agent_model_and_system_reach_the_server(
    client: OpencodeClient, opencode: ScriptedServer
) -> None:
    session_id = await client.create_session(
        title="A script's", permissions=Permissions().deny("bash")
    )
    options: dict[str, Any] = {
        "agent": "plan",
        "model": "scripted/gpt-5-scripted",
        "system": "Speak like a pirate.",
    }
    async with client.stream(session_id, "SCRIPT:text Aye.", **options) as changes:
        async for change in changes:
            if isinstance(change, Finished):
                assert change.message["content"] == "Aye."
    mine = [
        asked for asked in opencode.model.requests if asked.session_id == session_id and asked.tools
    ][-1]
    assert mine.body["model"] == "gpt-5-scripted"
    assert "Speak like a pirate." in str(mine.body)
    assert "bash" not in mine.tools
    with pytest.raises(ValueError, match="provider/model"):
        client.stream(session_id, "Hi", model="gpt-5")


async def test_leaving_early_stops_the_agent(
    client: OpencodeClient, opencode: ScriptedServer
) -> None:
    session_id = await client.create_session(title="A script's")
    async with client.stream(session_id, 'SCRIPT:slow {"n": 500, "delay": 0.1}') as changes:
        async for change in changes:
            if isinstance(change, PartDelta):
                break
    assert not await client.busy(session_id)
    async with client.stream(session_id, "SCRIPT:text Next.") as changes:
        (*_, finished) = [change async for change in changes]
    assert isinstance(finished, Finished)
    assert finished.message["content"] == "Next."


async def test_cancelling_stops_the_agent(client: OpencodeClient) -> None:
    session_id = await client.create_session(title="A script's")
    begun = asyncio.Event()

    async def listen() -> None:
        async with client.stream(session_id, "SCRIPT:hang Still there.") as changes:
            async for change in changes:
                if isinstance(change, PartDelta):
                    begun.set()

    listening = asyncio.create_task(listen())
    await begun.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert not await client.busy(session_id)


async def test_a_reader_that_takes_its_time_loses_nothing(client: OpencodeClient) -> None:
    session_id = await client.create_session(title="A script's")
    heard = []
    async with client.stream(session_id, "SCRIPT:long 3000") as changes:
        async for change in changes:
            heard.append(change)
            if isinstance(change, PartDelta):
                await client.version()
    state, finished = replay([start(), *heard])
    assert finished is not None
    assert (finished["status"], finished["error"]) == ("completed", None)
    (part,) = state["parts"]
    assert part["content"] == "".join(f"w{i:06d} " for i in range(3000))


async def test_what_goes_wrong_is_raised(client: OpencodeClient) -> None:
    with pytest.raises(SessionNotFoundError):
        async with client.stream("ses_unknown", "Hi"):
            pass


async def test_a_failure_of_the_readers_own_passes_as_it_is(client: OpencodeClient) -> None:
    session_id = await client.create_session(title="A script's")
    with pytest.raises(LookupError):
        async with client.stream(session_id, "SCRIPT:hang Hm."):
            raise LookupError
    assert not await client.busy(session_id)


async def test_a_server_that_is_gone_is_raised(
    opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Timings", lambda: Timings(reconnect=0.5, settle=0.2, stop=0.5))
    reports = Reports()
    async with (
        scripted_server(tmp_path, binary=opencode_binary) as server,
        OpencodeClient(server, error_reporter=reports) as client,
    ):
        session_id = await client.create_session(title="A script's")

        async def listen() -> None:
            async with client.stream(session_id, "SCRIPT:hang Half.") as changes:
                async for change in changes:
                    if isinstance(change, PartDelta):
                        server.process.kill()

        with pytest.raises(OpencodeConnectionError):
            await listen()
    assert [type(error) for error in reports.errors] == [OpencodeConnectionError]


async def test_leaving_by_a_cancel_scope_stops_the_agent(client: OpencodeClient) -> None:
    """Anyio cancels again at every await, as Starlette does when a browser has gone."""
    session_id = await client.create_session(title="A script's")
    with anyio.CancelScope() as scope:
        async with client.stream(session_id, "SCRIPT:hang Still there.") as changes:
            async for change in changes:
                if isinstance(change, PartDelta):
                    scope.cancel()
    assert not await client.busy(session_id)


async def test_leaving_while_the_prompt_is_posted_stops_the_agent(
    client: OpencodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await client.create_session(title="A script's")
    prompt = client.prompt

    async def cancelled_behind_it(*args: Any, **options: Any) -> None:
        await prompt(*args, **options)
        raise asyncio.CancelledError

    monkeypatch.setattr(client, "prompt", cancelled_behind_it)
    with pytest.raises(asyncio.CancelledError):
        async with client.stream(session_id, LONG):
            pass
    monkeypatch.undo()
    await assert_stopped(client, session_id)


async def test_a_cold_server_is_stopped_too(opencode_binary: Path, tmp_path: Path) -> None:
    """An abort before the model is called stops nothing; a server's first call takes seconds."""
    async with (
        scripted_server(tmp_path, binary=opencode_binary) as server,
        OpencodeClient(server) as client,
    ):
        session_id = await client.create_session(title="A script's")
        async with client.stream(session_id, LONG):
            pass
        await assert_stopped(client, session_id)


LONG = 'SCRIPT:slow {"n": 40, "delay": 0.1}'


async def assert_stopped(client: OpencodeClient, session_id: str) -> None:
    """The next answer is not merged with the one before, which never came to its end."""
    async with client.stream(session_id, "SCRIPT:text Next.") as changes:
        (*_, finished) = [change async for change in changes]
    assert isinstance(finished, Finished)
    assert finished.message["content"] == "Next."
    page = await client.messages(session_id)
    said = [part.to_json() for message in page.messages for part in message.parts]
    assert "tick39" not in str(said)


async def test_what_fails_behind_the_back_of_a_reader_that_left_is_reported(
    client: OpencodeClient, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def fail(*args: Any, **options: Any) -> None:
        failed.set()
        raise LookupError

    monkeypatch.setattr(Answer, "listen", fail)
    session_id = await client.create_session(title="A script's")
    async with client.stream(session_id, "SCRIPT:text Hi."):
        await failed.wait()
    assert [type(error) for error in reports.errors] == [LookupError]
