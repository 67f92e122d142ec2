"""Functions that take all there is: processes, memory, room, time, descriptors."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from tests.hostile.stand import LIMITS, Ended, Stand

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
EXHAUSTED = "RESOURCE_LIMIT_EXCEEDED"


def test_makes_children(stand: Stand) -> None:
    said = stand.call(stand.deploy("multiplies", "children")).value
    assert said["then"] == "EAGAIN"
    assert 0 < said["made"] <= LIMITS["processes"]


def test_makes_threads(stand: Stand) -> None:
    said = stand.call(stand.deploy("multiplies", "threads")).value
    assert "thread" in said["then"]
    assert 0 < said["made"] <= LIMITS["processes"]


def test_fork_bomb(stand: Stand) -> None:
    ended = stand.call(stand.deploy("multiplies", timeout_ms=1500))
    assert ended.outcome == ("timeout", "EXECUTION_TIMEOUT")
    stand.nothing_left()


# --- memory ---


def _exhausted(ended: Ended, limit: int) -> None:
    assert ended.status == 500, ended
    outcome, code = ended.outcome
    assert outcome in ("error", "crashed")
    assert code == EXHAUSTED
    assert "memory" in ended.message.lower()
    if outcome == "crashed":
        assert str(limit) in ended.message or "memory_bytes" in ended.message, ended.message


def test_memory_bomb(stand: Stand) -> None:
    _exhausted(stand.attack("grows"), LIMITS["memory_bytes"])


def test_memory_in_shared_mappings(stand: Stand) -> None:
    _exhausted(stand.call(stand.deploy("grows", "shared")), LIMITS["memory_bytes"])


def test_memory_over_several_processes(stand: Stand) -> None:
    """The kernel ends as many of them as there are too many, or the instance ends."""
    each = 40 * MIB
    ended = stand.call(stand.deploy("grows", "in_children"), each=each, count=6)
    if ended.status == 200:
        assert ended.value["alive"] * each <= LIMITS["memory_bytes"]
    else:
        _exhausted(ended, LIMITS["memory_bytes"])


def test_memory_in_files_that_are_mapped_nowhere(stand: Stand) -> None:
    name = stand.deploy("grows", "unmapped", confinement={"tmp_bytes": 64 * MIB})
    ended = stand.call(name)
    if not stand.not_kept("memory files"):
        _exhausted(ended, LIMITS["memory_bytes"])


def test_after_it_ran_out_of_memory_it_serves_again(stand: Stand) -> None:
    name = stand.deploy("grows")
    assert stand.call(name).record["error_code"] == EXHAUSTED
    assert stand.call(name).record["error_code"] == EXHAUSTED


# --- disk ---


def test_fills_its_directory(stand: Stand) -> None:
    said = stand.attack("fills", directories=["/tmp"]).value["/tmp"]
    mib, why = said
    assert why in ("ENOSPC", "EFBIG")
    assert mib <= LIMITS["tmp_bytes"] / MIB


def test_fills_all_its_directories(stand: Stand) -> None:
    """They share one limit."""
    said = stand.attack("fills", directories=["/tmp", "/var/tmp", "/dev/shm"]).value
    assert sum(mib for mib, _ in said.values()) <= LIMITS["tmp_bytes"] / MIB + 0.1
    assert all(why for _, why in said.values())


def test_a_million_files(stand: Stand) -> None:
    ended = stand.call(stand.deploy("fills", "many"), most=1_000_000)
    if ended.status == 200:
        assert ended.value["then"] == "ENOSPC"
        assert ended.value["made"] < 100_000
    else:
        _exhausted(ended, LIMITS["memory_bytes"])


def test_a_file_that_says_it_is_large(stand: Stand) -> None:
    ended = stand.call(stand.deploy("fills", "hollow"))
    stand.refuses(ended, reasons=["EFBIG", "ENOSPC", "EINVAL"])


def test_writes_everywhere_else(stand: Stand) -> None:
    home = pwd.getpwuid(0).pw_dir
    places = ["/", "/etc", "/usr", "/home", home, "/run", "/var", "/var/lib", "/var/log", "/opt",
              "/srv", "/mnt", "/dev", "/sys", "/proc", str(stand.data_dir),
              str(stand.directory), str(stand.data_dir / "artifacts")]  # fmt: skip
    name = f"planted-{stand.user}"
    ended = stand.call(stand.deploy("fills", "elsewhere"), directories=places, name=name)
    # In its own room it may make what it likes, under whatever name that has elsewhere.
    assert all(place.startswith("write in /tmp/") for place in ended.achieved), ended.achieved
    assert not any(Path(place, name).exists() for place in places)


# --- time ---


@pytest.mark.parametrize("how", ["main", "in_threads", "in_children", "deaf", "in_c", "stopped"])
def test_never_answers(stand: Stand, how: str) -> None:
    """Whatever it does meanwhile and however deaf it is, its deadline ends it."""
    name = stand.deploy("hogs", how, timeout_ms=500)
    ended = stand.call(name)
    assert ended.status == 504
    assert ended.outcome == ("timeout", "EXECUTION_TIMEOUT")
    stand.nothing_left()


@pytest.mark.parametrize("how", ["main", "in_threads", "deaf"])
def test_uses_more_than_its_cpu_time(stand: Stand, how: str) -> None:
    name = stand.deploy("hogs", how, confinement={"cpu_s": 0.3})
    ended = stand.call(name)
    assert "cpu_s" in ended.message, ended
    assert ended.outcome != ("timeout", "EXECUTION_TIMEOUT")


# --- other things that are few ---


@pytest.mark.parametrize("what", ["descriptors", "watches", "sockets", "in_flight", "epolls"])
def test_hoards(stand: Stand, what: str) -> None:
    said = stand.call(stand.deploy("hoards", what)).value
    assert said["made"] < 2000, said
    assert said["then"] in ("EMFILE", "ENFILE", "ETOOMANYREFS", "EAGAIN", "ENOMEM", "ENOBUFS"), said


def test_leaves_things_in_the_kernel(stand: Stand) -> None:
    """System V objects stay until somebody removes them."""
    before = _sysv()
    stand.refuses(stand.call(stand.deploy("hoards", "outlasting")))
    assert _sysv() == before


def _sysv() -> list[str]:
    return [
        line
        for kind in ("shm", "sem", "msg")
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    ]


def test_locks_memory(stand: Stand) -> None:
    stand.refuses(
        stand.call(stand.deploy("hoards", "locked")), reasons=["ENOMEM", "EPERM", "EAGAIN"]
    )


# --- answers ---


def test_huge_output(stand: Stand) -> None:
    name = stand.deploy("answers_badly", "prints", confinement={"output_bytes": 10_000})
    ended = stand.call(name)
    assert ended.text == "printed 64 MiB"
    execution_id = ended.record["execution_id"]
    logs = stand.server.http.get(f"/api/v1/executions/{execution_id}/logs")
    assert len(logs.content) < 40_000
    assert "cut off" in logs.text


def test_huge_response(stand: Stand) -> None:
    ended = stand.call(
        stand.deploy("answers_badly", "returns", confinement={"memory_bytes": 512 * MIB})
    )
    assert ended.outcome == ("error", "SERIALIZATION_ERROR")
    assert "confinement.response_bytes" in ended.message


def test_response_with_nul(stand: Stand) -> None:
    assert stand.call(stand.deploy("answers_badly", "nul")).text == "before\0after"


@pytest.mark.parametrize(
    ("name", "value"),
    [("x", "a\r\nset-cookie: b"), ("x", "a\0b"), ("a b", "x"), ("", "x"), ("x\n", "y"),
     ("content-length", "5"), ("transfer-encoding", "chunked"), ("x", "\udfff")],
)  # fmt: skip
def test_response_with_a_header_that_splits_it(stand: Stand, name: str, value: str) -> None:
    # The lone surrogate comes into being in the function: no JSON may carry it.
    value = value.replace("\udfff", "\\udfff")
    ended = stand.call(stand.deploy("answers_badly", "header"), name=name, value=value)
    assert "set-cookie" not in ended.headers
    assert ended.headers.get("transfer-encoding") != "chunked"
    if ended.status == 200:
        assert ended.text == "x"
    else:
        assert ended.outcome == ("error", "SERIALIZATION_ERROR")


@pytest.mark.parametrize("number", [0, 99, 100, 101, 600, -1, 10**9])
def test_response_with_a_status_that_is_none(stand: Stand, number: int) -> None:
    ended = stand.call(stand.deploy("answers_badly", "status"), number=number)
    assert ended.outcome == ("error", "SERIALIZATION_ERROR")


@pytest.mark.parametrize("how", ["deep", "endless"])
def test_result_that_json_cannot_hold(stand: Stand, how: str) -> None:
    ended = stand.call(stand.deploy("answers_badly", how))
    assert ended.status == 500
    assert ended.record["error_code"] in ("SERIALIZATION_ERROR", "EXECUTION_ERROR")


@pytest.mark.parametrize("how", ["raises", "unspeakable"])
def test_exception_that_cannot_be_told(stand: Stand, how: str) -> None:
    ended = stand.call(stand.deploy("answers_badly", how))
    assert ended.outcome == ("error", "EXECUTION_ERROR")
    assert len(ended.message) < 10_000
