"""The client's methods against the real OpenCode."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from opencode_async.client import client as client_module
from opencode_async.client.client import OpencodeClient
from opencode_async.client.hub import Subscription
from opencode_async.client.server import Server
from opencode_async.errors import (
    BadRequestError,
    NotFoundError,
    NotRunning,
    SessionNotFoundError,
)
from opencode_async.protocol.asks import NOBODY, Permission, Question
from opencode_async.protocol.events import (
    MessagePartDelta,
    MessageUpdated,
    SessionIdle,
)
from opencode_async.protocol.exchange import Exchange, Outcome
from opencode_async.protocol.messages import Usage, WireMessage
from opencode_async.protocol.parts import TextPart, ToolPart
from opencode_async.protocol.permissions import Permissions
from opencode_async.protocol.wire import mapping, objects
from opencode_async.testing import ScriptedServer


@dataclass(frozen=True)
class Prompt:
    """A prompt under ids of our choice."""

    id: str
    part_id: str
    body: dict[str, Any]

    @classmethod
    def of(cls, text: str) -> Prompt:
        prompt_id, part_id = f"msg_{uuid4().hex}", f"prt_{uuid4().hex}"
        part = {"id": part_id, "type": "text", "text": text}
        return cls(prompt_id, part_id, {"messageID": prompt_id, "parts": [part]})


@pytest.fixture
async def client(opencode: ScriptedServer) -> AsyncIterator[OpencodeClient]:
    async with OpencodeClient(opencode) as client:
        yield client


@asynccontextmanager
async def new_session(client: OpencodeClient) -> AsyncIterator[tuple[str, Subscription]]:
    """A session with its events, deleted in the end."""
    session_id = await client.create_session(title="test")
    try:
        async with client.hub.subscribe(session_id) as events:
            yield session_id, events
    finally:
        await client.abort(session_id)
        await client.delete_session(session_id)


async def until(events: Subscription, wanted: Callable[[object], bool]) -> Any:
    """The first event of that kind."""
    async with asyncio.timeout(20):
        while True:
            for item in await events.batch(20):
                if wanted(item):
                    return item


async def run(client: OpencodeClient, session_id: str, events: Subscription, text: str) -> Exchange:
    """One whole turn."""
    prompt = Prompt.of(text)
    await client.prompt(session_id, prompt.body)
    return await ended(client, session_id, events, prompt)


async def ended(
    client: OpencodeClient, session_id: str, events: Subscription, prompt: Prompt
) -> Exchange:
    """The turn of a prompt, once it is complete; the first idle may be too early, or not its."""
    while True:
        await until(events, lambda e: isinstance(e, SessionIdle) and e.session_id == session_id)
        if (turn := await client.exchange(session_id, prompt.id)).complete:
            return turn


def text_of(turn: Exchange) -> str:
    return "".join(part.content for part in turn.parts if isinstance(part, TextPart))


async def raw(client: OpencodeClient, path: str) -> Any:
    return await client.http.read(lambda value: value, "GET", path)


async def test_it_knows_the_servers_version(client: OpencodeClient) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", await client.version())


async def test_a_session_is_created_as_asked(client: OpencodeClient) -> None:
    rules = Permissions().deny("*").allow("read", "*.md")
    session_id = await client.create_session(
        title="Über 🚀", permissions=rules, metadata={"conversation_id": "7"}
    )
    session = mapping(await raw(client, f"/session/{session_id}"))
    assert session["title"] == "Über 🚀"
    assert session["metadata"] == {"conversation_id": "7"}
    assert session["permission"] == [
        {"permission": "*", "pattern": "*", "action": "deny"},
        {"permission": "read", "pattern": "*.md", "action": "allow"},
    ]


async def test_permissions_reach_the_model(
    client: OpencodeClient, opencode: ScriptedServer
) -> None:
    rules = Permissions().deny("*").allow("read")
    session_id = await client.create_session(title="test", permissions=rules)
    async with client.hub.subscribe(session_id) as events:
        await run(client, session_id, events, "SCRIPT:text Hi.")
    (asked,) = [r for r in opencode.model.requests if r.session_id == session_id]
    assert asked.tools == ["read"]


async def test_a_prompt_keeps_the_ids_it_was_given(client: OpencodeClient) -> None:
    async with new_session(client) as (session_id, events):
        prompt = Prompt.of("SCRIPT:text One answer.")
        for _ in range(3):  # with ids of ours, posting again changes nothing
            await client.prompt(session_id, prompt.body)
        await ended(client, session_id, events, prompt)
        question, reply = (await client.messages(session_id)).messages
        assert question.info.id == prompt.id
        assert [part.id for part in question.parts] == [prompt.part_id]
        assert reply.info.parent_id == prompt.id
        message = await client.message(session_id, prompt.id)
        assert message is not None
        assert message.has_parts


async def test_an_exchange_is_what_rest_lists_of_one_prompt(client: OpencodeClient) -> None:
    async with new_session(client) as (session_id, events):
        await run(client, session_id, events, "SCRIPT:text Before.")
        turn = await run(client, session_id, events, "SCRIPT:loop 2")
        listed = (await client.messages(session_id)).messages
        prompts = [m.info.id for m in listed if m.info.role == "user"]
        answers = [m for m in listed if m.info.parent_id == prompts[1]]
        assert turn.accepted
        assert turn.newest
        assert turn.outcome() == Outcome("completed", "stop")
        assert turn.answers == tuple(answers)
        assert len(answers) == 3
        assert turn.usage == Usage.total(m.info.usage for m in answers)
        assert turn.usage.cost > 0
        assert len([part for part in turn.parts if isinstance(part, ToolPart)]) == 2
        first = await client.exchange(session_id, prompts[0])
        assert text_of(first) == "Before."
        assert not first.newest


async def test_a_prompt_the_session_does_not_have_is_no_exchange(client: OpencodeClient) -> None:
    async with new_session(client) as (session_id, events):
        assert not (await client.exchange(session_id, "msg_unknown")).accepted
        await run(client, session_id, events, "SCRIPT:text Another.")
        turn = await client.exchange(session_id, "msg_unknown")
        assert (turn.accepted, turn.newest, turn.answers) == (False, False, ())


async def test_an_exchange_is_paged_back_to_its_prompt_and_no_further(
    client: OpencodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_session(client) as (session_id, events):
        for number in range(3):
            await run(client, session_id, events, f"SCRIPT:text Answer {number}.")
        await run(client, session_id, events, "SCRIPT:loop 3")
        whole = (await client.messages(session_id)).messages
        prompts = [m.info.id for m in whole if m.info.role == "user"]
        by_one_page = [await client.exchange(session_id, prompt) for prompt in prompts]
        assert len(whole) == 11

        pages = await all_pages(client, session_id, limit=2)
        assert [len(page) for page in pages] == [1, 2, 2, 2, 2, 2]
        assert [message for page in pages for message in page] == whole

        monkeypatch.setattr(client_module, "PAGE", 2)
        read: list[str | None] = []
        messages = client.messages

        async def counted(session_id: str, *, limit: int, before: str | None = None) -> Any:
            read.append(before)
            return await messages(session_id, limit=limit, before=before)

        monkeypatch.setattr(client, "messages", counted)
        assert [await client.exchange(session_id, p) for p in prompts] == by_one_page
        read.clear()
        turn = await client.exchange(session_id, prompts[3])
        assert len(turn.answers) == 4
        assert len(read) == 3


async def test_a_session_whose_list_is_refused_for_ever_is_read_message_by_message(
    client: OpencodeClient,
) -> None:
    """Anybody's prompt with a ``format`` makes the whole list of its session unreadable."""
    async with new_session(client) as (session_id, events):
        before = await run(client, session_id, events, "SCRIPT:text Before.")
        body = {
            "parts": [{"type": "text", "text": "SCRIPT:text Else."}],
            "format": {"type": "text"},
        }
        await client.http.request("POST", f"/session/{session_id}/message", body=body)
        with pytest.raises(BadRequestError):
            await client.messages(session_id)
        after = await run(client, session_id, events, "SCRIPT:loop 3")
        prompts = [m.info.parent_id for turn in (before, after) for m in turn.answers]
        again = await client.exchange(session_id, prompts[0] or "")
        assert again.answers == before.answers
        assert len(after.answers) == 4
        assert after.accepted


async def all_pages(
    client: OpencodeClient, session_id: str, *, limit: int
) -> list[list[WireMessage]]:
    """All pages of a session, the oldest first."""
    page = await client.messages(session_id, limit=limit)
    pages = [page.messages]
    while page.older is not None:
        page = await client.messages(session_id, limit=limit, before=page.older)
        pages.insert(0, page.messages)
    return pages


async def test_a_subagents_cost_is_counted_once_and_for_its_turn_only(
    client: OpencodeClient,
) -> None:
    async with new_session(client) as (session_id, events):
        first = await run(client, session_id, events, 'SCRIPT:task {"prompt": "SCRIPT:loop 2"}')
        children = [child.session_id for child in await client.children(session_id)]
        assert first.children == tuple(children)
        assert len(children) == 1
        assert events.session_ids == {session_id, *children}
        own = Usage.total(m.info.usage for m in first.answers)
        spent = [m.info.usage for m in (await client.messages(children[0])).messages]
        assert sum(usage.cost for usage in spent) > 0
        assert first.usage == Usage.total([own, *spent])
        second = await run(client, session_id, events, "SCRIPT:text Alone.")
        assert second.children == ()
        assert second.usage == Usage.total(m.info.usage for m in second.answers)


async def test_a_subagents_subagent_is_counted_too(client: OpencodeClient) -> None:
    """OpenCode gives subagents no task tool, but a configured one may have it."""
    async with new_session(client) as (session_id, events):
        await run(client, session_id, events, "SCRIPT:task")
        (child,) = await client.children(session_id)
        body = {"parentID": child.session_id, "title": "grandchild"}
        grandchild = mapping((await client.http.request("POST", "/session", body=body)).json())[
            "id"
        ]
        async with client.hub.subscribe(grandchild) as its_events:
            deep = await run(client, grandchild, its_events, "SCRIPT:text Deep.")
        assert deep.usage.cost > 0
        prompt_id = next(
            m.info.id for m in (await client.messages(session_id)).messages if m.info.role == "user"
        )
        turn = await client.exchange(session_id, prompt_id)
        spent = [m.info.usage for m in (await client.messages(child.session_id)).messages]
        own = [m.info.usage for m in turn.answers]
        assert turn.usage == Usage.total([*own, *spent, deep.usage])


async def test_a_session_is_busy_until_it_is_aborted(client: OpencodeClient) -> None:
    async with new_session(client) as (session_id, events):
        assert not await client.busy(session_id)
        prompt = Prompt.of("SCRIPT:hang Some words.")
        await client.prompt(session_id, prompt.body)
        await until(events, lambda e: isinstance(e, MessagePartDelta))
        assert await client.busy(session_id)
        assert not (await client.exchange(session_id, prompt.id)).complete
        await client.abort(session_id)
        await until(events, lambda e: isinstance(e, MessageUpdated) and e.info.error is not None)
        assert not await client.busy(session_id)
        turn = await client.exchange(session_id, prompt.id)
        assert turn.outcome() == Outcome("cancelled", "aborted")
        assert text_of(turn) == "Some words."


async def test_what_is_at_rest_or_unknown_can_be_aborted(client: OpencodeClient) -> None:
    async with new_session(client) as (session_id, _):
        await client.abort(session_id)
    await client.abort("ses_0000000000000000000000000000")


async def test_a_deleted_session_is_gone_and_may_be_deleted_again(client: OpencodeClient) -> None:
    session_id = await client.create_session(title="test")
    await client.delete_session(session_id)
    await client.delete_session(session_id)
    with pytest.raises(SessionNotFoundError):
        await client.messages(session_id)


async def test_a_pending_question_is_listed_until_it_is_rejected(client: OpencodeClient) -> None:
    async with new_session(client) as (session_id, events):
        prompt = Prompt.of("SCRIPT:question")
        await client.prompt(session_id, prompt.body)
        asked = await until(events, lambda e: isinstance(e, Question))
        assert asked in await client.asked()
        await client.dismiss(asked)
        turn = await ended(client, session_id, events, prompt)
        assert asked not in await client.asked()
        assert turn.outcome() == Outcome("completed", "rejected")


async def test_a_pending_permission_is_listed_until_it_is_rejected(client: OpencodeClient) -> None:
    session_id = await client.create_session(title="test", permissions=Permissions().ask("bash"))
    async with client.hub.subscribe(session_id) as events:
        prompt = Prompt.of("SCRIPT:bash")
        await client.prompt(session_id, prompt.body)
        asked = await until(events, lambda e: isinstance(e, Permission))
        assert asked in await client.asked()
        await client.dismiss(asked)
        turn = await ended(client, session_id, events, prompt)
        assert asked not in await client.asked()
        assert turn.outcome() == Outcome("completed", "stop")  # told why, the agent went on
        tool = next(part for part in turn.parts if isinstance(part, ToolPart))
        assert NOBODY in json.dumps(tool.to_json())


async def test_a_servers_directory_is_where_its_sessions_live(
    client: OpencodeClient, opencode: ScriptedServer, tmp_path: Path
) -> None:
    elsewhere = Server(opencode.url, password=opencode.password, directory=tmp_path)
    async with OpencodeClient(elsewhere) as other, new_session(other) as (session_id, events):
        session = mapping(await raw(client, f"/session/{session_id}"))
        assert session["directory"] == str(tmp_path)
        prompt = Prompt.of("SCRIPT:question")
        await other.prompt(session_id, prompt.body)
        asked = await until(events, lambda e: isinstance(e, Question))
        assert asked in await other.asked()
        assert asked not in await client.asked()
        assert await other.busy(session_id)
        assert not await client.busy(session_id)
        ids = [s["id"] for s in objects(await raw(client, "/session"))]
        assert session_id not in ids
        # The session's own directory wins where its id is in the path.
        assert (await client.exchange(session_id, prompt.id)).accepted
        with pytest.raises(NotFoundError):
            await client.http.request("POST", f"/question/{asked.id}/reject")
        await client.dismiss(asked)  # the default directory does not know it
        assert asked in await other.asked()


async def test_a_server_may_be_given_as_its_url_and_its_directory_as_text(
    opencode: ScriptedServer,
) -> None:
    assert OpencodeClient("http://127.0.0.1:4096").server == Server("http://127.0.0.1:4096")
    assert opencode.directory is not None
    as_text = Server(opencode.url, password=opencode.password, directory=str(opencode.directory))
    async with OpencodeClient(as_text) as client:
        path = mapping(await raw(client, "/path"))
        assert path["directory"] == str(opencode.directory)


async def test_outside_its_block_it_is_not_running_and_names_the_remedy(
    opencode: ScriptedServer,
) -> None:
    client = OpencodeClient(opencode)
    for _ in range(2):
        with pytest.raises(NotRunning, match="async with client"):
            await client.version()
        with pytest.raises(NotRunning, match="lifespan"):
            _ = client.hub
        async with client:  # and it may be entered again
            assert await client.version()
            async with client.hub.subscribe("ses_1"):
                pass


async def test_what_its_block_raises_comes_out_as_it_is(opencode: ScriptedServer) -> None:
    error = ValueError("the host's")
    with pytest.raises(ValueError, match="the host's") as caught:
        async with OpencodeClient(opencode) as client, client.hub.subscribe("ses_1"):
            raise error
    assert caught.value is error


async def test_leaving_its_block_ends_every_task_of_it(opencode: ScriptedServer) -> None:
    before = asyncio.all_tasks()
    async with OpencodeClient(opencode) as client, client.hub.subscribe("ses_1"):
        assert len(asyncio.all_tasks() - before) == 1
    assert asyncio.all_tasks() - before == set()
