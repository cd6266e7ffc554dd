"""A call of a tool, as a part, from its beginning to its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from opencode_async.testing.impostor.asks import Corrected, Rejected, action_of, denied
from opencode_async.testing.impostor.life import Life
from opencode_async.testing.impostor.model import Prepared
from opencode_async.testing.impostor.outcome import Failed, Result
from opencode_async.testing.impostor.store import NotFound
from opencode_async.testing.impostor.tools import TOOLS, always_of, offered, permission_of
from opencode_async.testing.scripted_model.scripts import ToolCall

if TYPE_CHECKING:
    from opencode_async.testing.impostor.sessions import Sessions
    from opencode_async.testing.impostor.step import Step

Json = dict[str, Any]


class Call:
    """One call; it is also what the tool is given to work with."""

    def __init__(self, life: Life, step: Step, said: ToolCall, call_id: str) -> None:
        self.life = life
        self.info = step.info
        self.sessions: Sessions = step.sessions
        self.directory: str = step.session["directory"]
        self.rules: list[Json] = step.rules
        self.rejected = False
        self.aborting: Result | None = None
        """What comes of it when it is aborted, if that is a result."""
        self._said = said
        self._asks = isinstance(said, Prepared) and said.asks
        ids = {"messageID": self.info["id"], "sessionID": self.info["sessionID"]}
        self._part: Json = {
            "id": life.world.ids.new("prt"),
            **ids,
            "type": "tool",
            "tool": said.name,
            "callID": call_id,
            "state": {"status": "pending", "input": {}, "raw": ""},
        }
        self._task: asyncio.Task[None] | None = None

    @property
    def session_id(self) -> str:
        """Whose call it is."""
        return str(self.info["sessionID"])

    def begin(self) -> None:
        """Tell of the call, and make it while the model still speaks."""
        self.life.put_part(self._part)
        name, arguments = self._understood()
        self._part["tool"] = name
        self._part["state"] = {
            "status": "running",
            "input": arguments,
            "time": {"start": self.life.world.ms()},
        }
        self._task = self.life.spawn(self._run(name, arguments), f"tool {name}")

    async def ended(self) -> None:
        """Wait for the end of it; raises ``NotFound`` where its session was deleted."""
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._part["state"]["status"] == "running":
            raise NotFound(f"Session not found: {self.session_id}")

    def cancel(self) -> None:
        """Stop it where it is."""
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Tell what comes of it when its turn is aborted."""
        self.cancel()
        if self._part["state"]["status"] == "running":
            if self.aborting is not None:
                self._complete(self.aborting)
            else:
                running = self._part["state"]
                metadata = {**running.get("metadata", {}), "interrupted": True}
                titled = {"title": running["title"]} if "title" in running else {}
                told = {"status": "error", "error": "Tool execution aborted"}
                self._end({**told, **titled, "metadata": metadata})

    async def ask(
        self,
        permission: str,
        patterns: Sequence[str],
        metadata: Json,
        *,
        always: Sequence[str] = (),
    ) -> None:
        """Ask leave, unless the rules decide; raises ``Rejected`` and ``Corrected``."""
        actions = {action_of(self.rules, permission, pattern) for pattern in patterns}
        if "deny" in actions:
            raise denied(self.rules, permission)
        allowed = self.life.asks.allowed(self.directory, permission, patterns)
        if not self._asks and (actions == {"allow"} or allowed):
            return
        self._asks = False
        payload = {
            "id": self.life.world.ids.new("per"),
            "sessionID": self.session_id,
            "permission": permission,
            "patterns": [*patterns],
            "metadata": metadata,
            "always": [*(always or always_of(permission, patterns))],
            "tool": self._tool(),
        }
        await self._wait_for(payload)

    async def question(self, questions: list[Json]) -> list[list[str]]:
        """Ask the user; raises ``Rejected``."""
        payload = {
            "id": self.life.world.ids.new("que"),
            "sessionID": self.session_id,
            "questions": questions,
            "tool": self._tool(),
        }
        answers: list[list[str]] = await self._wait_for(payload)
        return answers

    def tell(self) -> None:
        """Tell that it runs."""
        self.life.put_part(self._part)

    def progress(self, metadata: Json, *, title: str | None = None) -> None:
        """Tell how far it has come."""
        titled = {} if title is None else {"title": title}
        self._part["state"] |= {**titled, "metadata": deepcopy(metadata)}
        self.tell()

    async def _wait_for(self, payload: Json) -> Any:
        answer = self.life.asks.ask(self.directory, payload)
        self.tell()
        return await answer

    def _tool(self) -> Json:
        return {"messageID": self.info["id"], "callID": self._part["callID"]}

    def _understood(self) -> tuple[str, Json]:
        """The tool and its arguments, or the tool that tells the model of its mistake."""
        name, text = self._said.name, self._said.arguments
        tools = offered(self.rules, self.info["modelID"])
        if self._prepared is None and name not in tools:
            listed = f"Available tools: {', '.join(tools)}."
            error = f"Model tried to call unavailable tool '{name}'. {listed}"
            return "invalid", {"tool": name, "error": error}
        try:
            return name, json.loads(text)
        except ValueError:
            parsing = f"JSON parsing failed: Text: {text}.\nError message: JSON Parse error"
            error = f"Invalid input for tool {name}: {parsing}: Unexpected EOF"
            return "invalid", {"tool": name, "error": error}

    @property
    def _prepared(self) -> Json | None:
        return self._said.state if isinstance(self._said, Prepared) else None

    async def _run(self, name: str, arguments: Json) -> None:
        try:
            await self._make(name, arguments)
        except NotFound:
            return  # its session was deleted; `ended` says so

    async def _make(self, name: str, arguments: Json) -> None:
        try:
            if self._prepared is not None:
                await self._play(name, arguments, self._prepared)
                return
            result = await TOOLS[name](self, arguments)
        except Rejected as rejected:
            self.rejected = True
            told = {
                "permission": "The user rejected permission to use this specific tool call.",
                "question": "The user dismissed this question",
            }[str(rejected)]
            self._end({"status": "error", "error": told})
        except (Corrected, Failed) as error:
            self._end({"status": "error", "error": str(error)})
        else:
            self._complete(result)

    async def _play(self, name: str, arguments: Json, state: Json) -> None:
        """End as was said beforehand."""
        if self._asks:
            await self.ask(permission_of(name), ["*"], arguments)
        elif name == "question":
            await self.question(arguments["questions"])
        else:
            self.tell()
        self._end(state)

    def _complete(self, result: Result) -> None:
        self._end(
            {
                "status": "completed",
                "output": result.output,
                "title": result.title,
                "metadata": {**result.metadata, "truncated": result.truncated},
            }
        )

    def _end(self, state: Json) -> None:
        running = self._part["state"]
        time = {**running["time"], "end": self.life.world.ms()}
        known = {"metadata": running["metadata"]} if "metadata" in running else {}
        self._part["state"] = {**known, **state, "input": running["input"], "time": time}
        self.life.put_part(self._part)
