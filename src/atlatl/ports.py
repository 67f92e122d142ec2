"""The protocols between the rooms. No code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from atlatl.errors import AtlatlError
from atlatl.events import Event
from atlatl.model import (
    Artifact,
    Call,
    Callback,
    DeadLetter,
    Encoded,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Outcome,
    Place,
    Queued,
    QueueDepth,
    Result,
    Shape,
    Task,
)
from atlatl.settings import TaskSettings

Done = Callable[[Outcome | None], None]
"""Told how a call ended; None when it was taken back before it began."""
OnChunk = Callable[[Result], None]


class InstanceChannel(Protocol):
    """One running instance of one version of a task, and the way to it."""

    id: str
    pid: int
    origin: str
    """`blank`, `fork` (when no blank was in stock) or `task_zygote`."""
    process_s: float
    """Of its start, what it took until there was a process; the rest was for the code."""
    shapes: dict[str, Shape]
    """What the artifact's module can be called with, as the instance read it."""
    takes_ahead: bool
    """Whether it may be sent calls beyond those that it runs at once; False for a while after some
    were taken back. It changes before a `done` is called, and at no other time."""
    on_lost: Callable[[AtlatlError], None] | None
    """Called once when the instance died and was not told to; after the `done` of its calls."""

    def send(
        self,
        call: Call,
        encoded: Encoded,
        done: Done,
        *,
        deadline: float,
        attempt: int = 1,
        on_chunk: OnChunk | None = None,
    ) -> None:
        """Hands the call over. Never blocks. `done` runs exactly once, also on loss.

        `encoded` is the call's payload as `engine/arguments.py` made it: the manager checks it
        against the task's shape before admission, so that bad input never costs an instance.

        With `on_chunk`, a generator's items arrive there one by one, and each has to be
        answered by `credit` when it has been consumed. Without, a generator handler's items
        are joined into one result.
        """

    def credit(self, execution_id: str, n_bytes: int) -> None:
        """Says that an item of `n_bytes` was consumed; once for each item, empty ones too."""

    def cancel(self, execution_id: str, *, grace_s: float | None = None) -> None:
        """Ends the work of one call; its `done` runs when the work is gone.

        One of several in flight: the coroutine is cancelled, the channel stops `accepting`, and a
        coroutine that ignores it is ended with the process as soon as the others have finished.

        Args:
            execution_id: of the call.
            grace_s: how long its work may take to end by itself. None is none for the only call
                in flight, whose process is killed at once, and the task's `cancel_grace_s` for
                one of several.
        """

    def take_back(self) -> None:
        """Takes back the calls that were sent ahead and have not begun: their `done` gets None.

        They will not begin here any more. What was sent stays before the instance until it has
        read past it, so it `takes_ahead` again only when a call has been answered that was sent
        after this.
        """

    @property
    def accepting(self) -> bool:
        """False once the instance must not be given new calls (and should be retired)."""

    def memory_bytes(self) -> int:
        """PSS of the instance. Reads /proc: call it from a thread."""

    async def ping(self) -> None:
        """Returns when the instance answered; raises InstanceLost."""

    def kill(self) -> None:
        """Ends the process now; calls in flight get InstanceLost."""

    async def stop(self, grace_s: float) -> None:
        """Ends an instance that is no longer wanted; returns when the process is gone."""


class Reserve(Protocol):
    """What a runtime keeps so that further instances of a task start quickly."""

    def state(self, task: Task) -> str:
        """Of what is kept for this version: empty, `starting`, `ready`, `unused: ` and why."""

    def forget(self, task: Task) -> None:
        """No more instances of this version of the task will be started."""

    def memory_bytes(self) -> int:
        """PSS of all of it. Reads /proc: call it from a thread."""

    def give_way(self) -> None:
        """Ends all of it: memory is short."""


class Runtime(Protocol):
    """Starts instances of one kind."""

    @property
    def reserve(self) -> Reserve | None: ...

    def not_kept(self, settings: TaskSettings) -> list[str]:
        """What of the confinement that a task asks for can't be kept here, each in words."""

    async def start(self, task: Task, code: Path, deps: Path | None) -> InstanceChannel:
        """One cold start.

        Args:
            task: what to run; its `handler`, `settings` and `version` matter here.
            code: directory with the artifact's files.
            deps: directory with its installed dependencies, or None.

        Raises:
            StartFailed: no process could be had.
            ArtifactInvalid: the code does not import, or has no such function.
        """

    async def open(self) -> None: ...
    async def close(self) -> None: ...


class Store(Protocol):
    """What survives a restart. Every time is an argument. Raises StoreUnavailable."""

    @property
    def queue(self) -> Queue:
        """Durable executions; open while the store is."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def load_tasks(self) -> Sequence[Task]: ...
    async def put_task(self, task: Task) -> None:
        """Inserts or replaces by `task_id`, and records its artifact.

        Raises:
            Conflict: a task with another id has this name.
        """

    async def delete_task(self, task_id: str) -> bool:
        """True when it was there."""

    async def load_artifacts(self) -> Sequence[Artifact]: ...
    async def delete_artifact(self, checksum: str) -> None:
        """Forgets the artifact and its bytes; one that a task still names is kept."""

    async def put_blob(self, content: bytes) -> str:
        """Stores bytes durably; returns their hex SHA-256.

        The next `open` forgets bytes that no artifact names: a crash cut their deploy short.
        """

    async def blob(self, checksum: str) -> bytes:
        """The bytes, verified; raises ArtifactNotFound or ChecksumMismatch."""

    async def claim_execution(self, record: ExecutionRecord) -> ExecutionRecord | None:
        """Stores the record unless its id is taken.

        Returns:
            What is stored under the id already; None when the id was free and is now the
            caller's, durably.
        """

    async def put_executions(self, records: Sequence[ExecutionRecord]) -> None:
        """Inserts or replaces records by their ids, all of them or none."""

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """The whole record, result and output included."""

    async def executions(
        self, *, task: str, status: ExecutionStatus | None, before: Place | None, limit: int
    ) -> Sequence[Execution]:
        """Executions without result and output, newest first, at most `limit`.

        Args:
            task: only of the task with this name or id; empty is all.
            status: only with this status; None is all.
            before: only what stands behind this place, which need not be taken.
            limit: at most so many.
        """

    async def end_unfinished(self, outcome: Outcome, completed_at: float) -> int:
        """Ends all that a former life of the service left under way, and marks it interrupted.

        Durable executions are not meant: they go on. Returns how many there were.
        """

    async def forget_executions(self, task_id: str) -> Sequence[str]:
        """Forgets the executions of a task; returns their ids."""

    async def prune_executions(
        self, *, ended_before: float, spare_since: float, keep: int, keep_bytes: int
    ) -> int:
        """Forgets ended executions; returns how many.

        The unpromised go before the promised, the older before the newer.

        Args:
            ended_before: all that ended before this go.
            spare_since: promised ones that ended since are not counted out by `keep`.
            keep: so many may stay.
            keep_bytes: so much result and output may stay.
        """


class Queue(Protocol):
    """Durable executions, from acceptance to their end, each with its record in the store.

    One is ready, delayed, leased or dead. One whose call can't be read any more is handed out
    like the others, with `damage` set: who leases it ends it. Every time is an argument, Unix
    seconds of the queue's clock. Whatever returns has been committed. Raises StoreUnavailable.
    """

    async def enqueue(self, record: ExecutionRecord, queued: Queued) -> ExecutionRecord | None:
        """Accepts an execution and its record, both or neither.

        One with `lease` above 0 is leased from the start; else it is ready when its `ready_at`
        is not after its `queued_at`, and delayed when it is.

        Returns:
            What is stored under the id already; None when it was accepted.

        Raises:
            InvalidRequest: the call has a value that cannot be kept.
        """

    async def lease(
        self, wanted: Mapping[str, int], *, now: float, until: float
    ) -> Sequence[Queued]:
        """Leases ready executions until a time, each task's next in their turn.

        Args:
            wanted: how many at most, by the names of tasks.
            now: those that expired by then are left for `take_expired`.
            until: when the lease ends unless it is extended.

        Returns:
            As they are now, `lease` counted up, in the order of their turns within a task.
        """

    async def take(self, execution_id: str, *, until: float) -> Queued | None:
        """Leases a certain execution, ready or delayed; None when it is neither."""

    async def take_expired(self, *, now: float, until: float, limit: int) -> Sequence[Queued]:
        """Leases executions that wait and whose `expires_at` is not after `now`."""

    async def extend(self, leased: Mapping[str, int], *, until: float) -> None:
        """Extends leases: by execution id, the number of the lease that is held."""

    async def put_back(self, queued: Queued, *, now: float) -> bool:
        """Ends a lease without an end: `attempt`, `failures`, `recoveries`, `ready_at` as given.

        It is ready, or delayed when its `ready_at` is after `now`. The record keeps PENDING and
        gets the attempt. Returns False, and changes nothing, when the lease is not the latest.
        """

    async def settle(
        self,
        record: ExecutionRecord,
        lease: int,
        *,
        died_at: float | None = None,
        callback: Callback | None = None,
    ) -> bool:
        """Ends an execution: the record, the queue's entry and the callback, all or none.

        Args:
            record: with its outcome; the fingerprint that is stored stays, and so do the
                function's name and the trace where it has none.
            lease: the number of the lease that is held.
            died_at: keeps the entry as a dead letter; None removes it.
            callback: whom to tell.

        Returns:
            False, and nothing is changed, when the lease is not the latest.
        """

    async def wake(self, *, now: float) -> tuple[Sequence[str], float | None]:
        """Makes delayed executions ready whose time has come.

        Returns:
            Names of their tasks; and when the next one's time comes, None when there is none.
        """

    async def recover(
        self, *, lapsed_before: float | None, now: float, limit: int, outcome: Outcome
    ) -> Sequence[tuple[Queued, bool]]:
        """Takes back the leases of those that are gone: their attempt was cut off.

        `attempt` and `recoveries` rise by one and it is ready, or delayed when its `ready_at` is
        after `now`; one that has been recovered `limit` times already becomes a dead letter with
        this outcome instead.

        Args:
            lapsed_before: only leases that ended before this; None is all of them, for the
                start of the only service that uses the store.
            now: of the dead letters' death, and of the ends in their records.
            limit: so many recoveries at most.
            outcome: of those that become dead letters.

        Returns:
            Each that was taken back, as it is now, and whether it is dead.
        """

    async def depths(self) -> Sequence[QueueDepth]:
        """What is there of each task that has anything, in the order of their names."""

    async def waiting_ids(self, task_name: str, limit: int) -> Sequence[str]:
        """Ids of ready and delayed executions of a task."""

    async def dead_letters(self, *, before: Place | None, limit: int) -> Sequence[DeadLetter]:
        """The latest to die first; without result and output.

        Args:
            before: only what stands behind this place: `died_at` and id, which need not be taken.
            limit: at most so many.
        """

    async def redrive(self, execution_id: str, *, now: float) -> Queued | None:
        """Makes a dead letter ready again, its record PENDING; None when there is none.

        The attempt counts on; `failures` and `recoveries` begin at 0, and it expires no more.
        Nobody is told of the former end from now on.
        """

    async def delete_dead_letter(self, execution_id: str) -> bool:
        """Forgets that it could be tried again, the record stays; False when there is none."""

    async def prune_dead_letters(self, *, died_before: float) -> int:
        """As `delete_dead_letter` for all that died before; returns how many."""

    async def callbacks(self, *, now: float, limit: int) -> Sequence[Callback]:
        """Those whose time has come, the longest due first."""

    async def next_callback_at(self) -> float | None:
        """When the next callback is due; None when there is none."""

    async def put_callback(self, callback: Callback, *, tries: int, ready_at: float) -> bool:
        """Has it tried again.

        Args:
            callback: as it was read.
            tries: that failed by now.
            ready_at: when it is due.

        Returns:
            False, and nothing is changed, when it is not as it was read any more: a redrive took
            it away, and perhaps the next end has brought another one.
        """

    async def drop_callback(self, callback: Callback) -> bool:
        """It was made, or is given up.

        Args:
            callback: as it was read.

        Returns:
            As `put_callback`.
        """


class Tracing(Protocol):
    """The trace context of calls, where calls are traced."""

    def begin(self, call: Call) -> Call:
        """A call that is taken in; it may get a trace of its own."""

    def entering(self, call: Call, encoded: Encoded, attempt: int) -> tuple[Call, Encoded]:
        """What the instance is told that runs an attempt."""


class Telemetry(Protocol):
    def emit(self, event: Event) -> None:
        """Never raises, never waits."""
