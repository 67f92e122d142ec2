"""A client made from the published tables alone runs all ten RPCs, and every figure is measured.

`read` reads all figures that the service gives anywhere. Each of them stands in one of two tables
below: COUNTERS, which ten calls of a kind raise by exactly ten or not at all, and GAUGES, which
say by which test their figure is shown to be of this moment.
"""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from scripts.stranger import (
    ASYNC,
    CANCELLED,
    COMPLETED,
    EXISTING_TASK,
    FAILED,
    NEW_TASK,
    PENDING,
    RPCS,
    RUNNING,
    STREAM,
    SYNC,
    Stranger,
    parameters,
)
from tests.e2e.server import Server, eventually, serving

CODE = """
import os
import time

held = []

def main(s: float = 0.0, mib: int = 0):
    print("resting", s)
    held.append(b"x" * mib * 1024 * 1024)
    time.sleep(s)
    return {"pid": os.getpid()}

def boom():
    raise ValueError("no such luck")

def leave():
    os._exit(7)

def items(n: int = 3):
    for i in range(n):
        yield {"i": i}
"""
LOCATION = "data:text/x-python;base64," + base64.b64encode(CODE.encode()).decode()
MIB = 1024 * 1024
TEN = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[Stranger]:
    with Stranger(server.grpc, token=server.token) as stranger:
        yield stranger


class Caller:
    """One task and how a stranger calls it, synchronously unless something else is asked for."""

    numbers = itertools.count(1)

    def __init__(self, server: Server, stranger: Stranger, **settings: Any) -> None:
        self.server, self.stranger = server, stranger
        self.name = f"task-{next(self.numbers)}"
        server.deployed(self.name, CODE, **settings)
        self.task_id = server.http.get(f"/api/v1/tasks/{self.name}").json()["task_id"]

    def __call__(self, function: str = "", **more: Any) -> Any:
        arguments = more.pop("arguments", {})
        fields: dict[str, Any] = {
            "invocation_type": EXISTING_TASK,
            "execution_mode": SYNC,
            "task_id": self.task_id,
            "function_name": function,
            "parameters": parameters(arguments),
        }
        return self.stranger.ask("InvokeFunction", **(fields | more))

    def good(self) -> None:
        answer = self()
        assert answer.result.status == COMPLETED, answer

    def status(self, execution_id: str) -> int:
        answer = self.stranger.ask("GetExecutionStatus", execution_id=execution_id)
        return int(answer.result.status) if answer.found else 0

    def ended(self, execution_id: str) -> int:
        """The status of an execution, when it has ended."""
        return int(eventually(lambda: (s := self.status(execution_id)) > RUNNING and s))

    @contextmanager
    def resting(self, calls: int = 1, **arguments: Any) -> Iterator[list[str]]:
        """Inside, so many calls are under way; gives their ids."""
        ids = [f"{self.name}-{next(self.numbers)}" for _ in range(calls)]
        with ThreadPoolExecutor(calls) as pool:
            given = {"s": 60.0, **arguments}
            answers = [pool.submit(self, execution_id=one, arguments=given) for one in ids]
            for one in ids:
                eventually(lambda one=one: self.status(one))
            try:
                yield ids
            finally:
                for one in ids:
                    self.stranger.ask("CancelExecution", execution_id=one, force=True)
                for answer in answers:
                    answer.result()


@pytest.fixture
def deploy(server: Server, stranger: Stranger) -> Iterator[Callable[..., Caller]]:
    """Makes tasks, which are gone after the test: the figures name only the busiest ten."""
    made: list[Caller] = []

    def deploy(**settings: Any) -> Caller:
        made.append(Caller(server, stranger, **settings))
        return made[-1]

    yield deploy
    for task in made:
        stranger.ask("DeleteTask", task_id=task.task_id, force=True)


@pytest.fixture
def task(deploy: Callable[..., Caller]) -> Caller:
    return deploy()


# --- all ten RPCs ---


def test_all_ten_rpcs(server: Server) -> None:
    asked: set[str] = set()

    with Stranger(server.grpc, token=server.token) as stranger:

        def ask(rpc: str, **fields: Any) -> Any:
            asked.add(rpc)
            return stranger.ask(rpc, **fields)

        made = ask(
            "InvokeFunction",
            invocation_type=NEW_TASK,
            task_name="all-ten",
            artifact_spec={"artifact_id": "all-ten", "location": LOCATION, "version": "v1"},
            execution_mode=SYNC,
        )
        assert (made.success, made.result.status) == (True, COMPLETED)
        task_id = made.task_id
        _runs(ask, task_id)
        _runs_in_the_background(ask, task_id, server)
        _is_cancelled(ask, task_id)
        _is_listed(ask, task_id)
        assert ask("GetHealth").status == "healthy"
        assert ask("GetStats").HasField("service_stats")
        _is_deleted(ask, task_id)
    assert asked == {line.split()[0] for line in RPCS.strip().splitlines()}
    assert len(asked) == 10


def _runs(ask: Callable[..., Any], task_id: str) -> None:
    answer = ask("InvokeFunction", task_id=task_id, execution_mode=SYNC, execution_id="mine")
    assert (answer.execution_id, answer.task_id, answer.status_endpoint) == ("mine", task_id, "")
    status = ask("GetExecutionStatus", execution_id="mine", include_logs=True)
    assert (status.found, status.result.status) == (True, COMPLETED)
    assert status.result.result.value == answer.result.result.value
    assert list(status.logs) == ["resting 0.0"]
    assert answer.result.memory_used_bytes > MIB
    refused = ask("InvokeFunction", task_id=task_id, execution_mode=STREAM)
    assert refused.result.error_code == "STREAM_MODE_NOT_SUPPORTED"
    items = list(ask("StreamFunction", task_id=task_id, function_name="items"))
    chunks = [item.chunk_data.value for item in items if not item.is_final]
    assert chunks == [b'{"i":0}', b'{"i":1}', b'{"i":2}']
    assert [item.is_final for item in items] == [False] * 3 + [True]
    assert items[-1].status == COMPLETED


def _runs_in_the_background(ask: Callable[..., Any], task_id: str, server: Server) -> None:
    taken = ask("InvokeFunction", task_id=task_id, execution_mode=ASYNC)
    assert (taken.success, taken.result.status) == (True, PENDING)
    assert taken.result.HasField("started_at")
    assert not taken.result.HasField("completed_at")
    assert taken.status_endpoint == f"/api/v1/executions/{taken.execution_id}/status"
    assert taken.estimated_completion_ms > 0
    assert ask("GetExecutionStatus", execution_id=taken.execution_id).found

    def ended() -> Any:
        tree = server.http.get(taken.status_endpoint).json()
        return tree["result"]["status"] == "EXECUTION_STATUS_COMPLETED"

    eventually(ended)
    status = ask("GetExecutionStatus", execution_id=taken.execution_id, include_logs=True)
    assert status.result.result.value.startswith(b'{"pid":')
    assert list(status.logs) == ["resting 0.0"]
    waited = ask("InvokeFunction", task_id=task_id, execution_mode=ASYNC, wait=True)
    assert waited.result.status == COMPLETED


def _is_cancelled(ask: Callable[..., Any], task_id: str) -> None:
    taken = ask(
        "InvokeFunction",
        task_id=task_id,
        execution_mode=ASYNC,
        parameters=parameters({"s": 60.0}),
    )
    one = taken.execution_id
    eventually(lambda: ask("GetExecutionStatus", execution_id=one).result.status == RUNNING)
    stopped = ask("CancelExecution", execution_id=one, reason="enough")
    assert (stopped.success, stopped.final_status) == (True, CANCELLED)
    again = ask("CancelExecution", execution_id=one)
    assert (again.success, again.final_status) == (False, CANCELLED)
    assert ask("GetExecutionStatus", execution_id=one).result.status == CANCELLED


def _is_listed(ask: Callable[..., Any], task_id: str) -> None:
    page = ask("ListExecutions", task_id=task_id, limit=2)
    assert (len(page.executions), page.has_more) == (2, True)
    assert page.executions[0].status == CANCELLED
    assert page.executions[0].execution_mode == ASYNC
    rest = ask("ListExecutions", task_id=task_id, start_after=page.next_start_after)
    assert "mine" in {one.execution_id for one in rest.executions}
    assert (rest.has_more, rest.next_start_after) == (False, "")
    tasks = ask("ListTasks", prefix="all-", include_details=True).tasks
    assert [one.task_name for one in tasks] == ["all-ten"]
    assert tasks[0].artifact_spec.version == "v1"
    found = ask("GetTask", task_id=task_id, include_executions=True, execution_limit=1)
    assert (found.found, len(found.executions)) == (True, 1)
    assert abs(found.task.created_at - time.time()) < 60


def _is_deleted(ask: Callable[..., Any], task_id: str) -> None:
    ask(
        "InvokeFunction",
        task_id=task_id,
        execution_mode=ASYNC,
        execution_id="last",
        parameters=parameters({"s": 60.0}),
    )
    kept = ask("DeleteTask", task_id=task_id)
    assert (kept.success, kept.deleted) == (False, False)
    gone = ask("DeleteTask", task_id=task_id, force=True, cleanup_executions=True)
    assert (gone.success, gone.deleted) == (True, True)
    assert gone.cleaned_executions >= 6
    assert not ask("GetTask", task_id=task_id).found
    assert not ask("GetExecutionStatus", execution_id="last").found


# --- reading every figure ---


def read(task: Caller) -> dict[str, float]:
    """Every figure, by where it is read; those of one task are this task's."""
    ask, http = task.stranger.ask, task.server.http
    stats = ask("GetStats", include_task_stats=True, include_execution_stats=True)
    last_hour = ask("GetStats", include_execution_stats=True, time_range_hours=1)
    listed = ask("ListExecutions", task_id=task.task_id, limit=1000)
    tasks = {one.task_id: one for one in ask("ListTasks", prefix=task.name).tasks}
    figures: dict[str, float] = {
        "ListExecutions": len(listed.executions),
        "ListTasks.execution_count": tasks[task.task_id].execution_count,
    }
    figures |= _members("GetHealth", ask("GetHealth"))
    figures |= _members("GetTask", ask("GetTask", task_id=task.task_id).task)
    figures |= _members("GetStats", stats)
    figures |= _members("GetStats(1 h)", last_hour.execution_stats)
    for one in stats.task_stats.most_active_tasks:
        if one.task_id == task.task_id:
            figures["GetStats.most_active_tasks.execution_count"] = one.execution_count
    query = {"window": "5m"}
    for where, more in (("metrics", {}), ("metrics(task)", {"task": task.name})):
        tree = http.get("/api/serverless/metrics", params=query | more).json()
        figures |= _tree(where, tree)
        histogram = tree["total"]["latency_histogram"]
        figures[f"{where}.total.latency_histogram"] = sum(one["count"] for one in histogram)
    served = http.get("/api/v1/stats").json()["function_service_stats"]
    figures |= _tree("http.function_service_stats", served)
    return figures | _samples(http.get("/metrics").text, task.name)


def _members(where: str, message: Any) -> dict[str, float]:
    """The numbers of a message and of those in it, also the ones that are 0; maps by key."""
    found: dict[str, float] = {}
    for field in message.DESCRIPTOR.fields:
        value, name = getattr(message, field.name), f"{where}.{field.name}"
        if isinstance(value, (bool, str)):
            continue
        if isinstance(value, (int, float)):
            found[name] = value
        elif field.message_type is None or not field.is_repeated:
            found |= _members(name, value)
        elif field.message_type.GetOptions().map_entry:
            found |= _tree(name, dict(value))
    return found


def _tree(where: str, tree: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _tree(f"{where}.{key}", value)
        elif isinstance(value, (int, float)):
            found[f"{where}.{key}"] = value
    return found


SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def _samples(text: str, task_name: str) -> dict[str, float]:
    """Of one task, and of all; buckets are left to the checks of the format."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = SAMPLE.fullmatch(line)
        if match is None or match[1].endswith("_bucket"):
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
        if labels.pop("faas_name", task_name) == task_name:
            found[".".join([match[1], *labels.values()])] = float(match[3])
    return found


# --- what is counted ---

_EIGHT = ("GetStats.function_service_stats", "http.function_service_stats")
_ENDED = (
    "ListExecutions",
    "GetTask.execution_count",
    "ListTasks.execution_count",
    "GetStats.most_active_tasks.execution_count",
)
"""Of the one task: every execution that was accepted and ended."""
_COUNTED = (
    "GetHealth.details.total_executions",
    "GetStats.service_stats.total_executions",
    *(f"{where}.execution_count" for where in _EIGHT),
    "metrics.total.request_count",
    "metrics.window.request_count",
    "metrics.total.latency_histogram",
    "metrics(task).total.request_count",
    "metrics(task).window.request_count",
    "metrics(task).total.latency_histogram",
    "faas_invoke_duration_seconds_count",
)
_WELL = (
    "GetStats.execution_stats.completed_executions",
    "GetStats(1 h).completed_executions",
    *(f"{where}.successful_executions" for where in _EIGHT),
    "metrics.total.success_count",
    "metrics.window.success_count",
    "metrics(task).total.success_count",
    "metrics(task).window.success_count",
    "faas_invocations_total",
    "atlatl_executions_total.success",
)
_BADLY = (
    "GetStats.execution_stats.failed_executions",
    "GetStats(1 h).failed_executions",
    *(f"{where}.failed_executions" for where in _EIGHT),
    "metrics.total.error_count",
    "metrics.window.error_count",
    "metrics(task).total.error_count",
    "metrics(task).window.error_count",
    "faas_errors_total",
)


def _both(name: str) -> tuple[str, ...]:
    return f"metrics.{name}", f"metrics(task).{name}"


def _by_function(name: str) -> tuple[str, ...]:
    return tuple(
        f"{where}.executions_by_function.{name}"
        for where in ("GetStats.execution_stats", "GetStats(1 h)")
    )


_LENT = _both("pool.total_requests")
_COLD = (*_both("total.cold_start_count"), "faas_coldstarts_total")
_STARTED = ("faas_init_duration_seconds_count",)
_REFUSED = (*_both("total.rejected_count"), *_both("window.rejected_count"))


class Kind(NamedTuple):
    """Ten calls of one kind, and which counters they raise by ten."""

    call: Callable[[Caller], None]
    raises: tuple[str, ...]
    settings: dict[str, Any] = {}
    unsaid: tuple[str, ...] = ()
    """Counters that ten calls of this kind may raise by some other number."""


def _sync(task: Caller) -> None:
    task.good()


def _async(task: Caller) -> None:
    taken = task(execution_mode=ASYNC)
    assert task.ended(taken.execution_id) == COMPLETED


def _stream(task: Caller) -> None:
    items = list(task.stranger.stream(task.task_id))
    assert items[-1].status == COMPLETED


def _cold(task: Caller) -> None:
    assert task(force_new_instance=True).result.status == COMPLETED


def _raising(task: Caller) -> None:
    assert task("boom").result.error_code == "EXECUTION_ERROR"


def _late(task: Caller) -> None:
    late = task(arguments={"s": 60.0}, context={"timeout_ms": 30})
    assert late.result.error_code == "EXECUTION_TIMEOUT"


def _crashing(task: Caller) -> None:
    assert task("leave").result.error_code == "INSTANCE_CRASHED"


def _cancelled(task: Caller) -> None:
    with task.resting() as (one,):
        eventually(lambda: task.status(one) == RUNNING)
    assert task.status(one) == CANCELLED


def _invalid(task: Caller) -> None:
    assert task(arguments={"nobody": 1}).result.error_code == "INVALID_REQUEST"


def _limited(task: Caller) -> None:
    assert task().result.error_code == "RATE_LIMITED"


def _open(task: Caller) -> None:
    assert task().result.error_code == "CIRCUIT_OPEN"


_FRESH = (*_COLD, *_STARTED)
KINDS: dict[str, Kind] = {
    "sync": Kind(
        _sync,
        (*_ENDED, *_COUNTED, *_WELL, *_LENT, *_by_function("main")),
    ),
    "async": Kind(
        _async,
        (
            *(*_ENDED, *_COUNTED, *_WELL, *_LENT, *_by_function("main")),
            *(*_both("queue.accepted_count"), "atlatl_executions_accepted_total"),
        ),
    ),
    "stream": Kind(
        _stream,
        (*_ENDED, *_COUNTED, *_WELL, *_LENT, *_by_function("main")),
    ),
    "cold": Kind(
        _cold,
        (*_ENDED, *_COUNTED, *_WELL, *_LENT, *_by_function("main"), *_FRESH),
    ),
    "raising": Kind(
        _raising,
        (
            *(*_ENDED, *_COUNTED, *_BADLY, *_LENT, *_by_function("boom")),
            "atlatl_executions_total.error",
        ),
    ),
    "late": Kind(
        _late,
        (
            *(*_ENDED, *_COUNTED, *_BADLY, *_LENT, *_by_function("main")),
            *(*_both("total.timeout_count"), "faas_timeouts_total"),
            "atlatl_executions_total.timeout",
        ),
        unsaid=_FRESH,
    ),
    "crashing": Kind(
        _crashing,
        (
            *(*_ENDED, *_COUNTED, *_BADLY, *_LENT, *_by_function("leave")),
            *(*_both("total.crashed_count"), "atlatl_instances_lost_total"),
            "atlatl_executions_total.crashed",
        ),
        unsaid=_FRESH,
    ),
    "cancelled": Kind(
        _cancelled,
        (
            *(*_ENDED, *_LENT, *_both("total.cancelled_count")),
            "atlatl_executions_total.cancelled",
        ),
        unsaid=_FRESH,
    ),
    "invalid": Kind(
        _invalid,
        (*_both("total.invalid_count"), "atlatl_executions_total.invalid"),
    ),
    "limited": Kind(
        _limited,
        (*_REFUSED, "atlatl_executions_total.rejected"),
        {"rate_limit_per_s": 0.001},
    ),
    "open": Kind(
        _open,
        (
            *(*_REFUSED, "atlatl_executions_total.rejected", "ListExecutions"),
            *_both("circuit_breaker.rejected_count"),
        ),
        {"breaker": {"failure_threshold": 1}},
        unsaid=_ENDED[1:],
    ),
}
COUNTERS = frozenset(name for kind in KINDS.values() for name in (*kind.raises, *kind.unsaid))


@pytest.mark.parametrize("kind", KINDS)
def test_ten_calls_are_ten_in_every_counter_of_their_kind(
    deploy: Callable[..., Caller], kind: str
) -> None:
    """And nothing in those of other kinds. D68, D80."""
    call, raises, settings, unsaid = KINDS[kind]
    task = deploy(**({"pool": {"max_size": 2 * TEN}, "breaker": {"enabled": False}} | settings))
    task.good()
    if kind == "open":
        assert task("boom").result.status == FAILED
    before = read(task)
    for _ in range(TEN):
        call(task)
    after = read(task)
    grown = {
        name: after.get(name, 0) - before.get(name, 0) for name in COUNTERS - frozenset(unsaid)
    }
    assert {name: by for name, by in grown.items() if by} == dict.fromkeys(raises, TEN)


def test_zz(task):
    task.good()
    print("\n".join(f"{k} {v}" for k, v in read(task).items() if k not in COUNTERS))
    print("MISSING", sorted(COUNTERS - set(read(task))))
