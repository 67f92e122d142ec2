"""`atlatl top`: what the tasks are doing, live."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlatl.console import FAILED, CaFile, TokenFile, Url, connected, fail, show, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from atlatl.client import Client, Row

REREAD_S = 5.0
"""How often tasks that do nothing are looked at too."""
COLUMNS = {
    "task": "task_name",
    "calls/s": "calls_per_s",
    "err/s": "errors_per_s",
    "ref/s": "refused_per_s",
    "p50_ms": "p50_ms",
    "p99_ms": "p99_ms",
    "busy": "in_use",
    "idle": "idle",
    "start": "starting",
    "wait": "waiting",
    "breaker": "breaker",
}
"""Members of a row under short names: all fit into 80 characters beside a short task name."""
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's other screen, without a cursor; and back."""
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"
_QUIET: Row = {
    "calls_per_s": 0.0,
    "errors_per_s": 0.0,
    "refused_per_s": 0.0,
    "p50_ms": None,
    "p99_ms": None,
}


def top(
    once: Annotated[
        bool, typer.Option("--once", help="Print the figures of one second, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON, and end.")] = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Show every second what the tasks are doing, until Ctrl-C; without a terminal once."""
    with connected(url, token_file, ca_file) as client:
        frames = _frames(client, time.monotonic)
        if once or as_json or not sys.stdout.isatty():
            first = next(frames, None)
            if first is None:
                fail("the service ended before it told anything", FAILED)
            show(first, as_json=as_json, text="\n".join(lines_of(first)))
            return
        with contextlib.suppress(KeyboardInterrupt), _other_screen():
            for frame in frames:
                _draw(frame)


def _frames(client: Client, clock: Callable[[], float]) -> Iterator[Row]:
    """One a second, until the service ends."""
    idle: list[Row] = []
    reread_at = clock()
    while True:
        told = False
        for figures in client.events(kinds=["figures"]):
            told = True
            if clock() >= reread_at:
                idle = idle_rows(client.pools(), client.breakers())
                reread_at = clock() + REREAD_S
            yield frame_of(figures, idle)
        if not told:
            return  # else the stream only has come to its longest


def idle_rows(pools: Sequence[Row], breakers: Sequence[Row]) -> list[Row]:
    """Each task as it stands while nobody calls it."""
    states = {row["task_name"]: row["state"] for row in breakers}
    return [
        {
            "task_name": pool["task_name"],
            **_QUIET,
            "in_use": pool["in_use"],
            "idle": pool["available"],
            "starting": pool["starting"],
            "waiting": pool["waiting"],
            "breaker": states.get(pool["task_name"], ""),
        }
        for pool in pools
    ]


def frame_of(figures: Row, idle: Sequence[Row]) -> Row:
    """What is shown at one moment: the busiest tasks first, those that do nothing by name.

    Args:
        figures: an event `figures`.
        idle: all tasks as they stood a while ago.
    """
    rows: dict[str, Row] = {row["task_name"]: row for row in idle}
    rows.update({row["task_name"]: row for row in figures["tasks"]})
    ordered = sorted(rows.values(), key=_rank)
    return {
        "at": figures["at"],
        "service": figures["service"],
        "queue": figures["queue"],
        "tasks": ordered,
    }


def _rank(row: Row) -> tuple[bool, float, str]:
    busy = row["calls_per_s"] + row["refused_per_s"]
    quiet = not (busy or row["in_use"] or row["waiting"] or row["breaker"] != "closed")
    return quiet, -busy, row["task_name"]


def lines_of(frame: Row) -> list[str]:
    """The frame as text: two lines about the service, then the table of its tasks."""
    service, queue = frame["service"], frame["queue"]
    rows = [{name: row[member] for name, member in COLUMNS.items()} for row in frame["tasks"]]
    return [
        f"{service['calls_per_s']:.0f} calls/s  {service['errors_per_s']:.0f} errors/s  "
        f"{service['refused_per_s']:.0f} refused/s  p50 {_ms(service, 'p50_ms')}  "
        f"p99 {_ms(service, 'p99_ms')}  {service['running']} running  "
        f"{service['waiting']} waiting",
        f"{service['tasks']} tasks  up {_up(service['uptime_s'])}  "
        f"cpu {service['cpu_percent']:.0f} %  "
        f"memory {_mb(service['service_memory_bytes'])} + "
        f"{_mb(service['instances_memory_bytes'])} in instances  "
        f"queue {queue['ready']} ready, {queue['delayed']} delayed, {queue['running']} running, "
        f"{queue['dead']} dead",
        "",
        *table(rows, [*COLUMNS], "nothing is deployed").splitlines(),
    ]


def _ms(row: Mapping[str, Any], name: str) -> str:
    return "-" if row[name] is None else f"{row[name]:.1f} ms"


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1_000_000:.0f} MB"


def _up(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


# --- on a terminal ---


@contextlib.contextmanager
def _other_screen() -> Iterator[None]:
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _draw(frame: Row) -> None:
    width, height = shutil.get_terminal_size()
    sys.stdout.write(screen_of(frame, width, height))
    sys.stdout.flush()


def screen_of(frame: Row, width: int, height: int) -> str:
    """The frame cut to a terminal, with what is wrong in red."""
    lines = lines_of(frame)
    wrong = [row["errors_per_s"] > 0 or row["breaker"] != "closed" for row in frame["tasks"]]
    drawn = []
    for number, line in enumerate(lines[:height]):
        line = line[:width]
        place = number - 4
        if number in (0, 3):
            line = f"{_BOLD}{line}{_PLAIN}"
        elif 0 <= place < len(wrong) and wrong[place]:
            line = f"{_RED}{line}{_PLAIN}"
        drawn.append(line + _CLEAR_LINE)
    return _HOME + "\n".join(drawn) + _CLEAR_REST


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(top)
