"""What is done to sessions of both servers, apart from talking in them."""

from __future__ import annotations

from tests.contract.witness import Witness


async def deleted(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, 'SCRIPT:task {"prompt": "SCRIPT:text Child."}')
    await w.idle(session)
    await w.ask("DELETE", f"/session/{session}")
    await w.kind("session.deleted", 2)
    await w.ask("DELETE", f"/session/{session}")
    await w.ask("GET", f"/session/{session}/message")


async def listed(w: Witness) -> None:
    sessions = [await w.session(metadata={"number": str(n)}) for n in range(4)]
    await w.ask("PATCH", f"/session/{sessions[-1]}", {"time": {"archived": 1_800_000_000_000}})
    await w.sessions(limit=2)
    older = await w.sessions(limit=2, archived="true")
    assert older is not None
    await w.sessions(limit=1, cursor=older, roots="true")


async def disposed(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:hang Half of it.")
    await w.until(lambda e: e["properties"].get("delta") == "Half of it.")
    await w.ask("POST", "/instance/dispose")
    await w.over.wait()
    await w.ask("GET", "/session/status")
    await w.truth(session)


async def deleted_in_turn(w: Witness) -> None:
    session = await w.session()
    await w.prompt(session, "SCRIPT:hang Half of it.")
    await w.until(lambda e: e["properties"].get("delta") == "Half of it.")
    await w.ask("DELETE", f"/session/{session}")
    await w.ask("GET", f"/session/{session}")
    await w.ask("GET", "/session/status")
