"""Items about the service that runs, and what it says of itself."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atlatl.checks.item import Item, failed, judged, warned
from atlatl.client import Client, Row, ServiceUnreachable
from atlatl.errors import AtlatlError
from atlatl.model import Record

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

KEPT = (
    "kept: instances have a process and a session of their own, no new privileges, no descriptor "
    "of the service, no core dump, are killed before the service when memory runs out, "
    "and end with the service"
)
NOT_KEPT = (
    "not kept: instances run as the service's user, reach its files and the network, and have "
    "no limit of memory, CPU or processes and no filter of system calls; deploy only code that "
    "you trust"
)
_INSTANCE = b"atlatl_worker"
"""Stands in the command line of every instance: tells it from another process of that number."""


def confinement(seen: Seen, proc: Path = Path("/proc")) -> Item:
    """What an instance is kept from and what not; the first is measured where instances run.

    Args:
        seen: what the service said.
        proc: where the kernel shows the processes of this machine.
    """
    found = [_status(proc / str(row["pid"])) for row in seen.instances]
    instances = [status for status in found if status]
    faults = [
        f"the instance with pid {status['Pid']} may gain new privileges"
        for status in instances
        if status.get("NoNewPrivs") != "1"
    ]
    doubts = [NOT_KEPT]
    if any(status["Uid"].split()[0] == "0" for status in instances):
        doubts.insert(0, "functions run as root: start the service as another user")
    measured = f" (no new privileges: measured on {len(instances)} of them)" if instances else ""
    return judged("confinement", faults, doubts, KEPT + measured)


def _status(process: Path) -> dict[str, str]:
    """What the kernel says of an instance; empty for any other process, and for none."""
    try:
        if _INSTANCE not in (process / "cmdline").read_bytes():
            return {}
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
