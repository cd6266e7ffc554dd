"""What is done to both servers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from tests.contract.sessions import deleted, deleted_in_turn, disposed, listed
from tests.contract.witness import Witness

Scenario = Callable[[Witness], Awaitable[None]]


async def said(w: Witness, *texts: str) -> None:
    """Turns that go through by themselves."""
    session = await w.session()
    for number, text in enumerate(texts, 1):
        await w.prompt(session, text)
        await w.idle(session, number)
    await w.truth(session)


async def text(w: Witness) -> None:
    await said(w, "SCRIPT:text", "hello there")


async def reasoning(w: Witness) -> None:
    await said(w, "SCRIPT:reasoning")


async def bash(w: Witness) -> None:
    await said(w, 'SCRIPT:bash {"command": "echo hi"}')


async def write(w: Witness) -> None:
    await said(w, 'SCRIPT:write {"path": "written.txt"}', 'SCRIPT:write {"path": "written.txt"}')


async def read(w: Witness) -> None:
    await said(w, 'SCRIPT:write {"path": "r.txt"}', 'SCRIPT:read {"path": "r.txt"}')


async def read_folder(w: Witness) -> None:
    await said(
        w,
        'SCRIPT:write {"path": "rf/b.txt"}',
        'SCRIPT:write {"path": "rf/c/d.txt"}',
        'SCRIPT:write {"path": "rf/a.txt"}',
        'SCRIPT:read {"path": "rf"}',
    )


async def read_missing(w: Witness) -> None:
    await said(w, 'SCRIPT:read {"path": "missing.txt"}')


async def edit(w: Witness) -> None:
    await said(w, 'SCRIPT:write {"path": "e.txt"}', 'SCRIPT:edit {"path": "e.txt"}')


async def todo(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:todo")
    await w.idle(session)
    await w.ask("GET", f"/session/{session}/todo")


async def several_steps(w: Witness) -> None:
    await said(w, "SCRIPT:loop 3")


async def mistaken_calls(w: Witness) -> None:
    await said(w, "SCRIPT:badargs", "SCRIPT:unknowntool")


async def other_endings(w: Witness) -> None:
    await said(w, "SCRIPT:length", "SCRIPT:contentfilter", "SCRIPT:empty")


async def question(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:question {"n": 2}')
    asked = await w.kind("question.asked")
    await w.ask("GET", "/question")
    await w.ask("POST", f"/question/{asked['id']}/reply", {"answers": [["Red"], ["Blue", "own"]]})
    await w.idle(session)
    await w.ask("POST", f"/question/{asked['id']}/reply", {"answers": [["Red"], ["Blue"]]})
    await w.truth(session)


async def question_rejected(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:question")
    asked = await w.kind("question.asked")
    await w.ask("POST", f"/question/{asked['id']}/reject")
    await w.idle(session)
    await w.ask("GET", "/question")
    await w.truth(session)


async def permission(w: Witness, reply: str, message: str | None = None) -> None:
    session = await w.session(("bash", "*", "ask"))
    await w.prompt(session, 'SCRIPT:bash {"command": "echo yes && true"}')
    asked = await w.kind("permission.asked")
    await w.ask("GET", "/permission")
    await w.ask("GET", "/session/status")
    body = {"reply": reply} | ({"message": message} if message else {})
    await w.ask("POST", f"/permission/{asked['id']}/reply", body)
    await w.idle(session)
    await w.ask("POST", f"/permission/{asked['id']}/reply", body)
    await w.ask("POST", f"/permission/{asked['id']}/reply", {"response": "once"})
    await w.ask("POST", "/permission/nope/reply", body)
    await w.truth(session)


async def permission_once(w: Witness) -> None:
    await permission(w, "once")


async def permission_rejected(w: Witness) -> None:
    await permission(w, "reject")


async def permission_corrected(w: Witness) -> None:
    await permission(w, "reject", "use another command")


async def permission_to_write(w: Witness) -> None:
    session = await w.session(("edit", "*", "ask"))
    await w.prompt(session, 'SCRIPT:write {"path": "asked.txt", "content": "a\\nb"}')
    asked = await w.kind("permission.asked")
    await w.ask("POST", f"/permission/{asked['id']}/reply", {"reply": "once"})
    await w.idle(session)


async def permission_outside(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:read {"path": "/etc/no/such"}')
    asked = await w.kind("permission.asked")
    await w.ask("POST", f"/permission/{asked['id']}/reply", {"reply": "once"})
    await w.idle(session)


async def denied(w: Witness) -> None:
    session = await w.session(("bash", "*", "deny"), ("read", "*b.txt", "deny"))
    await w.prompt(session, "SCRIPT:bash")
    await w.idle(session)
    await w.prompt(session, 'SCRIPT:read {"path": "b.txt"}')
    await w.idle(session, 2)
    rule = {"permission": "edit", "pattern": "*", "action": "deny"}
    await w.ask("PATCH", f"/session/{session}", {"permission": [rule]})
    await w.prompt(session, "SCRIPT:write")
    await w.idle(session, 3)


async def subagent(w: Witness) -> None:
    session = await w.session(("bash", "*", "ask"), ("webfetch", "*", "deny"))
    await w.prompt(session, 'SCRIPT:task {"prompt": "SCRIPT:text From the subagent."}')
    await w.idle(session)
    await w.truth(session)


async def subagent_aborted(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:task {"prompt": "SCRIPT:hang Half of it."}')
    await w.until(lambda e: e["properties"].get("delta") == "Half of it.")
    child = (await w.kind("session.created", 2))["sessionID"]
    await w.ask("POST", f"/session/{child}/abort")
    await w.idle(child, 2)
    await w.idle(session)
    await w.truth(session)
    await w.ask("GET", f"/session/{child}/message")


async def subagent_aborted_with_its_caller(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:task {"prompt": "SCRIPT:hang Half of it."}')
    await w.until(lambda e: e["properties"].get("delta") == "Half of it.")
    child = (await w.kind("session.created", 2))["sessionID"]
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session, 2)
    await w.idle(child, 2)
    await w.truth(session)
    await w.ask("GET", f"/session/{child}/message")


async def subagent_failed(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:task {"prompt": "SCRIPT:error401"}')
    await w.idle(session)
    await w.truth(session)


async def error_401(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:error401")
    await w.idle(session, 2)
    await w.truth(session)


async def error_429_then_text(w: Witness) -> None:
    await said(w, 'SCRIPT:error429 {"times": 2, "after": 1}')


async def stream_error_then_text(w: Witness) -> None:
    await said(w, 'SCRIPT:streamerror {"times": 1}')


async def cut_then_text(w: Witness) -> None:
    await said(w, 'SCRIPT:cut {"times": 1}')


async def overflow(w: Witness) -> None:
    await said(w, "SCRIPT:text Before it.", "SCRIPT:overflow", "SCRIPT:text After it.")


async def overflow_at_once(w: Witness) -> None:
    await said(w, "SCRIPT:overflow")


async def patch(w: Witness) -> None:
    session = await w.session()
    model = {"providerID": "scripted", "modelID": "gpt-5-scripted"}
    patches: tuple[list[str], ...] = (
        ["*** Add File: p.txt", "+one", "+two", "*** Add File: q/q.txt", "+q"],
        ["*** Update File: p.txt", "@@", " one", "-two", "+2", "@@", "+three"],
        ["*** Delete File: missing.txt"],
        ["*** Update File: missing.txt", "@@", "-one"],
        ["*** Update File: p.txt", "@@", "-other", "+another"],
        ["*** Update File: p.txt", "*** Move to: moved.txt", "@@", "-one", "+1"],
        ["*** Delete File: q/q.txt", "*** Delete File: moved.txt"],
        [],
    )
    for number, lines in enumerate(patches, 1):
        text = "\n".join(["*** Begin Patch", *lines, "*** End Patch"])
        prompt = f"SCRIPT:apply_patch {json.dumps({'patch': text})}"
        await w.prompt(session, prompt, model=model)
        await w.idle(session, number)
    await w.truth(session)


async def abort_in_text(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:hang some words")
    await w.kind("message.part.delta")
    await w.ask("GET", f"/session/{session}/message")
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session, 2)
    await w.truth(session)
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session, 3)


async def abort_in_bash(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:bash {"command": "echo begun; sleep 30"}')
    await w.tool_running("begun\n")
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session, 2)
    await w.truth(session)


async def abort_in_ask(w: Witness) -> None:
    session = await w.session(("bash", "*", "ask"))
    await w.prompt(session, "SCRIPT:bash")
    asked = await w.kind("permission.asked")
    await w.kind("session.status", 2)
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session, 2)
    await w.ask("GET", "/permission")
    await w.ask("POST", f"/permission/{asked['id']}/reply", {"reply": "reject"})
    await w.truth(session)


async def abort_in_retry(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:error429 {"after": 60}')
    await w.until(lambda e: e["properties"].get("status", {}).get("type") == "retry")
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session)
    await w.truth(session)


async def abort_of_nothing(w: Witness) -> None:
    await w.ask("POST", "/session/ses_unknown/abort")
    await w.idle("ses_unknown")


async def merged(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:bash {"command": "echo begun; sleep 1"}')
    await w.tool_running("begun\n")
    await w.prompt(session, "SCRIPT:text second")
    await w.prompt(session, "SCRIPT:text third")
    await w.idle(session)
    await w.truth(session)


async def posted_again(w: Witness) -> None:
    session = await w.session()
    first = await w.prompt(session, 'SCRIPT:bash {"command": "echo begun; sleep 1"}')
    await w.tool_running("begun\n")
    await w.post(session, first)
    await w.idle(session)
    await w.post(session, first)
    await w.idle(session, 2)
    await w.prompt(session, "SCRIPT:text second")
    await w.idle(session, 3)
    await w.post(session, first)
    await w.idle(session, 4)
    await w.truth(session)


async def posted_again_when_aborted(w: Witness) -> None:
    session = await w.session()
    first = await w.prompt(session, 'SCRIPT:bash {"command": "echo begun; sleep 30"}')
    await w.tool_running("begun\n")
    await w.ask("POST", f"/session/{session}/abort")
    await w.idle(session, 2)
    await w.post(session, first)
    await w.idle(session, 3)
    await w.truth(session)


async def unknown_agent(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:text never", agent="nope")
    await w.kind("session.error", 2)
    await w.truth(session)


async def unknown_model(w: Witness) -> None:
    session = await w.session()
    model = {"providerID": "nope", "modelID": "nope"}
    await w.prompt(session, "SCRIPT:text never", model=model)
    await w.kind("session.error", 2)
    await w.truth(session)


async def unknown_ids(w: Witness) -> None:
    session = await w.session()
    for unknown in ("ses_unknown", "nope"):
        await w.post(unknown, {"parts": []})
    await w.post(session, {})
    await w.post(session, {"messageID": "abc", "parts": []})
    for method, path in (
        ("GET", "/session/ses_unknown"),
        ("GET", "/session/ses_unknown/message"),
        ("GET", "/session/ses_unknown/children"),
        ("GET", f"/session/{session}/message/msg_unknown"),
        ("DELETE", "/session/ses_unknown"),
        ("POST", "/question/que_unknown/reject"),
    ):
        await w.ask(method, path)
    await w.ask("POST", "/session", {"permission": {"bash": "ask"}})
    await w.ask("POST", "/session", {"permission": [{"type": "bash", "action": "ask"}]})


async def pages(w: Witness) -> None:
    session = await w.session()
    prompts = []
    for number in (1, 2, 3):
        prompts.append(await w.prompt(session, f"SCRIPT:text number {number}"))
        await w.idle(session, number)
    before: str | None = None
    for _ in range(3):
        before = await w.page(session, limit=2, before=before)
    assert before is None
    await w.page(session, limit=6, before=None)
    await w.page(session, limit=7, before=None)
    await w.ask("GET", f"/session/{session}/message/{prompts[0]['messageID']}")


async def formatted(w: Witness) -> None:
    session = await w.session()
    kind = {"type": "json_schema", "schema": {"type": "object", "properties": {}}}
    prompt = await w.prompt(session, "SCRIPT:structured", format=kind, noReply=True)
    await w.kind("message.part.updated")
    await w.ask("GET", f"/session/{session}/message")
    await w.ask("GET", f"/session/{session}/message/{prompt['messageID']}")


async def always(w: Witness) -> None:
    session = await w.session(("bash", "*", "ask"))
    await w.prompt(session, "SCRIPT:loop 2")
    asked = await w.kind("permission.asked")
    await w.ask("POST", f"/permission/{asked['id']}/reply", {"reply": "always"})
    await w.idle(session)
    other = await w.session(("bash", "*", "ask"))
    await w.prompt(other, "SCRIPT:loop 1")
    await w.idle(other)


async def places(w: Witness) -> None:
    await said(w, 'SCRIPT:write {"path": "folder/file.txt", "content": " text \\n"}')
    await w.ask("GET", "/path")
    await w.ask("GET", "/global/health")
    made = {
        "command": r"printf '\0\377a' > a.bin; printf '\374' > latin; cd folder; mkfifo fifo;"
        " ln -s ../a.bin in; ln -s .. up; ln -s /usr/bin/true out; ln -s /usr/bin outside"
    }
    await said(w, f"SCRIPT:bash {json.dumps(made)}")
    for path in ("folder", "nowhere", "folder/outside", "/usr/bin"):
        await w.ask("GET", "/file", path=path)
    inside = "folder/file.txt nowhere a.bin latin folder folder/in folder/up/a.bin folder/fifo"
    for path in (*inside.split(), "folder/out", "/usr/bin/env"):
        await w.ask("GET", "/file/content", path=path)


async def other_directory(w: Witness) -> None:
    session = await w.session(("bash", "*", "ask"))
    await w.prompt(session, "SCRIPT:bash")
    asked = await w.kind("permission.asked")
    elsewhere = {"directory": str(w.server.directory) + "/elsewhere"}
    await w.ask("GET", "/session", **elsewhere)
    await w.ask("GET", "/session/status", **elsewhere)
    await w.ask("GET", "/permission", **elsewhere)
    reply = {"reply": "once"}
    await w.ask("POST", f"/permission/{asked['id']}/reply", reply, **elsewhere)
    await w.ask("GET", f"/session/{session}", **elsewhere)
    await w.ask("POST", f"/permission/{asked['id']}/reply", reply)
    await w.idle(session)


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        text,
        reasoning,
        bash,
        write,
        read,
        read_folder,
        read_missing,
        edit,
        todo,
        several_steps,
        mistaken_calls,
        other_endings,
        question,
        question_rejected,
        permission_once,
        permission_rejected,
        permission_corrected,
        permission_to_write,
        permission_outside,
        denied,
        subagent,
        subagent_aborted,
        subagent_aborted_with_its_caller,
        subagent_failed,
        error_401,
        error_429_then_text,
        stream_error_then_text,
        cut_then_text,
        overflow,
        overflow_at_once,
        patch,
        abort_in_text,
        abort_in_bash,
        abort_in_ask,
        abort_in_retry,
        abort_of_nothing,
        merged,
        posted_again,
        posted_again_when_aborted,
        unknown_agent,
        unknown_model,
        unknown_ids,
        pages,
        deleted,
        deleted_in_turn,
        listed,
        disposed,
        formatted,
        places,
        other_directory,
        always,  # last: it is for all sessions of the directory
    )
}
