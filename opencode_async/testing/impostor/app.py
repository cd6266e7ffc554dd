"""The HTTP side of an Impostor: each endpoint that the library uses, with OpenCode's answers."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from opencode_async.testing.impostor.agents import agents_json
from opencode_async.testing.impostor.answers import (
    Answer,
    Broken,
    Closing,
    Events,
    ask_not_found,
    bad_request,
    formatted,
    not_found,
    unexpected,
    unreadable,
)
from opencode_async.testing.impostor.disk import content, listed
from opencode_async.testing.impostor.gate import Gate
from opencode_async.testing.impostor.life import VERSION, real, worktree
from opencode_async.testing.impostor.store import NotFound, page

if TYPE_CHECKING:
    from opencode_async.testing.impostor.impostor import Impostor

Json = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]


def impostor_app(impostor: Impostor) -> ASGIApp:
    """The ASGI app."""
    routes = Routes(impostor)
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes.table],
        exception_handlers={NotFound: not_found},
    )
    return Gate(impostor, app)


class Routes:
    """The endpoints."""

    def __init__(self, impostor: Impostor) -> None:
        self._impostor = impostor
        self._store = impostor.world.store
        session, message = "/session/{session_id}", "/session/{session_id}/message"
        self.table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/global/health", self.health),
            ("GET", "/event", self.event),
            ("GET", "/path", self.path),
            ("GET", "/agent", self.agent),
            ("GET", "/file", self.file),
            ("GET", "/file/content", self.file_content),
            ("GET", "/permission", self.permissions),
            ("POST", "/permission/{ask_id}/reply", self.permission_reply),
            ("GET", "/question", self.questions),
            ("POST", "/question/{ask_id}/reply", self.question_reply),
            ("POST", "/question/{ask_id}/reject", self.question_reject),
            ("POST", "/instance/dispose", self.dispose),
            ("GET", "/experimental/session", self.listed),
            ("GET", "/session", self.sessions),
            ("POST", "/session", self.create),
            ("GET", "/session/status", self.status),
            ("GET", session, self.session),
            ("PATCH", session, self.patch),
            ("DELETE", session, self.delete),
            ("GET", f"{session}/children", self.children),
            ("GET", f"{session}/todo", self.todo),
            ("POST", f"{session}/abort", self.abort),
            ("POST", f"{session}/prompt_async", self.prompt),
            ("GET", message, self.messages),
            ("POST", message, self.say),
            ("GET", message + "/{message_id}", self.message),
        ]

    def _directory(self, request: Request) -> str:
        """The directory that a request is about; OpenCode decodes it twice (1.18.33, measured)."""
        header = request.headers.get("x-opencode-directory")
        given = request.query_params.get("directory") or (unquote(header) if header else None)
        return real(unquote(given) if given else self._impostor.world.directory)

    async def health(self, request: Request) -> Response:
        return Answer({"healthy": True, "version": VERSION})

    async def event(self, request: Request) -> Response:
        bus = self._impostor.life.bus
        stream = await bus.listen(self._directory(request))
        return Closing(Events(stream), lambda: bus.close(stream))

    async def path(self, request: Request) -> Response:
        directory = self._directory(request)
        home = str(self._impostor.world.directory.parent)
        places = dict.fromkeys(("home", "state", "config"), home)
        return Answer({**places, "worktree": worktree(directory), "directory": directory})

    async def agent(self, request: Request) -> Response:
        return Answer(agents_json())

    async def file(self, request: Request) -> Response:
        directory, path = self._directory(request), request.query_params["path"]
        try:
            return Answer(await asyncio.to_thread(listed, directory, path))
        except OSError:
            return unexpected()

    async def file_content(self, request: Request) -> Response:
        directory, path = self._directory(request), request.query_params["path"]
        try:
            data = await asyncio.to_thread(content, directory, path)
        except OSError:
            return unexpected()
        if b"\0" in data:
            kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
            encoded = {"content": base64.b64encode(data).decode(), "encoding": "base64"}
            return Answer({"type": "binary", **encoded, "mimeType": kind})
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return unexpected()
        return Answer({"type": "text", "content": text.removeprefix("\ufeff").strip()})

    async def permissions(self, request: Request) -> Response:
        return Answer(self._impostor.life.asks.listed("per", self._directory(request)))

    async def permission_reply(self, request: Request) -> Response:
        ask_id, body = request.path_params["ask_id"], await request.json()
        if not ask_id.startswith("per"):
            told = f'Expected a string starting with "per", got "{ask_id}"\n  at ["requestID"]'
            return bad_request(told, "Params")
        if "reply" not in body:
            return bad_request('Missing key\n  at ["reply"]', "Payload")
        directory, message = self._directory(request), body.get("message") or ""
        asks = self._impostor.life.asks
        if asks.reply_permission(ask_id, directory, body["reply"], message):
            return Answer(True)
        return ask_not_found("Permission", ask_id)

    async def questions(self, request: Request) -> Response:
        return Answer(self._impostor.life.asks.listed("que", self._directory(request)))

    async def question_reply(self, request: Request) -> Response:
        return self._answered(request, (await request.json())["answers"])

    async def question_reject(self, request: Request) -> Response:
        return self._answered(request, None)

    def _answered(self, request: Request, answers: list[list[str]] | None) -> Response:
        ask_id = request.path_params["ask_id"]
        asks = self._impostor.life.asks
        if asks.reply_question(ask_id, self._directory(request), answers):
            return Answer(True)
        return ask_not_found("Question", ask_id)

    async def sessions(self, request: Request) -> Response:
        newest = self._newest(self._directory(request))
        return Answer(newest[: int(request.query_params.get("limit", 100))])

    async def listed(self, request: Request) -> Response:
        query = request.query_params
        found = self._newest(self._directory(request) if "directory" in query else None)
        if query.get("roots") == "true":
            found = [info for info in found if "parentID" not in info]
        if query.get("archived") != "true":
            found = [info for info in found if "archived" not in info["time"]]
        before, limit = float(query.get("cursor", "inf")), int(query.get("limit", 100))
        found = [info for info in found if info["time"]["updated"] < before]
        project = {"id": "global", "worktree": "/"}
        response = Answer([{**info, "project": project} for info in found[:limit]])
        if len(found) > limit:
            response.headers["X-Next-Cursor"] = str(found[limit - 1]["time"]["updated"])
        return response

    def _newest(self, directory: str | None) -> list[Json]:
        """The sessions of a directory, or of all, as they were changed, the last one first."""
        found = [i for i in self._store.sessions() if directory in (None, i["directory"])]
        return sorted(found, key=lambda info: -info["time"]["updated"])

    async def dispose(self, request: Request) -> Response:
        await self._impostor.sessions.dispose(self._directory(request))
        return Answer(True)

    async def create(self, request: Request) -> Response:
        body = await request.json() if await request.body() else {}
        rules = body.get("permission") or []
        keys = {"permission", "pattern", "action"}
        if not isinstance(rules, list) or any(not keys <= set(rule) for rule in rules):
            return Answer({"_tag": "BadRequest"}, 400)
        created = self._impostor.sessions.create(self._directory(request), body)
        return Answer(created)

    async def status(self, request: Request) -> Response:
        life, directory = self._impostor.life, self._directory(request)
        busy = {k: v for k, v in life.statuses.items() if life.directory_of(k) == directory}
        return Answer(busy)

    async def session(self, request: Request) -> Response:
        return Answer(self._store.session(request.path_params["session_id"]))

    async def patch(self, request: Request) -> Response:
        info, body = self._store.session(request.path_params["session_id"]), await request.json()
        info |= {key: body[key] for key in ("title", "metadata") if key in body}
        info["time"] |= body.get("time", {})
        if "permission" in body:
            info["permission"] = [*info.get("permission", ()), *body["permission"]]
        self._impostor.life.put_session(info)
        return Answer(info)

    async def delete(self, request: Request) -> Response:
        self._impostor.sessions.delete(request.path_params["session_id"])
        return Answer(True)

    async def children(self, request: Request) -> Response:
        return Answer(self._store.children(request.path_params["session_id"]))

    async def todo(self, request: Request) -> Response:
        return Answer(self._store.todos.get(request.path_params["session_id"], []))

    async def abort(self, request: Request) -> Response:
        await self._impostor.sessions.abort(request.path_params["session_id"])
        return Answer(True)

    async def prompt(self, request: Request) -> Response:
        session_id, body = request.path_params["session_id"], await request.json()
        if (refused := self._refused(session_id, body)) is not None:
            return refused
        fault = self._impostor.faults.next_prompt()
        if fault != "lose":
            self._impostor.sessions.prompt(session_id, body)
        return Response(status_code=204) if fault is None else Broken()

    def _refused(self, session_id: str, body: Json) -> Response | None:
        if not session_id.startswith("ses"):
            return unexpected()
        self._store.session(session_id)
        if "parts" not in body:
            return bad_request('Missing key\n  at ["parts"]', "Payload")
        message_id = body.get("messageID", "msg")
        if not message_id.startswith("msg"):
            told = f'Expected a string starting with "msg", got "{message_id}"\n  at ["messageID"]'
            return bad_request(told, "Payload")
        return None

    async def messages(self, request: Request) -> Response:
        messages = self._store.messages(request.path_params["session_id"])
        limit, before = request.query_params.get("limit"), request.query_params.get("before")
        found, older = page(messages, int(limit) if limit else None, before)
        if older is None and (number := formatted(found)) is not None:
            return unreadable(found[number], f'[{number}]["info"]["format"]')
        response = Answer(found)
        if older is not None:
            url = request.url.replace_query_params(limit=limit, before=older)
            response.headers["Link"] = f'<{url}>; rel="next"'
            response.headers["X-Next-Cursor"] = older
        return response

    async def say(self, request: Request) -> Response:
        session_id, body = request.path_params["session_id"], await request.json()
        if (refused := self._refused(session_id, body)) is not None:
            return refused
        await self._impostor.sessions.prompt(session_id, body)
        return Answer(self._store.messages(session_id)[-1])

    async def message(self, request: Request) -> Response:
        session_id, message_id = (
            request.path_params["session_id"],
            request.path_params["message_id"],
        )
        found = self._store.message(session_id, message_id)
        if formatted([found]) is None:
            return Answer(found)
        return unreadable(found, '["info"]["format"]')
