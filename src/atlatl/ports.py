"""The protocols between the rooms. No code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from atlatl.errors import AtlatlError
from atlatl.events import Event
from atlatl.model import (
    Artifact,
    Call,
    Encoded,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Outcome,
    Place,
    Result,
    Shape,
    Task,
)

Done = Callable[[Outcome], None]
OnChunk = Callable[[Result], None]


class InstanceChannel(Protocol):
    """One running instance of one version of a task, and the way to it."""

    id: str
    pid: int
    origin: str
    """`blank` or `task_zygote`."""
    shapes: dict[str, Shape]
    """What the artifact's module can be called with, as the instance read it."""
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

    def cancel(self, execution_id: str, *, force: bool = False) -> None:
        """Ends the work of one call; its `done` runs when the work is gone.

        The only call in flight: the process is killed. One of several: the coroutine is
        cancelled, the channel stops `accepting`, and a coroutine that ignores it is ended with
        the process as soon as the others have finished. With `force` there is no grace.
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


class Runtime(Protocol):
    """Starts instances of one kind."""

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


class Telemetry(Protocol):
    def emit(self, event: Event) -> None:
        """Never raises, never waits."""
