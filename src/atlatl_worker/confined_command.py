"""From a forked process to a confined command: `JSON -- COMMAND ...`.

For what runs foreign code without being an instance: the installation of an artifact's
dependencies. The command takes the process' place, so its status is the command's; 125 with a line
on standard error says that it could not be confined.

It has the network, the system and this interpreter with its libraries to read, a temporary
directory of its own (its environment should lead there: `TMPDIR=/tmp`), no new privileges, and the
filter of system calls that instances have. What a kernel cannot keep is left out. The members of
the JSON object:

    read          paths of files and directories that it may read and run; what is not there is
                  left out, and so is what leads to a directory in `write`: its neighbours are
                  not the command's to see
    write         directories that it may write to as well. As root the command has a user of its
                  own: the directories in `write`, not what is in them, are given to that user, and
                  what the command leaves there is his: the caller takes it back
    file_bytes    size of any file that it writes, default 0: no limit, as below
    memory_bytes  what each of its processes may ask for
    processes     how many it may have, itself included; kept where they alone count
    open_files    how many each of them may have open

The current directory has to be one of `read` or `write`, or below one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import site
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from atlatl_worker import confine, kernel, landlock, means, rooms, seccomp

FAILED = 125


def main(arguments: list[str]) -> NoReturn:
    """Becomes the command, or says on standard error why not."""
    try:
        wanted = json.loads(arguments[0])
        os.umask(0o022)  # the room is for another user, whatever the service lets others have
        command = arguments[arguments.index("--") + 1 :]
        parent = os.getppid()
        here = os.getcwd()
        written = {path: os.open(path, os.O_RDONLY) for path in wanted.get("write", [])}
        read = _apart([*wanted.get("read", []), *_libraries()], written)
        found = means.find([*_own_paths(), *read], [here])
        _confine(found, wanted, read, written)
        os.chdir(here)
        _end_with(parent)
        _filter(found)
        os.execvp(command[0], command)  # nosec: B606 # a list, which no shell reads
    except (OSError, ValueError, LookupError) as error:
        print(f"the command could not be confined or run: {error}", file=sys.stderr)
    sys.exit(FAILED)


def _own_paths() -> list[str]:
    return [*rooms.interpreter(), os.path.dirname(os.path.abspath(__file__))]


def _libraries() -> list[str]:
    """Where a Python that the command is, or starts, imports from; this one began without them."""
    site.main()
    return sys.path


def _apart(paths: Iterable[str], written: Iterable[str]) -> list[str]:
    """Those of the paths that are there and do not lead to a directory in `written`."""
    below = [os.path.join(os.path.realpath(path), "") for path in written]
    found = []
    for path in paths:
        above = os.path.join(os.path.realpath(path), "")
        if os.path.exists(path) and not any(place.startswith(above) for place in below):
            found.append(path)
    return found


def _confine(
    found: means.Means, wanted: dict[str, Any], read: list[str], written: dict[str, int]
) -> None:
    """All but the filter.

    Args:
        found: what this kernel can keep.
        wanted: the JSON object.
        read: what there is of its member `read`.
        written: the directories in `write`, open.
    """
    if found.uids:
        uid = means.uid_of(os.getpid())
        for directory in written.values():
            os.fchown(directory, uid, uid)
    if found.mounts:
        means.own_mounts(found.user_namespaces)
        rooms.enter(confine.USUAL_TMP_BYTES)
        for path in read:
            rooms.provide(path)
        for path in written:
            rooms.provide(path, writable=True)
        rooms.close()
    _limit(found, wanted)
    if found.landlock:
        rules = landlock.file_rules(found.landlock)
        for rule in landlock.usual_rules(found.landlock, [*_own_paths(), *read]):
            landlock.add(rules, rule.address)
        landlock.allow_own(rules, found.landlock, found.mounts)
        for path in written:
            landlock.allow(rules, found.landlock, path, landlock.EVERYTHING)
        landlock.restrict(rules)
    if found.uids:
        means.become_user(os.getpid(), in_room=found.mounts)
    kernel.drop_capabilities()


def _limit(found: means.Means, wanted: dict[str, Any]) -> None:
    limits = {
        resource.RLIMIT_FSIZE: wanted.get("file_bytes", 0),
        resource.RLIMIT_DATA: wanted.get("memory_bytes", 0),
        resource.RLIMIT_NPROC: wanted.get("processes", 0) if found.processes else 0,
        resource.RLIMIT_NOFILE: wanted.get("open_files", 0),
    }
    kernel.limit(resource.RLIMIT_CORE, 0)
    for limit, value in limits.items():
        if value:
            kernel.limit(limit, value)


def _end_with(parent: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit(FAILED)


def _filter(found: means.Means) -> None:
    if found.seccomp:
        machine = seccomp.MACHINES[kernel.MACHINE]
        lines = seccomp.program(machine, network=True, own_user=found.uids)
        seccomp.Filter(lines).install()
