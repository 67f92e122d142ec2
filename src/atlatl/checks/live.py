"""Items about the service that runs, and what it says of itself."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from atlatl.checks.item import Item, failed, judged, warned
from atlatl.client import Client, Row, ServiceUnreachable
from atlatl.core.confinement import Kept, missing, summary
from atlatl.errors import AtlatlError, SettingInvalid, StartFailed
from atlatl.model import Record
from atlatl.runtimes import process
from atlatl.runtimes.groups import Groups
from atlatl.settings import BlankPoolSettings, Settings

NO_SERVICE = "no service was asked"

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_OUTCOME = re.compile(r'(?:^|,)outcome="(\w+)"')

_EXECUTED = ("success", "error", "timeout", "crashed")
_SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "request_count": ("atlatl_executions_total", _EXECUTED),
    "success_count": ("faas_invocations_total", ()),
    "error_count": ("faas_errors_total", ()),
    "timeout_count": ("faas_timeouts_total", ()),
    "crashed_count": ("atlatl_executions_total", ("crashed",)),
    "cancelled_count": ("atlatl_executions_total", ("cancelled",)),
    "rejected_count": ("atlatl_executions_total", ("rejected",)),
    "invalid_count": ("atlatl_executions_total", ("invalid",)),
    "cold_start_count": ("faas_coldstarts_total", ()),
}
"""Where a figure of the metrics endpoint stands in the Prometheus text: name, outcomes."""


class Seen(Record, frozen=True):
    """What a running service said; all empty when none was reached."""

    reason: str = NO_SERVICE
    """Why something is missing."""
    expected: bool = False
    """The user named the service, so it should be there."""
    figures: Row = {}
    """`GET /api/serverless/metrics`, and once more after the text below was read."""
    figures_after: Row = {}
    exposition: str = ""
    """`GET /metrics`."""
    knows_tasks: bool = False
    tasks: list[Row] = []
    instances: list[Row] = []
    pools: list[Row] = []
    guarded: bool | None = None
    """Whether somebody without a token was refused; None when that was not tried."""

    def instances_of(self, task_name: str) -> list[Row]:
        return [row for row in self.instances if row["task_name"] == task_name]


def look(client: Client, *, expected: bool = False) -> Seen:
    """Asks a service for all that the items need; what it does not answer stays empty.

    Args:
        client: of the service that is meant.
        expected: the user named it, so it is a fault when it cannot be reached.
    """
    answers: dict[str, Any] = {}
    try:
        answers["figures"] = client.figures()
        answers["exposition"] = client.prometheus()
        answers["figures_after"] = client.figures()
        answers["guarded"] = client.is_guarded()
        answers["tasks"] = list(_all_tasks(client))
        answers["instances"] = client.instances()
        answers["pools"] = client.pools()
        return Seen(reason="", expected=expected, knows_tasks=True, **answers)
    except (AtlatlError, ServiceUnreachable) as error:
        return Seen(reason=_told(error), expected=expected, **answers)


def _told(error: Exception) -> str:
    return error.message if isinstance(error, AtlatlError) else str(error)


def _all_tasks(client: Client) -> Iterable[Row]:
    start_after: str | None = ""
    while start_after is not None:
        page = client.tasks(limit=1000, start_after=start_after)
        yield from page["tasks"]
        start_after = page["next_start_after"]


# --- metrics endpoint ---


def metrics_endpoint(seen: Seen) -> Item:
    """It answers, is consistent in itself, and tells Prometheus the same."""
    if not seen.figures_after:
        return (failed if seen.expected else warned)("metrics endpoint", seen.reason)
    total = seen.figures_after["total"]
    faults = [*_contradictions(total), *_disagreements(seen)]
    p99 = total["p99_latency_ms"]
    figures = (
        f"{total['request_count']} requests, {total['error_count']} errors, "
        f"{total['rejected_count']} refused, p99 {'-' if p99 is None else f'{p99:.1f} ms'}"
    )
    agreed = "" if faults else f"; {len(_SOURCES) + 1} figures agree with /metrics"
    return judged("metrics endpoint", faults, [], figures + agreed)


def _contradictions(total: Row) -> list[str]:
    counted = sum(bucket["count"] for bucket in total["latency_histogram"])
    faults = []
    if total["request_count"] != total["success_count"] + total["error_count"]:
        faults.append("request_count is not success_count + error_count")
    if counted != total["request_count"]:
        faults.append(f"its histogram holds {counted} requests")
    if total["pool_size"] != total["pool_in_use"] + total["pool_available"]:
        faults.append("pool_size is not pool_in_use + pool_available")
    return faults


def _disagreements(seen: Seen) -> list[str]:
    """Counters only rise: what was read in between lies between the two readings."""
    exported = _sums(seen.exposition)
    before, after = seen.figures["total"], seen.figures_after["total"]
    found = {key: _exported(exported, *source) for key, source in _SOURCES.items()}
    faults = [
        f"{key} is {before[key]} to {after[key]}, /metrics says {value:g}"
        for key, value in found.items()
        if not before[key] <= value <= after[key]
    ]
    in_histogram = exported["faas_invoke_duration_seconds_count", ""]
    if in_histogram != found["request_count"]:
        faults.append(f"the histogram of /metrics holds {in_histogram:g} requests")
    return faults


Sums = defaultdict[tuple[str, str], float]


def _sums(exposition: str) -> Sums:
    """Sums of all samples by name and outcome; the outcome is empty where there is none."""
    sums: Sums = defaultdict(float)
    for name, labels, value in _SAMPLE.findall(exposition):
        outcome = _OUTCOME.search(labels)
        sums[name, outcome[1] if outcome else ""] += float(value)
    return sums


def _exported(sums: Sums, name: str, outcomes: tuple[str, ...]) -> float:
    return sum(sums[name, outcome] for outcome in outcomes or ("",))


# --- confinement ---

_INSTANCE = b"atlatl_worker"
"""Stands in the command line of every instance: tells it from another process of that number."""
_MEASURED = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000"}
"""Lines of /proc/PID/status that every instance has, but for the level `none`."""


def try_out(settings: Settings | SettingInvalid) -> Kept | None:
    """What this machine keeps for whoever asks: a runtime is started, and closed again.

    None when none can be started, or nobody knows with which settings.
    """
    if isinstance(settings, SettingInvalid):
        return None
    # Without the data directory, whose permissions a runtime may have to change.
    small = replace(settings, data_dir="", blank_pool=BlankPoolSettings(min_size=0, max_size=1))
    ids = map(str, itertools.count())

    async def run() -> Kept:
        runtime = process.ProcessRuntime(small, time.monotonic, ids.__next__, Groups())
        await runtime.open()
        try:
            return runtime.kept
        finally:
            await runtime.close()

    said_here = logging.getLogger(process.__name__)
    level = said_here.level
    # What is missing stands in the item.
    said_here.setLevel(logging.CRITICAL)
    try:
        return asyncio.run(run())
    except StartFailed:
        return None
    finally:
        said_here.setLevel(level)


def confinement(
    settings: Settings, seen: Seen, kept: Kept | None = None, proc: Path = Path("/proc")
) -> Item:
    """What is kept of each level, by task where tasks are deployed, measured where they run.

    Args:
        settings: of the service.
        seen: what the service said.
        kept: what was tried here; None when that was not possible.
        proc: where the kernel shows the processes of this machine.
    """
    doubts = list(_not_confined(settings, seen))
    faults, measured = _measured(seen, proc)
    figures: list[str] = []
    if kept is not None:
        tried = f"tried here: {summary(kept, settings.confinement)[0]}"
        # Where tasks are deployed, what they lack is what matters.
        lacking = not seen.pools and missing(kept, settings.confinement)
        (doubts if lacking else figures).append(tried)
    if measured:
        figures.append(f"measured on {measured} of the instances")
    if not figures and not doubts:
        figures.append("nothing could be tried")
    return judged("confinement", faults, doubts, "; ".join(figures))


def _not_confined(settings: Settings, seen: Seen) -> Iterator[str]:
    lacking: dict[str, list[str]] = defaultdict(list)
    for row in seen.pools:
        if row["confinement"]["level"] == "none":
            yield f"task {row['task_name']!r} is not confined (`confinement.level` is `none`)"
        for each in row["confinement"]["not_kept"]:
            lacking[each].append(row["task_name"])
    for each, names in lacking.items():
        yield f"not kept for {', '.join(map(repr, names))}: {each}"
    if settings.confinement.level == "none":
        yield "tasks are not confined unless they ask for it (`confinement.level` is `none`)"


def _measured(seen: Seen, proc: Path) -> tuple[list[str], int]:
    """What instances should not be able to do, and how many were looked at."""
    levels = {row["task_name"]: row["confinement"] for row in seen.pools}
    faults, count = [], 0
    for row in seen.instances:
        status = _status(proc / str(row["pid"]))
        task = levels.get(row["task_name"], {"level": "none", "not_kept": []})
        if not status:
            continue
        count += 1
        if task["level"] == "none":
            wanted = {"NoNewPrivs": "1"}
        elif any(each.startswith("system calls") for each in task["not_kept"]):
            wanted = {name: value for name, value in _MEASURED.items() if name != "Seccomp"}
        else:
            wanted = _MEASURED
        faults += [
            f"the instance with pid {status['Pid']} has {name} {status.get(name, 'not set')}, "
            f"and should have {value}"
            for name, value in wanted.items()
            if status.get(name) != value
        ]
        reported = any(each.startswith("user:") for each in task["not_kept"])
        if task["level"] != "none" and status["Uid"].split()[0] == "0" and not reported:
            faults.append(f"the instance with pid {status['Pid']} runs as root")
    return faults, count


def _status(directory: Path) -> dict[str, str]:
    """What the kernel says of an instance; empty for any other process, and for none."""
    try:
        if _INSTANCE not in (directory / "cmdline").read_bytes():
            return {}
        lines = (directory / "status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
