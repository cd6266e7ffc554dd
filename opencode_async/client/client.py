"""The OpenCode server's REST calls that the library needs, one short method each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Self

from opencode_async.client.http import HttpConnection, parsed
from opencode_async.client.hub import EventHub
from opencode_async.client.server import Server, as_server
from opencode_async.client.stream import StreamChange, stream
from opencode_async.errors import (
    BadRequestError,
    NotFoundError,
    NotRunning,
    ServerError,
    SessionNotFoundError,
)
from opencode_async.observability.error_reporter import ErrorReporter, guarded, log_error
from opencode_async.observability.instrumentation import Instrumentation, harmless, log_event
from opencode_async.protocol.asks import (
    NOBODY,
    PERMISSION,
    Ask,
    Decision,
    Permission,
    Question,
    kind_of,
)
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.files import binary_from_wire, entries_from_wire
from opencode_async.protocol.limits import Limits
from opencode_async.protocol.listed import ListedSession
from opencode_async.protocol.messages import WireMessage
from opencode_async.protocol.paths import Paths
from opencode_async.protocol.permissions import Permissions, Rule
from opencode_async.protocol.prompt import check_model, new_part_ids, new_prompt_id, prompt_body
from opencode_async.protocol.session_rules import agent_rules_from_wire, rules_from_wire
from opencode_async.protocol.subagents import Subagent, child_of
from opencode_async.protocol.wire import mapping, objects, text

# A server that is starting accepts connections 0.3 s early and never answers what it is asked on
# those (OpenCode 1.18.33, measured).
HEALTH_TIMEOUT = 5.0
PAGE = 50  # messages a page: a turn of 49 steps is one request
LISTED = 100  # sessions a page


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages oldest first; ``older`` is the cursor of the page before, if there is one."""

    messages: list[WireMessage]
    older: str | None


class OpencodeClient:
    """A connection to one OpenCode server, used inside ``async with``; it owns its ``EventHub``.

    Every method raises ``OpencodeConnectionError`` or ``ServerError`` (or a kind of them), and
    sends its request once: what may be repeated is for the caller to know. Entering the block
    connects nothing yet; it raises ``UnprotectedServer``.
    """

    def __init__(
        self,
        server: str | Server,
        *,
        error_reporter: ErrorReporter = log_error,
        instrumentation: Instrumentation = log_event,
    ) -> None:
        self.server = as_server(server)
        self.error_reporter = guarded(error_reporter)
        self._instrumentation = harmless(instrumentation, self.error_reporter)
        self._http: HttpConnection | None = None
        self._hub: EventHub | None = None
        self._paths: Paths | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.server.check_protected()
        async with AsyncExitStack() as stack:
            http = HttpConnection(self.server)
            stack.push_async_callback(http.aclose)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            hub = EventHub(
                lambda: http.events("/event"),
                tasks,
                self.error_reporter,
                self._instrumentation,
                server=self.server.url,
            )
            stack.callback(hub.close)
            self._http, self._hub, self._stack = http, hub, stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._http = self._hub = None
        # Not given the block's error: a task group would wrap it in a group.
        await self._stack.aclose()

    @property
    def http(self) -> HttpConnection:
        """The HTTP connection; raises ``NotRunning`` outside the block."""
        if self._http is None:
            raise NotRunning("client")
        return self._http

    @property
    def hub(self) -> EventHub:
        """The event stream that all turns of this client share; raises ``NotRunning``."""
        if self._hub is None:
            raise NotRunning("client")
        return self._hub

    async def version(self, *, within: float = HEALTH_TIMEOUT) -> str:
        """The server's version, from ``GET /global/health``, in so many seconds."""
        path = "/global/health"
        return await self.http.read(
            lambda v: text(mapping(v), "version"), "GET", path, within=within
        )

    async def create_session(
        self,
        *,
        title: str | None = None,
        permissions: Permissions | None = None,
        metadata: dict[str, str] | None = None,
        within: float | None = None,
    ) -> str:
        """Create a session and return its id; a title saves the model call that would make one.

        ``within`` is how long it may take, in seconds; else each step has its own time.
        Raises ``ValueError`` for permissions of a sandbox: only a conversation has one.
        """
        body: dict[str, Any] = {"metadata": metadata or {}}
        if title is not None:
            body["title"] = title
        if permissions is not None and (rules := permissions.sent):
            body["permission"] = rules
        return await self.http.read(_id, "POST", "/session", body=body, within=within)

    async def paths(self) -> Paths:
        """Where the server works for this client; it is asked once."""
        if self._paths is None:
            self._paths = await self.http.read(Paths.from_wire, "GET", "/path")
        return self._paths

    async def session_rules(self, session_id: str) -> list[Rule]:
        """All rules that the session was ever given, in order."""
        path = f"/session/{session_id}"
        return await self.http.read(lambda v: rules_from_wire(mapping(v)), "GET", path)

    async def agent_rules(self, agent: str | None) -> list[Rule]:
        """The rules that an agent has before any session's: OpenCode's and the configuration's."""
        return await self.http.read(lambda v: agent_rules_from_wire(v, agent), "GET", "/agent")

    async def add_rules(self, session_id: str, rules: Sequence[Rule]) -> None:
        """Add rules behind those of the session, from its next prompt on."""
        await self.http.request("PATCH", f"/session/{session_id}", body={"permission": [*rules]})

    async def sessions(self) -> AsyncGenerator[list[ListedSession], None]:
        """The sessions of this directory but those of subagents, page by page, the newest first.

        Without a directory they are those of all. What is changed meanwhile may be left out, for it
        becomes the newest; what is deleted leaves nothing out.
        """
        path, query = "/experimental/session", {"roots": "true", "archived": "true"}
        cursor: int | None = None
        known: set[str] = set()
        while True:
            response = await self.http.request(
                "GET", path, query={**query, "limit": LISTED, "cursor": cursor}
            )
            page = parsed(response, lambda v: [ListedSession.from_wire(raw) for raw in objects(v)])
            yield (new := [each for each in page if each.session_id not in known])
            if (older := response.headers.get("X-Next-Cursor")) is None:
                return
            # A page has what was changed before its cursor, a time in ms, and not at it: others may
            # have been in the same one.
            known = {each.session_id for each in page}
            cursor = int(older) + bool(new)

    async def dispose(self) -> None:
        """Have the server let go of what it keeps in memory for this directory.

        What runs there is aborted, what is asked there is forgotten, and event streams end; the
        next request there begins anew, which takes 1.2 s to the first answer (OpenCode 1.18.33,
        measured).
        """
        await self.http.request("POST", "/instance/dispose")

    async def delete_session(self, session_id: str) -> None:
        """Delete a session; one that is gone already is no error. A running turn is not stopped."""
        with suppress(NotFoundError):
            await self.http.request("DELETE", f"/session/{session_id}")

    async def end_session(self, session_id: str) -> None:
        """Stop what a session does, its subagents first, and delete it; a gone one is no error.

        In this order, for the turn of a deleted session goes on until it fails on the database.
        """
        await self.abort_tree(session_id)
        await self.delete_session(session_id)

    async def abort(self, session_id: str) -> None:
        """Abort what the session is doing; OpenCode answers success for any session, any state."""
        await self.http.request("POST", f"/session/{session_id}/abort")

    async def abort_tree(self, session_id: str) -> None:
        """Abort a session and the subagents' sessions under it, the deepest first.

        Also one that was deleted: what it does goes on all the same (OpenCode 1.18.33, measured).
        """
        with suppress(SessionNotFoundError):
            for child in await self.children(session_id):
                await self.abort_tree(child.session_id)
        await self.abort(session_id)

    async def children(self, session_id: str) -> list[Subagent]:
        """The sessions that subagents of this one ran in."""
        path = f"/session/{session_id}/children"
        return await self.http.read(
            lambda v: [Subagent.from_wire(child) for child in objects(v)], "GET", path
        )

    async def entries_of(self, folder: str) -> dict[str, str] | None:
        """The names in a folder of the server's, as it sees them, each ``file`` or ``directory``.

        Links and devices are left out. ``None`` for a folder that is absent, or that the server
        cannot list: it answers 500 and no reason (OpenCode 1.18.33, measured).
        """
        try:
            response = await self.http.request("GET", "/file", query={"path": folder})
        except ServerError as error:
            if error.status != 500:
                raise
            return None
        return parsed(response, entries_from_wire)

    async def binary(self, path: str, most: int) -> bytes | None:
        """A file of the server's, nothing where it is text, ``None`` for more bytes than ``most``.

        Binary is what has a zero byte, and is given whole; text comes without the space around it,
        and for what is absent comes empty text. What is neither binary nor UTF-8 is a
        ``ServerError``, as is a path that leads out of the directory (OpenCode 1.18.33, measured).
        """
        encoded = most * 4 // 3 + 1000  # as base64, in JSON
        content = await self.http.read_up_to(
            encoded, binary_from_wire, "/file/content", query={"path": path}
        )
        return None if content is None or len(content) > most else content

    def stream(
        self,
        session_id: str,
        text: str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
        limits: Limits | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[StreamChange]]:
        """Say something in a session and follow the answer, without any database.

        ``async with client.stream(session_id, "Hi") as changes:`` posts it; iterating gives the
        changes of an answer that begins empty, and ends behind ``Finished``, whose ``message`` has
        the status, the finish, the error and the reply (no ids: nothing is stored; a ``Snapshot``
        has the reply alone). Leaving the block before that aborts the agent, its subagents first,
        which takes 2 s if it had not begun, and at most 10 s. What the agent asks meanwhile is
        refused: there is nobody to answer. ``model`` is ``provider/model``, unless given the one
        that the session used last; ``limits`` are those of a turn. One at a time in a session:
        OpenCode merges prompts sent meanwhile. Raises ``ValueError`` for another form of model,
        what the client raises when the prompt is refused, and when the server is lost for longer
        than 30 s.
        """
        check_model(model)
        body = prompt_body(
            new_prompt_id(time.time()),
            new_part_ids(1),
            text,
            agent=agent,
            model=model,
            system=system,
        )
        return stream(self, session_id, body, limits or Limits())

    async def prompt(self, session_id: str, body: dict[str, Any], *, within: float = 30.0) -> None:
        """Post a prompt, in so many seconds. Returning is not acceptance: see ``Exchange``."""
        path = f"/session/{session_id}/prompt_async"
        await self.http.request("POST", path, body=body, within=within)

    async def busy(self, session_id: str) -> bool:
        """Whether the session is at work; just after a prompt it still says no (up to 2 s seen)."""
        return session_id in await self.http.read(mapping, "GET", "/session/status")

    async def message(self, session_id: str, message_id: str) -> WireMessage | None:
        """One message, ``None`` if the session has none of that id."""
        path = f"/session/{session_id}/message/{message_id}"
        try:
            return await self.http.read(WireMessage.from_wire, "GET", path)
        except NotFoundError:
            return None

    async def messages(
        self, session_id: str, *, limit: int = PAGE, before: str | None = None
    ) -> MessagePage:
        """The newest messages, or those before a cursor."""
        response = await self.http.request(
            "GET", f"/session/{session_id}/message", query={"limit": limit, "before": before}
        )
        found = parsed(response, lambda v: [WireMessage.from_wire(raw) for raw in objects(v)])
        return MessagePage(found, response.headers.get("X-Next-Cursor"))

    async def exchange(self, session_id: str, prompt_id: str) -> Exchange:
        """The turn of that prompt, paged back from the newest message; with its subagents'."""
        messages = await self._since(session_id, prompt_id)
        turn = Exchange.read(prompt_id, messages)
        if not turn.delegates:
            return turn
        # Posting again moves the prompt's own time, but not that of answers it already had.
        began = [m.info.created for m in turn.answers]
        began += [m.info.created for m in messages if m.info.id == prompt_id]
        children: list[Subagent] = []
        theirs: dict[str, list[WireMessage]] = {}
        await self._delegated(session_id, turn.answers, min(began), children, theirs)
        return Exchange.read(prompt_id, messages, children, theirs)

    async def _since(self, session_id: str, prompt_id: str) -> list[WireMessage]:
        messages: list[WireMessage] = []
        async for page in self._pages(session_id):
            messages = page + messages
            if any(message.info.id == prompt_id for message in page):
                break
        return messages

    async def _delegated(
        self,
        session_id: str,
        answers: Sequence[WireMessage],
        start: float,
        children: list[Subagent],
        theirs: dict[str, list[WireMessage]],
    ) -> None:
        """Collect the subagents of a session since ``start``, and what each answered since then.

        OpenCode does not add a child's cost to its parent's (1.18.33, measured). What a child cost
        that was deleted is not known any more.
        """
        with suppress(SessionNotFoundError):
            siblings = await self.children(session_id)
            started = [child for child in siblings if child.created >= start]
            children += sorted(started, key=lambda child: child.created)
            # A call may also have gone on with a subagent of an earlier turn. It may name any
            # session of the server, another conversation's, too, which is none of ours.
            named = [child_of(part) for message in answers for part in message.parts]
            own = {child.session_id for child in siblings}
            for child in dict.fromkeys([c.session_id for c in started] + named):
                if child in own and child not in theirs:
                    made = theirs[child] = await self._answered_since(child, start)
                    await self._delegated(child, made, start, children, theirs)

    async def _answered_since(self, session_id: str, start: float) -> list[WireMessage]:
        messages: list[WireMessage] = []
        with suppress(SessionNotFoundError):
            async for page in self._pages(session_id):
                messages = page + messages
                if page and page[0].info.created < start:
                    break
        return [m for m in messages if m.info.role == "assistant" and m.info.created >= start]

    async def _pages(self, session_id: str) -> AsyncIterator[list[WireMessage]]:
        """A session's messages from the newest page back, each page oldest first.

        One message a page where the server refuses larger ones: it does so for ever where the page
        that reaches the beginning holds a prompt with a ``format``, somebody else's; one that does
        not reach it is not checked (OpenCode 1.18.33, measured).
        """
        before: str | None = None
        limit = PAGE
        while True:
            try:
                page = await self.messages(session_id, limit=limit, before=before)
            except BadRequestError:
                if limit == 1:
                    raise
                limit = 1
                continue
            yield page.messages
            if page.older is None:
                return
            before = page.older

    async def asked(self) -> list[Ask]:
        """Everything the agents of this directory wait for, of any session."""
        permissions = await self.http.read(
            lambda v: [Permission.from_wire(raw) for raw in objects(v)], "GET", "/permission"
        )
        questions = await self.http.read(
            lambda v: [Question.from_wire(raw) for raw in objects(v)], "GET", "/question"
        )
        return [*permissions, *questions]

    async def reply(self, ask_id: str, kind: str, reply: Mapping[str, Any]) -> None:
        """Reply to an ask of that kind, as ``PermissionReply`` and ``QuestionReply`` store it.

        Raises ``NotFoundError`` for what is answered already or is gone.
        """
        if kind == PERMISSION:
            path, body = f"/permission/{ask_id}/reply", dict(reply)
            if body["reply"] == "always":
                # To OpenCode that is every session of the directory (1.18.33, measured).
                body["reply"] = "once"
            await self.http.request("POST", path, body=body)
        elif "answers" in reply:
            await self.http.request("POST", f"/question/{ask_id}/reply", body=dict(reply))
        else:
            await self.http.request("POST", f"/question/{ask_id}/reject")

    async def dismiss(self, ask: Ask) -> None:
        """Refuse at once what nobody can answer: OpenCode would wait for ever.

        A permission is refused with words, so the agent goes on; a question is dismissed, which
        ends its turn. What is gone is no error.
        """
        kind = kind_of(ask)
        with suppress(NotFoundError):
            await self.reply(ask.id, kind, Decision.reject(NOBODY).reply_to(kind) or {})


def _id(value: object) -> str:
    return text(mapping(value), "id")
