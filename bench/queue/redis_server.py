"""A Redis of the benchmark's own: a free port of loopback, a directory that goes with it.

One that already runs on this machine is never used: what is in it is somebody's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import redis

from bench.rounds import Missing

Fsync = Literal["always", "everysec"]
START_S = 10.0


def program() -> str:
    """Path of redis-server, which is installed first where that can be done without asking.

    Raises:
        Missing: it is not there and could not be installed.
    """
    found = shutil.which("redis-server")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "--yes", "--quiet", "redis-server"]
        # The package would start a Redis of the system's; nobody asked for one.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(install, env=environment, capture_output=True, check=False)
        found = shutil.which("redis-server")
    if found is None:
        raise Missing("redis-server is not installed: `apt-get install redis-server`, then again")
    return found


def version() -> str:
    """As it says itself, for example 7.0.15."""
    done = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True)
    words = dict(word.partition("=")[::2] for word in done.stdout.split())
    return words.get("v", "unknown")


@contextlib.contextmanager
def running(directory: Path, fsync: Fsync) -> Iterator[str]:
    """Its address, for as long as it runs; every write is in its append-only file.

    Args:
        directory: for its files; not shared with another one.
        fsync: `always` has a write on the disk before it is answered.
    """
    port = _free_port()
    command = [
        program(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory),
        "--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no",
    ]  # fmt: skip
    log = directory / "redis.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        client: Any = redis.Redis(port=port)
        _wait_for(client, process, log)
        _check_own(client, directory, fsync)
        client.close()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(client: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"redis-server did not start: {log.read_text()[-500:]}")
        time.sleep(0.02)


def _check_own(client: Any, directory: Path, fsync: Fsync) -> None:
    """Another process may have taken the port in between; and settings may be spelled wrong."""
    wanted = {"dir": str(directory.resolve()), "appendonly": "yes", "appendfsync": fsync}
    found = {name: client.config_get(name)[name] for name in wanted}
    if found != wanted:
        raise RuntimeError(f"redis-server runs with {found} instead of {wanted}")
