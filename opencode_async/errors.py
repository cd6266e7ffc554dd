"""Everything the library raises.

::

    OpencodeError
    ├── UsageError                 the host's code asks for something that cannot be
    │   ├── NotRunning             an ``Opencode`` or client used outside its ``async with``
    │   ├── TransactionOpen        a ``db`` whose transaction is not the library's to commit
    │   │   └── SharedConnection   …for all sessions have one connection: rolled back per test, say
    │   ├── SchemaError            a table lacks what the library needs of it
    │   ├── BinaryNotFound         no ``opencode`` executable to start
    │   ├── UnprotectedServer      a server without a password that others may reach
    │   └── OutsideRoot            a conversation's directory is not below the agent's
    ├── OpencodeConnectionError    no answer from the OpenCode server
    │   ├── OpencodeTimeoutError   …within the time allowed
    │   └── IdleStreamError        …not even a heartbeat on its event stream
    ├── ServerError                OpenCode answered, but not with success
    │   ├── AuthenticationError    401: wrong or missing password
    │   ├── BadRequestError        400: it rejects the request as it is
    │   ├── NotFoundError          404
    │   │   └── SessionNotFoundError
    │   └── ProtocolError          an answer that is not what this version of OpenCode sends
    ├── SessionMoved               a conversation's session is of another directory than its agent
    ├── StaleSessionError          a conversation's session is of no use any more; it was replaced
    ├── ConversationNotFound       no such row (or not for this user)
    ├── MessageNotFound
    ├── ConversationBusy           a turn of this conversation is still running
    ├── QueueFull                  no more turns may wait in this conversation
    ├── TurnQueued                 this turn waits for the one before it
    ├── AskNotFound                no such permission or question in this message
    ├── AlreadyAnswered            somebody answered it before, or its time was over
    ├── AskGone                    the agent waits for it no more
    ├── InvalidReply               a reply that does not answer what was asked
    ├── ArtifactNotFound           no such artifact (or not for this user)
    ├── SandboxUnreachable         the agent's folder is on a disk that is not seen here
    ├── SeedFailed                 a file of the host's did not get into the agent's folder
    ├── SandboxFileRefused         a file of the agent's that is not read
    ├── ArtifactStoreError         the artifact store did not take, or give, what it should
    │   └── ArtifactMissing        …for it has nothing under that key
    ├── IdempotencyMismatch        an idempotency key came again with another request
    ├── LeaseHeld                  another worker is running this turn
    ├── LeaseLost                  this worker no longer is
    └── TurnFailed                 what ``TurnResult.raise_for_error()`` raises
"""

from __future__ import annotations

from datetime import datetime


class OpencodeError(Exception):
    """The root of every error of this library."""


class UsageError(OpencodeError):
    """The host's code asks for something that cannot be; the message names the remedy."""


class NotRunning(UsageError):
    """An ``Opencode`` or ``OpencodeClient`` was used outside its ``async with`` block."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not running: use it inside `async with {what}:`, which in a FastAPI app "
            f"belongs into the lifespan (`FastAPI(lifespan=agent.lifespan)` does it)"
        )
        self.what = what


class TransactionOpen(UsageError):
    """A ``db`` cannot be used because its transaction is not the library's to commit."""

    remedy = (
        "Session and Turn commit it before each wait on the network, so commit first, and leave "
        "any `async with db.begin()` block"
    )

    def __init__(self, reason: str) -> None:
        super().__init__(f"this db {reason}; {self.remedy}")
        self.reason = reason


class SharedConnection(TransactionOpen):
    """All sessions of a host's factory have one connection: a test's that is rolled back, say."""

    remedy = (
        "turns run in sessions of their own, beside whoever starts them, and on one connection "
        "these break into each other's transactions. Bind sessions to an engine with a pool, and "
        "instead of a rollback delete the rows after each test, or give each a database of its "
        "own: for SQLite a file in tmp_path, not :memory: (README, Testing your app)"
    )


class SchemaError(UsageError):
    """A host's table or class lacks something the library needs of it."""

    def __init__(self, table: str, missing: list[str]) -> None:
        super().__init__(f"{table} lacks {', '.join(missing)}: add it with a migration")
        self.table = table
        self.missing = missing


class BinaryNotFound(UsageError):
    """There is no ``opencode`` executable to start."""

    def __init__(self, binary: str) -> None:
        super().__init__(
            f"{binary!r} is not an executable here: install OpenCode with "
            f"`npm install -g opencode-ai`, or name the file with binary=…"
        )
        self.binary = binary


class UnprotectedServer(UsageError):
    """A server has no password and is not on the loopback interface."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{url} has no password, and whoever reaches it can have its agent run commands: start "
            f"it with OPENCODE_SERVER_PASSWORD and give password=…; if nobody but your own "
            f"processes can reach it, say Server(…, unprotected=True)"
        )
        self.url = url


class OutsideRoot(UsageError):
    """A conversation's server works outside the directory of the agent's own."""

    def __init__(self, directory: object, root: object) -> None:
        super().__init__(
            f"the directory {directory} is not below {root}: client_for may name only those that "
            f"are, as absolute paths (server.below(name) does), or give Opencode a server without "
            f"a directory"
        )
        self.directory = directory
        self.root = root


class OpencodeConnectionError(OpencodeError):
    """The OpenCode server gave no answer: absent, unreachable, or gone in mid-sentence."""

    code = "unreachable"


class OpencodeTimeoutError(OpencodeConnectionError):
    """The OpenCode server gave no answer within the time allowed."""

    code = "timeout"


class IdleStreamError(OpencodeConnectionError):
    """The event stream was silent for longer than two heartbeats."""


class ServerError(OpencodeError):
    """OpenCode answered, but not with success.

    ``status`` is the HTTP status, ``name`` OpenCode's own name of the error (``UnknownError``, …).
    """

    code = "server_error"

    def __init__(self, status: int, name: str, message: str, *, method: str, path: str) -> None:
        super().__init__(f"{method} {path}: {status} {name}: {message}")
        self.status = status
        self.name = name
        self.message = message
        self.method = method
        self.path = path


class AuthenticationError(ServerError):
    """OpenCode wants another password (401; its body is empty)."""

    code = "unauthorized"


class BadRequestError(ServerError):
    """OpenCode rejects the request as it is (400)."""

    code = "bad_request"


class NotFoundError(ServerError):
    """OpenCode does not know what was asked for (404)."""

    code = "not_found"


class SessionNotFoundError(NotFoundError):
    """OpenCode does not know the session."""

    code = "session_not_found"


class ProtocolError(ServerError):
    """OpenCode's answer is not what the tested versions send."""

    code = "protocol"


class SessionMoved(OpencodeError):
    """A conversation's session is of another directory than the one its agent is to work in now."""

    def __init__(self, session_id: str | None, directory: str | None, wanted: str) -> None:
        super().__init__(f"session {session_id} works in {directory}, not in {wanted}")
        self.session_id = session_id
        self.directory = directory
        self.wanted = wanted


class StaleSessionError(OpencodeError):
    """A conversation's session was replaced: reported, not raised.

    OpenCode no longer knows it, or has it in another directory than the agent is to work in now.
    What was said in it is no longer known to the agent.
    """

    def __init__(self, stale: str, session_id: str) -> None:
        super().__init__(f"session {session_id} takes the place of {stale}")
        self.stale = stale
        self.session_id = session_id


class ConversationNotFound(OpencodeError):
    """There is no such conversation."""

    def __init__(self, conversation_id: object) -> None:
        super().__init__(f"there is no conversation {conversation_id}")
        self.conversation_id = conversation_id


class MessageNotFound(OpencodeError):
    """There is no such message."""

    def __init__(self, message_id: object) -> None:
        super().__init__(f"there is no message {message_id}")
        self.message_id = message_id


class ConversationBusy(OpencodeError):
    """The conversation's last turn is still running."""

    def __init__(self, conversation_id: object) -> None:
        super().__init__(f"a turn of conversation {conversation_id} is still running")
        self.conversation_id = conversation_id


class QueueFull(OpencodeError):
    """No more turns may wait in this conversation; ``most`` do."""

    def __init__(self, conversation_id: object, most: int) -> None:
        super().__init__(f"{most} turns of conversation {conversation_id} are waiting already")
        self.conversation_id = conversation_id
        self.most = most


class TurnQueued(OpencodeError):
    """The turn waits for the one before it; it is dispatched when its time has come."""

    def __init__(self, message_id: object) -> None:
        super().__init__(f"turn {message_id} waits for the one before it")
        self.message_id = message_id


class AskNotFound(OpencodeError):
    """There is no such permission or question."""

    def __init__(self, ask_id: object) -> None:
        super().__init__(f"there is no ask {ask_id}")
        self.ask_id = ask_id


class AlreadyAnswered(OpencodeError):
    """A permission or question was answered before, by a person or by its deadline."""

    def __init__(self, ask_id: object) -> None:
        super().__init__(f"ask {ask_id} was answered already")
        self.ask_id = ask_id


class AskGone(OpencodeError):
    """The agent no longer waits for this permission or question: its turn ended, say."""

    def __init__(self, ask_id: object) -> None:
        super().__init__(f"ask {ask_id} is gone")
        self.ask_id = ask_id


class InvalidReply(OpencodeError):
    """A reply does not answer what was asked; the message says why."""


class ArtifactNotFound(OpencodeError):
    """There is no artifact with that id."""

    def __init__(self, artifact_id: object) -> None:
        super().__init__(f"there is no artifact {artifact_id!r}")
        self.artifact_id = artifact_id


class SandboxUnreachable(OpencodeError):
    """The OpenCode server's ``directory`` is not seen by this process, so no file gets there."""

    code = "sandbox_unreachable"

    def __init__(self, directory: str) -> None:
        super().__init__("files can only be sent where the app sees the agent's disk")
        self.directory = directory


class SeedFailed(OpencodeError):
    """A file of ``TurnSettings.seed`` is not in the sandbox; ``__cause__`` says why."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path!r} could not be put into the sandbox")
        self.path = path


class SandboxFileRefused(OpencodeError):
    """A file in a sandbox is not read: ``reason`` is a word, ``path`` its place in the sandbox.

    The reasons: ``symlink``, ``hard_link``, ``not_regular``, ``too_large``, ``changed``, ``gone``,
    ``name``, ``too_many``, ``too_deep``, ``unreadable``.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path!r} is not read: {reason}")
        self.path = path
        self.reason = reason


class ArtifactStoreError(OpencodeError):
    """The artifact store failed; ``__cause__`` says how."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"the artifact store {what}: {key}")
        self.key = key


class ArtifactMissing(ArtifactStoreError):
    """The artifact store has nothing under that key."""

    def __init__(self, key: str) -> None:
        super().__init__(key, "has nothing under that key")


class IdempotencyMismatch(OpencodeError):
    """An idempotency key was used before, in this conversation, for another request."""

    def __init__(self, key: str) -> None:
        super().__init__("this Idempotency-Key was used for another request")
        self.key = key


class LeaseHeld(OpencodeError):
    """Another worker is running this turn, at least ``until`` (the database's time)."""

    def __init__(self, message_id: object, until: datetime | None) -> None:
        super().__init__(f"turn {message_id} is run by another worker until {until}")
        self.message_id = message_id
        self.until = until


class LeaseLost(OpencodeError):
    """This worker no longer runs the turn: its lease ran out and was taken, or the row is gone."""

    def __init__(self, message_id: object) -> None:
        super().__init__(f"turn {message_id} is no longer run by this worker")
        self.message_id = message_id


class TurnFailed(OpencodeError):
    """A turn did not complete; ``status`` and ``code`` say how it ended, ``message`` why."""

    def __init__(self, message_id: object, status: str, code: str, message: str) -> None:
        super().__init__(f"turn {message_id} ended {status}: {code}: {message}")
        self.message_id = message_id
        self.status = status
        self.code = code
        self.message = message
