"""What stands in for the world in the tests of the pool.

A tiny instance that only knows whether it lives, a start that obeys, a waiter that takes
notes, and a shell that does what a test says and nothing by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

from atlatl.core.admission import Gate, Share
from atlatl.core.lending import Lending, Refuse
from atlatl.core.scheduling import POLICIES
from atlatl.core.stock import Scaled, Start, Stop
from atlatl.core.waiting import Waiter
from atlatl.errors import AtlatlError, InstanceLost, StartFailed
from atlatl.settings import PoolSettings


class FakeInstance:
    origin = "blank"
    process_s = 0.0
    _numbers = itertools.count(1)

    def __init__(self, takes_ahead: bool = False) -> None:
        self.pid = next(self._numbers)
        self.takes_ahead = takes_ahead
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
        self.readings = 0
        self.killed = False

    def crash(self) -> None:
        self.alive = self.accepting = False
        if self.on_lost is not None:
            self.on_lost(InstanceLost("crashed on purpose"))

    def memory_bytes(self) -> int:
        self.readings += 1
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


class Rig:
    """A pool without a shell: starts and stops are carried out when the test says so."""

    def __init__(
        self,
        gate=None,
        *,
        policy="round_robin",
        weight=1.0,
        spread=None,
        takes_ahead=False,
        **settings,
    ):
        self.now = 0.0
        self.takes_ahead = takes_ahead
        self.gate = gate or Gate()
        self.memory_left = True
        self.share = Share(weight, self.serve)
        choice = POLICIES[policy](random.Random(1).randrange)
        self.lending = Lending(
            PoolSettings(**settings),
            choice,
            self.gate,
            self.share,
            lambda: self.memory_left,
            spread,
        )
        self.stock = self.lending.stock
        self.to_start, self.to_stop, self.steps = [], [], []

    def ask(self, **options) -> Asked:
        asked = Asked(**options)
        try:
            lease = self.lending.ask(asked.waiter, self.now)
        except Exception as error:
            asked.errors.append(error)
        else:
            if lease is not None:
                asked.leases.append(lease)
        self.settle()
        return asked

    def serve(self) -> bool:
        grant = self.lending.next_grant(self.now)
        if grant is not None:
            grant[0].granted(grant[1])
        self.perform()
        return grant is not None

    def settle(self) -> None:
        self.perform()
        self.gate.settle()
        self.perform()

    def perform(self) -> None:
        for action in self.lending.take_actions():
            if isinstance(action, Start):
                self.to_start.append(action.instance)
            elif isinstance(action, Stop):
                self.to_stop.append(action.instance)
            elif isinstance(action, Refuse):
                action.waiter.refused(action.error)
            else:
                assert isinstance(action, Scaled)
                self.steps.append(action)

    def new_channel(self):
        return FakeInstance(self.takes_ahead)

    def start(self, count=None):
        """Lets the oldest `count` starts (or all) succeed."""
        for _ in range(len(self.to_start) if count is None else count):
            self.lending.started(self.to_start.pop(0), self.new_channel(), self.now)
            self.settle()

    def fail_start(self, error=None):
        failed = self.to_start.pop(0)
        self.lending.start_failed(failed, error or StartFailed("no process"), self.now)
        self.settle()

    def stop(self):
        while self.to_stop:
            self.lending.removed(self.to_stop.pop(0), self.now, lost=False)
            self.settle()

    def give_back(self, asked, **options):
        self.lending.give_back(asked.lease, self.now, **options)
        self.settle()

    def lose(self, instance):
        self.lending.removed(instance, self.now, lost=True)
        self.settle()

    def wake(self, at):
        self.now = at
        self.lending.wake(at)
        self.settle()

    def warm(self, count):
        self.stock.reserve(count, self.now)
        self.perform()
        self.start()
        return self
