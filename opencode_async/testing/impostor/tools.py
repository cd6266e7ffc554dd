"""The tools that an Impostor has, as OpenCode 1.18.33 has them, and what each tells of itself."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from opencode_async.protocol.permissions import like
from opencode_async.testing.impostor.agents import AGENTS
from opencode_async.testing.impostor.bash import bash
from opencode_async.testing.impostor.files import edit, read, write
from opencode_async.testing.impostor.outcome import Failed, Result
from opencode_async.testing.impostor.patches import apply_patch

if TYPE_CHECKING:
    from opencode_async.testing.impostor.calls import Call

Json = dict[str, Any]


Tool = Callable[["Call", Json], Awaitable[Result]]


async def todowrite(call: Call, arguments: Json) -> Result:
    """Keeps the session's list of what is to do."""
    todos = arguments["todos"]
    call.life.world.store.todos[call.session_id] = todos
    call.life.emit(call.session_id, "todo.updated", {"todos": todos})
    call.tell()
    left = sum(todo["status"] != "completed" for todo in todos)
    return Result(json.dumps(todos, indent=2), f"{left} todos", {"todos": todos})


async def question(call: Call, arguments: Json) -> Result:
    """Asks the user, and tells the model what was chosen."""
    questions = arguments["questions"]
    answers = await call.question(questions)
    pairs = [
        f'"{asked["question"]}"="{", ".join(answers[n]) if n < len(answers) else "Unanswered"}"'
        for n, asked in enumerate(questions)
    ]
    output = f"User has answered your questions: {', '.join(pairs)}. "
    output += "You can now continue with the user's answers in mind."
    plural = "s" if len(questions) != 1 else ""
    return Result(output, f"Asked {len(questions)} question{plural}", {"answers": answers})


async def task(call: Call, arguments: Json) -> Result:
    """Has a subagent answer in a session of its own."""
    agent, description = arguments["subagent_type"], arguments["description"]
    if agent not in AGENTS:
        raise Failed(f"Unknown agent type: {agent} is not a valid agent type")
    await call.ask("task", [agent], {"description": description, "subagent_type": agent})
    sessions, model = call.sessions, call.info["modelID"]
    child = resumed(call, arguments.get("task_id")) or begun(call, agent, description)
    chosen = {"modelID": model, "providerID": call.info["providerID"]}
    metadata = {"parentSessionId": call.session_id, "sessionId": child, "model": chosen}
    call.progress(metadata, title=description)
    parts = [{"type": "text", "text": arguments["prompt"]}]
    try:
        await sessions.take(child, {"parts": parts, "agent": agent, "model": chosen})
    except BaseException:
        sessions.abort_soon(child)
        raise
    if (error := sessions.last_error(child)) is not None:
        if error["name"] != "MessageAbortedError":
            raise Failed(f"Subagent failed (task_id: {child}): {error['data']['message']}")
        call.life.status(child, "idle")  # it is aborted once more
        raise Failed("Task cancelled")
    answer = sessions.last_text(child)
    output = (
        f'<task id="{child}" state="completed">\n<task_result>\n{answer}\n</task_result>\n</task>'
    )
    return Result(output, description, metadata)


def resumed(call: Call, session_id: str | None) -> str | None:
    """The session of an earlier call that this one goes on with, if there is it."""
    known = session_id is not None and session_id in call.life.world.store
    return session_id if known else None


def begun(call: Call, agent: str, description: str) -> str:
    """A session for a subagent."""
    info = {
        "parentID": call.session_id,
        "agent": agent,
        "title": f"{description} (@{agent} subagent)",
        "permission": handed_down(call),
    }
    return str(call.sessions.create(call.directory, info)["id"])


def handed_down(call: Call) -> list[Json]:
    """The rules that a subagent starts with, of its caller's session's, and one of its own."""
    session = call.life.world.store.session(call.session_id)
    own = [
        rule
        for rule in session.get("permission", ())
        if rule["action"] == "deny" or rule["permission"] == "external_directory"
    ]
    return [*own, {"permission": "task", "pattern": "*", "action": "deny"}]


async def invalid(call: Call, arguments: Json) -> Result:
    """Tells the model that its call was none."""
    call.tell()
    output = f"The arguments provided to the tool are invalid: {arguments['error']}"
    return Result(output, "Invalid Tool")


async def absent(call: Call, arguments: Json) -> Result:
    """Stands for those of OpenCode's tools that an Impostor only plays, given an ``output``."""
    call.tell()
    raise Failed("an Impostor does not run this tool: give its `output`")


def always_of(permission: str, patterns: Sequence[str]) -> list[str]:
    """What ``always`` would allow."""
    if permission == "bash":
        return [f"{pattern.split()[0]} *" for pattern in patterns if pattern.split()]
    return ["*"]


def permission_of(tool: str) -> str:
    """Whose leave a tool asks: all that change files ask that of ``edit``."""
    return "edit" if tool in ("apply_patch", "write") else tool


def offered(rules: Sequence[Json], model: str) -> list[str]:
    """The tools that a model is told of: those that are not denied altogether."""
    others = ("edit", "write") if "gpt-" in model else ("apply_patch",)
    return [
        name
        for name in TOOLS
        if name not in others and (name == "invalid" or not denied_whole(rules, name))
    ]


def denied_whole(rules: Sequence[Json], name: str) -> bool:
    """Whether the last rule about a tool denies it for every pattern."""
    permission = permission_of(name)
    about = [rule for rule in rules if like(permission, rule["permission"])]
    return bool(about) and about[-1]["pattern"] == "*" and about[-1]["action"] == "deny"


TOOLS: dict[str, Tool] = {
    "apply_patch": apply_patch,
    "bash": bash,
    "edit": edit,
    "glob": absent,
    "grep": absent,
    "invalid": invalid,
    "question": question,
    "read": read,
    "skill": absent,
    "task": task,
    "todowrite": todowrite,
    "webfetch": absent,
    "write": write,
}
