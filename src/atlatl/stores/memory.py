"""The store of tests and of services that keep nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from atlatl.errors import ArtifactNotFound, Conflict, StoreUnavailable
from atlatl.model import Artifact, Task

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

    def _forget_unnamed_blob(self, checksum: str) -> None:
        if all(artifact.checksum != checksum for artifact in self._artifacts.values()):
            self._blobs.pop(checksum, None)

    def _require_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed: open it before using it")
