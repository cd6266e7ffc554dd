"""The routes of the files of messages."""

# No postponed annotations here: FastAPI must see the alias made of `access`.
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.errors import ArtifactNotFound, MessageNotFound
from opencode_async.turns.message import artifact_json
from opencode_async.web.access import Access, AccessDependency, Visible
from opencode_async.web.downloads import download
from opencode_async.web.schemas import AgentArtifact, AgentProblem
from opencode_async.web.sse import let_go

if TYPE_CHECKING:
    from opencode_async.opencode import Opencode

DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The file"},
    206: {"description": "The range that was asked for"},
    304: {"description": "The caller has it"},
    307: {"description": "The file is at this URL, for a while"},
    416: {"description": "The file has no such range"},
    503: {"model": AgentProblem},
}


def add_artifact_routes(
    router: APIRouter,
    agent: "Opencode[Any, Any]",
    store: ArtifactStore,
    access: AccessDependency,
) -> None:
    """Add the list of a message's files, and their download."""
    tables, trust = agent.tables, agent.besides.trust
    Caller = Annotated[Access, Depends(access)]

    @router.get("/messages/{mid}/artifacts", response_model=list[AgentArtifact])
    async def list_artifacts(mid: str, access: Caller) -> Response:
        """The files that a message's turn produced, or that came with it."""
        async with agent.sessions() as db:
            row = await db.scalar(Visible(tables, access).message(mid))
            if row is None:
                raise MessageNotFound(mid)
            beside = await agent.besides.of(db, [row.id])
        return JSONResponse([artifact_json(each, trust) for each in beside.artifacts])

    @router.get("/artifacts/{aid}", response_class=Response, responses=DOWNLOAD)
    async def get_artifact(aid: str, access: Caller, request: Request) -> Response:
        """A file's bytes, as an attachment, or where they are to be had."""
        await let_go(request)
        async with agent.sessions() as db:
            row = await db.scalar(Visible(tables, access).artifact(aid))
        if row is None:
            raise ArtifactNotFound(aid)
        trusted = trust.holds(row)
        return await download(row, store, request, agent.error_reporter, trusted=trusted)
