"""The filter of system calls: which are refused to functions, and why.

A deny list: what a function needs is not known, what it must not have is. A refused call fails
with EPERM, so that a program sees what happened; one that is newer than this list with ENOSYS, as
on an older kernel. `docs/security.md` argues the groups.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final, NamedTuple

from atlatl_worker import kernel

NAMESPACES: Final = "makes or enters namespaces, where one is privileged again"
MOUNTS: Final = "changes what lies where"
OTHERS: Final = "reads, writes or steers other processes"
SURFACE: Final = "has had many faults that gave away the kernel, and functions do without"
OUTLIVES: Final = "makes objects that outlive the process and are shared by name"
MACHINE: Final = "concerns the whole machine"
KEYS: Final = "the kernel's keys belong to users, not to instances"
HANDLES: Final = "opens files past the directories that lead to them"
MEMORY: Final = "memory that no limit can take back"

DENIED: Final[dict[str, tuple[str, int | None, int | None]]] = {
    # name: why, number on x86_64, number on aarch64
    "unshare": (NAMESPACES, 272, 97),
    "setns": (NAMESPACES, 308, 268),
    "mount": (MOUNTS, 165, 40),
    "umount2": (MOUNTS, 166, 39),
    "pivot_root": (MOUNTS, 155, 41),
    "chroot": (MOUNTS, 161, 51),
    "open_tree": (MOUNTS, 428, 428),
    "move_mount": (MOUNTS, 429, 429),
    "fsopen": (MOUNTS, 430, 430),
    "fsconfig": (MOUNTS, 431, 431),
    "fsmount": (MOUNTS, 432, 432),
    "fspick": (MOUNTS, 433, 433),
    "mount_setattr": (MOUNTS, 442, 442),
    "ptrace": (OTHERS, 101, 117),
    "process_vm_readv": (OTHERS, 310, 270),
    "process_vm_writev": (OTHERS, 311, 271),
    "process_madvise": (OTHERS, 440, 440),
    "process_mrelease": (OTHERS, 448, 448),
    "pidfd_getfd": (OTHERS, 438, 438),
    "kcmp": (OTHERS, 312, 272),
    "migrate_pages": (OTHERS, 256, 238),
    "move_pages": (OTHERS, 279, 239),
    "io_uring_setup": (SURFACE, 425, 425),
    "io_uring_enter": (SURFACE, 426, 426),
    "io_uring_register": (SURFACE, 427, 427),
    "userfaultfd": (SURFACE, 323, 282),
    "bpf": (SURFACE, 321, 280),
    "perf_event_open": (SURFACE, 298, 241),
    "modify_ldt": (SURFACE, 154, None),
    "uselib": (SURFACE, 134, None),
    "vhangup": (SURFACE, 153, 58),
    "lookup_dcookie": (SURFACE, 212, 18),
    "nfsservctl": (SURFACE, 180, 42),
    "keyctl": (KEYS, 250, 219),
    "add_key": (KEYS, 248, 217),
    "request_key": (KEYS, 249, 218),
    "shmget": (OUTLIVES, 29, 194),
    "shmat": (OUTLIVES, 30, 196),
    "shmctl": (OUTLIVES, 31, 195),
    "semget": (OUTLIVES, 64, 190),
    "semop": (OUTLIVES, 65, 193),
    "semtimedop": (OUTLIVES, 220, 192),
    "semctl": (OUTLIVES, 66, 191),
    "msgget": (OUTLIVES, 68, 186),
    "msgsnd": (OUTLIVES, 69, 189),
    "msgrcv": (OUTLIVES, 70, 188),
    "msgctl": (OUTLIVES, 71, 187),
    "mq_open": (OUTLIVES, 240, 180),
    "mq_unlink": (OUTLIVES, 241, 181),
    "open_by_handle_at": (HANDLES, 304, 265),
    "name_to_handle_at": (HANDLES, 303, 264),
    "fanotify_init": (HANDLES, 300, 262),
    "fanotify_mark": (HANDLES, 301, 263),
    "memfd_secret": (MEMORY, 447, 447),
    "kexec_load": (MACHINE, 246, 104),
    "kexec_file_load": (MACHINE, 320, 294),
    "init_module": (MACHINE, 175, 105),
    "finit_module": (MACHINE, 313, 273),
    "delete_module": (MACHINE, 176, 106),
    "create_module": (MACHINE, 174, None),
    "swapon": (MACHINE, 167, 224),
    "swapoff": (MACHINE, 168, 225),
    "reboot": (MACHINE, 169, 142),
    "acct": (MACHINE, 163, 89),
    "quotactl": (MACHINE, 179, 60),
    "quotactl_fd": (MACHINE, 443, 443),
    "settimeofday": (MACHINE, 164, 170),
    "clock_settime": (MACHINE, 227, 112),
    "clock_adjtime": (MACHINE, 305, 266),
    "adjtimex": (MACHINE, 159, 171),
    "sethostname": (MACHINE, 170, 161),
    "setdomainname": (MACHINE, 171, 162),
    "iopl": (MACHINE, 172, None),
    "ioperm": (MACHINE, 173, None),
    "syslog": (MACHINE, 103, 116),
}

LAST_KNOWN: Final = 456
"""What has a higher number came later than this list."""

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_ALLOW: Final = 0x7FFF_0000
_KILL: Final = 0x8000_0000
_ERROR: Final = 0x0005_0000
_EPERM: Final = _ERROR | errno.EPERM
_ENOSYS: Final = _ERROR | errno.ENOSYS
_FILTER_MODE: Final = 2

_NEW_NAMESPACES: Final = 0x7E02_0000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_PER_LINUX, _PERSONALITY_QUERY = 0, 0xFFFF_FFFF
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1

Line = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


class Machine(NamedTuple):
    """What differs between processors."""

    arch: int
    column: int
    """Of `DENIED`."""
    numbers: dict[str, int]
    """Of those that are looked at more closely."""


MACHINES: Final = {
    "x86_64": Machine(
        0xC000_003E,
        1,
        {
            "socket": 41,
            "socketpair": 53,
            "clone": 56,
            "clone3": 435,
            "ioctl": 16,
            "personality": 135,
            "prlimit64": 302,
            "setpriority": 141,
            "ioprio_set": 251,
            "sched_setparam": 142,
            "sched_setscheduler": 144,
            "sched_setaffinity": 203,
            "sched_setattr": 314,
        },
    ),
    "aarch64": Machine(
        0xC000_00B7,
        2,
        {
            "socket": 198,
            "socketpair": 199,
            "clone": 220,
            "clone3": 435,
            "ioctl": 29,
            "personality": 92,
            "prlimit64": 261,
            "setpriority": 140,
            "ioprio_set": 30,
            "sched_setparam": 118,
            "sched_setscheduler": 119,
            "sched_setaffinity": 122,
            "sched_setattr": 274,
        },
    ),
}


def program(machine: Machine, *, network: bool, own_user: bool) -> bytes:
    """The filter, ready to be installed.

    A tree over the numbers, not a list: the kernel runs it for each number when it is installed
    to find those that are always allowed, which then cost nothing.

    Args:
        machine: whose numbers.
        network: whether there is more than Unix sockets.
        own_user: whether the kernel keeps it from other processes' limits and priorities because
            they are another user's.
    """
    numbers = machine.numbers
    leaves: dict[int, list[Line]] = {
        number: [_ret(_EPERM)]
        for row in DENIED.values()
        if (number := row[machine.column]) is not None and isinstance(number, int)
    }
    sockets = [_AF_UNIX, *([_AF_INET, _AF_INET6] if network else [])]
    leaves[numbers["socket"]] = _only(0, sockets, _netlink() if network else [_ret(_EPERM)])
    leaves[numbers["socketpair"]] = _only(0, [_AF_UNIX], [_ret(_EPERM)])
    leaves[numbers["clone"]] = [
        _load(0),
        (_JSET, 0, 1, _NEW_NAMESPACES),
        _ret(_EPERM),
        _ret(_ALLOW),
    ]
    # Its flags lie in memory, where a filter cannot look: the C library falls back to `clone`.
    leaves[numbers["clone3"]] = [_ret(_ENOSYS)]
    leaves[numbers["ioctl"]] = _unless(1, [_TIOCSTI, _TIOCLINUX])
    only_known = _only(0, [_PER_LINUX, _PERSONALITY_QUERY], [_ret(_EPERM)])
    leaves[numbers["personality"]] = only_known
    if not own_user:
        for name in ("prlimit64", "sched_setparam", "sched_setscheduler"):
            leaves[numbers[name]] = _only(0, [0], [_ret(_EPERM)])
        leaves[numbers["sched_setaffinity"]] = leaves[numbers["prlimit64"]]
        leaves[numbers["sched_setattr"]] = leaves[numbers["prlimit64"]]
        for name, of_process in (
            ("setpriority", _PRIO_PROCESS),
            ("ioprio_set", _IOPRIO_WHO_PROCESS),
        ):
            itself = _only(1, [0], [_ret(_EPERM)])
            other = [_load(0), (_JEQ, 1, 0, of_process), _ret(_EPERM)]
            leaves[numbers[name]] = [*other, *itself]
    leaves[LAST_KNOWN + 1] = [_ret(_ENOSYS)]
    head = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, machine.arch),
        _ret(_KILL),
        (_LD, 0, 0, _NUMBER),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in [*head, *_tree(_intervals(leaves))])


def _ret(action: int) -> Line:
    return (_RET, 0, 0, action)


def _load(argument: int) -> Line:
    """The lower half: all that the kernel looks at where we look at an argument."""
    return (_LD, 0, 0, _ARGUMENTS + 8 * argument)


def _only(argument: int, values: list[int], otherwise: list[Line]) -> list[Line]:
    """Allows the call when the argument is one of these."""
    lines = [_load(argument)]
    for value in values:
        lines += [(_JEQ, 0, 1, value), _ret(_ALLOW)]
    return lines + otherwise


def _unless(argument: int, values: list[int]) -> list[Line]:
    """Refuses the call when the argument is one of these."""
    lines = [_load(argument)]
    for value in values:
        lines += [(_JEQ, 0, 1, value), _ret(_EPERM)]
    return [*lines, _ret(_ALLOW)]


def _netlink() -> list[Line]:
    """Of netlink the part by which programs learn their own addresses."""
    return [
        (_JEQ, 0, 2, _AF_NETLINK),
        _load(2),
        (_JEQ, 1, 0, _NETLINK_ROUTE),
        _ret(_EPERM),
        _ret(_ALLOW),
    ]


def _intervals(leaves: dict[int, list[Line]]) -> list[tuple[int, list[Line]]]:
    """Where each run of numbers with the same answer begins, in order."""
    found: list[tuple[int, list[Line]]] = [(0, [_ret(_ALLOW)])]
    for number in sorted(leaves):
        if found[-1][0] == number:
            found.pop()
        found.append((number, leaves[number]))
        if number <= LAST_KNOWN:
            found.append((number + 1, [_ret(_ALLOW)]))
    return [found[n] for n in range(len(found)) if n == 0 or found[n - 1][1] != found[n][1]]


def _tree(intervals: list[tuple[int, list[Line]]]) -> list[Line]:
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    lower, upper = _tree(intervals[:middle]), _tree(intervals[middle:])
    if len(lower) > 255:
        raise ValueError("a jump that is too far for a filter")
    return [(_JGE, len(lower), 0, intervals[middle][0]), *lower, *upper]


class Filter:
    """A program where the kernel can read it: made before the fork, shared by all."""

    def __init__(self, lines: bytes) -> None:
        self._lines = ctypes.create_string_buffer(lines, len(lines))
        self._head = ctypes.create_string_buffer(
            struct.pack("HxxxxxxQ", len(lines) // 8, ctypes.addressof(self._lines))
        )
        self._address = ctypes.addressof(self._head)

    def install(self) -> None:
        """For this process and all that it starts, for good; raises OSError."""
        kernel.prctl(kernel.PR_SET_SECCOMP, _FILTER_MODE, self._address)
