"""Those who start and end the instances of one pool, each in a task of its own.

An instance is made first and published then: while it is being made, its place is reserved
and nothing else waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from atlatl.core.lending import Lending
from atlatl.core.stock import Instance
from atlatl.errors import AtlatlError, PoolClosed, StartFailed
from atlatl.events import Event, InstanceEnded, InstanceStarted, StartFailedEvent
from atlatl.ports import InstanceChannel

STOP_GRACE_S = 1.0
"""What an instance that is no longer wanted gets to end by itself."""

logger = logging.getLogger(__name__)


class Emit(Protocol):
    def __call__(self, kind: type[Event], **facts: Any) -> None: ...


class Crew:
    """Carries out what a pool's `Lending` wants started and stopped.

    Args:
        name: the pool's, for messages.
        start: makes one instance.
        lending: hears how it went.
        clock: monotonic seconds.
        settle: runs after `lending` heard something.
        emit: hears what happened.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[InstanceChannel]],
        lending: Lending,
        *,
        clock: Callable[[], float],
        settle: Callable[[], None],
        emit: Emit,
    ) -> None:
        self.mishaps = 0
        """Starts that failed and instances that died."""
        self.last_mishap: AtlatlError | None = None
        self._name = name
        self._make = start
        self._lending = lending
        self._clock = clock
        self._settle = settle
        self._emit = emit
        self._jobs: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something that `finish` is to wait for."""
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    async def finish(self) -> None:
        """Returns when nothing is running any more."""
        while self._jobs:
            await asyncio.wait(self._jobs)

    # --- starting ---

    async def start(self, instance: Instance) -> None:
        """One start; whatever happens, the reserved place is filled or given up."""
        try:
            channel = await self._make()
        except AtlatlError as error:
            self._start_failed(instance, error)
        except Exception as error:
            logger.exception("the start of an instance of %r failed", self._name)
            self._start_failed(instance, StartFailed(f"the start failed: {error!r}"))
        else:
            self._publish(instance, channel)

    def _publish(self, instance: Instance, channel: InstanceChannel) -> None:
        if not instance.starting:
            channel.kill()  # the pool was closed meanwhile, and the place given up
            return
        if not channel.accepting:  # it died before anybody listened to `on_lost`
            self._start_failed(instance, StartFailed("the instance ended as soon as it was ready"))
            return
        channel.on_lost = partial(self.lost, instance)
        now = self._clock()
        self._lending.started(instance, channel, now)
        self._emit(
            InstanceStarted,
            instance_id=channel.id,
            pid=channel.pid,
            origin=channel.origin,
            init_s=now - instance.reserved_at,
        )
        self._settle()

    def _start_failed(self, instance: Instance, error: AtlatlError) -> None:
        if not instance.starting:
            return  # given up before
        logger.warning("an instance of %r could not be started: %s", self._name, error.message)
        self._lending.start_failed(instance, error, self._clock())
        self._note_mishap(error)
        self._emit(StartFailedEvent, reason=error.message)
        self._settle()

    # --- ending ---

    def lost(self, instance: Instance, error: AtlatlError) -> None:
        """The instance died by itself."""
        if self._lending.removed(instance, self._clock(), lost=True):
            self._note_mishap(error)
            self._emit_ended(instance, error.message, expected=False)
            self._settle()

    async def stop(self, instance: Instance) -> None:
        """Ends an instance with nothing in flight; a sick one gets no time for it."""
        channel = instance.channel
        grace_s = 0.0 if instance.failed_checks else STOP_GRACE_S
        try:
            async with asyncio.timeout(grace_s + STOP_GRACE_S):
                await channel.stop(grace_s)
        except asyncio.CancelledError:
            channel.kill()
            raise
        except Exception as error:
            channel.kill()
            logger.warning("instance %s of %r was killed: %r", channel.id, self._name, error)
        finally:
            if self._lending.removed(instance, self._clock(), lost=False):
                self._emit_ended(instance, instance.why, expected=True)
                self._settle()

    def kill_all(self) -> None:
        """Ends everything now: instances, starts and stops."""
        now = self._clock()
        for instance in tuple(self._lending.stock.instances):
            if instance.starting:
                self._lending.start_failed(instance, self._closed(), now)
                continue
            instance.channel.kill()
            self._lending.removed(instance, now, lost=True)
            self._emit_ended(instance, "killed: the pool was closed", expected=True)
        for job in self._jobs:
            job.cancel()

    # --- telling ---

    def _closed(self) -> PoolClosed:
        return PoolClosed(f"the pool of {self._name!r} was closed")

    def _note_mishap(self, error: AtlatlError) -> None:
        self.mishaps += 1
        self.last_mishap = error

    def _emit_ended(self, instance: Instance, reason: str, *, expected: bool) -> None:
        self._emit(InstanceEnded, instance_id=instance.channel.id, reason=reason, expected=expected)
