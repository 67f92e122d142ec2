"""Functions that turn to the kernel: system calls, namespaces, mounts, sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.stand import Stand

pytestmark = pytest.mark.slow


def test_makes_calls_that_no_function_needs(stand: Stand) -> None:
    """EPERM is the filter's; a kernel without the call says ENOSYS."""
    refused = stand.refuses(stand.attack("calls_kernel"), reasons=["EPERM", "ENOSYS"])
    assert len(refused) > 45


def test_the_filter_is_on(stand: Stand) -> None:
    for row in stand.server.instances("good"):
        status = Path(f"/proc/{row['pid']}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status


def test_memory_and_environment_of_the_service_are_nobody_elses(stand: Stand) -> None:
    """Not even for programs of the same user that no level confines: they belong to root."""
    for pid in (stand.pid, stand.zygote):
        for name in ("environ", "mem", "maps"):
            assert Path(f"/proc/{pid}/{name}").stat().st_uid == 0


def test_makes_namespaces(stand: Stand) -> None:
    name = stand.deploy("calls_kernel", "spaces")
    stand.refuses(stand.call(name))


def test_makes_processes_where_no_filter_can_look(stand: Stand) -> None:
    name = stand.deploy("calls_kernel", "clone3")
    assert stand.call(name).text == os.strerror(38)


def test_mounts(stand: Stand) -> None:
    name = stand.deploy("calls_kernel", "mounts")
    stand.refuses(stand.call(name), reasons=["EPERM"])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86 has several kinds of calls")
@pytest.mark.parametrize("kind", ["of another architecture", "of another kind"])
def test_calls_past_the_filter(stand: Stand, kind: str) -> None:
    """Either the process is killed, or the call gives an error."""
    ended = stand.call(stand.deploy("calls_kernel", "foreign"), kind=kind)
    if ended.status == 200:
        assert ended.value < 0, "the call was answered with a process id"
    else:
        assert ended.outcome == ("crashed", "INSTANCE_CRASHED")
        assert "SIGSYS" in ended.message or "SIGSEGV" in ended.message


def test_types_into_the_terminal(stand: Stand) -> None:
    stand.refuses(stand.call(stand.deploy("calls_kernel", "types")), reasons=["EPERM"])


def test_opens_sockets_of_all_kinds(stand: Stand) -> None:
    refused = stand.refuses(
        stand.attack("connects"), reasons=["EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT"]
    )
    assert len(refused) > 10


def test_changes_the_network(stand: Stand) -> None:
    name = stand.deploy("connects", "configures")
    stand.refuses(stand.call(name), reasons=["EPERM", "EACCES"])


@contextlib.contextmanager
def _listening(address: str | bytes) -> Iterator[list[int]]:
    """Somebody who answers whoever connects, and counts them."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(address)
        sock.listen()
        answered: list[int] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = sock.accept()
                    with connection:
                        connection.send(b"welcome")
                    answered.append(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield answered
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_speaks_to_abstract_sockets(stand: Stand) -> None:
    name = f"atlatl-test-{os.getpid()}-{stand.user}"
    with _listening(f"\0{name}") as answered:
        ended = stand.call(stand.deploy("connects", "to"), addresses={"abstract": f"@{name}"})
        stand.refuses(ended, reasons=["EPERM"])
        assert answered == []


@pytest.mark.parametrize("place", ["/tmp", "/run", "data"])
def test_speaks_to_sockets_that_have_a_path(stand: Stand, place: str) -> None:
    """As a desktop, a database or a container engine has them, open to the same user."""
    try:
        parent = stand.directory if place == "data" else place
        directory = Path(tempfile.mkdtemp(prefix="atlatl-s-", dir=parent))
    except PermissionError:
        pytest.skip(f"the tests may not write in {place}")
    try:
        path = directory / "sock"
        with _listening(str(path)) as answered:
            for each, mode in ((directory, 0o755), (path, 0o777)):
                each.chmod(mode)
                os.chown(each, stand.uid, -1)
            ended = stand.call(stand.deploy("connects", "to"), addresses={place: str(path)})
            stand.refuses(ended)
            assert answered == []
    finally:
        shutil.rmtree(directory)


def test_a_function_without_a_network(stand: Stand) -> None:
    name = stand.deploy("connects", "network", confinement={"network": False})
    stand.refuses(stand.call(name, port=stand.port), reasons=["EPERM", "EACCES", "gaierror"])


def test_with_a_network_the_same_goes_through(stand: Stand) -> None:
    """Or the refusals above would prove nothing."""
    achieved = stand.call(stand.deploy("connects", "network"), port=stand.port).achieved
    assert {"connect", "listen", "send a datagram"} <= set(achieved)
