"""What the kernel at hand lets the zygote keep instances from."""

from __future__ import annotations

from atlatl.model import Record


class Kept(Record, frozen=True):
    """What was tried when the zygote came up, and held. The zygote's `ready` message has it."""

    landlock: int = 0
    """Version of Landlock's interface: which files and ports are in reach. 0: none."""
    seccomp: bool = False
    """System calls are filtered."""
    uids: bool = False
    """Each instance has a user id of its own: the service runs as root."""
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
