"""Which tasks have a zygote of their own, and since when they should not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atlatl.errors import StartFailed
from atlatl.model import Task
from atlatl.runtimes.limits import Limits
from atlatl.runtimes.task_zygote import TaskZygote
from atlatl.runtimes.zygote import Zygote
from atlatl.settings import ZygoteSettings

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Beyond it instances of this version come from blanks only."""

GIVEN_WAY_S = 60.0
"""How long none is made after all were ended to save memory."""

Key = tuple[str, int]
Assignment = dict[str, Any]


@dataclass(slots=True)
class Entry:
    """What is known of one version of a task."""

    assignment: Assignment
    zygote: TaskZygote | None = None
    making: asyncio.Task[None] | None = None
    used_at: float = 0.0
    failures: int = 0
    why_not: str = ""


class TaskZygotes:
    """Makes task zygotes where imports are slow, and ends those that are not used.

    Args:
        settings: how many, and for whom.
        start_timeout_s: longest time that one may take to come up.
        clock: monotonic seconds.
        ready: told of each that can fork from now on.
        limits: keep them within what their task may use.
    """

    def __init__(
        self,
        settings: ZygoteSettings,
        start_timeout_s: float,
        clock: Callable[[], float],
        ready: Callable[[Task, TaskZygote], None],
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._ready = ready
        self._settings = settings
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._entries: dict[Key, Entry] = {}
        self._leaving: set[TaskZygote] = set()
        """Not used any more, but instances that they forked may be."""
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = float("-inf")

    # --- use ---

    def find(self, task: Task, assignment: Assignment) -> TaskZygote | None:
        """The zygote for one more instance of the task; None when a blank is to be used."""
        entry = self._entries.get(_key(task))
        if entry is None:
            return None
        if entry.assignment != assignment:
            # An attempt to deploy the same version with something else.
            self.forget(task)
            return None
        entry.used_at = self._clock()
        return entry.zygote

    def state(self, task: Task) -> str:
        """Empty, `starting`, `ready`, or `unused: ` and the reason."""
        entry = self._entries.get(_key(task))
        if entry is None:
            return ""
        if entry.zygote is not None:
            return "ready"
        return "starting" if entry.making is not None else f"unused: {entry.why_not}"

    def pids(self) -> list[int]:
        """Of all processes that have not ended."""
        return [zygote.pid for zygote in self._all() if zygote.pid]

    def memory_bytes(self) -> int:
        """PSS of all of them. Reads /proc: call it from a thread."""
        return sum(zygote.memory_bytes() for zygote in self._all())

    def _all(self) -> list[TaskZygote]:
        # Copies, made in one step: a thread may ask, while here they come and go.
        zygotes = [entry.zygote for entry in tuple(self._entries.values())]
        return [*filter(None, zygotes), *tuple(self._leaving)]

    # --- making ---

    def consider(self, task: Task, assignment: Assignment, took_s: float, base: Zygote) -> None:
        """Makes one behind, when an import took so long that it will pay."""
        now = self._clock()
        slow = took_s * 1000 >= self._settings.min_import_ms
        if not slow or not self._settings.max_task_zygotes or now < self._not_before:
            return
        entry = self._entries.setdefault(_key(task), Entry(assignment))
        if entry.zygote is not None or entry.making is not None or entry.failures >= MAX_FAILURES:
            return
        self._make_room()
        entry.used_at = now
        entry.making = asyncio.get_running_loop().create_task(self._make(task, entry, base))

    def _make_room(self) -> None:
        """The one used least recently goes."""
        taken = [(e.used_at, key) for key, e in self._entries.items() if e.zygote or e.making]
        taken.sort()
        for _, key in taken[: max(0, len(taken) + 1 - self._settings.max_task_zygotes)]:
            self._drop(self._entries.pop(key))

    async def _make(self, task: Task, entry: Entry, base: Zygote) -> None:
        zygote = TaskZygote(
            base,
            lambda why: self._gone(task, entry, zygote, why),
            self._limits,
            task.settings.confinement,
        )
        self._leaving.add(zygote)
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await zygote.start(_of_forks(entry.assignment, task, self._limits))
        except StartFailed as error:
            self._failed(task, entry, error.message)
        except TimeoutError:
            self._failed(task, entry, f"it was not ready within {self._start_timeout_s:g} s")
        else:
            self._leaving.discard(zygote)
            entry.zygote = zygote
            self._expire_later()
            self._ready(task, zygote)
        finally:
            entry.making = None
            if entry.zygote is None:
                self._let_go(zygote)

    # --- ending ---

    def give_up(self, task: Task, zygote: TaskZygote, why: str) -> None:
        """It failed to start an instance."""
        if zygote.hung_up:
            return  # it tells by itself how it ended, which is why
        entry = self._entries.get(_key(task))
        if entry is not None and entry.zygote is zygote:
            self._failed(task, entry, why)
            self._drop(entry)

    def _failed(self, task: Task, entry: Entry, why: str) -> None:
        entry.failures += 1
        entry.why_not = why
        log.warning("instances of %r come from blanks, its own zygote failed: %s", task.name, why)

    def _gone(self, task: Task, entry: Entry, zygote: TaskZygote, why: str) -> None:
        if entry.zygote is zygote:
            self._failed(task, entry, why)
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        """Uses it no more; it ends with its last instance."""
        if entry.making is not None:
            entry.making.cancel()
        zygote, entry.zygote = entry.zygote, None
        if zygote is not None:
            self._let_go(zygote)
            zygote.retire()

    def _let_go(self, zygote: TaskZygote) -> None:
        """Keeps an eye on it until nothing of it is left."""
        self._leaving.add(zygote)
        waiting = asyncio.get_running_loop().create_task(zygote.clear())
        waiting.add_done_callback(lambda _: self._leaving.discard(zygote))

    def forget(self, task: Task) -> None:
        """That version of the task starts no more instances."""
        entry = self._entries.pop(_key(task), None)
        if entry is not None:
            self._drop(entry)

    def give_way(self) -> None:
        """Saves memory: all go, and for a while none is made."""
        self._not_before = self._clock() + GIVEN_WAY_S
        for entry in self._entries.values():
            self._drop(entry)
        self._entries = {key: entry for key, entry in self._entries.items() if entry.failures}

    def _expire_later(self) -> None:
        used = [entry.used_at for entry in self._entries.values() if entry.zygote is not None]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if used:
            delay_s = max(0.0, min(used) + self._settings.idle_timeout_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        horizon = self._clock() - self._settings.idle_timeout_s
        for key, entry in list(self._entries.items()):
            if entry.zygote is not None and entry.used_at <= horizon:
                del self._entries[key]
                self._drop(entry)
        self._expire_later()

    async def close(self) -> None:
        """Ends all of them and what they forked; returns when nothing of them is left."""
        if self._timer is not None:
            self._timer.cancel()
        making = [entry.making for entry in self._entries.values() if entry.making is not None]
        for entry in self._entries.values():
            self._drop(entry)
        self._entries.clear()
        await asyncio.gather(*making, return_exceptions=True)
        leaving = list(self._leaving)
        for zygote in leaving:
            zygote.end("the runtime is closed")
        await asyncio.gather(*(zygote.clear() for zygote in leaving))


def _of_forks(assignment: Assignment, task: Task, limits: Limits) -> Assignment:
    """What a zygote is told that an instance is not: what it may use, its forks use up with it.

    The kernel counts the processes of all of them as one user's.
    """
    confinement = assignment["confinement"]
    instances = 0 if limits.process_groups else task.settings.pool.max_size + 1
    processes = confinement["processes"] * instances
    return {**assignment, "confinement": {**confinement, "processes": processes}}


def _key(task: Task) -> Key:
    return task.task_id, task.version
