"""RuntimeManager: which runtime starts the instances of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from atlatl.errors import StartFailed, UnsupportedOperation
from atlatl.model import Task
from atlatl.ports import InstanceChannel, Reserve, Runtime
from atlatl.settings import TaskSettings


class Reserves:
    """What all runtimes keep, as if it were one's."""

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = runtimes

    def _all(self) -> list[Reserve]:
        found = [runtime.reserve for runtime in self._runtimes.values()]
        return [reserve for reserve in found if reserve is not None]

    def state(self, task: Task) -> str:
        """See `ports.Reserve.state`."""
        return "".join(reserve.state(task) for reserve in self._all())

    def forget(self, task: Task) -> None:
        """See `ports.Reserve.forget`."""
        for reserve in self._all():
            reserve.forget(task)

    def memory_bytes(self) -> int:
        """See `ports.Reserve.memory_bytes`."""
        return sum(reserve.memory_bytes() for reserve in self._all())

    def give_way(self) -> None:
        """See `ports.Reserve.give_way`."""
        for reserve in self._all():
            reserve.give_way()


class RuntimeManager:
    """Runtimes by name; itself a runtime that passes each start on to the task's own."""

    def __init__(self) -> None:
        self._runtimes: dict[str, Runtime] = {}
        self._open = False
        self.reserve = Reserves(self._runtimes)

    def register(self, name: str, runtime: Runtime) -> None:
        """Adds a runtime before `open`; raises ValueError when the name is taken."""
        if name in self._runtimes:
            raise ValueError(f"a runtime called {name!r} is registered already")
        self._runtimes[name] = runtime

    @property
    def names(self) -> list[str]:
        """What `task.runtime` may be."""
        return sorted(self._runtimes)

    @property
    def ready(self) -> bool:
        """Whether calls can be served: open, and at least one runtime can start instances."""
        return self._open and any(
            getattr(runtime, "ready", True) for runtime in self._runtimes.values()
        )

    async def open(self) -> None:
        """Opens all runtimes, or none.

        Raises:
            StartFailed: none is registered, or one does not come up.
        """
        if not self._runtimes:
            raise StartFailed("no runtime is registered, so no function could ever run")
        async with contextlib.AsyncExitStack() as opened:
            for runtime in self._runtimes.values():
                await runtime.open()
                opened.push_async_callback(runtime.close)
            opened.pop_all()
        self._open = True

    async def start(self, task: Task, code: Path, deps: Path | None) -> InstanceChannel:
        """Starts an instance with the task's runtime; see `ports.Runtime.start`.

        Raises:
            UnsupportedOperation: no such runtime.
        """
        name = task.settings.runtime
        runtime = self._runtimes.get(name)
        if runtime is None:
            raise UnsupportedOperation(
                f"task {task.name!r} asks for the runtime {name!r}; there is: "
                f"{', '.join(self.names) or 'none'}"
            )
        return await runtime.start(task, code, deps)

    def not_kept(self, settings: TaskSettings) -> list[str]:
        """See `ports.Runtime.not_kept`; of the task's own runtime."""
        runtime = self._runtimes.get(settings.runtime)
        return runtime.not_kept(settings) if runtime is not None else []

    async def close(self) -> None:
        """Closes all runtimes; can be called more than once."""
        self._open = False
        async with contextlib.AsyncExitStack() as closing:
            for runtime in self._runtimes.values():
                closing.push_async_callback(runtime.close)
