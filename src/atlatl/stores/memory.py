"""The store of tests and of services that keep nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from atlatl.errors import ArtifactNotFound, Conflict, StoreUnavailable
from atlatl.model import (
    Artifact,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Mode,
    Outcome,
    Place,
    Task,
    place_of,
)
from atlatl.stores.memory_queue import MemoryQueue, without_payload

Identity = tuple[str, str, str]


def _identity(artifact: Artifact) -> Identity:
    return artifact.artifact_id, artifact.version, artifact.checksum


class MemoryStore:
    """Keeps everything in dictionaries; what it holds outlives `close` but not the object."""

    def __init__(self) -> None:
        self._open = False
        self._tasks: dict[str, Task] = {}
        self._artifacts: dict[Identity, Artifact] = {}
        self._blobs: dict[str, bytes] = {}
        self._records: dict[str, ExecutionRecord] = {}
        self.queue = MemoryQueue(self._records, self._require_open)

    async def open(self) -> None:
        self._open = True
        for checksum in list(self._blobs):
            self._forget_unnamed_blob(checksum)

    async def close(self) -> None:
        self._open = False

    async def load_tasks(self) -> Sequence[Task]:
        self._require_open()
        return [
            msgspec.structs.replace(task, artifact=self._artifacts[_identity(task.artifact)])
            for _, task in sorted(self._tasks.items())
        ]

    async def put_task(self, task: Task) -> None:
        self._require_open()
        for other in self._tasks.values():
            if other.name == task.name and other.task_id != task.task_id:
                raise Conflict(
                    f"task {task.name!r} exists with another id, {other.task_id}: delete it first"
                )
        self._artifacts[_identity(task.artifact)] = task.artifact
        self._tasks[task.task_id] = task

    async def delete_task(self, task_id: str) -> bool:
        self._require_open()
        return self._tasks.pop(task_id, None) is not None

    async def load_artifacts(self) -> Sequence[Artifact]:
        self._require_open()
        return [artifact for _, artifact in sorted(self._artifacts.items())]

    async def delete_artifact(self, checksum: str) -> None:
        self._require_open()
        named = {_identity(task.artifact) for task in self._tasks.values()}
        for identity in [one for one in self._artifacts if one[2] == checksum]:
            if identity not in named:
                del self._artifacts[identity]
        self._forget_unnamed_blob(checksum)

    async def put_blob(self, content: bytes) -> str:
        self._require_open()
        checksum = hashlib.sha256(content).hexdigest()
        self._blobs[checksum] = content
        return checksum

    async def blob(self, checksum: str) -> bytes:
        self._require_open()
        if checksum not in self._blobs:
            raise ArtifactNotFound(f"no bytes with SHA-256 {checksum} are stored")
        return self._blobs[checksum]

    async def claim_execution(self, record: ExecutionRecord) -> ExecutionRecord | None:
        self._require_open()
        first = self._records.setdefault(record.execution.execution_id, record)
        return None if first is record else first

    async def put_executions(self, records: Sequence[ExecutionRecord]) -> None:
        self._require_open()
        for record in records:
            if record.execution.execution_id not in self.queue:
                self._records[record.execution.execution_id] = record

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        self._require_open()
        return self._records.get(execution_id)

    async def executions(
        self, *, task: str, status: ExecutionStatus | None, before: Place | None, limit: int
    ) -> Sequence[Execution]:
        self._require_open()
        found = [
            execution
            for execution in (record.execution for record in self._records.values())
            if task in ("", execution.task_id, execution.task_name)
            and status in (None, execution.status)
            and (before is None or place_of(execution) < before)
        ]
        newest_first = sorted(found, key=place_of, reverse=True)
        return [without_payload(execution) for execution in newest_first[:limit]]

    async def end_unfinished(self, outcome: Outcome, completed_at: float) -> int:
        self._require_open()
        left = [
            record
            for record in self._records.values()
            if record.execution.completed_at is None and record.execution.mode is not Mode.ASYNC
        ]
        for record in left:
            ended = replace(
                record.execution, status=outcome.status, outcome=outcome, completed_at=completed_at
            )
            self._records[ended.execution_id] = replace(record, execution=ended, interrupted=True)
        return len(left)

    async def forget_executions(self, task_id: str) -> Sequence[str]:
        self._require_open()
        self.queue.forget_dead(task_id)
        ids = [
            execution_id
            for execution_id, record in self._records.items()
            if record.execution.task_id == task_id and execution_id not in self.queue
        ]
        for execution_id in ids:
            del self._records[execution_id]
        self.queue.forget_callbacks()
        return ids

    async def prune_executions(
        self, *, ended_before: float, spare_since: float, keep: int, keep_bytes: int
    ) -> int:
        self._require_open()
        n_before = len(self._records)
        for _, at, execution_id in self._ended():
            if at < ended_before:
                del self._records[execution_id]
        n_excess = len(self._records) - len(self.queue) - keep
        removable = [end for end in self._ended() if not end[0] or end[1] < spare_since]
        for _, _, execution_id in removable[: max(0, n_excess)]:
            del self._records[execution_id]
        sizes = [(_payload_bytes(self._records[end[2]]), end[2]) for end in self._ended()]
        excess_bytes = sum(size for size, _ in sizes) - keep_bytes
        for size, execution_id in sizes:
            if excess_bytes <= 0:
                break
            del self._records[execution_id]
            excess_bytes -= size
        self.queue.forget_callbacks()
        return n_before - len(self._records)

    def _ended(self) -> list[tuple[bool, float, str]]:
        """Whether it is promised, its end and its id, in the order in which records go."""
        return sorted(
            (record.promised, record.execution.completed_at, execution_id)
            for execution_id, record in self._records.items()
            if record.execution.completed_at is not None and execution_id not in self.queue
        )

    def _forget_unnamed_blob(self, checksum: str) -> None:
        if all(artifact.checksum != checksum for artifact in self._artifacts.values()):
            self._blobs.pop(checksum, None)

    def _require_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed: open it before using it")


def _payload_bytes(record: ExecutionRecord) -> int:
    outcome = record.execution.outcome
    if outcome is None:
        return 0
    return len(outcome.output) + (len(outcome.result.body) if outcome.result else 0)
