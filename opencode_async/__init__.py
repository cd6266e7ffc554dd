"""An OpenCode agent behind any FastAPI app: durable turns, resumable streams."""

from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.client.client import OpencodeClient
from opencode_async.client.hub import EventHub
from opencode_async.client.local_server import LocalServer
from opencode_async.client.server import Server
from opencode_async.errors import (
    AuthenticationError,
    BadRequestError,
    BinaryNotFound,
    ConversationBusy,
    ConversationNotFound,
    IdempotencyMismatch,
    IdleStreamError,
    LeaseHeld,
    LeaseLost,
    MessageNotFound,
    NotFoundError,
    NotRunning,
    OpencodeConnectionError,
    OpencodeError,
    OpencodeTimeoutError,
    ProtocolError,
    SchemaError,
    ServerError,
    SessionNotFoundError,
    TransactionOpen,
    TurnFailed,
    UsageError,
)
from opencode_async.models import ArtifactMixin, AskMixin, ConversationMixin, MessageMixin
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.opencode import Opencode
from opencode_async.protocol.changes import (
    Change,
    Finished,
    MessageAdded,
    PartAdded,
    PartDelta,
    PartUpdated,
    Retrying,
    Snapshot,
    StatusChanged,
    TodosChanged,
    UsageChanged,
)
from opencode_async.protocol.exchange import Exchange, TurnError
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import Part, ReasoningPart, TextPart, ToolPart
from opencode_async.protocol.permissions import PermissionRule
from opencode_async.protocol.reply import Reply
from opencode_async.protocol.todos import Todo
from opencode_async.session import Session
from opencode_async.settings import TurnSettings
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.message import TurnResult
from opencode_async.turns.observer import ReplyObserver
from opencode_async.turns.turn import Turn
from opencode_async.web.access import Access

__all__ = [
    "Access",
    "ArtifactMixin",
    "AskMixin",
    "AuthenticationError",
    "BadRequestError",
    "BinaryNotFound",
    "Change",
    "ConversationBusy",
    "ConversationMixin",
    "ConversationNotFound",
    "ErrorReporter",
    "EventBroker",
    "EventHub",
    "Exchange",
    "Finished",
    "IdempotencyMismatch",
    "IdleStreamError",
    "LeaseHeld",
    "LeaseLost",
    "LocalServer",
    "MemoryBroker",
    "MessageAdded",
    "MessageMixin",
    "MessageNotFound",
    "NotFoundError",
    "NotRunning",
    "Opencode",
    "OpencodeClient",
    "OpencodeConnectionError",
    "OpencodeError",
    "OpencodeTimeoutError",
    "Part",
    "PartAdded",
    "PartDelta",
    "PartUpdated",
    "PermissionRule",
    "ProtocolError",
    "ReasoningPart",
    "Reply",
    "ReplyObserver",
    "Retrying",
    "SchemaError",
    "Server",
    "ServerError",
    "Session",
    "SessionNotFoundError",
    "Snapshot",
    "StatusChanged",
    "Tables",
    "TextPart",
    "Timings",
    "Todo",
    "TodosChanged",
    "ToolPart",
    "TransactionOpen",
    "Turn",
    "TurnError",
    "TurnFailed",
    "TurnResult",
    "TurnSettings",
    "Usage",
    "UsageChanged",
    "UsageError",
]
