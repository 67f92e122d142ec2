"""What of a task's confinement a machine cannot keep. Judged here, measured elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from atlatl.model import Record
from atlatl.settings import ConfinementSettings

SCOPED_SIGNALS = 6
"""Version of Landlock's interface from which on it keeps signals to one's own processes."""
NETWORK_PORTS = 4
"""From which on it keeps TCP away."""


class Kept(Record, frozen=True):
    """What was tried when the runtime came up, and held."""

    landlock: int = 0
    """Version of Landlock's interface: which files and ports are in reach. 0: none."""
    seccomp: bool = False
    """System calls are filtered."""
    uids: bool = False
    """Each instance has a user id of its own: the service runs as root."""
    as_root: bool = False
    """Without that: instances run as root, though without root's rights."""
    mounts: bool = False
    """Each instance has its own mounts, and a private /tmp with a limit of its size."""
    user_namespaces: bool = False
    """Those mounts are made in a user namespace: the service is an ordinary user's."""
    network_namespaces: bool = False
    """An instance can be given no network, System V objects and host name but its own."""
    private_proc: bool = False
    """/proc shows an instance its own processes only."""
    processes: bool = False
    """The limit of processes counts those of one instance, without a cgroup."""
    memory_groups: bool = False
    """The kernel limits the memory of each instance and all that it starts: a cgroup."""
    process_groups: bool = False
    """It limits the number of their processes and threads in the same way."""
    cpu_groups: bool = False
    """It counts the CPU time of all of them together."""


def missing(kept: Kept, settings: ConfinementSettings) -> list[str]:
    """What of the task's level can't be kept, each as a subject and what it means.

    Args:
        kept: what this machine keeps.
        settings: the task's. Level `none` promises nothing, so nothing of it can be missing.
    """
    if settings.level == "none":
        return []
    found = [*_reach(kept), *_limits(kept, settings)]
    if settings.level == "strict":
        if not kept.network_namespaces:
            found.append("network: no network namespace can be made")
    elif not settings.network:
        found += _network(kept)
    return found


def summary(kept: Kept, defaults: ConfinementSettings) -> tuple[str, bool]:
    """One line on both levels, and whether all of both is kept.

    Args:
        kept: what this machine keeps.
        defaults: of the tasks that are meant, but for their level.
    """
    standard = missing(kept, replace(defaults, level="standard"))
    strict = missing(kept, replace(defaults, level="strict", network=False))
    if not strict:
        return "`standard` and `strict` are kept", True
    but = f", but for {'; '.join(standard)}" if standard else ""
    more = [each for each in strict if each not in standard]
    refused = "`strict` is refused" + (f": {'; '.join(more)}" if more else "")
    return f"`standard` is kept{but}; {refused}", False


def _reach(kept: Kept) -> Iterator[str]:
    if not kept.landlock:
        yield "files: all that its user may open is in reach (this kernel has no Landlock)"
    if not kept.mounts:
        yield (
            "temporary files: /tmp is everybody's, and `tmp_bytes` bounds each file alone (no "
            "mount namespace can be made)"
        )
    if not kept.seccomp:
        yield "system calls: all are allowed (this kernel has no seccomp filters)"
    if kept.as_root:
        yield (
            "user: it runs as root, without root's rights, but as the owner of what root owns (no "
            "user of its own could be made, ended and let to its code: start the service with the "
            "capabilities SETUID, SETGID, KILL and CHOWN, and its data directory where other users "
            "may enter, or as an ordinary user)"
        )
    if not kept.uids and kept.landlock < SCOPED_SIGNALS:
        yield (
            "signals: it reaches other processes of its user (as root, or with Landlock "
            f"{SCOPED_SIGNALS}, it would not)"
        )
    if not kept.private_proc:
        yield (
            "other processes: /proc shows which there are and their command lines, though neither "
            "memory nor environment (only root can mount one that does not)"
        )


def _limits(kept: Kept, settings: ConfinementSettings) -> Iterator[str]:
    if not kept.memory_groups:
        yield (
            "memory: `memory_bytes` bounds each process, and all that it uses is measured now and "
            "then, but for memory files that it has mapped nowhere (no cgroup can be written)"
        )
    if not (kept.process_groups or kept.processes):
        yield (
            "processes: `processes` is not kept (no cgroup can be written, and it shares its "
            "user with others)"
        )
    if settings.cpu_s and not kept.cpu_groups:
        yield "CPU time: that of processes which it starts is not counted (no cgroup counts it)"


def _network(kept: Kept) -> Iterator[str]:
    if kept.seccomp:
        return
    if kept.landlock >= NETWORK_PORTS:
        yield "network: only TCP is kept away (this kernel has no seccomp filters)"
    else:
        yield "network: it is in reach (this kernel has no seccomp filters)"
