"""Runs one command confined: `python -I -S confined_command.py JSON -- COMMAND ...`.

Executed as a file by the service, for what runs foreign code without being an instance: the
installation of an artifact's dependencies. The command takes this process' place, so its status
is the command's; 125 with a line on standard error says that it could not be confined.

It has the network, the system and this interpreter to read, a temporary directory of its own (its
environment should lead there: `TMPDIR=/tmp`), no new privileges, and the filter of system calls
that instances have. What a kernel cannot keep is left out. The members of the JSON object:

    read          paths of files and directories that it may read and run; what is not there is
                  left out
    write         directories that it may write to as well
    own_user      as root: whether it gets a user of its own (default true). The directories in
                  `write`, not what is in them, are given to that user, and what the command
                  leaves there is his: the caller takes it back. With false it stays root, without
                  capabilities
    tmp_bytes     size of its temporary directory, default 536870912
    file_bytes    size of any file that it writes, default 0: no limit, as below
    memory_bytes  what each of its processes may ask for
    cpu_s         CPU time of each of its processes
    processes     how many it may have, itself included; kept where they alone count
    open_files    how many each of them may have open

The current directory has to be one of `read` or `write`, or below one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

FAILED = 125


def main(arguments: list[str]) -> NoReturn:
    """Becomes the command, or says on standard error why not."""
    from atlatl_worker import means

    try:
        wanted = json.loads(arguments[0])
        command = arguments[arguments.index("--") + 1 :]
        parent = os.getppid()
        here = os.getcwd()
        read = [path for path in wanted.get("read", []) if os.path.exists(path)]
        written = {path: os.open(path, os.O_RDONLY) for path in wanted.get("write", [])}
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
    from atlatl_worker import rooms

    return [*rooms.interpreter(), os.path.dirname(os.path.abspath(__file__))]


def _confine(found: Any, wanted: dict[str, Any], read: list[str], written: dict[str, int]) -> None:
    """All but the filter.

    Args:
        found: what this kernel can keep.
        wanted: the JSON object.
        read: what there is of its member `read`.
        written: the directories in `write`, open.
    """
    from atlatl_worker import kernel, landlock, means, rooms

    own_user = found.uids and wanted.get("own_user", True)
    if own_user:
        uid = means.uid_of(os.getpid())
        for directory in written.values():
            os.fchown(directory, uid, uid)
    if found.mounts:
        means.own_mounts(found.user_namespaces)
        rooms.enter(wanted.get("tmp_bytes", 536_870_912))
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
    if own_user:
        means.become_user(os.getpid())
    kernel.drop_capabilities()


def _limit(found: Any, wanted: dict[str, Any]) -> None:
    limits = {
        resource.RLIMIT_FSIZE: wanted.get("file_bytes", 0),
        resource.RLIMIT_DATA: wanted.get("memory_bytes", 0),
        resource.RLIMIT_CPU: wanted.get("cpu_s", 0),
        resource.RLIMIT_NPROC: wanted.get("processes", 0) if found.processes else 0,
        resource.RLIMIT_NOFILE: wanted.get("open_files", 0),
    }
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        if value:
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))


def _end_with(parent: int) -> None:
    from atlatl_worker import kernel

    kernel.prctl(kernel.PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit(FAILED)


def _filter(found: Any) -> None:
    from atlatl_worker import kernel, seccomp

    if found.seccomp:
        machine = seccomp.MACHINES[kernel.MACHINE]
        lines = seccomp.program(machine, network=True, own_user=found.uids)
        seccomp.Filter(lines).install()


def _make_importable() -> None:
    """As in `__main__.py`, which is executed as a file as well."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        "_beginning",
        os.path.join(here, "__main__.py"),
    )
    assert spec is not None
    assert spec.loader is not None
    beginning = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(beginning)
    beginning.make_importable()


if __name__ == "__main__":
    _make_importable()
    main(sys.argv[1:])
