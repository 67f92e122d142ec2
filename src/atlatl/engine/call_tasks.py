"""Tasks that calls bring with them: InvokeFunction with an artifact instead of a deployment.

They are bounded in number and forgotten when nobody uses them, which what was deployed
never is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from atlatl.engine.catalogue import Catalogue, key_of, matches
from atlatl.engine.registry import Registry
from atlatl.engine.views import ArtifactSpec, InvocationTarget
from atlatl.errors import Conflict, InvalidRequest, TaskNotFound, UnsupportedOperation
from atlatl.model import Artifact, Task, check_task_name
from atlatl.settings import LimitSettings

if TYPE_CHECKING:
    from atlatl.engine.artifacts import ArtifactShelf
    from atlatl.engine.deployer import Deployer
    from atlatl.engine.sources import Source

PYTHON_TYPES = frozenset({"", "process", "python", "zip"})
LATER_TYPES = frozenset({"wasm", "docker", "kubernetes", "image", "binary"})


class CallTasks:
    """Finds the task that an invocation is for, and makes it when it asks for that.

    Args:
        limits: how many artifacts and tasks calls may bring, and how long they stay.
        pending: how many durable executions of a task have not ended.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        limits: LimitSettings,
        registry: Registry,
        catalogue: Catalogue,
        shelf: ArtifactShelf,
        deployer: Deployer,
        pending: Callable[[str], int],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._catalogue = catalogue
        self._shelf = shelf
        self._deployer = deployer
        self._pending = pending
        self._clock = clock

    async def for_invocation(self, target: InvocationTarget) -> Task:
        """The task that is there, or a new one made from the artifact that the call names.

        Raises:
            InvalidRequest, TaskNotFound, Conflict, and all that deploying raises.
        """
        existing = self.existing_for(target)
        return existing if existing is not None else await self._create(target)

    def existing_for(self, target: InvocationTarget) -> Task | None:
        """The task that is there already, or None when the invocation would create one.

        Raises:
            InvalidRequest: the request is incomplete or contradicts itself.
            TaskNotFound: there is no such task and the request does not ask to create it.
            Conflict: the name is that of a task deployed with another artifact.
        """
        spec = target.spec
        kind = target.invocation_type
        if kind == "unknown":
            kind = "existing" if target.task_id else "new"
        if kind == "existing":
            if not target.task_id:
                raise InvalidRequest("EXISTING_TASK needs a `task_id`")
            found = self._registry.find(target.task_id)
            if found is not None:
                return found.task
            if not target.create_if_not_exists or spec is None:
                raise TaskNotFound(f"there is no task {target.task_id[:140]!r}")
        if spec is None:
            raise InvalidRequest("a call needs a `task_id`, or an `artifact_spec` to create a task")
        return self._same(_name_for(target, spec), spec)

    def _same(self, name: str, spec: ArtifactSpec) -> Task | None:
        deployed = self._registry.find_name(name)
        if deployed is None:
            return None
        if matches(deployed.task.artifact, spec):
            return deployed.task
        if not deployed.task.created_by_call:
            raise Conflict(
                f"task {name!r} is deployed with another artifact; call it by its `task_id`, or "
                "choose another `task_name`"
            )
        return None

    async def _create(self, target: InvocationTarget) -> Task:
        spec = target.spec
        assert spec is not None
        _check_type(spec.artifact_type)
        name = _name_for(target, spec)
        overrides: dict[str, Any] = {}
        if target.task_description:
            overrides["description"] = target.task_description
        if spec.metadata:
            overrides["labels"] = spec.metadata
        settings = self._deployer.checked_settings(overrides)
        async with self._deployer.lock(name):
            # Another call may have made it while this one waited for the lock.
            existing = self.existing_for(target)
            if existing is not None:
                return existing
            for spare in self._catalogue.surplus(spec, self._limits, self._registry):
                await self._deployer.forget(spare)
            artifact, source = await self._fetch(spec)
            replaced = self._registry.find_name(name)
            done = await self._deployer.install(
                name, artifact, source, settings, overrides, replaced, by_call=True
            )
            return done.task

    async def _fetch(self, spec: ArtifactSpec) -> tuple[Artifact, Source | None]:
        """The artifact, and its bytes unless they are here already."""
        known = self._catalogue.find(spec)
        if known is not None:
            return known, None
        source = await self._shelf.fetch(spec.location, spec.checksum)
        artifact = replace(
            self._deployer.artifact_of(source, spec.artifact_id, spec.version),
            artifact_type=spec.artifact_type or "process",
            # A `data:` location is the code itself, which is stored already.
            location=spec.location if len(spec.location) <= 1024 else "",
            labels=spec.metadata,
        )
        return artifact, source

    async def forget_idle(self) -> None:
        """Removes what calls brought and nobody used for long; one pass."""
        now = self._clock()
        if self._limits.task_idle_timeout_ms:
            for deployed in self._registry:
                idle_ms = (now - deployed.last_used) * 1000
                by_call = deployed.task.created_by_call and not deployed.running
                unused = by_call and not self._pending(deployed.task.name)
                if unused and idle_ms > self._limits.task_idle_timeout_ms:
                    await self._deployer.delete(deployed.task.task_id, force=False)
        in_use = {key_of(deployed.task.artifact) for deployed in self._registry}
        for artifact in self._catalogue.idle(self._limits.artifact_idle_timeout_ms, in_use, now):
            await self._deployer.forget(artifact)


def _name_for(target: InvocationTarget, spec: ArtifactSpec) -> str:
    name = target.task_name or spec.artifact_id
    if not name:
        raise InvalidRequest(
            "creating a task needs a `task_name` or an `artifact_spec.artifact_id`"
        )
    return check_task_name(name)


def _check_type(artifact_type: str) -> None:
    if artifact_type in PYTHON_TYPES:
        return
    if artifact_type in LATER_TYPES:
        raise UnsupportedOperation(
            f"artifact type {artifact_type!r} has no runtime here; `process`, `python` and `zip` "
            "run Python in a process"
        )
    raise InvalidRequest(
        f"artifact type {artifact_type[:140]!r} is unknown; use `process`, `python` or `zip`"
    )
