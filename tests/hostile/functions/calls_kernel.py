"""Makes the system calls that no function needs and many attacks began with.

The arguments make no sense: where a call is let through it fails in another way than where it is
refused, and changes nothing.
"""

import ctypes
import mmap
import os

from trying import INTEL, attempts, call, syscall

#                                x86_64, aarch64
NUMBERS = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "process_madvise": (440, 440),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "syslog": (103, 116),
    "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "vhangup": (153, 58),
    "memfd_secret": (447, 447), "sethostname": (170, 161), "setdomainname": (171, 162),
}  # fmt: skip
INTEL_ONLY = {"iopl": 172, "ioperm": 173}
BAD = ctypes.c_long(-1)
"""No descriptor, no address, no flag."""


def main() -> object:
    numbers = {name: pair[0 if INTEL else 1] for name, pair in NUMBERS.items()}
    numbers |= INTEL_ONLY if INTEL else {}
    return attempts(
        {
            name: lambda number=number: syscall(number, BAD, BAD, BAD, BAD, BAD)
            for name, number in numbers.items()
        }
        | {"personality": lambda: call("personality", ctypes.c_ulong(0x0040000))}
    )


SPACES = {
    "mounts": 0x00020000, "control groups": 0x02000000, "names": 0x04000000, "ipc": 0x08000000,
    "users": 0x10000000, "processes": 0x20000000, "network": 0x40000000, "time": 0x00000080,
}  # fmt: skip


def spaces() -> object:
    """Namespaces of its own, in which it would be root."""
    CLONE = 56 if INTEL else 220
    tries = {
        f"unshare {name}": lambda flag=flag: call("unshare", flag) for name, flag in SPACES.items()
    }
    tries |= {
        f"clone {name}": lambda flag=flag: clone(CLONE, flag)
        for name, flag in SPACES.items()
        if name != "time"
    }
    tries["enter that of its parent"] = lambda: call(
        "setns", os.open(f"/proc/{os.getppid()}/ns/mnt", os.O_RDONLY), 0
    )
    tries["enter its own again"] = lambda: call("setns", os.open("/proc/self/ns/user", 0), 0)
    return attempts(tries)


def clone(number: int, flag: int) -> int:
    pid = syscall(number, ctypes.c_long(flag | 17), None, None, None, None)
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def clone3() -> str:
    """Its flags lie in memory, where no filter can look; C libraries then do with clone."""
    arguments = (ctypes.c_uint64 * 11)()
    arguments[4] = 17
    try:
        pid = syscall(435, arguments, ctypes.sizeof(arguments))
    except OSError as error:
        return error.strerror or ""
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


def mounts() -> object:
    """With arguments that would work."""
    if os.getuid() == 0:
        # Not contained at all: that is said without changing the mounts of the machine.
        return {"achieved": {"mount": "as root"}}
    os.makedirs("/tmp/there", exist_ok=True)
    MS_BIND, MS_REMOUNT, MS_REC, MS_PRIVATE = 4096, 32, 16384, 1 << 18
    return attempts(
        {
            "a file system": lambda: call("mount", b"none", b"/tmp/there", b"tmpfs", 0, None),
            "proc": lambda: call("mount", b"proc", b"/tmp/there", b"proc", 0, None),
            "a bind": lambda: call("mount", b"/", b"/tmp/there", None, MS_BIND, None),
            "more room": lambda: call("mount", None, b"/tmp", None, MS_REMOUNT, b"size=1g"),
            "propagation": lambda: call("mount", None, b"/tmp", None, MS_REC | MS_PRIVATE, None),
            "unmount": lambda: call("umount2", b"/tmp", 2),
            "unmount proc": lambda: call("umount2", b"/proc", 2),
            "another root": lambda: os.chroot("/tmp"),
        }
    )


CODE = {
    # mov eax, 20 (getpid of i386); int 0x80; ret
    "of another architecture": bytes.fromhex("b814000000cd80c3"),
    # mov eax, 0x40000027 (getpid of x32); syscall; ret
    "of another kind": bytes.fromhex("b8270000400f05c3"),
}


def foreign(kind: str) -> int:
    """Past a filter that only knows the numbers of one kind."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(CODE[kind])
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def types() -> object:
    """Puts letters into the terminal of whoever started the service."""

    def push() -> int:
        letter = ctypes.c_char(b"x")
        return call("ioctl", 0, 0x5412, ctypes.byref(letter))  # TIOCSTI

    return attempts(
        {"a letter": push, "a selection": lambda: call("ioctl", 0, 0x541C, ctypes.c_char_p(b"\2"))}
    )
