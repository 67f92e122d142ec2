"""The room that instances live in: a file system of their own, with what they need and no more.

The zygote builds it once, a small read-only file system in which the interpreter and the
libraries lie at their usual paths, and makes it its root directory. Each instance has a copy of
the mounts, a temporary directory of its own, and at last its artifact and its dependencies.
Whatever else the host has, sockets that other programs listen on included, is not there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable
from typing import Final

from atlatl_worker import kernel

_HIDDEN: Final = "/.room"
HOST: Final = "/.room/host"
"""The host's own files, until user code runs."""
_WRITABLE: Final = "/.room/writable"
"""The room itself, where directories can still be made in it."""
_EMPTY: Final = "/run"

TMP: Final = "/tmp"
_ALSO_TMP: Final = ("/var/tmp", "/dev/shm")
"""Lead to the same directory."""
_TMP_FLAGS: Final = kernel.MS_NOSUID | kernel.MS_NODEV
BYTES_PER_FILE: Final = 8192
"""Of a temporary directory's size: what files without content cost the kernel has a limit too."""

SYSTEM: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
)
"""Programs and libraries."""
ETC: Final = (
    "passwd",
    "group",
    "hosts",
    "host.conf",
    "hostname",
    "resolv.conf",
    "nsswitch.conf",
    "gai.conf",
    "services",
    "protocols",
    "localtime",
    "timezone",
    "mime.types",
    "os-release",
    "debian_version",
    "ld.so.cache",
    "ld.so.conf",
    "ssl/openssl.cnf",
    "ssl/cert.pem",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
)
"""Files of /etc that programs look at, and that have no secrets. They are copied."""
ETC_DIRECTORIES: Final = (
    "/etc/alternatives",
    "/etc/crypto-policies",
    "/etc/ld.so.conf.d",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    f"/etc/python{sys.version_info.major}.{sys.version_info.minor}",
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PROCESSORS: Final = "/sys/devices/system"
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "shm": "../tmp",
}
_LONGEST_FILE_BYTES: Final = 4 * 1024 * 1024
_MOST_LINKS: Final = 40

_bound: list[str] = []
"""What is in the room."""
_below_tmp: list[str] = []
"""Of this what an instance's own temporary directory hides."""
_copied: dict[str, tuple[int, int, int]] = {}
"""Files of /etc, and what their originals were when they were copied."""
_own_tmp = False
_tmp_bytes = 0


def interpreter() -> list[str]:
    """Directories and files that this Python consists of, without what was installed beside it."""
    paths = sysconfig.get_paths()
    folder = os.path.dirname(sys.executable)
    marker = os.path.join(os.path.dirname(folder), "pyvenv.cfg")
    found = [sys.base_prefix, sys.base_exec_prefix, paths["stdlib"], paths["platstdlib"]]
    if os.path.exists(marker):
        return [*found, folder, marker]
    return [*found, sys.executable, os.path.realpath(sys.executable)]


def build(needed: Iterable[str], *, private_proc: bool) -> None:
    """Makes a room, and makes it the root directory of this process.

    This process has to have mounts of its own already.

    Args:
        needed: paths of what is to be in it besides the system; what is not there is left out.
        private_proc: whether /proc can be mounted so that a user sees only what is his.

    Raises:
        OSError: the kernel refused.
    """
    # What the host mounts and unmounts later happens here too, but not the other way round.
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    base = "/proc"  # a directory that is everywhere; it is visible again after the next step
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    os.mkdir(base + _HIDDEN, 0o700)
    os.mkdir(base + HOST)
    kernel.pivot_root(base, base + HOST)
    os.chdir("/")
    os.mkdir(_WRITABLE)
    kernel.mount("/", _WRITABLE, "", kernel.MS_BIND)
    _furnish(private_proc)
    for path in (*SYSTEM, *ETC_DIRECTORIES, *DEVICES, PROCESSORS, *needed):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            provide(path)
    refresh()
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
    kernel.mount("none", "/", "", flags | kernel.MS_NOSUID | kernel.MS_NODEV)


def _furnish(private_proc: bool) -> None:
    """What is in every room."""
    for name in ("etc", "dev", "proc", "run", "sys", "tmp", "var"):
        os.mkdir(f"/{name}")
    os.symlink("../run", "/var/run")
    os.symlink("../tmp", "/var/tmp")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.chmod(TMP, 0o1777)  # nosec: B103 # as /tmp is everywhere
    if private_proc:
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("proc", "/proc", "proc", flags, "hidepid=2")
    else:
        kernel.bind(HOST + "/proc", "/proc")


def refresh() -> None:
    """Copies the files of /etc that have changed: a new name server is known everywhere soon."""
    for name in ETC:
        path = f"/etc/{name}"
        try:
            original = HOST + _real(path, make_links=False)
            now = os.stat(original)
            state = now.st_ino, now.st_mtime_ns, now.st_size
            if _copied.get(path) == state:
                continue
            _copied[path] = state
            if stat.S_ISREG(now.st_mode) and now.st_mode & 0o004:
                _copy(original, _WRITABLE + path)
        except OSError:
            # It is not there, or not to be read: nor can an instance.
            continue


def _copy(original: str, target: str) -> None:
    _make_parents(target)
    fresh = f"{target}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    if original.startswith(f"{HOST}/usr/"):
        # The name says something too: of a time zone.
        os.symlink(original.removeprefix(HOST), fresh)
    else:
        _copy_content(original, fresh)
    os.replace(fresh, target)


def _copy_content(original: str, target: str) -> None:
    source = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(source, _LONGEST_FILE_BYTES)
    finally:
        os.close(source)
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        os.write(copy, content)
    finally:
        os.close(copy)


def provide(path: str, *, writable: bool = False) -> None:
    """Lets what the host has at a path be there in the room, to be read.

    Raises:
        OSError: there is nothing, or the kernel refused.
    """
    real = _real(path, make_links=True)
    if not writable and any(real == other or real.startswith(other + "/") for other in _bound):
        return
    place = _place(real)
    if stat.S_ISDIR(os.lstat(HOST + real).st_mode):
        os.makedirs(place, exist_ok=True)
    else:
        _make_parents(place)
        os.close(os.open(place, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    kernel.bind(HOST + real, real)
    if not writable:
        kernel.seal(real)
    _bound.append(real)
    if not _own_tmp and _is_temporary(real):
        _below_tmp.append(real)


def _real(path: str, *, make_links: bool) -> str:
    """The path without the host's symbolic links, which may be made in the room as well.

    Not `os.path.realpath`, which would follow absolute links within the room.
    """
    done = ""
    rest = deque(path.split("/"))
    links = 0
    while rest:
        name = rest.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            done = done.rpartition("/")[0]
            continue
        here = f"{done}/{name}"
        if not stat.S_ISLNK(os.lstat(HOST + here).st_mode):
            done = here
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(f"too many symbolic links in {path}")
        target = os.readlink(HOST + here)
        if make_links:
            _make_link(target, here)
        rest.extendleft(reversed(target.split("/")))
        if target.startswith("/"):
            done = ""
    return done or "/"


def _make_link(target: str, path: str) -> None:
    place = _place(path)
    with contextlib.suppress(OSError):
        _make_parents(place)
        os.symlink(target, place)


def _make_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)


def _place(path: str) -> str:
    """Where something can be made that is to lie at this path."""
    return path if _own_tmp and _is_temporary(path) else _WRITABLE + path


def _is_temporary(path: str) -> bool:
    return path.startswith((TMP + "/", *(other + "/" for other in _ALSO_TMP)))


# --- in an instance ---


def enter(tmp_bytes: int) -> None:
    """Gives this process, which has mounts of its own, its own temporary directory.

    Raises:
        OSError: the kernel refused.
    """
    global _own_tmp, _tmp_bytes
    kernel.mount("tmpfs", TMP, "tmpfs", _TMP_FLAGS, f"mode=1777,{_sizes(tmp_bytes)}")
    _own_tmp = True
    _tmp_bytes = tmp_bytes
    for path in _below_tmp:
        _bound.remove(path)
        provide(path)


def resize(tmp_bytes: int) -> None:
    """Gives the temporary directory, which is empty, another size; raises OSError."""
    if tmp_bytes != _tmp_bytes:
        kernel.mount("none", TMP, "", kernel.MS_REMOUNT | _TMP_FLAGS, _sizes(tmp_bytes))


def _sizes(tmp_bytes: int) -> str:
    return f"size={tmp_bytes},nr_inodes={max(1024, tmp_bytes // BYTES_PER_FILE)}"


def close() -> None:
    """Hides the host's files: from now on there is the room; raises OSError."""
    kernel.bind(_EMPTY, _HIDDEN)


def leave() -> None:
    """Goes back among the host's files; raises OSError."""
    os.chroot(HOST)
    os.chdir("/")
