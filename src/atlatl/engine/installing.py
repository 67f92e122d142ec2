"""Runs pip where what it runs can do no harm: packages bring programs that build them.

In a confined process it sees the artifact, the system and this interpreter, and writes into one
directory. It has a limit of time and of room, and nothing that it starts outlives it.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import errno
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import atlatl_worker
from atlatl.errors import ArtifactInvalid
from atlatl.settings import ArtifactSettings

MAX_FILES = 500_000
"""That an installation may write; the largest packages have 50 000."""

ENTRY_BYTES = 1024
"""What each file and directory counts besides its content: an empty one is not nothing."""

MEMORY_BYTES = 4_294_967_296
"""Of each process: pip keeps all that a build prints."""
PROCESSES = 1024
OPEN_FILES = 4096

MAX_DEPTH = 200
"""Of the directories that it makes; deeper ones could not be looked into by their path."""

LEAST_FREE_BYTES = 1_073_741_824
"""That an installation leaves on the disk, or half of what it found."""

LOOK_EVERY_S = 0.25
"""Between two looks at how much was written."""
LOOK_SHARE = 0.05
"""Of the time, at most, goes into looking."""

END_TIMEOUT_S = 5.0
"""How long the process that kills all others may take for it."""

_UNCONFINED = 125
_LOG_BYTES = 65_536
_LOG_LINES = 20

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_PATHS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_COMPILERS = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "PKG_CONFIG_PATH")
_PASSED = {"PATH", "LANG", "LC_ALL", "TZ", *_COMPILERS, *_PATHS, *_PROXIES}
_PASSED |= {name.upper() for name in _PROXIES}
"""Of the service's own environment, besides what pip itself reads."""
_NOT_PASSED = ("PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_LOG", "PIP_TARGET", "PIP_BUILD_TRACKER")
_PIP_PATHS = ("find_links", "cert", "client_cert", "constraint")
"""Settings of pip that may name files of the machine."""


class TooMuch(Exception):
    """The installation writes more than it may; the message says how much that is."""


async def install(code: Path, work: Path, limits: ArtifactSettings) -> str:
    """Installs what `requirements.txt` asks for into the directory `site` below `work`.

    Args:
        code: the directory with the file.
        work: an empty directory of this installation, the only one that it may write to.
        limits: `install_timeout_s` and `max_install_bytes` count.

    Returns:
        What pip printed.

    Raises:
        ArtifactInvalid: it failed, took too long or wrote too much; with the end of what pip
            printed.
        OSError: the disk refused.
    """
    environment = await asyncio.to_thread(_prepare, work)
    # A file, not a pipe: a process that pip leaves behind could hold a pipe open.
    with await asyncio.to_thread(_log_file, work.parent) as log:
        try:
            async with asyncio.timeout(limits.install_timeout_s):
                status = await _run(code, work, log, environment, limits)
            trouble = _trouble(status)
        except TimeoutError:
            trouble = (
                f"pip took more than {limits.install_timeout_s:g} s (`artifacts.install_timeout_s`)"
            )
        except TooMuch as error:
            trouble = str(error)
        text = await asyncio.to_thread(_tail, log)
    if not trouble:
        await asyncio.to_thread(_take_back, work)
        trouble = await asyncio.to_thread(_oddity, work / "site")
    if trouble:
        last = "\n".join(text.rstrip().splitlines()[-_LOG_LINES:])
        raise ArtifactInvalid(
            f"requirements.txt can't be installed: {trouble}\n{last}", detail=text
        )
    return text


def _trouble(status: int) -> str:
    if status == _UNCONFINED:
        return "pip could not be run in a confined process"
    if status > 128:
        return f"pip was killed by signal {status - 128}"
    return f"pip ended with status {status}" if status else ""


# --- the process ---


async def _run(
    code: Path,
    work: Path,
    log: IO[bytes],
    environment: dict[str, str],
    limits: ArtifactSettings,
) -> int:
    """The status of pip, once it and all that it has started have ended.

    Raises:
        TooMuch: it was ended because of what it wrote.
    """
    room = await asyncio.to_thread(Room, work, log, limits.max_install_bytes)
    process = await asyncio.create_subprocess_exec(
        *_supervised(_confinement(code, work, environment, limits), _command(work / "site")),
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=asyncio.subprocess.STDOUT,
        cwd=code,
        env=environment,
        start_new_session=True,
    )
    ended = asyncio.ensure_future(process.wait())
    loop, pause_s = asyncio.get_running_loop(), LOOK_EVERY_S
    try:
        while not ended.done():
            await asyncio.wait([ended], timeout=pause_s)
            began = loop.time()
            await asyncio.to_thread(room.check)
            pause_s = max(LOOK_EVERY_S, (loop.time() - began) / LOOK_SHARE)
        return await ended
    finally:
        await _end(process, ended)


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
    """Returns when nothing of the process is left; who cancels that waits for it all the same.

    Killed before it has ended the others, it would leave them behind.
    """
    assert process.stdin is not None
    process.stdin.close()
    last = asyncio.get_running_loop().call_later(END_TIMEOUT_S, _kill_group, process.pid)
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
    last.cancel()
    if cancelled is not None:
        raise cancelled


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _command(site: Path) -> list[str]:
    # `-P`: the artifact's own files must not be taken for pip's modules.
    command = [sys.executable, "-P", "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check", "--target", str(site)]
    return [*command, "--requirement", "requirements.txt"]


def _supervised(confinement: Mapping[str, object], command: list[str]) -> list[str]:
    script = Path(atlatl_worker.__file__).with_name("supervised_command.py")
    begun = [sys.executable, "-I", "-S", "-X", "utf8", str(script)]
    return [*begun, json.dumps(confinement), "--", *command]


def _confinement(
    code: Path, work: Path, environment: Mapping[str, str], limits: ArtifactSettings
) -> dict[str, object]:
    """See `atlatl_worker.confined_command`."""
    return {
        "read": [str(code), *_installation(), *_named_paths(environment, work)],
        "write": [str(work), *(str(work / name) for name in _FOLDERS)],
        "file_bytes": limits.max_install_bytes,
        "memory_bytes": MEMORY_BYTES,
        "processes": PROCESSES,
        "open_files": OPEN_FILES,
    }


def _installation() -> list[str]:
    """Programs, libraries and headers beside this interpreter."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    return [str(Path(prefix, part)) for prefix in sorted(prefixes) for part in _PARTS]


_PARTS = ("bin", "lib", "lib64", "include", "pyvenv.cfg")


# --- what pip is told ---

_FOLDERS = ("site", "tmp", "home")


def _prepare(work: Path) -> dict[str, str]:
    """The directories of an installation, and its environment."""
    for name in _FOLDERS:
        (work / name).mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or (name.startswith("PIP_") and name not in _NOT_PASSED)
    }
    configuration = work / "pip.conf"
    _write_configuration(configuration)
    return environment | {
        "HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
        "PIP_CONFIG_FILE": str(configuration),
    }


def _write_configuration(target: Path) -> None:
    """All of pip's own configuration files in one: the confined process may not read them."""
    merged = configparser.RawConfigParser(strict=False)
    for path in _configuration_files():
        try:
            merged.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip would say so, and be no wiser
    with target.open("w", encoding="utf-8") as file:
        merged.write(file)
    target.chmod(0o644)


def _configuration_files() -> Iterator[Path]:
    """In pip's order: the later ones count."""
    home = Path.home()
    for directory in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        yield Path(directory) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    yield Path(os.environ.get("PIP_CONFIG_FILE", os.devnull))


def _named_paths(environment: Mapping[str, str], work: Path) -> list[str]:
    """Files and directories of the machine that pip's configuration names."""
    configured = configparser.RawConfigParser(strict=False)
    configured.read(work / "pip.conf", encoding="utf-8")
    named = [environment.get(name, "") for name in _PATHS]
    for setting in _PIP_PATHS:
        named += environment.get(f"PIP_{setting.upper()}", "").split()
        for section in configured.sections():
            for key in (setting, setting.replace("_", "-")):
                named += configured.get(section, key, fallback="").split()
    return [path for path in named if path.startswith("/") and Path(path).exists()]


# --- what it wrote ---


class Room:
    """How much an installation has written, and what it may.

    Args:
        work: where it writes.
        log: what it prints into.
        max_bytes: the most.
    """

    def __init__(self, work: Path, log: IO[bytes], max_bytes: int) -> None:
        self._work = work
        self._log = log
        self._max_bytes = max_bytes
        self._least_free = min(LEAST_FREE_BYTES, _free_bytes(work) // 2)

    def check(self) -> None:
        """Waits for the disk: call it from a thread.

        Raises:
            TooMuch: it wrote more, or where nobody can see how much.
        """
        if _free_bytes(self._work) < self._least_free:
            # Also by files that have no name any more.
            raise TooMuch(f"the disk has less than {self._least_free} bytes left")
        n_bytes, n_files = os.fstat(self._log.fileno()).st_size, 0
        for place, directories, files in os.walk(self._work, onerror=_refuse_hidden):
            if place.count("/") > len(self._work.parts) + MAX_DEPTH:
                raise TooMuch(f"it made directories more than {MAX_DEPTH} deep")
            n_files += len(directories) + len(files)
            if n_files > MAX_FILES:
                raise TooMuch(f"it wrote more than {MAX_FILES} files")
            n_bytes += ENTRY_BYTES * (len(directories) + len(files))
            n_bytes += sum(_size(os.path.join(place, name)) for name in files)  # noqa: PTH118
            if n_bytes > self._max_bytes:
                raise TooMuch(
                    f"it wrote more than {self._max_bytes} bytes (`artifacts.max_install_bytes`)"
                )


def _free_bytes(directory: Path) -> int:
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize


def _size(path: str) -> int:
    """On the disk, which for a sparse file is not what it says."""
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0  # it was there a moment ago


def _refuse_hidden(error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        raise TooMuch(f"it made a directory that nobody can look into ({error.strerror})")


def _take_back(work: Path) -> None:
    """As root the installation had a user of its own, who owns what it wrote."""
    if os.geteuid() != 0:
        return
    for directory in (work, work / "site"):
        os.chown(directory, 0, 0)
    for place, directories, files in os.walk(work / "site"):
        for name in (*directories, *files):
            os.lchown(os.path.join(place, name), 0, 0)  # noqa: PTH118


def _oddity(site: Path) -> str:
    """What is no part of a package; empty when there is nothing of that kind."""
    for place, directories, files in os.walk(site):
        for name in (*directories, *files):
            path = Path(place, name)
            facts = path.lstat()
            kind = stat.S_IFMT(facts.st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                return f"it left {path.relative_to(site)}, which is no file"
            if kind == stat.S_IFREG and facts.st_nlink > 1:
                return f"it left {path.relative_to(site)}, which has another name elsewhere"
    return ""


def _log_file(directory: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=directory)


def _tail(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
    return log.read().decode("utf-8", "replace")
