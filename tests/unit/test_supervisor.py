"""What systemd is told, by a socket of its kind."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlatl.telemetry import supervisor as module
from atlatl.telemetry.supervisor import Supervisor, supervisor


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def test_it_tells_what_has_changed(listener: socket.socket) -> None:
    told = supervisor({"NOTIFY_SOCKET": listener.getsockname()}, 1)
    told.tell(READY=1, STATUS="serves on http://127.0.0.1:8081")
    assert listener.recv(1000) == b"READY=1\nSTATUS=serves on http://127.0.0.1:8081"


def test_a_socket_without_a_file_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses a name
        sock.setblocking(False)
        supervisor({"NOTIFY_SOCKET": "@" + sock.getsockname()[1:].decode()}, 1).tell(READY=1)
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at-all", "vsock:2:1234", "@", "relative"])
def test_that_nobody_listens_is_no_trouble(address: str) -> None:
    supervisor({"NOTIFY_SOCKET": address}, 1).tell(READY=1)


def test_one_that_does_not_read_is_not_waited_for_long(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM_S", 0.001)
    told = supervisor({"NOTIFY_SOCKET": listener.getsockname()}, 1)
    for number in range(300):  # more than the socket holds
        told.tell(STATUS=number)
    kept = 0
    with pytest.raises(BlockingIOError):
        while True:
            assert listener.recv(100) == b"STATUS=%d" % kept
            kept += 1
    assert 0 < kept < 300


def test_what_comes_once_waits_for_room(listener: socket.socket) -> None:
    told = supervisor({"NOTIFY_SOCKET": listener.getsockname()}, 1)
    listener.setblocking(True)
    reading = threading.Thread(target=lambda: heard.extend(listener.recv(100) for _ in range(100)))
    heard: list[bytes] = []
    reading.start()
    for number in range(100):
        told.tell(STATUS=number)
    reading.join(10)
    assert heard == [b"STATUS=%d" % number for number in range(100)]


def test_nothing_is_left_for_processes_that_are_started() -> None:
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "HOME": "/"}
    assert supervisor(environ, 7) == Supervisor(address="/a", patience_s=3.0)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/a"},
        {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"},
        {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "soon"},
    ],
)
def test_nobody_waits_for_pings(environ: dict[str, str]) -> None:
    assert supervisor(environ, 7).patience_s == 0


def test_it_hears_again_and_again_that_the_loop_turns(listener: socket.socket) -> None:
    async def run() -> None:
        told = supervisor({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000"}, 1)
        async with told.watched(), asyncio.timeout(10):
            for _ in range(3):
                assert await asyncio.get_running_loop().sock_recv(listener, 100) == b"WATCHDOG=1"

    asyncio.run(run())
    with pytest.raises(BlockingIOError):
        while True:  # what was sent before the end; afterwards there is nobody who sends
            listener.recv(100)
