"""What goes wrong on demand, and what the library makes of it."""

from __future__ import annotations

import httpx
import pytest

from opencode_async import (
    OpencodeClient,
    OpencodeConnectionError,
    ServerError,
    SessionNotFoundError,
)
from opencode_async.client import answer
from opencode_async.testing import Impostor
from tests.contract.witness import witness
from tests.testing.impostor.saying import answered, ended, tools

TEXT = "Hello from the scripted model. Every word is one delta."


@pytest.mark.parametrize("at", [1, 9, 14, "message.part.delta", "session.idle"])
@pytest.mark.parametrize("kind", ["cut", "duplicate", "reorder"])
async def test_a_turn_survives_what_happens_to_its_stream(
    kind: str,
    at: int | str,
    impostor: Impostor,
    client: OpencodeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No real one answers so soon that its end falls into the time for which it is not believed.
    monkeypatch.setattr(answer, "JUST_POSTED", 0.0)
    getattr(impostor.faults, kind)(at)
    message, _ = await answered(client, "SCRIPT:text")
    assert message["status"] == "completed"
    assert message["content"] == TEXT


async def test_events_happen_to_the_stream_as_said(impostor: Impostor) -> None:
    async with witness(impostor.server) as w:
        impostor.faults.duplicate("session.created")
        impostor.faults.reorder("session.status")
        session = await w.session()
        await w.prompt(session, "SCRIPT:text")
        await w.idle(session)
        kinds = [event["type"] for event in w.events]
        assert kinds.count("session.created") == 2
        status = kinds.index("session.status")
        updated = [e["properties"].get("info", {}).get("role") for e in w.events]
        assert "assistant" in updated[:status]  # which is told behind it otherwise


async def test_a_stalled_stream_stays_open_and_says_nothing(impostor: Impostor) -> None:
    async with witness(impostor.server) as w:
        impostor.faults.stall("message.part.delta")
        session = await w.session()
        await w.prompt(session, "SCRIPT:text")
        async with witness(impostor.server) as other:
            while await w.ask("GET", "/session/status"):
                pass
            assert other.events[0]["type"] == "server.connected"
        assert "session.idle" not in [event["type"] for event in w.events]


async def test_a_prompt_whose_answer_was_dropped_is_answered_once(
    impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.faults.drop_answer()
    message, _ = await answered(client, "SCRIPT:text")
    assert message["content"] == TEXT
    assert len(impostor.requests) == 1


async def test_a_prompt_that_was_lost_is_posted_again(
    impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.faults.lose_prompt()
    message, _ = await answered(client, "SCRIPT:text")
    assert message["content"] == TEXT
    assert len(impostor.requests) == 1


async def test_requests_fail_as_said(impostor: Impostor, client: OpencodeClient) -> None:
    impostor.faults.fail(503, path="/session", method="POST", times=2)
    for _ in range(2):
        with pytest.raises(ServerError) as failed:
            await client.create_session()
        assert failed.value.status == 503
    session = await client.create_session()
    impostor.faults.break_connection(path="/message")
    with pytest.raises(OpencodeConnectionError):
        await client.messages(session)
    impostor.faults.slow(30, path="/message")
    before = impostor.clock.now()
    assert (await client.messages(session)).messages == []
    assert impostor.clock.now() - before == pytest.approx(30)


async def test_a_session_that_is_forgotten(impostor: Impostor, client: OpencodeClient) -> None:
    session = await client.create_session()
    impostor.forget(session)
    with pytest.raises(SessionNotFoundError):
        await client.messages(session)


async def test_a_crash_loses_what_was_being_said(impostor: Impostor) -> None:
    async with witness(impostor.server) as w:
        session = await w.session()
        prompt = await w.prompt(session, "SCRIPT:hang some words")
        await w.kind("message.part.delta")
        await impostor.crash()
        with pytest.raises(httpx.RemoteProtocolError):
            await w.ask("GET", "/session/status")
    impostor.restart()
    async with witness(impostor.server) as w:
        assert await w.ask("GET", "/session/status") == {}
        _, dead = await w.ask("GET", f"/session/{session}/message")
        assert "completed" not in dead["info"]["time"]
        assert [part.get("text") for part in dead["parts"]] == [None, ""]
        impostor.on("SCRIPT:hang").text("again")
        await w.post(session, prompt)
        await w.idle(session)
        user, dead, again = await w.ask("GET", f"/session/{session}/message")
        assert again["info"]["parentID"] == user["info"]["id"] == dead["info"]["parentID"]
        assert again["info"]["finish"] == "stop"


async def test_a_crash_in_a_tool_leaves_it_running(impostor: Impostor) -> None:
    async with witness(impostor.server) as w:
        session = await w.session(("bash", "*", "ask"))
        prompt = await w.prompt(session, "SCRIPT:bash")
        await w.kind("permission.asked")
        await impostor.crash()
    impostor.restart()
    async with witness(impostor.server) as w:
        assert await w.ask("GET", "/permission") == []
        _, dead = await w.ask("GET", f"/session/{session}/message")
        assert dead["parts"][-1]["state"]["status"] == "running"
        await w.post(session, prompt)
        await w.idle(session)
        *_, again = await w.ask("GET", f"/session/{session}/message")
        assert again["parts"][1]["text"] == "Finished bash after 1 tool result(s)."


async def test_the_library_brings_a_turn_through_a_crash(
    impostor: Impostor, client: OpencodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "JUST_POSTED", 0.0)
    impostor.on("go").text("Half ").wait(0).hang()
    session = await client.create_session(title="t")
    async with client.stream(session, "go") as changes:
        await anext(changes)
        impostor.on("go").tool("bash", command="echo whole").text("Whole.")
        await impostor.crash()
        impostor.restart()
        message = ended([change async for change in changes])
    assert message["status"] == "completed"
    assert message["content"] == "Whole."
    assert len(tools(message)) == 1


async def test_a_wrong_password_is_refused(impostor: Impostor) -> None:
    async with httpx.AsyncClient(transport=impostor.server.transport) as http:
        refused = await http.get(f"{impostor.server.url}/global/health")
    assert (refused.status_code, refused.content) == (401, b"")
    assert refused.headers["www-authenticate"] == 'Basic realm="Secure Area"'
