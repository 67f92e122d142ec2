"""The objects of the domain: Artifact, Task, Instance, Execution, and what moves between them.

All are frozen, or enums. Durations are monotonic seconds, `*_at` fields are wall
time in Unix seconds, `deadline` is absolute monotonic seconds.
"""

from __future__ import annotations

import enum
import functools
import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec

from atlatl.errors import AtlatlError, InvalidRequest
from atlatl.settings import TaskSettings


class IllegalTransition(RuntimeError):
    """A state change that the domain does not know: always a bug."""


class ArtifactState(enum.Enum):
    CREATING = "CREATING"
    READY = "READY"
    ERROR = "ERROR"
    STOPPED = "STOPPED"


class TaskState(enum.Enum):
    INITIALIZING = "INITIALIZING"
    READY = "READY"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    ERROR = "ERROR"


class InstanceState(enum.Enum):
    CREATING = "CREATING"
    STARTING = "STARTING"
    READY = "READY"
    RUNNING = "RUNNING"
    BUSY = "BUSY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    ERROR = "ERROR"


class ExecutionStatus(enum.Enum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"

    @property
    def terminal(self) -> bool:
        return self not in (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)


State = ArtifactState | TaskState | InstanceState | ExecutionStatus

_A, _T, _I, _E = ArtifactState, TaskState, InstanceState, ExecutionStatus
_INSTANCE_ENDS = {_I.UNHEALTHY, _I.DRAINING, _I.ERROR}

_LEGAL: dict[State, set[State]] = {
    _A.CREATING: {_A.READY, _A.ERROR},
    _A.READY: {_A.STOPPED},
    _T.INITIALIZING: {_T.READY, _T.ERROR},
    _T.READY: {_T.RUNNING, _T.PAUSED, _T.STOPPING},
    _T.RUNNING: {_T.READY, _T.PAUSED, _T.STOPPING, _T.ERROR},
    _T.PAUSED: {_T.READY, _T.STOPPING},
    _T.ERROR: {_T.READY, _T.STOPPING},
    _T.STOPPING: {_T.STOPPED},
    _I.CREATING: {_I.STARTING, _I.ERROR},
    _I.STARTING: {_I.READY, _I.ERROR},
    _I.READY: {_I.RUNNING, *_INSTANCE_ENDS},
    _I.RUNNING: {_I.READY, _I.BUSY, *_INSTANCE_ENDS},
    _I.BUSY: {_I.RUNNING, _I.READY, *_INSTANCE_ENDS},
    _I.UNHEALTHY: {_I.READY, _I.DRAINING, _I.ERROR},
    _I.DRAINING: {_I.STOPPED, _I.ERROR},
    _I.ERROR: {_I.STOPPED},
    _E.PENDING: {_E.RUNNING, _E.CANCELLED, _E.TIMEOUT, _E.FAILED},
    _E.RUNNING: {_E.COMPLETED, _E.FAILED, _E.CANCELLED, _E.TIMEOUT, _E.PENDING},
}

TRANSITIONS: Mapping[State, frozenset[State]] = {
    state: frozenset(_LEGAL.get(state, ())) for states in (_A, _T, _I, _E) for state in states
}
"""From each state to those that may follow it; a state without any is an end."""


def check_transition(old: State, new: State) -> None:
    """Raises IllegalTransition unless `old` to `new` is one of the domain's transitions."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"{type(old).__name__} cannot go from {old.value} to {new.value}")


class Mode(enum.Enum):
    SYNC = "SYNC"
    ASYNC = "ASYNC"
    STREAM = "STREAM"


class OutcomeKind(enum.Enum):
    """How an execution is counted."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    CRASHED = "crashed"
    INVALID = "invalid"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the frozen structures below."""


class Artifact(Record, frozen=True):
    artifact_id: str
    version: str
    checksum: str
    """Hex SHA-256 of the bytes; the key of the stored content."""
    filename: str
    """Names the kind by its ending: `.py` is one file, `.zip` a packed directory."""
    size_bytes: int
    artifact_type: str = "process"
    location: str = ""
    labels: dict[str, str] = {}
    created_at: float = 0.0


class Parameter(Record, frozen=True):
    """One parameter of a handler, as read once at deploy."""

    name: str
    required: bool
    annotation: str = ""
    """One of int, float, str, bool, bytes, list, dict; empty when unchecked."""
    optional: bool = False
    """Whether None is allowed besides the annotation."""
    positional_only: bool = False


class Shape(Record, frozen=True):
    """How one function of an artifact wants to be called."""

    function: str
    kind: str
    """`parameters`, `event` or `request`."""
    parameters: tuple[Parameter, ...] = ()
    accepts_any: bool = False
    """Has `**kwargs`, so unknown names are no error."""
    wants_context: bool = False
    is_async: bool = False
    streams: bool = False


class Task(Record, frozen=True):
    task_id: str
    name: str
    version: int
    artifact: Artifact
    handler: str
    """`file:function`, resolved."""
    overrides: dict[str, Any]
    """The settings as given at deploy."""
    settings: TaskSettings
    """The overrides on top of the service's defaults."""
    shapes: dict[str, Shape]
    """By function name: every function that a call may name."""
    created_by_call: bool = False
    """Created by InvokeFunction rather than deployed: may be forgotten when idle."""
    created_at: float = 0.0
    updated_at: float = 0.0

    @property
    def function(self) -> str:
        """Name of the function that is called when a call names none."""
        return _function_of(self.handler)


@functools.lru_cache(1024)
def _function_of(handler: str) -> str:
    """Asked for several times in each call."""
    return handler.rpartition(":")[2]


class Arguments(Record, frozen=True, tag="arguments"):
    """Named arguments, as Python values that JSON (and bytes) can hold."""

    values: dict[str, Any]


class Event(Record, frozen=True, tag="event"):
    """One decoded value that is not a set of named arguments."""

    value: Any


class HttpRequest(Record, frozen=True, tag="request"):
    """A whole HTTP request. `path` is the part after the task's name and begins with `/`."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def content_type(self) -> str:
        """Media type in lower case without parameters; empty when not stated."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


Payload = Arguments | Event | HttpRequest


class Encoded(Record, frozen=True):
    """A payload checked against the function's shape, in the form that travels to an instance."""

    kind: str
    """How the instance reads `body`; see `atlatl_worker.binding`."""
    body: bytes
    meta: dict[str, Any] = {}
    """Goes into the frame's metadata: method, path, query, headers, names of base64 values."""


class Call(Record, frozen=True):
    """One invocation as the fronts hand it in; from here on nobody knows which door was used."""

    execution_id: str
    task_name: str
    payload: Payload
    function: str = ""
    """Empty is the task's own handler."""
    mode: Mode = Mode.SYNC
    timeout_ms: int = 0
    """0 is the task's own limit."""
    max_retries: int | None = None
    """None is the task's own setting."""
    priority: int | None = None
    """0 (most urgent) to 7; None is the task's own setting."""
    force_new_instance: bool = False
    id_given: bool = False
    """The caller chose the execution id, so it is an idempotency key."""
    headers: dict[str, str] = {}
    environment: dict[str, str] = {}
    traceparent: str = ""
    tracestate: str = ""
    metadata: dict[str, str] = {}
    not_before: float | None = None
    """ASYNC only: not to begin before this moment, Unix seconds."""
    callback_url: str = ""
    """ASYNC only: told of the end by a POST."""


class Result(Record, frozen=True):
    """What a function returned."""

    kind: str
    """`json`, `text`, `bytes`, or `response` with its own status and headers."""
    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def content_type(self) -> str:
        if self.kind == "response":
            named = {name.lower(): value for name, value in self.headers}
            return named.get("content-type", "application/octet-stream")
        return {
            "json": "application/json",
            "text": "text/plain; charset=utf-8",
            "bytes": "application/octet-stream",
        }[self.kind]


class Outcome(Record, frozen=True):
    """How an attempt, or a whole execution, ended."""

    kind: OutcomeKind
    result: Result | None = None
    error: AtlatlError | None = None
    output: bytes = b""
    """What the call printed and logged, cut at `confinement.output_bytes`."""
    instance_id: str = ""
    run_s: float = 0.0
    """The run alone, without waiting."""
    memory_bytes: int = 0
    """The most that its instance had resident until then, pages that it shares with others
    included; 0 when that is not known: a call that was cut off, an instance that never answered."""
    cold: bool = False

    @property
    def status(self) -> ExecutionStatus:
        if self.kind is OutcomeKind.SUCCESS:
            return ExecutionStatus.COMPLETED
        if self.kind is OutcomeKind.TIMEOUT:
            return ExecutionStatus.TIMEOUT
        if self.kind is OutcomeKind.CANCELLED:
            return ExecutionStatus.CANCELLED
        return ExecutionStatus.FAILED


def failed(error: AtlatlError, **facts: Any) -> Outcome:
    """The outcome that `error` stands for."""
    return Outcome(kind=OutcomeKind(error.outcome), error=error, **facts)


class Way(Record, frozen=True, gc=False):
    """How a call came to its instance, when there is more to say than that one was idle and warm.

    The counts are of its task's pool at the moment when the call asked for an instance.
    """

    waited_s: float = 0.0
    """For the instance, after the breaker had admitted it."""
    waiting: int = 0
    """Calls that waited already."""
    lent: int = 0
    """Calls that ran."""
    size: int = 0
    """Instances, those that were starting included."""
    probe: bool = False
    """The breaker was half-open and tried it with this call."""
    policy: str = ""
    """That picked the instance."""
    uses: int = 0
    """Of the instance, with this call; 0 when it never got one."""
    origin: str = ""
    """Of the instance: `blank`, `fork` or `task_zygote`."""
    init_s: float = 0.0
    """What its start took, if this call is its first."""
    process_s: float = 0.0
    """Of that until there was a process; the rest is for the code."""
    spare_s: float = 0.0
    """It had been ready for so long when its first call asked."""


class Tried(Record, frozen=True):
    """An attempt that failed, and that another one followed."""

    attempt: int
    ended_at: float
    code: str
    message: str
    instance_id: str = ""
    run_s: float = 0.0
    retry_in_s: float = 0.0
    recovered: bool = False
    """The end of the service cut it off."""


class Execution(Record, frozen=True):
    """The record of one call, as it stands now."""

    execution_id: str
    task_id: str
    task_name: str
    function_name: str
    mode: Mode
    status: ExecutionStatus
    attempt: int = 1
    queued_at: float = 0.0
    started_at: float | None = None
    completed_at: float | None = None
    queue_s: float = 0.0
    """Time from acceptance until it began, all waiting included."""
    outcome: Outcome | None = None
    instance_id: str = ""
    version: int = 0
    """Of the task that runs or ran it; 0 while a durable one waits, for that is not known yet."""
    cold_start: bool = False
    trace_id: str = ""
    metadata: dict[str, str] = {}
    way: Way | None = None
    tried: tuple[Tried, ...] = ()
    """The latest attempts before this one, oldest first."""


class ExecutionRecord(Record, frozen=True):
    """An execution as a store keeps it."""

    execution: Execution
    fingerprint: bytes = b""
    """SHA-256 of what the call does, when its caller chose the id; else empty."""
    interrupted: bool = False
    """The service ended while the call was under way, and could not write how it went on."""

    @property
    def promised(self) -> bool:
        """Kept as long as there is room: all but the successes of sync calls without an id."""
        return (
            bool(self.fingerprint)
            or self.execution.mode is Mode.ASYNC
            or self.execution.status is not ExecutionStatus.COMPLETED
        )


AGEING_S = 5.0
"""Waiting time that lifts a call by one level of priority."""


class Queued(Record, frozen=True):
    """A durable execution that has not ended: what is to be done, and what has been tried.

    All times are Unix seconds of the queue's own clock, which no change of the machine's clock
    moves while the service runs.
    """

    call: Call
    """As it was accepted, its `priority` and `timeout_ms` as the caller gave them."""
    task_id: str
    """Of the task at acceptance; the call goes to the task of the name when it runs."""
    queued_at: float
    """When it was accepted."""
    ready_at: float
    """Not to be tried before."""
    turn: float
    """Of the ready ones of a task the lowest is next: acceptance plus `AGEING_S` a level of
    priority, so that the less urgent are not passed for ever."""
    expires_at: float | None = None
    """None is never."""
    attempt: int = 1
    """Number of the present attempt, or of the next one."""
    failures: int = 0
    """Attempts that failed by themselves, which is what `max_retries` bounds."""
    recoveries: int = 0
    """Attempts that the end of the service cut off."""
    lease: int = 0
    """How often it was leased. What is settled under an older lease changes nothing."""
    tried: tuple[Tried, ...] = ()
    """The latest attempts that failed."""
    damage: str = ""
    """Why the call can't be read any more: of `call` only the id and the task's name are right."""

    @property
    def redriven(self) -> bool:
        """It had ended before: what was tried since then is not all that was tried."""
        return self.attempt > 1 + self.failures + self.recoveries


class DeadLetter(Record, frozen=True):
    """A durable execution that failed for good, and could be tried again."""

    execution: Execution
    died_at: float


class QueueDepth(Record, frozen=True):
    """What the queue holds of one task.

    The store calls all that is leased `leased`. The dispatcher, who knows what it leased ahead
    of time, calls what has not begun `ready`.
    """

    task_name: str
    ready: int = 0
    """Wait for an instance, the open breaker included."""
    delayed: int = 0
    """Wait for their time: `not_before`, or the pause before a retry."""
    leased: int = 0
    """Under way: until their end, or that another attempt follows, is in the store."""
    dead: int = 0
    oldest_ready_at: float | None = None
    """Since when the longest waiting of the ready ones could have run; None without any."""


class Callback(Record, frozen=True):
    """The duty to tell an address how an execution ended."""

    execution_id: str
    url: str
    traceparent: str = ""
    tracestate: str = ""
    tries: int = 0
    """That failed so far."""
    ready_at: float = 0.0


Place = tuple[float, str]
"""Where an execution stands in lists, newest first: `queued_at`, then its id."""


def place_of(execution: Execution) -> Place:
    return execution.queued_at, execution.execution_id


def check_task_name(name: str) -> str:
    """The name in NFC; raises InvalidRequest unless it is 1 to 128 printable characters, no `/`."""
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= 128:
        raise InvalidRequest(f"a task name has 1 to 128 characters, this one has {len(name)}")
    # HTTP clients take `.` and `..` for steps in a path and never send them.
    if not name.isprintable() or "/" in name or name in (".", ".."):
        raise InvalidRequest(
            f"task name {name!r} is refused: only printable characters and no `/` are allowed"
        )
    return name


def check_execution_id(execution_id: str) -> str:
    """The id itself; raises InvalidRequest unless it is 1 to 128 visible ASCII characters."""
    visible = execution_id.isascii() and execution_id.isprintable() and " " not in execution_id
    if not visible or not 1 <= len(execution_id) <= 128:
        raise InvalidRequest(
            "an execution id has 1 to 128 visible ASCII characters (no spaces), got "
            f"{execution_id[:140]!r}"
        )
    return execution_id
