"""Tenants on servers or in directories of their own: no other reaches or learns what one has."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import select

from opencode_async import (
    ArtifactPolicy,
    DirectoryArtifactStore,
    OpencodeClient,
    QuestionReply,
    Server,
)
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Ask, Conversation, Host, Message, nowhere
from tests.support.proxy import Proxy
from tests.support.routes import Operation, operations
from tests.support.serving import listening, serving
from tests.turns.asking import ONCE, a_turn, an_app, tools
from tests.turns.ended import PATIENT
from tests.turns.test_client_for import settled
from tests.web.test_routes import UNKNOWN, app_with_router, heard

pytestmark = pytest.mark.timeout(180)  # twenty turns, and thousands of requests
Tenants = Mapping[int, Server]
NOBODY = dict.fromkeys(("cid", "mid", "pid", "qid", "aid"), UNKNOWN)


@pytest.fixture
def tenants(
    opencode: ScriptedServer, other_opencode: ScriptedServer, tmp_path_factory: Any
) -> dict[int, Server]:
    """Two on servers of their own, two in directories of the first's."""
    servers: dict[int, Server] = {1: opencode, 2: other_opencode}
    for tenant in (3, 4):
        servers[tenant] = below = opencode.below(f"tenant-{tenant}")
        Path(str(below.directory)).mkdir(exist_ok=True)
    return servers


@asynccontextmanager
async def app_of(url: str, tenants: Tenants, **options: Any) -> AsyncIterator[Host[Any, Any]]:
    """An app whose conversations are each on their tenant's server, below one root for all."""

    async def client_for(conversation: Any) -> Server:
        return tenants[conversation.user_id]

    common = Path(*Path(str(tenants[1].directory)).parts[:-2])
    root = replace(tenants[1], directory=common)
    with tempfile.TemporaryDirectory() as kept:
        files: dict[str, Any] = {
            "files": True,
            "artifacts": ArtifactPolicy(DirectoryArtifactStore(kept)),
        }
        async with an_app(url, root, client_for=client_for, **files, **options) as app:
            yield app


@dataclass(frozen=True)
class Talk:
    """A conversation of a tenant's with a message in it, and all that nobody else is to learn."""

    tenant: int
    ids: dict[str, str]
    secrets: frozenset[str]


async def talk_of(app: Host[Any, Any], tenant: int, number: int) -> Talk:
    """A new one, whose only turn has ended: it asked for leave and a question, and left a file."""
    title, words = f"Title-{tenant}-{number}", f"Words-{tenant}-{number}"
    cid = await app.conversation(user_id=tenant, title=title)
    question = {"header": words, "question": words, "options": [], "multiple": False}
    calls = [
        {"name": "bash", "args": {"command": f"echo {words}", "description": "Says it"}},
        {"name": "question", "args": {"questions": [question]}},
        {"name": "write", "args": {"filePath": f"{words}.txt", "content": words}},
    ]
    async with a_turn(app, f"SCRIPT:multi {json.dumps(calls)}", cid) as turn:
        leave, asked = await turn.asks(2)
        await app.agent.turns.answer(turn.id, leave["id"], ONCE)
        await app.agent.turns.answer(turn.id, asked["id"], QuestionReply([[]], [words]))
        message = await turn.row()
    assert (message.status, message.finish) == ("completed", "stop")
    assert words in tools(message)[0]["output"]
    session_id = await app.session_id(message)
    (file,) = turn.state["artifacts"]
    ids = {"cid": str(cid), "mid": str(message.id), "pid": leave["id"], "qid": asked["id"]}
    ids["aid"] = file["id"]
    said = {title, words, session_id, str(message.reply_to)}
    return Talk(tenant, ids, frozenset({*said, *ids.values()}))


async def stored(app: Host[Any, Any]) -> list[tuple[Any, ...]]:
    """Every row, as far as a route could have changed it."""
    async with app.sessions() as db:
        talks = select(Conversation.id, Conversation.title, Conversation.updated_at)
        columns = (Message.id, Message.status, Message.stop_requested, Message.content)
        asks = select(Ask.id, Ask.status, Ask.answered_by)
        rows = [row for query in (talks, select(*columns), asks) for row in await db.execute(query)]
    return sorted(map(tuple, rows), key=str)


@dataclass(frozen=True)
class Web:
    """The app's routes, and a client for each tenant."""

    operations: list[Operation]
    clients: dict[int, httpx.AsyncClient]
    reader: httpx.AsyncClient


@asynccontextmanager
async def web_of(app: Host[Any, Any], tenants: Tenants) -> AsyncIterator[Web]:
    web: FastAPI = app_with_router(app)
    router: APIRouter = app.agent.router(access=lambda: None)  # type: ignore[arg-type, return-value]
    async with serving(web) as client, AsyncExitStack() as stack:

        async def client_of(tenant: int, role: str = "writer") -> httpx.AsyncClient:
            headers = {"X-User": str(tenant), "X-Role": role}
            own = httpx.AsyncClient(base_url=client.base_url, headers=headers, trust_env=False)
            return await stack.enter_async_context(own)

        clients = {tenant: await client_of(tenant) for tenant in tenants}
        yield Web(operations(web, router), clients, await client_of(1, "reader"))


def leaked(secrets: Iterable[str], *texts: str) -> list[str]:
    return [secret for secret in secrets if any(secret in text for text in texts)]


async def test_no_route_tells_or_does_anything_with_another_tenants_ids(
    database_url: str, tenants: Tenants
) -> None:
    # So many turns at once keep a server from answering for seconds.
    patient = app_of(database_url, tenants, timings=PATIENT)
    async with patient as app, web_of(app, tenants) as web:
        made = (talk_of(app, 1 + n % 4, n) for n in range(20))
        talks = await asyncio.gather(*made)
        before = await stored(app)
        asked = 0
        for mine in (next(t for t in talks if t.tenant == tenant) for tenant in tenants):
            client = web.clients[mine.tenant]
            others = [talk for talk in talks if talk.tenant != mine.tenant]
            secrets = frozenset().union(*(talk.secrets for talk in others))
            for operation in web.operations:
                # Unknown and foreign ids are the same: nobody learns which ones exist.
                calls = operation.calls_across(mine.ids, NOBODY)
                unknown = [await call.made(client) for call in calls]
                assert not leaked(secrets, *(answer.text for answer in unknown))
                for theirs in others:
                    calls = operation.calls_across(mine.ids, theirs.ids)
                    for call, nobody in zip(calls, unknown, strict=True):
                        answer = await call.made(client)
                        where = f"{call.method} {call.path} of {theirs.tenant} by {mine.tenant}"
                        assert answer.status_code == nobody.status_code == 404, where
                        said = answer.text
                        for asked_for in call.ids:
                            said = said.replace(asked_for, UNKNOWN)
                        assert said == nobody.text, where
                        asked += 1
            for operation in web.operations:
                if operation.writes or operation.path.endswith("/events"):
                    continue
                own = await operation.call(mine.ids).made(client)
                assert own.status_code == 200
                assert not leaked(secrets, own.text), operation
            told = await heard(client, mine.ids["mid"])
            assert told[-1].event == "finished"
            assert not leaked(secrets, *(f"{event.id} {event.data}" for event in told))
        listed = (await web.clients[2].get("/agent/conversations")).json()["items"]
        assert len(listed) == 5
        assert await stored(app) == before
        assert asked >= 4 * 15 * 17, asked
        assert app.reports.errors == []


async def test_who_may_not_write_gets_403_from_every_route_that_does(
    database_url: str, tenants: Tenants
) -> None:
    async with (
        app_of(database_url, tenants, dispatch=nowhere) as app,
        web_of(app, tenants) as web,
    ):
        ids: dict[int, dict[str, str]] = {}
        for tenant in (1, 2):
            cid = await app.conversation(user_id=tenant)
            message = await app.agent.turns.start(cid, "SCRIPT:text Hello.")
            ids[tenant] = {**NOBODY, "cid": str(cid), "mid": str(message.id)}
        before = await stored(app)
        writing = [operation for operation in web.operations if operation.writes]
        assert len(writing) >= 6
        for operation in writing:
            for names in (ids[1], ids[2], NOBODY):
                answer = await operation.call(names).made(web.reader)
                assert answer.status_code == 403, operation
                assert answer.json()["type"] == "urn:opencode-async:read-only"
        assert await stored(app) == before
        for operation in web.operations:
            stream, file = operation.path.endswith("/events"), "aid" in operation.parameters
            if not (operation.writes or stream or file):
                assert (await operation.call(ids[1]).made(web.reader)).status_code == 200


async def status_of(server: Server, path: str) -> int:
    """What a server answers, asked without any code under test."""
    auth = httpx.BasicAuth(server.username, server.password or "")
    scope = {"directory": str(server.directory)}
    async with httpx.AsyncClient(auth=auth, trust_env=False) as http:
        return (await http.get(f"{server.url}{path}", params=scope)).status_code


async def sessions_of(server: Server) -> dict[str, str]:
    """The sessions of a server's directory, and the directory of each."""
    async with OpencodeClient(server) as client:
        listed = (await client.http.request("GET", "/session")).json()
    return {session["id"]: session["directory"] for session in listed}


async def busy_in(server: Server) -> set[str]:
    async with OpencodeClient(server) as client:
        return set((await client.http.request("GET", "/session/status")).json())


async def test_turns_run_at_once_each_on_its_tenants_server_and_are_heard_by_nobody_else(
    database_url: str, tenants: Tenants
) -> None:
    async with AsyncExitStack() as stack:
        proxies = {tenant: Proxy(server) for tenant, server in tenants.items()}
        between = {
            tenant: await stack.enter_async_context(proxy.running())
            for tenant, proxy in proxies.items()
        }
        app = await stack.enter_async_context(app_of(database_url, between))
        web = await stack.enter_async_context(web_of(app, tenants))
        cids = {tenant: str(await app.conversation(user_id=tenant)) for tenant in tenants}
        begun: dict[int, asyncio.Future[str]] = {t: asyncio.Future() for t in tenants}
        frames: dict[int, list[str]] = {tenant: [] for tenant in tenants}

        async def listen(tenant: int, cursor: str | None) -> None:
            path = f"/agent/conversations/{cids[tenant]}/events"
            async with listening(web.clients[tenant], path, last_event_id=cursor) as events:
                body = {"text": f"SCRIPT:hang Words-{tenant}", "on_busy": "reject"}
                path = f"/agent/conversations/{cids[tenant]}/messages"
                posted = await web.clients[tenant].post(path, json=body)
                assert posted.status_code == 202
                async for event in events:
                    frames[tenant].append(f"{event.id} {event.event} {event.data}")
                    if event.event == "part.delta":
                        begun[tenant].set_result(event.id)
                    if event.event == "finished":
                        return

        # The last one comes with the first one's place in its own stream.
        listeners = [asyncio.create_task(listen(tenant, None)) for tenant in (1, 2, 3)]
        async with asyncio.timeout(30):
            cursor = await begun[1]
            listeners.append(asyncio.create_task(listen(4, cursor)))
            await asyncio.gather(*begun.values())
        rows = {t: await app.row(as_message(await f)) for t, f in begun.items()}
        places = {tenant: await app.session_id(row) for tenant, row in rows.items()}
        assert {row.status for row in rows.values()} == {"pending"}  # all at once
        for tenant, server in tenants.items():
            others = set(places.values()) - {places[tenant]}
            assert await busy_in(server) & set(places.values()) == {places[tenant]}
            listed = await sessions_of(server)
            assert listed[places[tenant]] == str(server.directory)
            assert not others & listed.keys()
        for tenant, session_id in places.items():
            for other in (1, 2):
                here = tenants[tenant].url == tenants[other].url
                expected = 200 if here else 404
                assert await status_of(tenants[other], f"/session/{session_id}") == expected
        for row in rows.values():
            await app.agent.turns.cancel(row.id)
        async with asyncio.timeout(20):
            await asyncio.gather(*listeners)
        assert {tenant: proxy.streams for tenant, proxy in proxies.items()} == dict.fromkeys(
            tenants, 1
        )
        assert [await busy_in(server) & set(places.values()) for server in tenants.values()] == [
            set()
        ] * 4
        for tenant in tenants:
            told = "\n".join(frames[tenant])
            assert f"Words-{tenant}" in told
            for other in tenants.keys() - {tenant}:
                secret = {cids[other], str(rows[other].id), places[other], f"Words-{other}"}
                assert not leaked(secret, told), (tenant, other)
        assert app.reports.errors == []


def as_message(event_id: str) -> Any:
    """The key of the message that an event is of."""
    return Message.id.type.python_type(event_id.split(".")[0])


async def test_a_turn_is_taken_over_on_its_tenants_server(
    database_url: str, tenants: Tenants
) -> None:
    async with app_of(database_url, tenants, dispatch=nowhere) as first:
        messages = {}
        for tenant in tenants:
            cid = await first.conversation(user_id=tenant)
            text = 'SCRIPT:slow {"n": 12, "delay": 0.25}'
            messages[tenant] = await first.agent.turns.start(cid, text)
        running = [asyncio.create_task(first.agent.turns.run(m.id)) for m in messages.values()]
        for message in messages.values():
            async with asyncio.timeout(20), first.agent.turns.follow(message.id) as changes:
                async for change in changes:
                    if change.event == "part.delta":
                        break
        places = {t: await first.session_id(message) for t, message in messages.items()}
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        # Where its worker was killed, a row says so once the lease has run out.
        for message in messages.values():
            await first.lose_worker(message.id, -1)
    async with app_of(database_url, tenants) as second:
        recovered = await second.agent.turns.recover()
        assert set(recovered) <= {message.id for message in messages.values()}
        for tenant, message in messages.items():
            row = await settled(second, message.id)
            assert (row.status, row.epoch, row.content.split()[-1]) == ("completed", 2, "tick11")
            assert await second.session_id(row) == places[tenant]
            async with OpencodeClient(tenants[tenant]) as client:
                page = await client.messages(places[tenant])
            prompts = [m.info.id for m in page.messages if m.info.role == "user"]
            assert prompts == [row.prompt_id]
        assert second.reports.errors == []


async def test_erasing_erases_on_the_tenants_server(database_url: str, tenants: Tenants) -> None:
    async with app_of(database_url, tenants) as app:
        talks = [await talk_of(app, tenant, 0) for tenant in tenants]
        hanging = await app.conversation(user_id=2)
        message = await app.agent.turns.start(hanging, "SCRIPT:hang Here")
        async with app.agent.turns.follow(message.id) as changes:
            async for change in changes:
                if change.event == "part.delta":
                    break
        erased = {2: await app.session_id(message)}
        await app.agent.erase(hanging)
        assert erased[2] not in await busy_in(tenants[2])
        for talk in talks[1:]:
            async with app.sessions() as db:
                row = await db.get_one(Conversation, type(hanging)(talk.ids["cid"]))
            assert row.opencode_session_id is not None
            erased[talk.tenant] = row.opencode_session_id
            assert erased[talk.tenant] in await sessions_of(tenants[talk.tenant])
            await app.agent.erase(talk.ids["cid"])
        for tenant, session_id in erased.items():
            assert session_id not in await sessions_of(tenants[tenant])
            assert await status_of(tenants[tenant], f"/session/{session_id}") == 404
        left = await sessions_of(tenants[1])
        assert talks[0].secrets & left.keys()
        assert app.reports.errors == []
