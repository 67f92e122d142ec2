"""From a forked child to a confined instance, in two stages.

The first comes at the fork: what it holds, and how it ends with its parent, mounts of its own.
The second comes with the assignment, before the first byte of user code: it takes away what the
function must not have. `docs/security.md` says what each level promises.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import Final, NamedTuple

from atlatl_worker import kernel, landlock, rooms, seccomp
from atlatl_worker.means import Means, become_user, own_mounts

SOCKET_FD: Final = 3
OUTPUT_FD: Final = 4
TOKENS_FD: Final = 5
BODIES_FD: Final = 6
FIRST_FREE_FD: Final = 7
_LAST_FD: Final = os.sysconf("SC_OPEN_MAX")

_OOM_SCORE: Final = b"500"
_NICENESS: Final = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
_SIGKILL: Final = int(signal.SIGKILL)
_HERE: Final = os.path.dirname(__file__)  # noqa: PTH120

LEAST_FILE_BYTES: Final = 64 * 1024 * 1024
"""Limit of a file's size at least: our own memory files are as large."""
USUAL_TMP_BYTES: Final = 536_870_912
"""Size of a temporary directory until the task says otherwise; the setting's default."""


class Confinement(NamedTuple):
    """What an instance of a task is kept to."""

    level: str = "none"
    """`none`, `standard` or `strict`."""
    network: bool = True
    tmp_bytes: int = USUAL_TMP_BYTES
    open_files: int = 0
    """0: no limit of its own, here and below."""
    processes: int = 0
    data_bytes: int = 0
    """Memory that it may ask for: where no other limit of memory is kept."""


class Unconfined(Exception):
    """Something could not be kept that has to be; the message says what and why."""


_means = Means()
_filters: dict[bool, seccomp.Filter] = {}
"""By whether there is a network."""
_usual: list[landlock.Rule] = []
_usual_addresses: list[int] = []
_parent = 0
_rules = -1
_confined = False


def become_subreaper() -> None:
    """Has processes whose parent dies become children of this process."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def prepare_parent(means: Means, readable: list[str]) -> None:
    """Sets up a process to fork instances: all of this is theirs as well, at no cost.

    Args:
        means: what can be kept here.
        readable: what instances may read and run besides the system.
    """
    global _means
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for descriptor in (SOCKET_FD, OUTPUT_FD, TOKENS_FD, BODIES_FD):
        # What an instance is to get must not come to lie where it is to be put.
        if not os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110
            os.dup2(0, descriptor, inheritable=False)
    _means = means
    if means.landlock:
        _usual[:] = landlock.usual_rules(means.landlock, readable)
        _usual_addresses[:] = [rule.address for rule in _usual]
    if means.seccomp:
        machine = seccomp.MACHINES[kernel.MACHINE]
        for network in (True, False):
            lines = seccomp.program(machine, network=network, own_user=means.uids)
            _filters[network] = seccomp.Filter(lines)
    # Nothing of the same user reads what the service has given this process.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


# --- at the fork ---


def prepare(parent: int, sock: int, output: int, tokens: int, bodies: int) -> None:
    """Turns a freshly forked child into an instance that holds nothing but what it needs.

    Args:
        parent: process id of who forked it; the child ends with it.
        sock: descriptor of the socket, becomes 3.
        output: descriptor of the memory file, becomes 1, 2 and (for us) 4.
        tokens: descriptor of the tokens of calls that are sent ahead, becomes 5.
        bodies: descriptor of the file for large bodies, becomes 6.
    """
    global _parent
    _parent = parent
    _end_with_parent()
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(sock, SOCKET_FD, False)
    os.dup2(output, OUTPUT_FD, False)
    os.dup2(tokens, TOKENS_FD, False)
    os.dup2(bodies, BODIES_FD, False)
    first_free = FIRST_FREE_FD
    if _means.landlock and not _confined:
        _begin_rules()
        first_free += 1
    os.closerange(first_free, _LAST_FD)


def _begin_rules() -> None:
    """While the files that the rules name are open still."""
    global _rules
    rules = landlock.file_rules(_means.landlock)
    for address in _usual_addresses:
        landlock.add(rules, address)
    os.dup2(rules, FIRST_FREE_FD, False)
    _rules = FIRST_FREE_FD


def _end_with_parent() -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != _parent:
        # It died before the line above; no signal will come.
        os._exit(1)


def separate() -> None:
    """The first stage of a blank's confinement: its own mounts; raises OSError."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    _set_oom_score()
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    if _means.mounts:
        own_mounts(_means.user_namespaces)
        rooms.enter(USUAL_TMP_BYTES)
    if _means.landlock:
        landlock.allow_own(_rules, _means.landlock, _means.mounts)


def separate_fork() -> None:
    """The same for what a confined process has forked: it keeps from its siblings."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    if _confined:
        landlock.restrict_scope(_means.landlock)


def _set_oom_score() -> None:
    try:
        # Not `open()`: it would import a codec and dirty a fifth of what an instance costs.
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(file, _OOM_SCORE)
        finally:
            os.close(file)
    except OSError:
        # Without /proc the kernel treats instances and service alike; no reason not to serve.
        pass


# --- at the assignment ---


def confine(wanted: Confinement, places: list[str]) -> None:
    """The second stage; what this kernel cannot keep at the level `standard` is left out.

    Args:
        wanted: what the task is kept to.
        places: directories that it may read and run.

    Raises:
        Unconfined: it cannot be kept.
    """
    step = "level"
    try:
        if wanted.level == "none":
            _stay_free()
            return
        if wanted.level == "strict":
            step = "namespaces"
            kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
        if _means.mounts:
            step = "mounts"
            rooms.resize(wanted.tmp_bytes)
            for place in places:
                rooms.provide(place)
            rooms.close()
        step = "limits"
        _limit(wanted)
        step = "Landlock"
        _restrict(wanted, places)
        step = "user"
        if _means.uids:
            become_user(os.getpid(), in_room=_means.mounts)
            _look_around(places)
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        _end_with_parent()
        step = "seccomp"
        if _means.seccomp:
            _filters[wanted.network and wanted.level != "strict"].install()
    except OSError as error:
        raise Unconfined(f"the instance could not be confined ({step}): {error}") from None
    _note_confined()


def _note_confined() -> None:
    global _confined
    _confined = True


def _look_around(places: list[str]) -> None:
    """Says what to do where a user of its own would not find its code; raises Unconfined."""
    for place in places:
        if not os.access(place, os.R_OK | os.X_OK):
            raise Unconfined(
                f"the instance's user may not read {place}: open it, and the directories that lead "
                "to it, to other users (`chmod o+rx`, `chmod o+x`)"
            )


def _stay_free() -> None:
    """What a blank was given is taken back: it sees the host's files."""
    global _rules
    if _rules >= 0:
        os.close(_rules)
        _rules = -1
    if _means.mounts:
        rooms.leave()
    if _means.user_namespaces:
        kernel.drop_capabilities()


def _limit(wanted: Confinement) -> None:
    file_bytes = max(wanted.tmp_bytes, LEAST_FILE_BYTES)
    kernel.limit(resource.RLIMIT_FSIZE, file_bytes)
    if wanted.open_files:
        kernel.limit(resource.RLIMIT_NOFILE, wanted.open_files)
    if wanted.processes and _means.processes:
        kernel.limit(resource.RLIMIT_NPROC, wanted.processes)
    if wanted.data_bytes:
        kernel.limit(resource.RLIMIT_DATA, wanted.data_bytes)


def _restrict(wanted: Confinement, places: list[str]) -> None:
    global _rules
    abi = _means.landlock
    if not abi:
        return
    rules, _rules = _rules, -1
    for place in places:
        landlock.allow(rules, abi, place, landlock.RUN)
    landlock.restrict(rules)
    if not wanted.network or wanted.level == "strict":
        landlock.restrict_tcp(abi)


# --- before ---


def rehearse() -> None:
    """Goes through the second stage without an effect; see `serve.rehearse`."""
    global _confined, _means, _parent, _rules
    means, parent, rules = _means, _parent, _rules
    try:
        _means = means._replace(uids=False)
        _parent = os.getppid()
        _rules = os.dup(0) if means.landlock else -1
        with kernel.idle():
            confine(Confinement("standard", open_files=1, processes=1), [_HERE])
    finally:
        _means, _parent, _rules, _confined = means, parent, rules, False
