"""A real OpenCode server that answers from a scripted model, for tests of hosts and demos."""

from opencode_async.testing.scripted_model import ScriptedModel
from opencode_async.testing.server import ScriptedServer, scripted_server

__all__ = ["ScriptedModel", "ScriptedServer", "scripted_server"]
