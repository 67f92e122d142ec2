"""Landlock: which files, ports and processes are in reach of a process and all it starts.

What is handled and not allowed by a rule is refused, whoever asks. A rule for a directory holds
for all below it. Each `restrict` can only take away. `docs/security.md` says what is allowed.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from typing import Final

from atlatl_worker import kernel, rooms

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15
READ: Final = READ_FILE | READ_DIR
RUN: Final = READ | EXECUTE
USE: Final = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
"""What may be done with a device."""
EVERYTHING: Final = (1 << 16) - 1
_OF_FILES: Final = USE | EXECUTE

_FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: EVERYTHING}
"""What each version handles first."""
_TCP: Final = 0b11
_SCOPES: Final = 0b11
"""Abstract sockets and signals."""
_ETC_FILES: Final = tuple(f"/etc/{name}" for name in rooms.ETC)
FIRST_WITH_TCP: Final = 4
FIRST_WITH_SCOPES: Final = 6


def version() -> int:
    """Of the kernel's interface; 0 when it has none, or it is switched off."""
    try:
        return kernel.call("landlock", _CREATE_RULESET, 0, 0, _VERSION)
    except OSError:
        return 0


def file_rights(abi: int) -> int:
    """All rights to files that this version knows."""
    return max(rights for first, rights in _FILE_RIGHTS.items() if first <= abi)


def file_rules(abi: int) -> int:
    """The descriptor of a set of rules, as yet with none: no files, no foreign processes."""
    return _rules(abi, file_rights(abi), 0, _SCOPES)


def restrict_tcp(abi: int) -> None:
    """Takes TCP away from this process, where the version knows how."""
    if abi >= FIRST_WITH_TCP:
        restrict(_rules(abi, 0, _TCP, 0))


def restrict_scope(abi: int) -> None:
    """Keeps this process from signalling and tracing those that did not come from it."""
    if abi >= FIRST_WITH_SCOPES:
        restrict(_rules(abi, 0, 0, _SCOPES))


def _rules(abi: int, files: int, tcp: int, scopes: int) -> int:
    attributes = struct.pack("QQQ", files, tcp, scopes)
    size = 8 if abi < FIRST_WITH_TCP else 16 if abi < FIRST_WITH_SCOPES else 24
    return kernel.call("landlock", _CREATE_RULESET, kernel.address(attributes), size, 0)


class Rule:
    """A rule where the kernel can read it: made before the fork, shared by all."""

    def __init__(self, abi: int, path: str, rights: int) -> None:
        """Keeps what lies at the path open; raises OSError."""
        self._target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights &= file_rights(abi)
        if os.fstat(self._target).st_mode & 0o170000 != 0o040000:
            rights &= _OF_FILES
        self._content = struct.pack("=Qi", rights, self._target)
        self.address = kernel.address(self._content)

    def close(self) -> None:
        os.close(self._target)


def allow(rules: int, abi: int, path: str, rights: int) -> None:
    """Adds a rule; what is not there needs none.

    Raises:
        OSError: the kernel refused.
    """
    try:
        rule = Rule(abi, path, rights)
    except OSError:
        return
    try:
        add(rules, rule.address)
    finally:
        rule.close()


def add(rules: int, rule: int) -> None:
    """Adds the rule that lies there; raises OSError."""
    kernel.call("landlock", _ADD_RULE, rules, _PATH_BENEATH, rule, 0)


def restrict(rules: int) -> None:
    """Puts the rules into force for this process, for good, and closes them; raises OSError."""
    try:
        kernel.call("landlock", _RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def usual_rules(abi: int, readable: Iterable[str]) -> list[Rule]:
    """What every instance may do with files, besides those of /etc and its own /tmp.

    Args:
        abi: the version.
        readable: what it may read and run besides the system.
    """
    wanted = dict.fromkeys((*rooms.SYSTEM, *readable), RUN)
    wanted |= dict.fromkeys(("/proc", rooms.PROCESSORS, *rooms.ETC_DIRECTORIES), READ)
    wanted |= dict.fromkeys(rooms.DEVICES, USE)
    found = []
    for path, rights in wanted.items():
        with contextlib.suppress(OSError):  # what is not there needs none
            found.append(Rule(abi, path, rights))
    return found


def allow_own(rules: int, abi: int, mounts: bool) -> None:
    """Adds what must be looked up at the time: names of /etc that lead to other files, and /tmp.

    Args:
        rules: to which it is added.
        abi: the version.
        mounts: whether this process is in a room of its own.
    """
    for path in ("/etc",) if mounts else _ETC_FILES:
        allow(rules, abi, path, READ)
    allow(rules, abi, rooms.TMP, EVERYTHING)
