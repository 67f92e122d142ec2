"""Deploying, replacing and removing tasks: the one owner of what is in the registry.

A new version has its instances ready before it takes over; when it can't, the old
one serves on and nothing of the new one stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from msgspec.structs import replace

from atlatl.core.handlers import resolve_handler
from atlatl.engine.catalogue import Catalogue, key_of
from atlatl.engine.registry import Deployed, Registry
from atlatl.engine.views import Deletion, Deployment
from atlatl.errors import (
    ArtifactInvalid,
    AtlatlError,
    NoCapacity,
    SettingInvalid,
)
from atlatl.events import TaskDeleted, TaskDeployed
from atlatl.model import Artifact, Shape, Task, check_task_name
from atlatl.settings import Settings, TaskSettings, task_settings

if TYPE_CHECKING:
    from atlatl.engine.artifacts import ArtifactShelf
    from atlatl.engine.autoscaler import Autoscaler
    from atlatl.engine.breaker import Breakers
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.pool import InstancePool
    from atlatl.engine.sources import Source
    from atlatl.ports import InstanceChannel, Runtime, Store, Telemetry

log = logging.getLogger(__name__)

MakePool = Callable[[Task, Callable[[], Awaitable["InstanceChannel"]]], "InstancePool"]


class Deployer:
    """Takes artifacts in and makes tasks of them.

    Args:
        settings: the service's settings; a task's own are laid over them.
        make_pool: an empty pool for a task, given what starts one instance.
        clock: monotonic seconds.
        wall: Unix seconds.
        new_id: makes ids nobody has used.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        catalogue: Catalogue,
        shelf: ArtifactShelf,
        store: Store,
        runtime: Runtime,
        manager: TaskExecutionManager,
        breakers: Breakers,
        autoscaler: Autoscaler,
        telemetry: Telemetry,
        *,
        make_pool: MakePool,
        clock: Callable[[], float],
        wall: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._catalogue = catalogue
        self._shelf = shelf
        self._store = store
        self._runtime = runtime
        self._manager = manager
        self._breakers = breakers
        self._autoscaler = autoscaler
        self._telemetry = telemetry
        self._make_pool = make_pool
        self._clock = clock
        self._wall = wall
        self._new_id = new_id
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    # --- at start and end ---

    async def load(self) -> None:
        """Takes over what the store knows: everything that was deployed is served again."""
        for task in await self._store.load_tasks():
            self._catalogue.add(task.artifact, by_call=task.created_by_call, now=self._clock())
            pool = self._make_pool(task, self._starter(task))
            self._autoscaler.add(pool)
            breaker = self._breakers.get(task.name, task.settings.breaker)
            self._registry.add(Deployed(task, pool, breaker, self._clock()))
        for artifact in await self._store.load_artifacts():
            # What was deployed goes with its task: one without a task was brought by a call.
            self._catalogue.add(artifact, by_call=True, now=self._clock())

    async def close(self) -> None:
        """Closes all pools, also those of replaced versions; leaves no instance behind."""
        await asyncio.gather(*(self._close_pool(deployed.pool, 0) for deployed in self._registry))
        if self._closing:
            await asyncio.wait(self._closing)

    # --- deploying ---

    async def deploy(
        self,
        name: str,
        read: Callable[[], Awaitable[Source]],
        overrides: Mapping[str, Any],
        *,
        artifact_id: str = "",
        artifact_version: str = "",
    ) -> Deployment:
        """Deploys under a name, or replaces what is deployed there.

        Args:
            name: of the task.
            read: brings the artifact's bytes.
            overrides: the task's own settings.
            artifact_id: empty takes the name.
            artifact_version: free text.

        Raises:
            InvalidRequest, ArtifactInvalid, ChecksumMismatch, SettingInvalid,
            UnsupportedOperation, NoCapacity, StartFailed, StoreUnavailable.
        """
        name = check_task_name(name)
        settings = self.checked_settings(overrides)
        async with self.lock(name):
            source = await read()
            existing = self._registry.find_name(name)
            if existing is not None and _unchanged(existing.task, source.checksum, overrides):
                return Deployment(task=existing.task, created=False, changed=False)
            if existing is None and len(self._registry) >= self._settings.limits.max_deployed_tasks:
                raise NoCapacity(
                    f"{len(self._registry)} tasks are deployed, which is `limits."
                    "max_deployed_tasks`; delete one first or raise the limit"
                )
            artifact = self.artifact_of(source, artifact_id or name, artifact_version)
            return await self.install(name, artifact, source, settings, overrides, existing)

    async def install(
        self,
        name: str,
        artifact: Artifact,
        source: Source | None,
        settings: TaskSettings,
        overrides: Mapping[str, Any],
        existing: Deployed | None,
        *,
        by_call: bool = False,
    ) -> Deployment:
        """Brings up the new version beside the old one, then switches; undone when it fails."""
        try:
            # Tasks may share bytes: nobody may drop them before this task is stored.
            async with self.lock(_lock_of(artifact)):
                if source is not None:
                    await self._store.put_blob(source.content)
                code = await self._shelf.unpack(artifact)
                files = await asyncio.to_thread(_filenames, code)
                handler = resolve_handler(files, settings.handler)
                _, install_log = await self._shelf.dependencies(_beside(code, handler))
                task = self._task(name, artifact, handler, settings, overrides, existing, by_call)
                task, pool = await self._warm(task)
                try:
                    await self._store.put_task(task)
                except BaseException:
                    await self._discard(task, pool)
                    raise
        except BaseException:
            await self.forget(artifact)
            raise
        self._switch(task, pool, existing)
        self._catalogue.add(artifact, by_call=by_call, now=self._clock())
        return Deployment(task=task, created=existing is None, changed=True, log=install_log)

    async def _warm(self, task: Task) -> tuple[Task, InstancePool]:
        """A pool with its first instances ready, and the task with the shapes they read."""
        shapes: dict[str, Shape] = {}
        start = self._starter(task)

        async def start_and_look() -> InstanceChannel:
            channel = await start()
            shapes.update(channel.shapes)
            return channel

        pool = self._make_pool(task, start_and_look)
        try:
            await pool.ensure(max(1, task.settings.pool.min_size))
            task = _with_shapes(task, shapes)
        except BaseException:
            await self._discard(task, pool)
            raise
        return task, pool

    def _switch(self, task: Task, pool: InstancePool, existing: Deployed | None) -> None:
        """From here on the new version serves; waiting calls move over, started ones go on."""
        breaker = self._breakers.renew(task.name, task.settings.breaker)
        self._autoscaler.add(pool)
        if existing is None:
            self._registry.add(Deployed(task, pool, breaker, self._clock()))
        else:
            old, before = existing.pool, existing.task
            existing.switch(task, pool, breaker, self._clock())
            pool.adopt(old.take_waiters())
            self._in_background(self._retire(old, before))
        self._telemetry.emit(
            TaskDeployed(
                at=self._wall(),
                task_name=task.name,
                version=task.version,
                created=existing is None,
            )
        )

    async def _retire(self, pool: InstancePool, task: Task) -> None:
        """Closes a replaced pool when its started calls have ended, then drops its code."""
        await self._close_pool(pool, self._settings.task.max_timeout_ms / 1000)
        self._forget_starts(task)
        await self.forget(task.artifact)

    async def _discard(self, task: Task, pool: InstancePool) -> None:
        """Undoes the warming up of a version that is not to be."""
        await pool.close(0)
        self._forget_starts(task)

    def _forget_starts(self, task: Task) -> None:
        """That version of the task starts no more instances."""
        if self._runtime.reserve is not None:
            self._runtime.reserve.forget(task)

    async def _close_pool(self, pool: InstancePool, drain_s: float) -> None:
        await pool.close(drain_s)
        self._autoscaler.remove(pool)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs beside the service's work; `close` waits for it."""
        closing = asyncio.create_task(work)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _task(
        self,
        name: str,
        artifact: Artifact,
        handler: str,
        settings: TaskSettings,
        overrides: Mapping[str, Any],
        existing: Deployed | None,
        by_call: bool,
    ) -> Task:
        now = self._wall()
        return Task(
            task_id=existing.task.task_id if existing else self._new_id(),
            name=name,
            version=existing.task.version + 1 if existing else 1,
            artifact=artifact,
            handler=handler,
            overrides=dict(overrides),
            settings=settings,
            shapes={},
            created_by_call=by_call,
            created_at=existing.task.created_at if existing else now,
            updated_at=now,
        )

    def artifact_of(self, source: Source, artifact_id: str, version: str) -> Artifact:
        """What the bytes will be known as."""
        return Artifact(
            artifact_id=artifact_id,
            version=version,
            checksum=source.checksum,
            filename=source.filename,
            size_bytes=len(source.content),
            created_at=self._wall(),
        )

    def _starter(self, task: Task) -> Callable[[], Awaitable[InstanceChannel]]:
        async def start() -> InstanceChannel:
            code = await self._shelf.unpack(task.artifact)
            deps, _ = await self._shelf.dependencies(_beside(code, task.handler))
            return await self._runtime.start(task, code, deps)

        return start

    def checked_settings(self, overrides: Mapping[str, Any]) -> TaskSettings:
        """A task's full settings; raises SettingInvalid."""
        settings = task_settings(self._settings, overrides)
        most = self._settings.limits.max_instances_per_task
        if settings.pool.max_size > most:
            raise SettingInvalid(
                f"setting refused: `pool.max_size` is {settings.pool.max_size}, above "
                f"`limits.max_instances_per_task` ({most})"
            )
        self._refuse_unless_kept(settings)
        return settings

    def _refuse_unless_kept(self, settings: TaskSettings) -> None:
        """Level `strict` is a promise; the others keep what can be kept, and say what can't."""
        lacking = self._runtime.not_kept(settings)
        if lacking and settings.confinement.level == "strict":
            raise SettingInvalid(
                "setting refused: `confinement.level` is `strict`, which this machine cannot keep: "
                + "; ".join(lacking)
            )

    # --- removing ---

    async def delete(self, ref: str, *, force: bool) -> Deletion:
        """Removes a task with its pool, breaker and figures.

        Args:
            ref: name or id.
            force: also when executions are in progress; they are cancelled.
        """
        deployed = self._registry.find(ref)
        if deployed is None:
            return Deletion(found=False, deleted=False)
        name = deployed.task.name
        async with self.lock(name):
            if self._registry.find_name(name) is not deployed:
                return Deletion(found=False, deleted=False)
            tickets = self._manager.of_task(name)
            if tickets and not force:
                return Deletion(found=True, deleted=False, running=len(tickets))
            await self._store.delete_task(deployed.task.task_id)
            self._registry.remove(deployed)
            for ticket in self._manager.of_task(name):
                ticket.cancel("the task was deleted", grace_s=0.0)
            self._breakers.remove(name)
            self._telemetry.emit(TaskDeleted(at=self._wall(), task_name=name))
            await self._close_pool(deployed.pool, self._settings.drain.timeout_s)
            self._forget_starts(deployed.task)
            if not deployed.task.created_by_call:
                await self.forget(deployed.task.artifact)
        return Deletion(found=True, deleted=True, running=len(tickets))

    async def forget(self, artifact: Artifact) -> None:
        """Drops an artifact that no task runs on; that tidying fails must not fail a call."""
        if any(key_of(deployed.task.artifact) == key_of(artifact) for deployed in self._registry):
            return
        if self._catalogue.remove(artifact):
            with contextlib.suppress(AtlatlError):
                async with self.lock(_lock_of(artifact)):
                    await self._shelf.forget(artifact.checksum)

    def lock(self, name: str) -> asyncio.Lock:
        """One deployment of a task at a time, and one of the same bytes."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


def _lock_of(artifact: Artifact) -> str:
    """Begins with `/`, as no task's name does."""
    return f"/{artifact.checksum}"


def _unchanged(task: Task, checksum: str, overrides: Mapping[str, Any]) -> bool:
    return (
        not task.created_by_call
        and task.artifact.checksum == checksum
        and task.overrides == dict(overrides)
    )


def _beside(code: Path, handler: str) -> Path:
    """The directory of the handler's file: that is where its `requirements.txt` lies."""
    return (code / handler.rpartition(":")[0]).parent


def _filenames(code: Path) -> list[str]:
    return sorted(path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file())


def _with_shapes(task: Task, shapes: dict[str, Shape]) -> Task:
    """The task with what its functions look like; refuses a handler that can't be called."""
    if task.function not in shapes:
        known = ", ".join(sorted(shapes)) or "none"
        raise ArtifactInvalid(
            f"{task.handler!r}: the module has no function {task.function!r}; it has: {known}"
        )
    shape = shapes[task.function]
    at_once = task.settings.pool.max_concurrent_requests
    if at_once > 1 and not shape.is_async:
        raise SettingInvalid(
            f"`pool.max_concurrent_requests` is {at_once}, but {task.handler!r} is no `async def`: "
            "a synchronous handler takes one call at a time"
        )
    return replace(task, shapes=shapes)
