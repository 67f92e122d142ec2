"""The runtime that runs Python functions in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from atlatl.core.confinement import Kept, missing, summary
from atlatl.errors import AtlatlError, StartFailed
from atlatl.model import Task
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.groups import Groups
from atlatl.runtimes.limits import Limits, refuse_unless_kept
from atlatl.runtimes.task_zygote import TaskZygote
from atlatl.runtimes.task_zygotes import TaskZygotes
from atlatl.runtimes.zygote import ENVIRONMENT, Exit, Forks, Zygote
from atlatl.settings import Settings, TaskSettings

log = logging.getLogger(__name__)

DEMAND_S = 10.0
"""The stock of blanks follows the starts of this many last seconds."""

REFILL_DELAY_S = 0.005
"""A fork at once would compete with the first call of the instance that was just handed out."""

FORK_TIMEOUT_S = 1.0
"""Longest time that a task's own zygote may take to fork."""

RETRY_S = 0.1
MAX_RETRY_S = 5.0


class ProcessRuntime:
    """Starts instances by fork from a zygote, most of them from a stock of ready blanks.

    Args:
        settings: of the service; `blank_pool`, `zygote`, `limits` and `data_dir`
            matter here.
        clock: monotonic seconds.
        ids: makes an instance's id.
        groups: what limits instances; None has the service do what it can.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        ids: Callable[[], str],
        groups: Groups | None = None,
    ) -> None:
        self._defaults = settings.confinement
        self._kept = Kept()
        self._limits = Limits(settings.confinement, groups)
        self._places = [settings.data_dir] if settings.data_dir else []
        self._stock = settings.blank_pool
        self._start_timeout_ms = settings.limits.instance_creation_timeout_ms
        self._start_timeout_s = self._start_timeout_ms / 1000
        self.reserve = TaskZygotes(
            settings.zygote, self._start_timeout_s, clock, self.fork_ahead, self._limits
        )
        self._clock = clock
        self._ids = ids
        self._zygote: Zygote | None = None
        self._zygote_up = asyncio.Event()
        self._blanks: deque[Channel] = deque()
        self._channels: dict[str, Channel] = {}
        self._early_exits: dict[str, Exit | None] = {}
        self._starts: deque[float] = deque()
        self._chores: set[asyncio.Task[None]] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._tending = False
        self._timer: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_S
        self._closed = False

    # --- the runtime ---

    @property
    def ready(self) -> bool:
        """Whether instances can be started now."""
        return self._zygote is not None

    @property
    def blanks(self) -> int:
        """Instances in stock, without a task yet."""
        return len(self._blanks)

    def pids(self) -> list[int]:
        """Every process that was started and has not ended: zygotes, blanks, instances."""
        zygotes = [self._zygote.pid] if self._zygote is not None else []
        zygotes += self.reserve.pids()
        return zygotes + [channel.pid for channel in self._channels.values()]

    async def open(self) -> None:
        """Starts the zygote; raises StartFailed. The stock is filled behind."""
        self._closed = False
        self._zygote_up.clear()
        await self._start_zygote()
        await self._limits.open(self._channels.values)
        if self._limits.groups:
            # Whether a process can be put into one shows only when it is done.
            with contextlib.suppress(StartFailed):
                await self._add_blank()
        self._tend_soon()
        self._tell_what_is_kept()

    def _tell_what_is_kept(self) -> None:
        said, all_kept = summary(self.kept, self._defaults)
        why = f" (cgroups: {self._limits.problem})" if self._limits.problem else ""
        log.log(logging.INFO if all_kept else logging.WARNING, "confinement: %s%s", said, why)

    @property
    def kept(self) -> Kept:
        """What this machine keeps instances from and within; known once it is open."""
        return self._limits.add_to(self._kept)

    def not_kept(self, settings: TaskSettings) -> list[str]:
        """See `ports.Runtime.not_kept`."""
        return missing(self.kept, settings.confinement)

    async def start(self, task: Task, code: Path, deps: Path | None) -> Channel:
        """One cold start; see `ports.Runtime.start`."""
        refuse_unless_kept(self.kept, task.settings.confinement)
        try:
            async with asyncio.timeout(self._start_timeout_s):
                channel = await self._from_task_zygote(task, code, deps)
                return channel or await self._from_blank(task, code, deps)
        except TimeoutError:
            raise StartFailed(
                f"{task.handler} was not ready within {self._start_timeout_ms} ms "
                "(`limits.instance_creation_timeout_ms`)"
            ) from None

    async def _from_task_zygote(self, task: Task, code: Path, deps: Path | None) -> Channel | None:
        """Spared the import; None when the task has no zygote, or not one that works."""
        assignment = self._assignment(task, code, deps)
        zygote = self.reserve.find(task, assignment)
        if zygote is None:
            return None
        began = self._clock()
        try:
            # Half of the time is left for a blank.
            async with asyncio.timeout(self._start_timeout_s / 2):
                channel, zygote.spare = zygote.spare, None
                if channel is None or not channel.accepting:
                    async with asyncio.timeout(FORK_TIMEOUT_S):
                        channel = await self._connected(zygote, in_stock=False)
                channel.origin = "task_zygote"
                channel.process_s = self._clock() - began
                await self._assigned(channel, task, assignment)
                self.fork_ahead(task, zygote)
                return channel
        except TimeoutError:
            self.reserve.give_up(task, zygote, "it started no instance in time")
        except AtlatlError as error:
            self.reserve.give_up(task, zygote, f"it started no instance: {error.message}")
        return None

    def fork_ahead(self, task: Task, zygote: TaskZygote) -> None:
        """Has the instance for the next start forked while nobody waits for it."""
        if not self._closed:
            self._do(self._fork_ahead(task, zygote))

    async def _fork_ahead(self, task: Task, zygote: TaskZygote) -> None:
        await asyncio.sleep(REFILL_DELAY_S)
        if zygote.retired or zygote.spare is not None:
            return
        try:
            async with asyncio.timeout(FORK_TIMEOUT_S):
                spare = await self._connected(zygote, in_stock=True)
                try:
                    limits = task.settings.confinement
                    await self._limits.apply(spare.usage.group, spare.pid, limits)
                except BaseException:
                    spare.kill()
                    raise
        except (StartFailed, TimeoutError) as error:
            self.reserve.give_up(task, zygote, f"it forked no instance: {error}")
            return
        if zygote.retired or zygote.spare is not None:
            spare.kill()
        else:
            zygote.spare = spare

    async def _from_blank(self, task: Task, code: Path, deps: Path | None) -> Channel:
        asked = self._clock()
        self._starts.append(asked)
        try:
            channel = await self._blank()
            # Not sooner: it may have waited for another base zygote.
            assignment = self._assignment(task, code, deps)
            began = self._clock()
            channel.process_s = began - asked
            await self._assigned(channel, task, assignment)
            if self._zygote is not None:
                took_s = self._clock() - began
                self.reserve.consider(task, assignment, took_s, self._zygote)
            return channel
        finally:
            self._look_again(REFILL_DELAY_S)

    async def close(self) -> None:
        """Ends every process that was started here; returns when they are gone."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        channels = list(self._channels.values())
        for channel in channels:
            channel.kill()
        zygote, self._zygote = self._zygote, None
        # Whoever waits for a zygote would wait for ever: it finds none, and says so.
        self._zygote_up.set()
        await self.reserve.close()
        if zygote is not None:
            await zygote.close()
        await asyncio.gather(*self._burials)
        await asyncio.gather(*(channel.stop(0) for channel in channels))
        await self._limits.close()

    # --- blanks ---

    async def _blank(self) -> Channel:
        while self._blanks:
            channel = self._blanks.popleft()
            if channel.accepting:
                channel.on_lost = None
                return channel
        channel = await self._fork(in_stock=False)
        channel.origin = "fork"
        return channel

    async def _fork(self, *, in_stock: bool) -> Channel:
        if self._closed:
            raise StartFailed("the runtime is closed")
        await self._zygote_up.wait()
        if self._zygote is None:
            raise StartFailed("the process that starts instances is gone")
        return await self._connected(self._zygote, in_stock=in_stock)

    async def _connected(self, zygote: Forks, *, in_stock: bool) -> Channel:
        instance_id = self._ids()
        self._early_exits[instance_id] = None
        try:
            spawned = await zygote.spawn(partial(self._exited, instance_id), in_stock=in_stock)
            channel = Channel(instance_id, spawned, self._clock)
            self._channels[instance_id] = channel
        finally:
            early = self._early_exits.pop(instance_id)
        try:
            await channel.connect()
            channel.usage.group = await self._limits.enter(channel.pid)
        except BaseException:
            channel.kill()
            raise
        finally:
            if early is not None:
                self._exited(instance_id, early)
            elif instance_id not in self._channels:  # it has ended meanwhile
                self._limits.leave(channel.usage.group)
        return channel

    def _exited(self, instance_id: str, how: Exit) -> None:
        channel = self._channels.pop(instance_id, None)
        if channel is not None:
            channel.process_exited(how)
            self._limits.leave(channel.usage.group)
        elif instance_id in self._early_exits:
            # Killed from outside before anybody here had heard of it.
            self._early_exits[instance_id] = how

    def _target(self) -> int:
        """Blanks to have: the minimum, more after many starts, never over the maximum."""
        horizon = self._clock() - DEMAND_S
        while self._starts and self._starts[0] < horizon:
            self._starts.popleft()
        return min(self._stock.max_size, max(self._stock.min_size, len(self._starts)))

    def _tend_soon(self) -> None:
        self._timer = None
        if self._closed or self._tending:
            return
        self._tending = True
        self._do(self._tend())

    async def _tend(self) -> None:
        """Brings the stock to its target, and looks again when the demand may have gone."""
        try:
            while len(self._blanks) < self._target():
                await self._add_blank()
            surplus = [self._blanks.pop() for _ in range(len(self._blanks) - self._target())]
            await asyncio.gather(*(blank.stop(0) for blank in surplus))
            if self._starts:
                self._look_again(DEMAND_S)
        except StartFailed as error:
            log.warning("the stock of blank instances cannot be filled: %s", error)
            self._look_again(MAX_RETRY_S)
        finally:
            self._tending = False

    async def _add_blank(self) -> None:
        blank = await self._fork(in_stock=True)
        blank.on_lost = lambda error: self._blank_lost(blank, error)
        self._blanks.append(blank)

    def _blank_lost(self, blank: Channel, error: AtlatlError) -> None:
        """A blank died in stock; refilled with a delay, lest a broken one is forked in a loop."""
        log.warning("a blank instance ended: %s", error)
        with contextlib.suppress(ValueError):
            self._blanks.remove(blank)
        self._look_again(RETRY_S)

    def _look_again(self, delay_s: float) -> None:
        """Tends the stock after a while, or sooner when that was planned already."""
        loop = asyncio.get_running_loop()
        if self._closed:
            return
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay_s, self._tend_soon)

    async def _assigned(self, channel: Channel, task: Task, assignment: dict[str, Any]) -> None:
        """Makes it an instance of the task, or ends it."""
        try:
            await self._limits.apply(channel.usage.group, channel.pid, task.settings.confinement)
            await channel.assign(task, assignment)
        except BaseException:
            # Kills first: the wait for the end may be cut short.
            channel.kill()
            await channel.stop(0)
            raise

    def _assignment(self, task: Task, code: Path, deps: Path | None) -> dict[str, Any]:
        """What a blank is told; the fields of `atlatl_worker.loading.Assignment`."""
        limits = task.settings.confinement
        return {
            "code": str(code.absolute()),
            "deps": str(deps.absolute()) if deps is not None else "",
            "handler": task.handler,
            "environment": {**ENVIRONMENT, **task.settings.env, **self._mark()},
            "task_name": task.name,
            "version": task.version,
            "concurrency": task.settings.pool.max_concurrent_requests,
            "output_bytes": limits.output_bytes,
            "response_bytes": limits.response_bytes,
            "confinement": {
                "level": limits.level,
                "network": limits.network,
                "tmp_bytes": limits.tmp_bytes,
                "open_files": limits.open_files,
                "processes": limits.processes,
                "data_bytes": 0 if self._limits.memory_groups else limits.memory_bytes,
            },
        }

    # --- the zygote ---

    def _mark(self) -> dict[str, str]:
        return self._zygote.mark if self._zygote is not None else {}

    async def _start_zygote(self) -> None:
        self._make_places()
        zygote = Zygote(self._zygote_lost, self._places)
        await zygote.start()
        self._zygote, self._kept = zygote, zygote.kept
        self._zygote_up.set()
        self._retry_s = RETRY_S

    def _make_places(self) -> None:
        """The zygote tries whether users of their own can enter them: they have to be there."""
        if os.geteuid() == 0:
            for place in self._places:
                with contextlib.suppress(OSError):
                    Path(place).mkdir(mode=0o700, parents=True)

    def _zygote_lost(self) -> None:
        lost, self._zygote = self._zygote, None
        self._zygote_up.clear()
        self._blanks.clear()
        if lost is not None:
            burial = asyncio.get_running_loop().create_task(lost.close())
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)
        if not self._closed:
            self._do(self._replace_zygote())

    async def _replace_zygote(self) -> None:
        while True:
            try:
                await self._start_zygote()
                break
            except StartFailed as error:
                log.error("%s; trying again in %.1f s", error, self._retry_s)  # noqa: TRY400
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)
        self._tend_soon()

    def _do(self, chore: Any) -> None:
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
