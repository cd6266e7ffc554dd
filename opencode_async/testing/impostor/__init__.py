"""A deterministic OpenCode server for tests: no executable, no network, no model.

::

    async with Impostor(tmp_path) as impostor:
        impostor.on("hello").text("Hi ").tool("bash", command="ls").text("Done.")
        agent = Opencode(impostor.server, sessionmaker, tables)

It behaves as OpenCode 1.18.33 does, oddities included, and one suite of tests runs on both. What
the agent does is told by ``on``, or with ``SCRIPT:…`` in the prompt (see ``scripted_model``); any
other prompt is echoed. Its tools are real: ``write`` and ``edit`` change files in ``directory``
and ``bash`` runs commands there, with your rights.

``VirtualClock`` makes waits take no time: those for a provider's retry, for what a script delays,
for heartbeats. ``RealClock(speed=…)`` makes them short. ``faults`` says what is to go wrong.

What it has not: plugins, MCP, structured output, OpenCode's second API, summaries of changes in git
work trees, asking for ``doom_loop`` and for paths that a command names, and of the tools ``glob``,
``grep``, ``skill`` and ``webfetch``, which a story may call with an ``output``.

``python -m opencode_async.testing.impostor`` runs it on a port, for other processes.
"""

from opencode_async.testing.impostor.clock import Clock, RealClock, VirtualClock
from opencode_async.testing.impostor.faults import Faults
from opencode_async.testing.impostor.impostor import Impostor
from opencode_async.testing.impostor.story import Story

__all__ = ["Clock", "Faults", "Impostor", "RealClock", "Story", "VirtualClock"]
