"""Keeps processes within what their task may use: by groups where there are any."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from msgspec.structs import replace

from atlatl.core.confinement import Kept, missing
from atlatl.errors import StartFailed
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.groups import Group, Groups
from atlatl.runtimes.memory_watch import watch_memory
from atlatl.settings import ConfinementSettings

log = logging.getLogger(__name__)

REMOVE_AGAIN_S = 0.05
REMOVE_TRIES = 100
"""What is left in a group has been killed by then, or can't be."""

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""Errors that say nothing about whether there can be groups."""


class Limits:
    """The limits of the processes of one runtime.

    Args:
        defaults: what most tasks have: a group gets it at once, so that it need not be set later.
        groups: None has none.
    """

    def __init__(self, defaults: ConfinementSettings, groups: Groups | None) -> None:
        self._defaults = defaults
        self._groups = groups
        self._work: set[asyncio.Task[None]] = set()
        self._applying: dict[Group, asyncio.Future[None]] = {}
        """Threads that set limits, which go on when whoever waited for them has given up."""
        self._watch: asyncio.Task[None] | None = None

    async def open(self, channels: Callable[[], Iterable[Channel]]) -> None:
        """Finds out whether there can be groups.

        Args:
            channels: gives the instances that are there.
        """
        if self._groups is not None:
            await asyncio.to_thread(self._groups.open)
        # Not only without groups: they may turn out to be unusable.
        self._watch = asyncio.get_running_loop().create_task(watch_memory(channels))

    async def close(self) -> None:
        """Removes all groups, once all processes have ended."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._groups is not None:
            await asyncio.to_thread(self._groups.close)

    @property
    def groups(self) -> bool:
        """Whether processes get groups."""
        return self._groups is not None and (self._groups.memory or self._groups.processes)

    @property
    def memory_groups(self) -> bool:
        """Whether the kernel keeps the memory of an instance within its limit."""
        return self._groups is not None and self._groups.memory

    @property
    def process_groups(self) -> bool:
        """Whether the kernel counts the processes of each instance by itself."""
        return self._groups is not None and self._groups.processes

    @property
    def problem(self) -> str:
        """Why there are no groups, or not all."""
        return "; ".join(dict.fromkeys(self._groups.problems.values())) if self._groups else ""

    def add_to(self, kept: Kept) -> Kept:
        """What the kernel keeps, with what groups add to it."""
        if self._groups is None:
            return kept
        return replace(
            kept,
            memory_groups=self._groups.memory,
            process_groups=self._groups.processes,
            cpu_groups=self._groups.cpu,
        )

    # --- one process ---

    async def enter(self, pid: int) -> Group | None:
        """Puts a process into a group of its own, with the limits that most tasks have.

        Returns:
            None where there are no groups. The group is to be given to `leave` later.

        Raises:
            StartFailed: it could not be put there.
        """
        groups = self._groups
        if groups is None or not self.groups:
            return None

        def enter() -> Group:
            group = groups.enter(pid)
            group.limit(*_amounts(self._defaults))
            return group

        entering = asyncio.get_running_loop().run_in_executor(None, enter)
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            entering.add_done_callback(self._leave_late)
            raise
        except ProcessLookupError:
            raise StartFailed("the process ended before it got its limits") from None
        except OSError as error:
            if error.errno not in PASSING:
                groups.give_up(f"a process cannot be put into one: {error}")
                log.warning("limits are kept without cgroups from now on: %s", self.problem)
            raise StartFailed(f"the process could not be put into a cgroup: {error}") from None

    def _leave_late(self, entering: asyncio.Future[Group]) -> None:
        with contextlib.suppress(OSError):
            self.leave(entering.result())

    async def apply(self, group: Group | None, pid: int, limits: ConfinementSettings) -> None:
        """Sets what a task may use, before its code runs; raises StartFailed."""
        if group is None:
            return
        amounts = _amounts(limits)
        count_cpu = limits.cpu_s > 0 and limits.level != "none" and not group.counts_cpu
        if group.limits == amounts and not count_cpu:
            return

        def apply() -> None:
            if group.limits != amounts:
                group.limit(*amounts)
            if count_cpu:
                group.count_cpu(pid)

        applying = asyncio.get_running_loop().run_in_executor(None, apply)
        self._applying[group] = applying
        applying.add_done_callback(lambda _: self._applying.pop(group))
        try:
            await asyncio.shield(applying)
        except OSError as error:
            raise StartFailed(f"the limits of the process could not be set: {error}") from None

    def leave(self, group: Group | None) -> None:
        """Removes the group of a process that has ended, and ends what it has left there."""
        if group is not None:
            self._do(self._remove(group))

    async def _remove(self, group: Group) -> None:
        if group in self._applying:
            # What it still makes has to go as well.
            await asyncio.wait([self._applying[group]])
        group.forget_cpu()
        for _ in range(REMOVE_TRIES):
            if await asyncio.to_thread(group.remove):
                return
            await asyncio.sleep(REMOVE_AGAIN_S)
        log.warning("a group of processes cannot be removed: what it holds does not end")

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def refuse_unless_kept(kept: Kept, limits: ConfinementSettings) -> None:
    """Raises StartFailed for `strict` where it can't be kept."""
    if limits.level == "strict" and (lacking := missing(kept, limits)):
        raise StartFailed(
            f"`confinement.level` is `strict`, which this machine cannot keep: {'; '.join(lacking)}"
        )


def _amounts(limits: ConfinementSettings) -> tuple[int, int]:
    """Bytes and processes, 0 for no limit."""
    return (0, 0) if limits.level == "none" else (limits.memory_bytes, limits.processes)
