"""``python -m opencode_async.testing.scripted_model --port 0`` serves until Ctrl-C."""

import argparse
import contextlib
import threading

from opencode_async.testing.scripted_model import ScriptedModel


def main() -> None:
    """Serve on the loopback interface and print where."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible model.")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) for a free port")
    options = parser.parse_args()
    with ScriptedModel(options.port) as model, contextlib.suppress(KeyboardInterrupt):
        print(f"{model.url}/v1", flush=True)  # noqa: T201 - how a caller learns the port
        threading.Event().wait()


if __name__ == "__main__":
    main()
