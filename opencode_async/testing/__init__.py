"""For tests of hosts: their app, live; a real OpenCode with a scripted model; checks of a store."""

from opencode_async.testing.artifact_stores import check_artifact_store
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
    "live",
    "scripted_server",
]
