"""What comes before any endpoint: whether the server is up, the password, faults."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from opencode_async.testing.impostor.answers import Broken, failure

if TYPE_CHECKING:
    from opencode_async.testing.impostor.impostor import Impostor


class Gate:
    """Whether a request comes in: the server may be down, the password wrong, a fault due."""

    def __init__(self, impostor: Impostor, app: ASGIApp) -> None:
        self._impostor = impostor
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        refused = await self._refused(request)
        if refused is not None:
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _refused(self, request: Request) -> Response | None:
        impostor = self._impostor
        if impostor.down:
            return Broken()
        if not self._knows(request.headers.get("authorization", "")):
            realm = {"www-authenticate": 'Basic realm="Secure Area"'}
            return Response(status_code=401, headers=realm)
        fault = impostor.faults.for_request(request.method, request.url.path)
        if fault is None:
            return None
        if fault.seconds:
            await impostor.clock.sleep(fault.seconds)
            return None
        return Broken() if fault.status is None else failure(fault.status, "UnknownError")

    def _knows(self, header: str) -> bool:
        server = self._impostor.server
        wanted = base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
        return server.password is None or secrets.compare_digest(header, f"Basic {wanted}")
