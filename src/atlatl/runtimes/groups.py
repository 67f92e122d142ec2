"""Groups of processes that the kernel limits and counts together: cgroups.

Version 2, or the hierarchies of version 1, wherever this service may write below its own group. An
instance has a group for itself and all that it starts. Whatever is not said to be quick has to be
called from a thread: to move a process into a group can take many milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import time
from pathlib import Path

from atlatl.runtimes.hierarchies import CPU, MEMORY, PROCESSES, Hierarchy, hierarchies
from atlatl.runtimes.machine import tree
from atlatl.runtimes.zygote import kill

PREFIX = "atlatl-"
"""Of the directory of one service below its own group."""
CLEAR_TRIES, CLEAR_AGAIN_S = 20, 0.01
"""What is killed is gone a moment later."""

OWN = "service"
"""The service and its zygote, where a group that has others below it may hold no processes."""

WANTED = (MEMORY, PROCESSES, CPU)


class GroupsUnavailable(Exception):
    """Why there can be no groups."""


class Groups:
    """The groups of one service.

    Args:
        proc: where the kernel says which groups this process is in.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self.homes: list[Mine] = []
        """This service's directories."""
        self._mine: dict[str, Mine] = {}
        """What is in use, by what is limited."""
        self._numbers = itertools.count(1)
        self.problems: dict[str, str] = {}
        """Why there is no such controller."""

    @property
    def memory(self) -> bool:
        """Whether the memory of a group is limited. Quick, as are the two below."""
        return MEMORY in self._mine

    @property
    def processes(self) -> bool:
        """Whether the number of its processes and threads is."""
        return PROCESSES in self._mine

    @property
    def cpu(self) -> bool:
        """Whether its CPU time is counted."""
        return CPU in self._mine

    def open(self) -> None:
        """Finds where groups can be made, and removes what a service that died has left there."""
        found = hierarchies(self._proc)
        for controller in WANTED:
            if controller in self._mine:
                continue
            hierarchy = next((h for h in found if controller in h.controllers), None)
            if hierarchy is None:
                self.problems[controller] = f"there is no cgroup controller {controller!r}"
                continue
            try:
                mine = Mine(hierarchy)
            except (OSError, GroupsUnavailable) as error:
                self.problems[controller] = f"below {hierarchy.own}: {error}"
                continue
            self.homes.append(mine)
            for each in hierarchy.controllers.intersection(WANTED):
                self._mine.setdefault(each, mine)

    def give_up(self, why: str) -> None:
        """Makes no more groups: it turned out that no process can be moved into one. Quick."""
        self.problems |= dict.fromkeys(self._mine, why)
        self._mine = {}

    def enter(self, pid: int) -> Group:
        """A new group with this process in it, all but the count of its CPU time in version 1.

        Raises:
            OSError: it cannot be moved, or has ended.
        """
        mine = self._mine  # may be given up meanwhile
        places = {name: mine[name] for name in (MEMORY, PROCESSES) if name in mine}
        group = Group(f"{next(self._numbers)}", places, mine.get(CPU))
        try:
            group.add(pid)
        except BaseException:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Removes all that is left."""
        while self.homes:
            self.homes.pop().close()
        self._mine = {}


class Mine:
    """This service's directory in one hierarchy: locked for as long as the service lives."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.version = hierarchy.version
        self._own = hierarchy.own
        self._moved = False
        sweep(hierarchy.own)
        self.directory, self._lock = _claim(hierarchy.own)
        try:
            if self.version == 2:
                self._delegate(hierarchy.controllers & {MEMORY, PROCESSES})
        except BaseException:
            self.close()
            raise

    def _delegate(self, controllers: frozenset[str]) -> None:
        """Has groups below ours limited, for which ours must hold no process itself."""
        order = " ".join(f"+{name}" for name in sorted(controllers))
        try:
            _write(self._own / "cgroup.subtree_control", order)
        except OSError:
            members, mine = _members(self._own), set(tree(os.getpid()))
            others = [pid for pid in members if pid not in mine]
            if others:
                raise GroupsUnavailable(
                    f"it holds {len(others)} processes that are not the service's, and then a "
                    "group limits none below it; start the service as a unit with `Delegate=yes`"
                ) from None
            (self.directory / OWN).mkdir()
            self._moved = True
            for pid in members:
                _write(self.directory / OWN / "cgroup.procs", str(pid))
            _write(self._own / "cgroup.subtree_control", order)
        _write(self.directory / "cgroup.subtree_control", order)

    def close(self) -> None:
        """Removes it, and kills what is in it but the service itself.

        What cannot be removed stays locked: to others it would look like a dead service's, and
        this process may be in it.
        """
        _clear(self.directory, but=OWN)
        with contextlib.suppress(OSError):
            if self._moved:
                self._move_back()
            self.directory.rmdir()
            os.close(self._lock)

    def _move_back(self) -> None:
        names = (self._own / "cgroup.subtree_control").read_text().split()
        order = " ".join(f"-{name}" for name in names)
        _write(self.directory / "cgroup.subtree_control", order)
        _write(self._own / "cgroup.subtree_control", order)
        for pid in _members(self.directory / OWN):
            _write(self._own / "cgroup.procs", str(pid))
        (self.directory / OWN).rmdir()


class Group:
    """The group of one instance.

    Args:
        name: of its directories.
        places: below which they are made, by what is limited.
        counted_in: where CPU time is counted; None: nowhere.
    """

    def __init__(self, name: str, places: dict[str, Mine], counted_in: Mine | None) -> None:
        self._places = {what: mine.directory / name for what, mine in places.items()}
        self._versions = {what: mine.version for what, mine in places.items()}
        self._name = name
        self._counted_in = counted_in
        self._usage = -1
        self.limits: tuple[int, int] = (0, 0)
        """Bytes and processes, as last set; 0 is none."""

    @property
    def memory_bytes(self) -> int:
        """The limit of memory that the kernel keeps; 0 is none. Quick."""
        return self.limits[0] if MEMORY in self._places else 0

    @property
    def counts_cpu(self) -> bool:
        """Whether its CPU time is counted. Quick."""
        return self._usage >= 0

    @property
    def directories(self) -> list[Path]:
        """One in each hierarchy. Quick."""
        return list(dict.fromkeys(self._places.values()))

    def add(self, pid: int) -> None:
        """Makes the directories and moves a process into them; raises OSError."""
        for directory in self.directories:
            directory.mkdir()
            _write(directory / "cgroup.procs", str(pid))

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Sets the limits, 0 for none; raises OSError."""
        if MEMORY in self._places:
            self._limit_memory(memory_bytes)
        if PROCESSES in self._places:
            _write(self._places[PROCESSES] / "pids.max", str(processes or "max"))
        self.limits = (memory_bytes, processes)

    def _limit_memory(self, n_bytes: int) -> None:
        directory = self._places[MEMORY]
        if self._versions[MEMORY] == 2:
            _write(directory / "memory.max", str(n_bytes or "max"))
            with contextlib.suppress(OSError):  # a kernel that does not account for swap
                _write(directory / "memory.swap.max", "0" if n_bytes else "max")
            return
        # The sum with swap may never be below the limit of memory, so it is set before and after.
        for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes") * 2:
            try:
                _write(directory / name, str(n_bytes or -1))
            except OSError:
                if name == "memory.limit_in_bytes":
                    raise

    def killed_for_memory(self) -> int:
        """How many of its processes were killed because the limit was reached. Quick."""
        directory = self._places.get(MEMORY)
        if directory is None:
            return 0
        name = "memory.events" if self._versions[MEMORY] == 2 else "memory.oom_control"
        try:
            return _figure(directory / name, "oom_kill")
        except (OSError, ValueError):
            return 0

    def count_cpu(self, pid: int) -> None:
        """Counts the CPU time from now on, of a group with this one process; raises OSError."""
        mine = self._counted_in
        if mine is None or self._usage >= 0:
            return
        directory = mine.directory / self._name
        if directory not in self.directories:
            directory.mkdir()
            self._places[CPU] = directory
            _write(directory / "cgroup.procs", str(pid))
        name = "cpu.stat" if mine.version == 2 else "cpuacct.usage"
        self._usage = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)

    def cpu_s(self) -> float | None:
        """CPU time that the group has used; None when that is not counted. Quick."""
        if self._usage < 0:
            return None
        try:
            text = os.pread(self._usage, 4096, 0).decode()
            if text.startswith("usage_usec "):
                return int(text.split(maxsplit=2)[1]) / 1e6
            return int(text) / 1e9
        except (OSError, ValueError):
            return None

    def forget_cpu(self) -> None:
        """Counts no more. Quick."""
        if self._usage >= 0:
            os.close(self._usage)
            self._usage = -1

    def remove(self) -> bool:
        """Kills what is left in it; False when that is not gone yet: try again."""
        return all([_removed(each) for each in self.directories])  # noqa: C419 - as above


# --- one service's directory ---


def _claim(parent: Path) -> tuple[Path, int]:
    """Makes a directory and locks it, by which others see that its owner lives."""
    while True:
        directory = parent / f"{PREFIX}{secrets.token_hex(4)}"
        directory.mkdir()
        lock = _locked(directory)
        if lock is not None:
            return directory, lock


def _locked(directory: Path) -> int | None:
    """A descriptor that holds the lock; None when somebody else has it, or has removed it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == directory.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def sweep(parent: Path) -> None:
    """Removes the directories of services that are no more, and kills what is in them."""
    for directory in parent.glob(f"{PREFIX}*"):
        lock = _locked(directory)
        if lock is not None:
            _clear(directory)
            with contextlib.suppress(OSError):
                directory.rmdir()
            os.close(lock)


def _clear(directory: Path, but: str = "") -> None:
    """Kills all in a service's groups, and removes them unless that takes too long.

    Args:
        directory: of the service.
        but: a group that is left alone.
    """
    for _ in range(CLEAR_TRIES):
        groups = [each for each in directory.glob("*") if each.is_dir() and each.name != but]
        if all([_removed(each) for each in groups]):  # noqa: C419 - each is told to go
            break
        time.sleep(CLEAR_AGAIN_S)


# --- one group ---


def _removed(directory: Path) -> bool:
    """Whether the group is gone; if not, what it held has been told to go."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        pass
    except OSError:  # it holds processes
        _kill_all(directory)
        return False
    return True


def _kill_all(directory: Path) -> None:
    with contextlib.suppress(OSError):
        _write(directory / "cgroup.kill", "1")
        return
    with contextlib.suppress(OSError):
        _write(directory / "pids.max", "0")  # nothing new is forked meanwhile
    _kill_members(directory)


def _kill_members(directory: Path) -> None:
    with contextlib.ExitStack() as opened:
        pidfds = {}
        for pid in _members(directory):
            with contextlib.suppress(ProcessLookupError):
                pidfds[pid] = os.pidfd_open(pid)
                opened.callback(os.close, pidfds[pid])
        # Read again: a number that is still there is that of the process which was opened.
        for pid in _members(directory):
            if pid in pidfds:
                kill(pidfds[pid])


def _members(directory: Path) -> list[int]:
    """Process ids; those of another pid namespace are shown as 0, and not meant."""
    try:
        return [int(pid) for pid in _words(directory / "cgroup.procs") if pid != "0"]
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def _figure(path: Path, name: str) -> int:
    """A figure of a file with lines `name figure`; 0 without such a line."""
    words = _words(path)
    return int(words[words.index(name) + 1]) if name in words else 0


def _write(path: Path, text: str) -> None:
    """One write, as the kernel wants it; never makes a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
