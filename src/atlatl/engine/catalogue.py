"""Which artifacts are known, who brought them, and when they were last used."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from atlatl.engine.registry import Registry
from atlatl.engine.views import ArtifactSpec
from atlatl.errors import NoCapacity
from atlatl.model import Artifact
from atlatl.settings import LimitSettings

Key = tuple[str, str, str]


def key_of(artifact: Artifact) -> Key:
    """What identifies an artifact: its id, its version and its bytes."""
    return artifact.artifact_id, artifact.version, artifact.checksum


@dataclass(slots=True)
class Known:
    artifact: Artifact
    by_call: bool
    """Brought by InvokeFunction: bounded in number, forgotten when idle."""
    last_used: float


class Catalogue:
    """Known artifacts."""

    def __init__(self) -> None:
        self._known: dict[Key, Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, artifact: Artifact, *, by_call: bool, now: float) -> None:
        """An artifact that was deployed once stays deployed, whoever names it later."""
        known = self._known.get(key_of(artifact))
        by_call = by_call and (known is None or known.by_call)
        self._known[key_of(artifact)] = Known(artifact, by_call, now)

    def remove(self, artifact: Artifact) -> bool:
        """Forgets it; True when no other known artifact has the same bytes."""
        self._known.pop(key_of(artifact), None)
        return all(checksum != artifact.checksum for _, _, checksum in self._known)

    def find(self, spec: ArtifactSpec) -> Artifact | None:
        """The artifact with this id and version, and with this checksum if one is given."""
        for known in self._known.values():
            if matches(known.artifact, spec):
                return known.artifact
        return None

    def idle(self, timeout_ms: int, in_use: Container[Key], now: float) -> list[Artifact]:
        """What calls brought and no task has used for longer than this; 0 is never."""
        for key, known in self._known.items():
            if key in in_use:
                known.last_used = now
        if not timeout_ms:
            return []
        return [
            known.artifact
            for key, known in self._known.items()
            if known.by_call and key not in in_use and (now - known.last_used) * 1000 > timeout_ms
        ]

    def surplus(
        self, spec: ArtifactSpec, limits: LimitSettings, registry: Registry
    ) -> list[Artifact]:
        """What has to be forgotten so that a call may bring `spec`: the longest unused first.

        Raises:
            NoCapacity: calls have brought as many artifacts or tasks as they may, all in use.
        """
        in_use = {key_of(deployed.task.artifact) for deployed in registry}
        tasks = sum(
            deployed.task.created_by_call and deployed.task.artifact.artifact_id == spec.artifact_id
            for deployed in registry
        )
        if tasks >= limits.max_tasks_per_artifact:
            raise NoCapacity(
                f"calls have created {tasks} tasks of artifact {spec.artifact_id!r}, which is "
                "`limits.max_tasks_per_artifact`; delete one, or deploy the task instead"
            )
        if self.find(spec) is not None:
            return []
        by_call = [known for known in self._known.values() if known.by_call]
        spare = [known for known in by_call if key_of(known.artifact) not in in_use]
        spare.sort(key=lambda known: known.last_used)
        too_many = len(by_call) + 1 - limits.max_artifacts
        if too_many > len(spare):
            raise NoCapacity(
                f"calls have brought {len(by_call)} artifacts, which is `limits.max_artifacts`; "
                "delete a task that a call created, or deploy this one instead"
            )
        return [known.artifact for known in spare[: max(0, too_many)]]


def matches(artifact: Artifact, spec: ArtifactSpec) -> bool:
    """Whether `spec` names this artifact; an empty checksum leaves the bytes open."""
    return (
        artifact.artifact_id == spec.artifact_id
        and artifact.version == spec.version
        and spec.checksum.lower() in ("", artifact.checksum)
    )
