"""The scripted model over HTTP: the standard library's server, a thread per connection."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opencode_async.testing.scripted_model.chunks import Answer, Chunk
from opencode_async.testing.scripted_model.request import Script, script_of
from opencode_async.testing.scripted_model.scripts import (
    Cut,
    Hang,
    Refusal,
    Wait,
    failures,
    refusal,
    reply,
)

logger = logging.getLogger(__name__)

KEPT_REQUESTS = 500  # about 40 kB each, most of it OpenCode's own prompt


@dataclass
class Asked:
    """One request to the model, and how it went."""

    session_id: str | None
    """OpenCode's session, from its ``x-session-affinity`` header."""
    script: Script
    body: dict[str, Any] = field(repr=False)
    status: int = 200
    finished: bool = False
    aborted: bool = False
    """The client went away before the answer was complete."""

    @property
    def tools(self) -> list[str]:
        """The names of the tools that were offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools") or []]


class ScriptedModel:
    """An OpenAI-compatible endpoint on the loopback interface; ``with ScriptedModel() as model:``.

    ``port`` 0 is a free one. Leaving the block ends the answers that are still streamed.
    """

    def __init__(self, port: int = 0) -> None:
        self._http = ModelHTTPServer(port)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=[0.05], name="scripted-model", daemon=True
        )

    @property
    def url(self) -> str:
        """The base URL, without ``/v1``."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def requests(self) -> list[Asked]:
        """What was asked so far, oldest first; at most the last 500."""
        return list(self._http.asked)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.end_answers()
        self._http.server_close()
        self._thread.join()


class ModelHTTPServer(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.stopping = threading.Event()
        self.asked: deque[Asked] = deque(maxlen=KEPT_REQUESTS)
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self._failed: Counter[tuple[str | None, str]] = Counter()
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        return next(self._numbers)

    def due(self, asked: Asked) -> Script:
        """The script asked for; ``text`` once it has failed as often as it should."""
        if times := failures(asked.script):
            key = (asked.session_id, asked.script.user_text)
            with self._lock:
                self._failed[key] += 1
                if self._failed[key] > times:
                    return replace(asked.script, name="text")
        return asked.script

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_answers(self) -> None:
        """Wake the threads that sleep or read."""
        self.stopping.set()
        with self._lock:
            for connection in self._connections:
                close_both_ways(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a connection to the scripted model broke", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelHTTPServer

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.headers.get("x-session-affinity"), script_of(body), body)
        self.server.asked.append(asked)
        script = self.server.due(asked)
        if (error := refusal(script)) is not None:
            asked.status = error.status
            self._refuse(error)
            return
        try:
            asked.finished = self._stream(script, str(body.get("model")))
        except ConnectionError:
            asked.aborted = True
            self.close_connection = True

    def _refuse(self, refusal: Refusal) -> None:
        error = {"message": refusal.message, "type": "scripted_error", "code": refusal.code}
        data = json.dumps({"error": error}).encode()
        self.send_response(refusal.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if refusal.retry_after is not None:
            self.send_header("Retry-After", refusal.retry_after)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, script: Script, model: str) -> bool:
        """Send the answer; false when the script cuts it off."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        answer = Answer(self.server.next_number(), model, int(time.time()))
        self._send(answer.start())
        for event in reply(script):
            match event:
                case Wait(seconds):
                    self.server.stopping.wait(seconds)
                case Hang():
                    self.connection.recv(1)  # nothing, once the peer has gone
                    raise ConnectionAbortedError
                case Cut():
                    self.close_connection = True
                    close_both_ways(self.connection)
                    return False
                case _:
                    for chunk in answer.chunks(event):
                        self._send(chunk)
        self._send(answer.usage())
        self._write(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        return True

    def _send(self, chunk: Chunk) -> None:
        self._write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def close_both_ways(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("the peer had closed the connection before")
