"""The commands about executions: what became of calls, and of those that failed for good."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer

from atlatl.console import (
    FAILED,
    AsJson,
    CaFile,
    Id,
    Limit,
    TokenFile,
    Url,
    connected,
    line,
    show,
    show_line,
    table,
    task_names,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from atlatl.client import Client, Row

WATCHED = 500
"""So many of the newest executions are looked at for changes."""
WATCH_EVERY_S = 1.0


def executions(
    task: Annotated[str, typer.Option(help="Only of this task.", autocompletion=task_names)] = "",
    status: Annotated[str, typer.Option(help="Only with this status.")] = "",
    limit: Limit = 20,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with what changes, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """List executions, newest first; or watch them, one line a change."""
    with connected(url, token_file, ca_file) as client:
        if watch:
            with contextlib.suppress(KeyboardInterrupt):
                for row in _changes(client, task, status, limit):
                    show_line(row, as_json=as_json, text=_change(row))
            return
        page = client.executions(task=task, status=status, limit=limit)
    columns = ("execution_id", "task_name", "status", "execution_time_ms", "queued_at")
    text = table(page["executions"], (*columns, "error_code"), "there are no executions")
    show(page, as_json=as_json, text=text)


def _changes(client: Client, task: str, status: str, limit: int) -> Iterator[Row]:
    """The newest `limit` executions, oldest first; then each that is new or changed, for ever."""
    seen: dict[str, object] = {}
    rows = client.executions(task=task, status=status, limit=WATCHED)["executions"]
    yield from reversed(_unseen(rows, seen)[:limit])
    while True:
        time.sleep(WATCH_EVERY_S)
        rows = client.executions(task=task, status=status, limit=WATCHED)["executions"]
        yield from reversed(_unseen(rows, seen))


def _unseen(rows: Sequence[Row], seen: dict[str, object]) -> list[Row]:
    """Rows that are not as they were `seen`, newest first; now they are."""
    found = []
    for row in rows:
        state = row["status"], row["attempt"]
        if seen.pop(row["execution_id"], None) != state:
            found.append(row)
        seen[row["execution_id"]] = state
    # The longest unseen go: far behind the page, they come back only when many others are gone.
    for execution_id in list(seen)[: -10 * WATCHED]:
        del seen[execution_id]
    return found


def _change(row: Row) -> str:
    at = row["completed_at"] or row["started_at"] or row["queued_at"]
    columns = ("task_name", "execution_id", "attempt", "error_code")
    return line([at, f"{row['status']:9}", *(row[name] for name in columns)])


def logs(
    execution_id: Id,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print what an execution printed."""
    with connected(url, token_file, ca_file) as client:
        row = client.logs(execution_id)
    text = "\n".join([*row["lines"], *row["traceback"].splitlines()])
    show(row, as_json=as_json, text=text)


def explain(
    execution_id: Id,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Tell the life of an execution step by step: how it came to run, and how it ended."""
    with connected(url, token_file, ca_file) as client:
        row = client.explain(execution_id)
    lines = [row["summary"], *(line for step in row["steps"] for line in _told(step))]
    show(row, as_json=as_json, text="\n".join(lines))


def _told(step: Row) -> Iterator[str]:
    """A step as one line, and the lines that belong to it."""
    after = f"+{step['after_ms']:.1f} ms"
    yield line([f"{after:>14}", f"{step['kind']:15}", step["text"]])
    details = step["details"]
    for text in (*details.get("traceback", "").splitlines(), *details.get("lines", ())):
        yield line([" " * 31, text])


def cancel(
    execution_id: Id,
    reason: Annotated[str, typer.Option(help="Kept with the record.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Without time to clean up.")] = False,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Stop an execution."""
    with connected(url, token_file, ca_file) as client:
        row = client.cancel(execution_id, reason=reason, force=force)
    show(row, as_json=as_json, text=f"{execution_id}: {row['message']}")
    if not row["cancelled"]:
        raise typer.Exit(FAILED)


def dead_letters(
    delete: Annotated[
        str, typer.Option(metavar="ID", help="Let this one go instead; its record stays.")
    ] = "",
    limit: Limit = 100,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """List async executions that failed for good, the latest first."""
    with connected(url, token_file, ca_file) as client:
        if delete:
            client.delete_dead_letter(delete)
            gone = {"execution_id": delete, "deleted": True}
            show(gone, as_json=as_json, text=f"{delete} is no dead letter any more")
            return
        page = client.dead_letters(limit=limit)
    columns = ("execution_id", "task_name", "attempts", "died_at", "error_code", "error_message")
    text = table(page["dead_letters"], columns, "there are no dead letters")
    show(page, as_json=as_json, text=text)


def redrive(
    execution_id: Id,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Have a dead letter tried again, by the current version of its task."""
    with connected(url, token_file, ca_file) as client:
        row = client.redrive(execution_id)
    show(row, as_json=as_json, text=f"{execution_id}: {row['status']}")


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command()(executions)
    app.command()(logs)
    app.command()(explain)
    app.command()(cancel)
    app.command("dead-letters")(dead_letters)
    app.command()(redrive)
