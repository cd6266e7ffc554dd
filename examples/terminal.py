"""An answer in the terminal: live text, a line for each tool, the cost; Ctrl-C stops the agent.

python -m examples.terminal "What is in this folder?"

OPENCODE_BASE_URL and OPENCODE_SERVER_PASSWORD name the server. Without them a scripted one is
started, for prompts like SCRIPT:bash.
"""

import asyncio
import sys
from pathlib import Path

from rich.console import Console
from rich.live import Live

from examples.server import a_server
from opencode_async import OpencodeClient, OpencodeError
from opencode_async.cli.answer import Answer, bill

FOLDER = Path(".demo/terminal")


async def ask(text: str, console: Console) -> bool:
    """Ask once, in a session of its own; whether the agent completed its answer."""
    answer = Answer()
    async with a_server(FOLDER) as server, OpencodeClient(server) as client:
        session_id = await client.create_session(title=text[:80])
        try:
            # Leaving this block, also by Ctrl-C, stops the agent.
            async with client.stream(session_id, text) as changes:
                with Live(answer, console=console, transient=True):
                    async for change in changes:
                        answer.take(change)
        finally:
            console.print(answer.whole())
    if answer.finished is None:
        return False
    console.print(bill(answer.finished))
    return bool(answer.finished["status"] == "completed")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        sys.exit(0 if asyncio.run(ask(sys.argv[1], Console())) else 1)
    except KeyboardInterrupt:
        print("Stopped.")
        sys.exit(130)
    except (OpencodeError, ValueError) as error:  # the server's, or an URL that is none
        sys.exit(str(error))
