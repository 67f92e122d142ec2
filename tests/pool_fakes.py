"""A tiny instance for the tests of the pool: it only knows whether it lives."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from atlatl.core.waiting import Waiter
from atlatl.errors import AtlatlError, InstanceLost


class FakeInstance:
    origin = "blank"
    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.pid = next(self._numbers)
        self.id = f"instance-{self.pid}"
        self.shapes: dict = {}
        self.on_lost: Callable[[AtlatlError], None] | None = None
        self.accepting = True
        self.alive = True
        self.healthy = True
        self.stop_s = 0.0
        self.stops_when_told = True
        self.pings = 0
        self.ping_s = 0.0
        self.bytes = 1000
        self.killed = False

    def crash(self) -> None:
        self.alive = self.accepting = False
        if self.on_lost is not None:
            self.on_lost(InstanceLost("crashed on purpose"))

    def memory_bytes(self) -> int:
        if not self.alive:
            raise ProcessLookupError(self.pid)
        return self.bytes

    async def ping(self) -> None:
        self.pings += 1
        await asyncio.sleep(self.ping_s)
        if not self.healthy:
            raise InstanceLost("no answer")

    def kill(self) -> None:
        self.alive = self.accepting = False
        self.killed = True

    async def stop(self, grace_s: float) -> None:
        self.accepting = False
        await asyncio.sleep(self.stop_s)
        if not self.stops_when_told:
            raise OSError("cannot be stopped")
        self.alive = False


class FakeStarts:
    """A `start` that counts, takes its time, and fails when told to."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.start_s = start_s
        self.made: list[FakeInstance] = []
        self.begun = 0
        self.failures: list[Exception] = []

    async def __call__(self) -> FakeInstance:
        self.begun += 1
        await asyncio.sleep(self.start_s)
        if self.failures:
            raise self.failures.pop(0)
        self.made.append(FakeInstance())
        return self.made[-1]

    @property
    def alive(self) -> list[FakeInstance]:
        return [instance for instance in self.made if instance.alive]


class Asked:
    """A waiter and what it was told."""

    def __init__(self, **options: object) -> None:
        self.leases: list = []
        self.errors: list[AtlatlError] = []
        self.waiter = Waiter(self.leases.append, self.errors.append, **options)  # type: ignore[arg-type]

    @property
    def lease(self):
        assert len(self.leases) == 1, self.leases
        return self.leases[0]

    @property
    def error(self) -> AtlatlError:
        assert len(self.errors) == 1, self.errors
        return self.errors[0]

    @property
    def waits(self) -> bool:
        return not self.leases and not self.errors

    @property
    def settled_once(self) -> bool:
        return len(self.leases) + len(self.errors) == 1
