"""For tests of hosts: a real OpenCode with a scripted model, and what a store must do."""

from opencode_async.testing.artifact_stores import check_artifact_store
from opencode_async.testing.impostor import Impostor
from opencode_async.testing.scripted_model import ScriptedModel
from opencode_async.testing.server import ScriptedServer, scripted_server

__all__ = ["Impostor", "ScriptedModel", "ScriptedServer", "check_artifact_store", "scripted_server"]
