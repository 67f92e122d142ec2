"""The filter of system calls, run by a small machine instead of a kernel, for every processor."""

from __future__ import annotations

import ctypes
import errno
import re
import struct
from functools import cache
from pathlib import Path

import pytest

from atlatl_worker import kernel, landlock, seccomp
from atlatl_worker.seccomp import DENIED, LAST_KNOWN, MACHINES

ALLOW, KILL = 0x7FFF_0000, 0x8000_0000
EPERM, ENOSYS = 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS

X32 = 0x4000_0000
"""What the numbers of x86_64's other interface begin with."""

MANY = 2**32
"""Of an argument all but the lower half, at which the kernel does not look."""

HEADERS = {
    "x86_64": (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    ),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}
"""Where the kernel's own tables are; aarch64 has the one that all newer processors share."""

machines = pytest.mark.parametrize("machine", MACHINES)


@cache
def program(machine: str, network: bool, own_user: bool) -> tuple[tuple[int, int, int, int], ...]:
    lines = seccomp.program(MACHINES[machine], network=network, own_user=own_user)
    return tuple(struct.iter_unpack("HBBI", lines))


def verdict(
    machine: str,
    number: int,
    *arguments: int,
    arch: int | None = None,
    network: bool = True,
    own_user: bool = True,
) -> int:
    """What the filter answers to a call; see seccomp(2) for what it is given."""
    lines = program(machine, network, own_user)
    arch = MACHINES[machine].arch if arch is None else arch
    known = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, arch, 0, *known)
    at = loaded = 0
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        if code == 0x20:  # load a word
            assert operand % 4 == 0
            (loaded,) = struct.unpack_from("=I", data, operand)
        elif code == 0x06:  # return
            return operand
        else:
            true = {
                0x15: loaded == operand,
                0x35: loaded >= operand,
                0x45: bool(loaded & operand),
            }[code]
            at += if_true if true else if_false


def number(machine: str, name: str) -> int:
    return MACHINES[machine].numbers[name]


def named(machine: str) -> dict[str, int]:
    """All calls whose numbers the filter was given."""
    column = MACHINES[machine].column
    denied = {name: row[column] for name, row in DENIED.items()}
    return {name: n for name, n in denied.items() if isinstance(n, int)} | MACHINES[machine].numbers


@machines
@pytest.mark.parametrize("network", [True, False])
@pytest.mark.parametrize("own_user", [True, False])
def test_what_is_denied_is_refused_and_all_else_allowed(
    machine: str, network: bool, own_user: bool
) -> None:
    looked_at = set(MACHINES[machine].numbers.values())
    denied = {n for n in named(machine).values() if n not in looked_at}
    for each in range(LAST_KNOWN + 1):
        if each in looked_at:
            continue
        found = verdict(machine, each, network=network, own_user=own_user)
        assert found == (EPERM if each in denied else ALLOW), each


@machines
def test_what_came_later_than_the_list_does_not_exist(machine: str) -> None:
    for each in (LAST_KNOWN + 1, LAST_KNOWN + 1000, X32, X32 + 101, X32 + 41, 2**32 - 1):
        assert verdict(machine, each) == ENOSYS


@machines
def test_a_call_of_another_processor_ends_the_process(machine: str) -> None:
    foreign = [each.arch for name, each in MACHINES.items() if name != machine]
    for arch in (*foreign, 0x4000_0003, 0x4000_0028, 0):  # i386 and arm among them
        for each in (0, 1, number(machine, "socket"), LAST_KNOWN + 1):
            assert verdict(machine, each, arch=arch) == KILL


@machines
@pytest.mark.parametrize(
    ("domain", "protocol", "with_network", "without"),
    [
        (1, 0, ALLOW, ALLOW),  # Unix
        (1 | MANY, 0, ALLOW, ALLOW),
        (2, 0, ALLOW, EPERM),  # IPv4 and IPv6
        (10, 0, ALLOW, EPERM),
        (16, 0, ALLOW, EPERM),  # netlink: routes
        (16, MANY, ALLOW, EPERM),
        (16, 9, EPERM, EPERM),  # audit
        (16, 16, EPERM, EPERM),  # generic
        (17, 0, EPERM, EPERM),  # packets
        (38, 0, EPERM, EPERM),  # ciphers
        (40, 0, EPERM, EPERM),  # virtual machines
        (0, 0, EPERM, EPERM),
    ],
)
def test_sockets(machine: str, domain: int, protocol: int, with_network: int, without: int) -> None:
    socket = number(machine, "socket")
    assert verdict(machine, socket, domain, 1, protocol) == with_network
    assert verdict(machine, socket, domain, 1, protocol, network=False) == without
    pair = number(machine, "socketpair")
    assert verdict(machine, pair, domain, 1) == (ALLOW if domain % MANY == 1 else EPERM)


@machines
@pytest.mark.parametrize(
    "kind", [0x0002_0000, *(1 << bit for bit in range(25, 31))], ids=lambda kind: f"{kind:#x}"
)
def test_no_clone_makes_a_namespace(machine: str, kind: int) -> None:
    clone = number(machine, "clone")
    assert verdict(machine, clone, kind | 17) == EPERM
    assert verdict(machine, clone, MANY | kind) == EPERM
    for usual in (17, 0x0120_0011, 0x003D_0F00):  # a fork, with its thread id, and a thread
        assert verdict(machine, clone, usual) == ALLOW
    assert verdict(machine, number(machine, "clone3"), 1, 88) == ENOSYS


@machines
def test_nobody_types_into_a_terminal(machine: str) -> None:
    ioctl = number(machine, "ioctl")
    for request in (0x5412, 0x541C, MANY | 0x5412):
        assert verdict(machine, ioctl, 0, request) == EPERM
    for request in (0x5401, 0x5413, 0x541B):
        assert verdict(machine, ioctl, 0, request) == ALLOW
    assert verdict(machine, ioctl, 0x5412, 0x5401) == ALLOW


@machines
def test_only_the_usual_personality(machine: str) -> None:
    personality = number(machine, "personality")
    for persona, answer in ((0, ALLOW), (0xFFFF_FFFF, ALLOW), (0x0040_0000, EPERM), (8, EPERM)):
        assert verdict(machine, personality, persona) == answer


@machines
def test_without_a_user_of_its_own_a_process_steers_itself_only(machine: str) -> None:
    by_first = (
        "prlimit64", "sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr"
    )  # fmt: skip
    for name in by_first:
        assert verdict(machine, number(machine, name), 0, own_user=False) == ALLOW
        assert verdict(machine, number(machine, name), 4711, own_user=False) == EPERM
        assert verdict(machine, number(machine, name), 4711) == ALLOW
    for name, of_process in (("setpriority", 0), ("ioprio_set", 1)):
        steers = number(machine, name)
        assert verdict(machine, steers, of_process, 0, own_user=False) == ALLOW
        assert verdict(machine, steers, of_process, 4711, own_user=False) == EPERM
        assert verdict(machine, steers, of_process + 1, 0, own_user=False) == EPERM
        assert verdict(machine, steers, of_process + 1, 4711) == ALLOW


@machines
def test_each_number_stands_for_one_call(machine: str) -> None:
    numbers = list(named(machine).values())
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) <= LAST_KNOWN


@machines
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header = next((each for each in HEADERS[machine] if each.exists()), None)
    if header is None:
        pytest.skip("needs the kernel's headers: apt install linux-libc-dev")
    lines = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text())
    theirs = {name: int(value) for name, value in lines}
    ours = named(machine) | {
        "mount_setattr": kernel._MOUNT_SETATTR,
        "landlock_create_ruleset": landlock._CREATE_RULESET,
        "landlock_add_rule": landlock._ADD_RULE,
        "landlock_restrict_self": landlock._RESTRICT_SELF,
    }
    known = {name: theirs[name] for name in ours if name in theirs}
    assert {name: ours[name] for name in known} == known
    # Headers may be older than the youngest of ours, or have lost what is no more.
    assert len(known) > len(ours) - 10
    assert not [name for name in DENIED if name not in ours and name in theirs]


@machines
def test_a_filter_lies_where_the_kernel_looks_for_it(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(kernel, "prctl", lambda *values: asked.append(values))
    lines = seccomp.program(MACHINES[machine], network=True, own_user=True)
    kept = seccomp.Filter(lines)
    kept.install()
    [(option, mode, address)] = asked
    assert (option, mode) == (22, 2)
    count, where = struct.unpack("HxxxxxxQ", ctypes.string_at(address, 16))
    assert ctypes.string_at(where, count * 8) == lines
    assert count < 4096  # BPF_MAXINSNS
