"""For tests of hosts: their app, live; a scripted OpenCode; checks of stores and brokers."""

from opencode_async.testing.artifact_stores import check_artifact_store
from opencode_async.testing.event_brokers import check_event_broker
from opencode_async.testing.impostor import Impostor
from opencode_async.testing.live import LiveClient, StreamEvent, live
from opencode_async.testing.scripted_model import ScriptedModel
from opencode_async.testing.server import ScriptedServer, scripted_server

__all__ = [
    "Impostor",
    "LiveClient",
    "ScriptedModel",
    "ScriptedServer",
    "StreamEvent",
    "check_artifact_store",
    "check_event_broker",
    "live",
    "scripted_server",
]
