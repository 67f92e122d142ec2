"""Gives itself, or others, more than it was given."""

import os
import resource

from trying import attempts

NAMES = ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_NPROC")


def main(pids: dict) -> object:
    return attempts(
        {f"raise {name}": lambda name=name: raise_limit(name) for name in NAMES}
        | {
            f"limit {whose}": lambda pid=pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8))
            for whose, pid in pids.items()
        }
        | {
            "be spared by the kernel": lambda: write("/proc/self/oom_score_adj", b"-1000"),
            "be killed after others": lambda: write("/proc/self/oom_score_adj", b"0"),
            "be nicer to itself": lambda: os.setpriority(os.PRIO_PROCESS, 0, -10),
            "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        }
        | {
            f"slow down {whose}": lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, 19)
            for whose, pid in pids.items()
        }
        | {
            f"one core for {whose}": lambda pid=pid: os.sched_setaffinity(pid, {0})
            for whose, pid in pids.items()
        }
    )


def raise_limit(name: str) -> object:
    number = getattr(resource, name)
    _, hard = resource.getrlimit(number)
    if hard == resource.RLIM_INFINITY:
        raise PermissionError(1, "there is none")
    resource.setrlimit(number, (hard + 1, hard + 1))
    return resource.getrlimit(number)


def write(path: str, text: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    return os.write(descriptor, text)


def limits() -> dict:
    """What it was given: soft and hard."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}
