"""One step: a request to the model, what it says as parts, and the tools that it calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opencode_async.testing.impostor.agents import AGENTS
from opencode_async.testing.impostor.calls import Call
from opencode_async.testing.impostor.life import Life, worktree
from opencode_async.testing.impostor.model import Request, Said, Usage
from opencode_async.testing.impostor.provider import (
    Overflow,
    ProviderError,
    charged,
    error_of,
    spent,
)
from opencode_async.testing.impostor.store import chat
from opencode_async.testing.impostor.tools import offered
from opencode_async.testing.scripted_model.scripts import (
    Cut,
    Finish,
    Hang,
    Reasoning,
    Refusal,
    StreamError,
    Text,
    ToolCall,
    Wait,
)

if TYPE_CHECKING:
    from opencode_async.testing.impostor.sessions import Sessions

Json = dict[str, Any]
RETRIES = 5  # of one step (OpenCode 1.18.33, measured)
FIRST_WAIT = 2.0  # s before the first of them; each further one waits twice as long
FINISHES = {"tool_calls": "tool-calls", "content_filter": "content-filter"}
FILTERED = "The response was blocked by the provider's content filter"


class Step:
    """One assistant message, from its creation to its end."""

    def __init__(
        self, life: Life, sessions: Sessions, session: Json, user: Json, *, first: bool
    ) -> None:
        self.life = life
        self.overflowed = False
        self._world = life.world
        self._user = user
        self._first = first
        self.sessions = sessions
        self.session = session
        self.info: Json = {
            "id": self._world.ids.new("msg"),
            "parentID": user["id"],
            "role": "assistant",
            "mode": user["agent"],
            "agent": user["agent"],
            "path": {"cwd": session["directory"], "root": worktree(session["directory"])},
            "cost": 0,
            "tokens": {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}},
            "modelID": user["model"]["modelID"],
            "providerID": user["model"]["providerID"],
            "time": {"created": self._world.ms()},
            "sessionID": session["id"],
        }
        self.adapt()
        self._open: Json | None = None  # the text or reasoning part that is being said
        self._texts = self._thoughts = 0
        self._calls: list[Call] = []
        self._usage: Usage | None = None
        self._waiting = False
        self._begun = False

    def adapt(self) -> None:
        """Change what the message says of itself, in other kinds of steps."""

    async def run(self) -> bool:
        """Make the step; whether the turn goes on."""
        life, info = self.life, self.info
        life.put_message(info)
        self._summarise()
        attempt = 0
        while True:
            life.status(info["sessionID"], "busy")
            try:
                return await self._attempt()
            except Overflow as overflow:
                life.error(info["sessionID"], "ContextOverflowError", **overflow.data)
                self._complete()
                life.put_message(info)
                self.overflowed = True
                return True
            except ProviderError as error:
                attempt += 1
                if not error.retryable or attempt > RETRIES:
                    self._fail(error)
                    return False
                await self._wait(error, attempt)

    def aborted(self) -> None:
        """End it as OpenCode does what is aborted: what was said stays."""
        life, session_id = self.life, self.info["sessionID"]
        if not self._waiting:
            error = life.error(session_id, "MessageAbortedError", message="Aborted")
            life.status(session_id, "idle")
            self.info["error"] = error
        self._close()
        for call in self._calls:
            call.abort()
        self._complete()
        life.put_message(self.info)
        life.status(session_id, "idle")

    async def _attempt(self) -> bool:
        self._texts = self._thoughts = 0
        self._calls, self._usage, self._open, self._begun = [], None, None, False
        if self._world.latency:
            await self._world.clock.sleep(self._world.latency)
        told = self._world.reply(self.request())
        if isinstance(told, Refusal):
            raise error_of(told)
        self._world.answers += 1
        number = self._world.answers
        try:
            reason = await self._listen(told, number)
            self._close()
            for call in self._calls:
                await call.ended()
        except BaseException:
            for call in self._calls:
                call.cancel()
            raise
        return self._finish(reason)

    def request(self) -> Request:
        """What the model is asked."""
        store = self._world.store
        messages = store.messages(self.info["sessionID"])
        texts = [
            p["text"]
            for m in messages
            if m["info"]["id"] == self._user["id"]
            for p in m["parts"]
            if p["type"] == "text"
        ]
        answers = [m for m in messages if m["info"].get("parentID") == self._user["id"]]
        calls = [p for m in answers for p in m["parts"] if p["type"] == "tool"]
        told = self._user.get("system")
        return Request(
            self.info["sessionID"],
            "\n".join(texts),
            [*([{"role": "system", "content": told}] if told else []), *chat(messages)],
            offered(self.rules, self.info["modelID"]),
            len(calls),
        )

    @property
    def rules(self) -> list[Json]:
        """What the agent may do: its own rules, and behind them the session's."""
        return [*AGENTS[self.info["agent"]][1], *self.session.get("permission", ())]

    async def _listen(self, told: Iterator[Said], number: int) -> str:
        for said in told:
            if isinstance(said, Wait):
                await self._world.clock.sleep(said.seconds)
                continue
            if not self._begun:
                self._begun = True
                self.life.put_part(self._part("step-start"))
            match said:
                case Text(text):
                    self._texts += 1
                    self._say("text", text)
                case Reasoning(text):
                    self._thoughts += 1
                    self._say("reasoning", text)
                case ToolCall():
                    call = Call(self.life, self, said, f"call_{number:06d}_{len(self._calls)}")
                    self._calls.append(call)
                    call.begin()
                case Usage():
                    self._usage = said
                case Finish(reason):
                    return FINISHES.get(reason, reason)
                case StreamError(message):
                    error = {"message": message, "type": "server_error"}
                    raise ProviderError(json.dumps(error, separators=(",", ":")))
                case Cut():
                    raise ProviderError("Connection reset by server", broken=True)
                case Hang():
                    await asyncio.Event().wait()
            await asyncio.sleep(0)
        return "unknown"

    def _part(self, kind: str, **more: object) -> Json:
        ids = {"messageID": self.info["id"], "sessionID": self.info["sessionID"]}
        return {"id": self._world.ids.new("prt"), **ids, "type": kind, **more}

    def _say(self, kind: str, text: str) -> None:
        if not text:
            return  # which begins no part
        if self._open is not None and self._open["type"] != kind:
            self._close()
        if self._open is None:
            self._open = self._part(kind, text="", time={"start": self._world.ms()})
            self.life.put_part(self._open)  # stored without its text until it ends
        self._open["text"] += text
        delta = {"partID": self._open["id"], "field": "text", "delta": text}
        self.life.emit(
            self.info["sessionID"], "message.part.delta", {"messageID": self.info["id"], **delta}
        )

    def _close(self) -> None:
        if self._open is not None:
            self._open["time"]["end"] = self._world.ms()
            self.life.put_part(self._open)
            self._open = None

    def _finish(self, reason: str) -> bool:
        life, info = self.life, self.info
        said = self._texts + len(self._calls)
        cost, tokens = spent(self._usage, said=said, thought=self._thoughts)
        life.put_part(self._part("step-finish", reason=reason, tokens=tokens, cost=cost))
        info |= {"cost": cost, "tokens": tokens, "finish": reason}
        session = self._world.store.session(info["sessionID"])
        life.put_session(charged(session, cost, tokens))
        if reason == "content-filter":
            info["error"] = {"name": "ContentFilterError", "data": {"message": FILTERED}}
            self._complete()
            for _ in range(3):
                life.put_message(info)
            life.error(info["sessionID"], "ContentFilterError", message=FILTERED)
            return False
        self._complete()
        life.put_message(info)
        life.put_message(info)
        return not any(call.rejected for call in self._calls)

    def _complete(self) -> None:
        self.info["time"]["completed"] = self._world.ms()

    def _summarise(self) -> None:
        """What OpenCode tells of a turn's changes to files, which outside of git are none."""
        life, session_id = self.life, self.info["sessionID"]
        session = self._world.store.session(session_id)
        session["summary"] = {"additions": 0, "deletions": 0, "files": 0}
        if self._first and session["title"].startswith("New session - "):
            session["title"] = "Scripted title"
        life.put_session(session)
        life.emit(session_id, "session.diff", {"diff": []})
        user = self._world.store.message(session_id, self._user["id"])["info"]
        life.put_message({**user, "summary": {"diffs": []}})

    def _fail(self, error: ProviderError) -> None:
        life, session_id = self.life, self.info["sessionID"]
        name, data = error.error
        self.info["error"] = life.error(session_id, name, **data)
        life.status(session_id, "idle")
        self._close()
        self._complete()
        life.put_message(self.info)

    async def _wait(self, error: ProviderError, attempt: int) -> None:
        seconds = FIRST_WAIT * 2 ** (attempt - 1) if error.after is None else error.after
        next_at = self._world.ms() + int(seconds * 1000)
        self.life.status(
            self.info["sessionID"], "retry", attempt=attempt, message=error.message, next=next_at
        )
        self._waiting = True
        await self._world.clock.sleep(seconds)
        self._waiting = False
