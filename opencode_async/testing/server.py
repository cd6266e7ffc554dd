"""A real ``opencode serve`` whose only model is the scripted one, offline."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opencode_async.client.local_server import LocalServer
from opencode_async.client.server import Server
from opencode_async.testing.scripted_model import ScriptedModel

# OpenCode would otherwise look for updates, a model catalogue, plugins and language servers, and
# for the configuration of the project that the folder happens to lie in.
OFFLINE = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
}


@dataclass(frozen=True, kw_only=True)
class ScriptedServer(Server):
    """A ``Server`` with the model behind it and the process that it is."""

    model: ScriptedModel = field(repr=False, compare=False)
    process: LocalServer = field(repr=False, compare=False)


@asynccontextmanager
async def scripted_server(
    folder: Path,
    *,
    binary: str | Path = "opencode",
    config: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    password: str | None = None,
) -> AsyncIterator[ScriptedServer]:
    """Run OpenCode with the scripted model; all its files are below ``folder``.

    It works in ``folder/workspace`` and keeps its data in ``folder/home``, so a later start in the
    same folder finds the sessions of the earlier one. ``config`` replaces top-level keys of the
    configuration; ``env`` is added to the server's environment. Raises what ``LocalServer`` does.
    """
    workspace, home = folder / "workspace", folder / "home"
    workspace.mkdir(parents=True, exist_ok=True)
    pretend_plugins_are_installed(home / "config" / "opencode")
    with ScriptedModel() as model:
        process = LocalServer(
            workspace,
            binary=binary,
            password=password,
            config={**configuration(model.url), **(config or {})},
            env={**OFFLINE, **(env or {})},
            home=home,
        )
        async with process as server:
            yield ScriptedServer(
                url=server.url,
                password=server.password,
                directory=server.directory,
                model=model,
                process=process,
            )


def configuration(model_url: str) -> dict[str, object]:
    """OpenCode's configuration: the scripted provider and nothing else, no sharing, no downloads.

    There are two models because OpenCode offers ``apply_patch`` instead of ``write`` and ``edit``
    to those whose id contains ``gpt-``.
    """
    return {
        "model": "scripted/scripted",
        "small_model": "scripted/scripted",
        "enabled_providers": ["scripted"],
        "provider": {
            "scripted": {
                "npm": "@ai-sdk/openai-compatible",  # part of the executable
                "name": "Scripted",
                "options": {"baseURL": f"{model_url}/v1", "apiKey": "unused"},
                "models": {
                    "scripted": model_entry("Scripted"),
                    "gpt-5-scripted": model_entry("Scripted, with apply_patch"),
                },
            }
        },
        "share": "disabled",
        "autoupdate": False,
        "lsp": False,
        "formatter": False,
    }


def model_entry(name: str) -> dict[str, object]:
    """A model with prices (USD per million tokens), so that OpenCode reports a cost."""
    return {
        "name": name,
        "tool_call": True,
        "reasoning": True,
        "attachment": True,
        "limit": {"context": 200_000, "output": 32_000},
        "cost": {"input": 1.0, "output": 2.0, "cache_read": 0.1, "cache_write": 0},
        "modalities": {"input": ["text", "image", "pdf"], "output": ["text"]},
        "variants": {"high": {"reasoningEffort": "high"}},
    }


def pretend_plugins_are_installed(config_folder: Path) -> None:
    """Keep OpenCode from installing its plugin package from npm into ``config_folder``.

    1.18.33 does so in the background unless this lock file says that it has.
    """
    (config_folder / "node_modules").mkdir(parents=True, exist_ok=True)
    lock = {"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
    (config_folder / "package-lock.json").write_text(json.dumps(lock))
