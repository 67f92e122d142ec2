"""Starts the service and its peers: each in a process of its own, ready, and ended afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bench import installing, work
from bench.plane import functions
from bench.plane.load import Target, pinned
from bench.results import ROOT
from bench.rounds import Missing, Wrong
from bench.service import Service

APPS = Path(__file__).parent / "apps"
NUMBER = 41
CONTENT = work.body(NUMBER)
STOPPED_WITHIN_S = 30

Start = Callable[[], AbstractContextManager[Target]]


def is_work(body: bytes) -> bool:
    """Whether this is the answer to CONTENT."""
    return bool(json.loads(body) == work.answer(**work.arguments(NUMBER)))


# --- atlatl ---


@contextmanager
def atlatl(environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A service with nothing deployed, on a data directory that goes with it."""
    with tempfile.TemporaryDirectory(prefix="atlatl-bench-") as directory:
        service = Service(Path(directory, "data"), environment)
        try:
            yield service
        finally:
            service.stop()


@contextmanager
def atlatl_work(settings: Mapping[str, Any] = functions.WARM) -> Iterator[Target]:
    with atlatl() as service:
        service.deploy("work", functions.WORK, settings)
        yield pinned(service.port, "/functions/work", CONTENT, is_work)


# --- peers ---


@contextmanager
def uvicorn(app: str, path: str = "/") -> Iterator[Target]:
    """One worker, httptools, uvloop, no access log."""
    options = [
        "--http", "httptools", "--loop", "uvloop", "--workers", "1", "--lifespan", "off",
        "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"bench.plane.apps.{app}:app", *options]
    with running([*command, "--port", str(port)]):
        yield pinned(port, path, CONTENT, is_work)


def bare_asgi() -> AbstractContextManager[Target]:
    return uvicorn("bare_asgi")


def fastapi() -> AbstractContextManager[Target]:
    installing.need("fastapi")
    return uvicorn("fastapi_app", "/run")


@contextmanager
def functions_framework() -> Iterator[Target]:
    """As it starts by default: gunicorn."""
    installing.need("functions-framework")
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "functions-framework"),
        "--source", str(APPS / "framework_function.py"), "--target", "work",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with running(command):
        yield pinned(port, "/", CONTENT, is_work)


@contextmanager
def ray_serve() -> Iterator[Target]:
    """From an environment of its own, which is large."""
    port = free_port()
    with running([str(installing.ray_python()), str(APPS / "ray_app.py"), str(port)]):
        yield pinned(port, "/", CONTENT, is_work)


@contextmanager
def workerd() -> Iterator[Target]:
    port = free_port()
    command = [
        str(installing.workerd_program()), "serve", str(APPS / "worker.capnp"),
        f"--socket-addr=http=127.0.0.1:{port}",
    ]  # fmt: skip
    with running(command):
        yield pinned(port, "/", CONTENT, is_work)


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block runs; ended with it by its input, then by a signal.

    Raises:
        Missing: there is no such program.
        Wrong: it ended by itself.
    """
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield process
            if process.poll() is not None:
                raise Wrong(f"{command[0]} ended by itself with status {process.returncode}")
        except Wrong as wrong:
            log.seek(0)
            said = log.read()[-1000:].decode(errors="replace")
            raise Wrong(f"{wrong}; {' '.join(command)} said: {said or 'nothing'}") from None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    try:
        process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Its session is its own: what it left behind ends too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
