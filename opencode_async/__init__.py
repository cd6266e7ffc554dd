"""An OpenCode agent behind any FastAPI app: durable turns, resumable streams."""

from opencode_async.artifacts.artifact import Artifact
from opencode_async.artifacts.message_artifacts import MessageArtifacts
from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.sandbox_file import SandboxFile
from opencode_async.artifacts.stores.directory import DirectoryArtifactStore
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.artifacts.transform import Transform
from opencode_async.artifacts.uploads import UploadedFile, UploadedFilesPrompt
from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.client.client import OpencodeClient
from opencode_async.client.hub import EventHub
from opencode_async.client.local_server import LocalServer
from opencode_async.client.server import Server
from opencode_async.errors import (
    AlreadyAnswered,
    ArtifactMissing,
    ArtifactNotFound,
    ArtifactStoreError,
    AskGone,
    AskNotFound,
    AuthenticationError,
    BadRequestError,
    BinaryNotFound,
    ConversationBusy,
    ConversationNotFound,
    IdempotencyMismatch,
    IdleStreamError,
    InvalidReply,
    LeaseHeld,
    LeaseLost,
    MessageNotFound,
    NotFoundError,
    NotRunning,
    OpencodeConnectionError,
    OpencodeError,
    OpencodeTimeoutError,
    OutsideRoot,
    ProtocolError,
    QueueFull,
    SandboxFileRefused,
    SandboxUnreachable,
    SchemaError,
    SeedFailed,
    ServerError,
    SessionMoved,
    SessionNotFoundError,
    SharedConnection,
    StaleSessionError,
    TransactionOpen,
    TurnFailed,
    TurnQueued,
    UnprotectedServer,
    UsageError,
)
from opencode_async.models import ArtifactMixin, AskMixin, ConversationMixin, MessageMixin
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.observability.tracer import Span, Tracer
from opencode_async.opencode import Opencode
from opencode_async.protocol.asks import (
    Ask,
    AskPolicy,
    Decision,
    Inquiry,
    Permission,
    PermissionReply,
    Question,
    QuestionReply,
)
from opencode_async.protocol.changes import (
    ArtifactAdded,
    Change,
    Finished,
    MessageAdded,
    PartAdded,
    PartDelta,
    PartUpdated,
    PermissionAsked,
    PermissionResolved,
    QuestionAsked,
    QuestionResolved,
    Retrying,
    Snapshot,
    StatusChanged,
    TodosChanged,
    UsageChanged,
)
from opencode_async.protocol.exchange import Exchange, TurnError
from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.limits import Limits
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import Part, ReasoningPart, TextPart, ToolPart
from opencode_async.protocol.permissions import PermissionRule, Permissions
from opencode_async.protocol.reply import Reply
from opencode_async.protocol.todos import Todo
from opencode_async.protocol.tool_display import ToolDisplay
from opencode_async.session import Session
from opencode_async.settings import TurnSettings
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.cleaning import Removed
from opencode_async.turns.message import TurnResult
from opencode_async.turns.observer import ReplyObserver
from opencode_async.turns.turn import Turn
from opencode_async.web.access import Access
from opencode_async.web.followers import FollowerLimits

__all__ = [
    "Access",
    "AlreadyAnswered",
    "Artifact",
    "ArtifactAdded",
    "ArtifactMissing",
    "ArtifactMixin",
    "ArtifactNotFound",
    "ArtifactPolicy",
    "ArtifactStore",
    "ArtifactStoreError",
    "Ask",
    "AskGone",
    "AskMixin",
    "AskNotFound",
    "AskPolicy",
    "AuthenticationError",
    "BadRequestError",
    "BinaryNotFound",
    "Change",
    "Charge",
    "ConversationBusy",
    "ConversationMixin",
    "ConversationNotFound",
    "Decision",
    "DirectoryArtifactStore",
    "ErrorReporter",
    "EventBroker",
    "EventHub",
    "Exchange",
    "Finished",
    "FollowerLimits",
    "IdempotencyMismatch",
    "IdleStreamError",
    "Inquiry",
    "Instrumentation",
    "InvalidReply",
    "LeaseHeld",
    "LeaseLost",
    "Limits",
    "LocalServer",
    "MemoryBroker",
    "MessageAdded",
    "MessageArtifacts",
    "MessageMixin",
    "MessageNotFound",
    "NotFoundError",
    "NotRunning",
    "Opencode",
    "OpencodeClient",
    "OpencodeConnectionError",
    "OpencodeError",
    "OpencodeTimeoutError",
    "OutsideRoot",
    "Part",
    "PartAdded",
    "PartDelta",
    "PartUpdated",
    "Permission",
    "PermissionAsked",
    "PermissionReply",
    "PermissionResolved",
    "PermissionRule",
    "Permissions",
    "ProtocolError",
    "Question",
    "QuestionAsked",
    "QuestionReply",
    "QuestionResolved",
    "QueueFull",
    "ReasoningPart",
    "Removed",
    "Reply",
    "ReplyObserver",
    "Retrying",
    "Sandbox",
    "SandboxFile",
    "SandboxFileRefused",
    "SandboxUnreachable",
    "SchemaError",
    "SeedFailed",
    "Server",
    "ServerError",
    "Session",
    "SessionMoved",
    "SessionNotFoundError",
    "SharedConnection",
    "Snapshot",
    "Span",
    "StaleSessionError",
    "StatusChanged",
    "Tables",
    "TextPart",
    "Timings",
    "Todo",
    "TodosChanged",
    "ToolDisplay",
    "ToolPart",
    "Tracer",
    "TransactionOpen",
    "Transform",
    "Turn",
    "TurnError",
    "TurnFailed",
    "TurnQueued",
    "TurnResult",
    "TurnSettings",
    "UnprotectedServer",
    "UploadedFile",
    "UploadedFilesPrompt",
    "Usage",
    "UsageChanged",
    "UsageError",
]
