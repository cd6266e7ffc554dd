"""Sessions and prompts: what is posted becomes a user message, and wakes the session's loop."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from opencode_async.testing.impostor.agents import AGENTS, not_found
from opencode_async.testing.impostor.compacting import Summary, ask_for_summary, post_again
from opencode_async.testing.impostor.life import VERSION, Life
from opencode_async.testing.impostor.step import Step
from opencode_async.testing.impostor.store import NotFound

Json = dict[str, Any]
NONE_USED: Json = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}


class Sessions:
    """What a server does with its sessions, in one of its lives."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.world
        self._running: dict[str, asyncio.Task[None]] = {}
        self._steps: dict[str, Step] = {}
        self._aborting: set[str] = set()

    def create(self, directory: str, body: Json) -> Json:
        """A new session."""
        now = self._world.ms()
        title = f"New session - {datetime.fromtimestamp(now / 1000, UTC).isoformat()}"
        info: Json = {
            "id": self._world.ids.new("ses"),
            "slug": "quick-impostor",
            "version": VERSION,
            "projectID": "global",
            "directory": directory,
            "path": directory.lstrip("/"),
            "title": title,
            "cost": 0,
            "tokens": NONE_USED,
            "time": {"created": now, "updated": now},
        }
        given = ("title", "parentID", "metadata", "permission", "agent", "model")
        info |= {key: body[key] for key in given if body.get(key) is not None}
        self._life.put_session(info, "session.created")
        return self._world.store.session(info["id"])

    def delete(self, session_id: str) -> None:
        """Delete a session and its subagents'; what runs in it goes on, and fails at its end."""
        info = self._world.store.session(session_id)
        for child in self._world.store.children(session_id):
            self.delete(child["id"])
        directory = info["directory"]
        self._world.store.forget(session_id)
        self._life.bus.emit(directory, "session.deleted", {"sessionID": session_id, "info": info})

    def prompt(self, session_id: str, body: Json) -> asyncio.Task[None]:
        """Take a prompt: answered 204 before anything is known to be wrong with it."""
        return self._life.spawn(self.take(session_id, body), f"prompt {session_id}")

    async def abort(self, session_id: str) -> None:
        """Stop what a session does; of one that does nothing it is said that it is idle.

        One whose model was not called yet does nothing yet (OpenCode 1.18.33, measured).
        """
        self.abort_soon(session_id)
        if session_id in self._aborting:
            await asyncio.wait([self._running[session_id]])
        else:
            self._life.status(session_id, "idle")

    async def dispose(self, directory: str) -> None:
        """Let go of what is in memory for a directory: what runs there is aborted, streams end."""
        life = self._life
        for session_id in [each for each in self._steps if life.directory_of(each) == directory]:
            await self.abort(session_id)
        life.asks.forget(directory)
        life.bus.emit(directory, "server.instance.disposed", {"directory": directory})
        life.bus.end(directory)

    def abort_soon(self, session_id: str) -> None:
        """Begin to stop what a session does."""
        if session_id in self._steps:
            self._aborting.add(session_id)
            self._running[session_id].cancel()

    def last_error(self, session_id: str) -> Json | None:
        """What the last answer in a session failed with, or that it was aborted."""
        _, last = self._world.store.newest(session_id)
        return last.get("error") if last else None

    def last_text(self, session_id: str) -> str:
        """What was said last in a session."""
        messages = self._world.store.messages(session_id)
        texts = [p["text"] for m in messages[-1:] for p in m["parts"] if p["type"] == "text"]
        return texts[-1] if texts else ""

    async def take(self, session_id: str, body: Json) -> None:
        """Store a prompt, unless it is refused, and wait for the end of its answer."""
        agent = body.get("agent") or "build"
        if agent not in AGENTS:
            self._life.error(session_id, "UnknownError", message=not_found(agent))
            self._life.error(session_id, "UnknownError", message="UnknownError: UnknownError")
            return
        try:
            self._store_prompt(session_id, agent, body)
        except NotFound as gone:  # deleted just now
            self._life.error(session_id, "UnknownError", message=f"Failed query: {gone}")
            return
        if not body.get("noReply"):
            await self.awake(session_id)

    def _store_prompt(self, session_id: str, agent: str, body: Json) -> None:
        life, world = self._life, self._world
        session = world.store.session(session_id)
        own = session.get("model")
        model = body.get("model") or (
            {"providerID": own["providerID"], "modelID": own["id"]}
            if own
            else self._default_model()
        )
        chosen = {"id": model["modelID"], "providerID": model["providerID"], "variant": "default"}
        if session.get("agent") != agent or own != chosen:
            session |= {"agent": agent, "model": chosen}
            life.put_session(session)
        info: Json = {
            "id": body.get("messageID") or world.ids.new("msg"),
            "role": "user",
            "sessionID": session_id,
            "time": {"created": world.ms()},
            "agent": agent,
            "model": model,
        }
        optional = ("system", "format", "tools", "variant")
        info |= {key: body[key] for key in optional if body.get(key) is not None}
        if info.get("format", {}).get("type") == "json_schema":
            info["format"] = {**info["format"], "retryCount": 2}
        life.put_message(info)
        for part in body["parts"]:
            own_ids = {"messageID": info["id"], "sessionID": session_id}
            life.put_part({"id": world.ids.new("prt"), **part, **own_ids})
        life.put_session(world.store.session(session_id))

    def _default_model(self) -> Json:
        provider, _, name = self._world.models[0].partition("/")
        return {"providerID": provider, "modelID": name}

    async def awake(self, session_id: str) -> None:
        """Answer what is unanswered, and wait for the end of it."""
        if session_id not in self._running:
            running = self._life.spawn(self._loop(session_id), f"turn {session_id}")
            self._running[session_id] = running
        await asyncio.wait([self._running[session_id]])

    async def _loop(self, session_id: str) -> None:
        try:
            await self._answer_or_stop(session_id)
        except NotFound as gone:  # deleted meanwhile
            life, told = self._life, f"Failed query: {gone}"
            life.error(session_id, "UnknownError", message=told)
            life.status(session_id, "idle")
            life.status(session_id, "idle")
            told = f"EffectDrizzleQueryError: {told}"
            life.error(session_id, "UnknownError", message=told)
        finally:
            # At once: a prompt that comes now is for another.
            self._running.pop(session_id)
            self._steps.pop(session_id, None)
            self._aborting.discard(session_id)

    async def _answer_or_stop(self, session_id: str) -> None:
        try:
            await self._answer(session_id)
        except asyncio.CancelledError:
            if session_id not in self._aborting:
                raise
            self._steps[session_id].aborted()

    async def _answer(self, session_id: str) -> None:
        life, store = self._life, self._world.store
        # Rules that are added meanwhile are in force from the next turn on (OpenCode 1.18.33,
        # measured).
        session = store.session(session_id)
        first = True
        while True:
            life.status(session_id, "busy")
            user, last = store.newest(session_id)
            if user is None or (last is not None and answers(last, user)):
                break
            model = f"{user['model']['providerID']}/{user['model']['modelID']}"
            if model not in self._world.models:
                told = f"Model not found: {model}."
                life.error(session_id, "UnknownError", message=told)
                life.status(session_id, "idle")
                life.error(
                    session_id, "UnknownError", message=f"ProviderModelNotFoundError: {told}"
                )
                return
            step = self._steps[session_id] = Step(life, self, session, user, first=first)
            first = False
            if not await step.run():
                break
            if step.overflowed:
                asking = ask_for_summary(life, user)
                life.status(session_id, "busy")
                summary = Summary(life, self, session, asking, first=False)
                self._steps[session_id] = summary
                if not await summary.run():
                    break
                post_again(life, user)
        life.status(session_id, "idle")


def answers(last: Json, user: Json) -> bool:
    """Whether the user's message has its answer, which a tool's result does not go on behind."""
    done = last.get("finish") not in (None, "tool-calls")
    return done and bool(last["parentID"] == user["id"])
