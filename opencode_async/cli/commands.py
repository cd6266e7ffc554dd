"""The commands, as they are typed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from opencode_async.cli.agents import agent_of, without_connections
from opencode_async.cli.answer import Answer, bill, safe
from opencode_async.cli.cleanup import age, removed
from opencode_async.cli.doctor import examined
from opencode_async.cli.turns import cancelled, listed, recovered, shown
from opencode_async.errors import OpencodeError, UsageError
from opencode_async.opencode import Opencode

Returned = TypeVar("Returned")
MARKS = {"ok": Text("✓", "green"), "warning": Text("!", "yellow"), "error": Text("✗", "red")}

app = typer.Typer(
    help="Look after the turns of an opencode_async agent.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they may be credentials
)
turns = typer.Typer(help="What the turns are doing.", no_args_is_help=True)
app.add_typer(turns, name="turns")
console, complaints = Console(), Console(stderr=True)

App = Annotated[str, typer.Option("--app", help="The Opencode, as module:attribute.")]
MessageId = Annotated[str, typer.Argument(help="The assistant's message.")]
Age = Annotated[timedelta, typer.Option(parser=age, metavar="AGE", help="90d, 12h, 2w or 30m.")]


def loaded(app: str) -> Opencode[Any, Any]:
    try:
        return agent_of(app)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def doctor(app: App) -> None:
    """Check server, database, files and routes; exits with 1 if anything is wrong."""
    agent = loaded(app)

    async def examine() -> bool:
        fine, part = True, ""
        async for subject, finding in examined(agent):
            if subject != part:
                part = subject
                console.print(Text(subject, "bold"))
            console.print(" ", MARKS[finding.level], Text(safe(finding.what)), soft_wrap=True)
            if finding.remedy:
                console.print("    →", Text(safe(finding.remedy), "dim"), soft_wrap=True)
            fine = fine and finding.level != "error"
        return fine

    if not run(agent, examine()):
        raise typer.Exit(1)


@app.command()
def tail(app: App, message_id: MessageId) -> None:
    """Follow a turn to its end, whoever runs it; exits with 1 unless it completes."""
    agent, answer = loaded(app), Answer()

    async def follow() -> None:
        async with agent.attached() as attached, attached.follow(message_id) as changes:
            with Live(answer, console=console, transient=True):
                async for change in changes:
                    answer.take(change)

    run(agent, follow())
    console.print(answer.whole())
    if answer.finished is not None:
        console.print(bill(answer.finished))
    if answer.finished is None or answer.finished["status"] != "completed":
        raise typer.Exit(1)


@app.command()
def cleanup(app: App, older_than: Age) -> None:
    """Remove conversations that nobody has touched for so long, and what crashes left.

    What could not be removed is reported by the app's own means; the next run tries again.
    """
    agent = loaded(app)

    async def remove() -> str:
        said = ""
        with console.status(said) as status:
            async for said in removed(agent, older_than):
                status.update(said)
        return said

    console.print(run(agent, remove()))


@turns.command("ls")
def ls(
    app: App,
    status: Annotated[
        str | None, typer.Option(help="Only these: pending, queued, error, …")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 20,
) -> None:
    """List turns, the newest first."""
    agent = loaded(app)
    rows = run(agent, listed(agent, status, limit))
    if not console.is_terminal:
        for row in rows:  # for other programs: whole, however long
            console.print(Text("\t".join(map(safe, row))), soft_wrap=True)
        return
    table = Table("message", "conversation", "status", "began", "cost", "worker", "", box=None)
    for column in table.columns[:2]:
        column.no_wrap, column.overflow = True, "fold"
        column.min_width = max((len(row[0]) for row in rows), default=0)
    for row in rows:
        table.add_row(*(Text(safe(value)) for value in row))
    console.print(table)


@turns.command()
def show(app: App, message_id: MessageId) -> None:
    """Show a turn as it is stored, without what was said."""
    agent = loaded(app)
    for name, value in run(agent, shown(agent, message_id)).items():
        console.print(Text(name, "bold"), Text(safe(str(value))), soft_wrap=True)


@turns.command()
def cancel(app: App, message_id: MessageId) -> None:
    """Ask a turn to stop, whichever worker runs it."""
    agent = loaded(app)
    console.print(run(agent, cancelled(agent, message_id)))


@turns.command()
def recover(app: App) -> None:
    """Take up what nobody runs although somebody should, and wait for it.

    With a dispatch of the app's they are put on its queue instead. Here the app's own lifespan is
    not run: hooks that need what it opens fail, and with them their turns.
    """
    agent = loaded(app)
    found = run(agent, recovered(agent))
    for key, how in found:
        console.print(Text(safe(key)), Text(how), soft_wrap=True)
    if not found:
        console.print("Every turn has its worker.")


def run(agent: Opencode[Any, Any], command: Coroutine[Any, Any, Returned]) -> Returned:
    """What it gives; an error of the library's is said in a line, with exit code 1."""

    async def whole() -> Returned:
        async with without_connections(agent):
            return await command

    try:
        return asyncio.run(whole())
    except OpencodeError as error:
        complaints.print(Text(safe(str(error)), "red"), soft_wrap=True)
        raise typer.Exit(1) from error
