"""Takes hold of other processes: traces them, reads and writes their memory, takes their files."""

import ctypes
import os

from trying import INTEL, attempts, call, libc, others, syscall

PTRACE_TRACEME, PTRACE_ATTACH, PTRACE_SEIZE = 0, 16, 0x4206
READ, WRITE, KCMP, GETFD, MADVISE = (
    (310, 311, 312, 438, 440) if INTEL else (270, 271, 272, 438, 440)
)

libc.ptrace.restype = ctypes.c_long


def main(pids: dict) -> object:
    tries = {"trace me": lambda: call("ptrace", PTRACE_TRACEME, 0, None, None)}
    for whose, pid in others(pids).items():
        tries |= {
            f"attach to {whose}": lambda pid=pid: call("ptrace", PTRACE_ATTACH, pid, None, None),
            f"seize {whose}": lambda pid=pid: call("ptrace", PTRACE_SEIZE, pid, None, None),
            f"read {whose}": lambda pid=pid: memory_of(READ, pid),
            f"write {whose}": lambda pid=pid: memory_of(WRITE, pid),
            f"compare {whose}": lambda pid=pid: syscall(KCMP, os.getpid(), pid, 0, 0, 0),
            f"take a file of {whose}": lambda pid=pid: descriptor_of(pid),
            f"advise {whose}": lambda pid=pid: advise(pid),
        }
    return attempts(tries)


class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


HERE = ctypes.create_string_buffer(16)


def memory_of(number: int, pid: int) -> int:
    """At an address that is the same in all forks of one process: the code of this interpreter."""
    there = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "Py_Version"))
    mine, theirs = Span(ctypes.addressof(HERE), 8), Span(there, 8)
    return syscall(number, pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)


def descriptor_of(pid: int) -> int:
    return syscall(GETFD, os.pidfd_open(pid), 0, 0)


def advise(pid: int) -> int:
    span = Span(ctypes.addressof(HERE) & ~0xFFF, 4096)
    return syscall(MADVISE, os.pidfd_open(pid), ctypes.byref(span), 1, 20, 0)
