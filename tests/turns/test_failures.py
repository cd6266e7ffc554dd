"""What fails ends as a terminal row with a typed reason, and in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_async import (
    AuthenticationError,
    ConversationNotFound,
    LeaseHeld,
    MessageNotFound,
    OpencodeConnectionError,
    Server,
    Timings,
    TurnFailed,
    TurnSettings,
)
from opencode_async.client.local_server import free_port
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.conftest import OwnServer
from tests.support.hosts import QUICK, host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.ended import rest_of


async def unknown_agent(conversation: Any) -> TurnSettings:
    return TurnSettings(agent="nobody")


async def unknown_model(conversation: Any) -> TurnSettings:
    return TurnSettings(model="nobody/nothing")


async def broken_hook(conversation: Any) -> TurnSettings:
    raise LookupError("the host's own mistake, with a secret in it")


async def test_a_prompt_refused_after_its_204_ends_with_the_servers_reason(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, settings_for=unknown_agent) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text")
        async with asyncio.timeout(10):
            result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
    assert (row.status, row.error_code) == ("error", "refused")
    assert row.error_text is not None
    assert row.error_text.startswith('Agent not found: "nobody"')
    with pytest.raises(TurnFailed) as failed:
        result.raise_for_error()
    assert (failed.value.status, failed.value.code) == ("error", "refused")


async def test_an_unknown_model_ends_with_the_servers_reason(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, settings_for=unknown_model) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text")
        async with asyncio.timeout(10):
            result = await app.agent.turns.run(message.id)
    assert result.error is not None
    assert result.error.code == "agent_error"
    assert result.error.message.startswith("Model not found: nobody/nothing")


async def test_without_a_server_the_turn_ends_unreachable(database_url: str) -> None:
    async with host(database_url, f"http://127.0.0.1:{free_port()}") as app:
        message = await app.agent.turns.start(await app.conversation(), "hello")
        async with asyncio.timeout(10):
            result = await app.agent.turns.run(message.id)
    assert (result.status, result.error and result.error.code) == ("error", "unreachable")
    assert {type(error) for error in app.reports.errors} == {OpencodeConnectionError}


async def test_with_a_wrong_password_the_turn_ends_unauthorized(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, Server(opencode.url, password="open sesame")) as app:
        message = await app.agent.turns.start(await app.conversation(), "hello")
        async with asyncio.timeout(10):
            result = await app.agent.turns.run(message.id)
    assert (result.status, result.error and result.error.code) == ("error", "unauthorized")
    assert [type(error) for error in app.reports.errors] == [AuthenticationError]
    assert "sesame" not in str(app.reports.errors)


async def test_a_server_stopped_in_mid_turn_ends_the_turn_with_its_partial_text(
    database_url: str, own_opencode: OwnServer, tmp_path: Path
) -> None:
    async with (
        own_opencode(tmp_path) as server,
        host(database_url, server) as app,
    ):
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half of it.")
        async with app.agent.turns.follow(message.id) as changes:
            async for change in changes:
                if change.event == "part.delta":
                    server.process.kill()
        async with asyncio.timeout(15):
            result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
    assert (row.status, row.error_code) == ("error", "unreachable")
    assert row.content == result.content == "Half of it."
    assert any(isinstance(error, OpencodeConnectionError) for error in app.reports.errors)


@pytest.mark.timeout(180)  # the server starts four times
async def test_a_server_that_restarts_in_mid_text_leaves_the_words_that_were_read(
    database_url: str, own_opencode: OwnServer, tmp_path: Path
) -> None:
    timings = Timings(lease=9.0, reconnect=30.0, look=3.0, settle=0.5, snapshot=0.1)
    async with (
        own_opencode(tmp_path) as server,
        host(database_url, server, timings=timings) as app,
    ):
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half of it.")
        async with app.agent.turns.follow(message.id) as changes:
            heard = []
            async for change in changes:
                heard.append(change)
                if change.event == "part.delta":
                    server.process.kill()
                    await server.process.restart()
        row = await app.row(message.id)
    assert (row.status, row.error_code) == ("error", "interrupted")
    assert row.content == "Half of it."
    assert_replay_is(heard, message_json(row))


async def test_keys_may_be_strings_as_a_job_queue_has_them(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        conversation = await app.conversation()
        message = await app.agent.turns.start(str(conversation), "SCRIPT:text Hi.")
        result = await app.agent.turns.run(str(message.id))
        async with app.agent.turns.follow(str(message.id)) as changes:
            assert [change.event async for change in changes] == ["finished"]
        assert (await app.agent.turns.cancel(str(message.id))).status == "completed"
        await app.agent.erase(str(conversation))
        for key in ("nonsense", str(message.id)):
            with pytest.raises(MessageNotFound):
                await app.agent.turns.run(key)
        with pytest.raises(ConversationNotFound):
            await app.agent.turns.start("nonsense", "Hi.")
    assert result.content == "Hi."


async def test_a_hook_of_the_host_that_fails_shows_nothing_of_its_error(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, settings_for=broken_hook) as app:
        message = await app.agent.turns.start(await app.conversation(), "hello")
        result = await app.agent.turns.run(message.id)
    assert result.error is not None
    assert result.error.code == "internal"
    assert "secret" not in result.error.message
    assert [type(error) for error in app.reports.errors] == [LookupError]


async def test_cancel_aborts_and_keeps_the_partial_text(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        message = await app.agent.turns.start(conversation, "SCRIPT:hang Half of it.")
        async with app.agent.turns.follow(message.id) as changes:
            async for change in changes:
                if change.event == "part.delta":
                    asked = await app.agent.turns.cancel(message.id)
        row = await app.row(message.id)
        after = await app.agent.turns.start(conversation, "SCRIPT:text Next.")
        following = await app.agent.turns.run(after.id)
    assert asked.stop_requested == "cancelled"
    assert (row.status, row.finish, row.error_code) == ("cancelled", "cancelled", None)
    assert row.content == "Half of it."
    assert following.content == "Next."


async def test_cancel_before_the_turn_began_posts_nothing(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Never.")
        await app.agent.turns.cancel(message.id)
        result = await app.agent.turns.run(message.id)
    assert result.status == "cancelled"
    assert not any("Never." in str(request) for request in opencode.model.requests)


async def test_a_turn_whose_worker_died_is_taken_over_without_prompting_again(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as dead:
        message = await dead.agent.turns.start(
            await dead.conversation(), 'SCRIPT:slow {"n": 6, "delay": 0.3}'
        )
        running = asyncio.create_task(dead.agent.turns.run(message.id))
        await dead.says_something(message.id)
        running.cancel()
        await asyncio.wait([running])
        await dead.lose_worker(message.id, 60)
        with pytest.raises(LeaseHeld):
            await dead.agent.turns.run(message.id)
        await dead.lose_worker(message.id, 0)
    async with host(database_url, opencode) as app:
        async with app.agent.turns.follow(message.id) as changes:
            heard = [change async for change in changes]
        row = await app.row(message.id)
        upstream = await app.agent.client.messages(await app.session_id(row))
    assert row.content == "".join(f"tick{i} " for i in range(6))
    assert (row.status, row.epoch) == ("completed", 2)
    assert [m.info.id for m in upstream.messages if m.info.role == "user"] == [row.prompt_id]
    assert_replay_is(heard, message_json(row))


async def test_a_stop_before_the_model_is_called_stops(
    database_url: str, own_opencode: OwnServer, tmp_path: Path
) -> None:
    """The first abort stops nothing then, and the agent's words would keep coming."""
    async with (
        own_opencode(tmp_path) as server,
        host(database_url, server) as app,
    ):
        script = 'SCRIPT:slow {"n": 60, "delay": 0.1}'
        message = await app.agent.turns.start(await app.conversation(), script)
        while (await app.row(message.id)).request.keys() == {"text", "agent", "model"}:
            pass  # until the prompt is about to be posted
        await app.agent.turns.cancel(message.id)
        result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
        told = [p["text"] for m in await rest_of(app, row) for p in m["parts"] if "text" in p]
    assert result.status == "cancelled"
    assert "tick59" not in str(told)


async def test_a_takeover_waits_for_a_server_that_is_away(
    database_url: str, opencode: ScriptedServer
) -> None:
    """An app and its server are restarted together, and the app is up first."""
    proxy = Proxy(opencode)
    timings = replace(QUICK, reconnect=20.0)
    async with (
        proxy.running() as server,
        host(database_url, server, timings=timings, dispatch=nowhere) as app,
    ):
        script = 'SCRIPT:slow {"n": 12, "delay": 0.2}'
        message = await app.agent.turns.start(await app.conversation(), script)
        running = asyncio.create_task(app.agent.turns.run(message.id))
        async with app.agent.turns.follow(message.id) as changes:
            async for change in changes:
                if change.event == "part.delta":
                    break
        running.cancel()
        await asyncio.wait([running])
        proxy.go_away()
        again = asyncio.create_task(app.agent.turns.run(message.id))
        await proxy.refused.wait()
        proxy.away = False
        result = await again
        row = await app.row(message.id)
    assert (result.status, row.epoch) == ("completed", 2)
    assert result.content == "".join(f"tick{i} " for i in range(12))
