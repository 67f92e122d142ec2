"""Functions that turn on the service itself: its socket, its shared memory, their own zygote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import eventually
from tests.hostile.stand import Stand, standing

pytestmark = pytest.mark.slow

CRASHED = ("crashed", "INSTANCE_CRASHED")
FRAMES = (
    "garbage", "nothing but zeros", "an answer for another call", "a second assignment",
    "a chunk of nothing", "what only the service sends", "a frame of four gigabytes",
    "a fault of no kind", "metadata that is deep",
)  # fmt: skip
"""As the attack names them."""


@pytest.mark.parametrize("what", FRAMES)
def test_forges_frames(stand: Stand, what: str) -> None:
    ended = stand.attack("lies", what=what)
    assert ended.status == 502
    assert ended.outcome == CRASHED
    assert "was killed: it sent" in ended.message


def test_floods_the_service(stand: Stand) -> None:
    ended = stand.call(stand.deploy("lies", "floods", timeout_ms=1000))
    assert ended.outcome in (("timeout", "EXECUTION_TIMEOUT"), CRASHED)


def test_closes_its_socket(stand: Stand) -> None:
    ended = stand.call(stand.deploy("lies", "hangs_up"))
    assert ended.outcome == CRASHED
    assert "closed its connection" in ended.message


@pytest.mark.parametrize("how", ["after_the_answer", "keeps_answering"])
def test_writes_from_a_thread_after_the_answer(stand: Stand, how: str) -> None:
    name = stand.deploy("lies", how)
    first = stand.call(name)
    assert first.text == "answered"
    used = first.headers["atlatl-instance-id"]
    eventually(lambda: all(row["instance_id"] != used for row in stand.server.instances(name)))
    again = stand.call(name)
    assert again.text != "forged"
    assert again.headers.get("atlatl-instance-id") != used


def test_sends_descriptors(stand: Stand) -> None:
    before = _descriptors(stand)
    stand.call(stand.deploy("lies", "sends_descriptors"))
    stand.clean()
    eventually(lambda: _descriptors(stand) <= before + 10)


def _descriptors(stand: Stand) -> int:
    return len(list(Path(f"/proc/{stand.pid}/fd").iterdir()))


def test_changes_memory_that_it_shares(stand: Stand) -> None:
    stand.refuses(stand.call(stand.deploy("lies", "tampers")))


def test_moves_the_place_of_its_output(stand: Stand) -> None:
    name = stand.deploy("lies", "moves_the_output")
    for _ in range(3):
        assert stand.call(name).record["outcome"] in ("success", "crashed")


def test_takes_and_makes_tokens(stand: Stand) -> None:
    name = stand.deploy("lies", "steals_tokens")
    for _ in range(3):
        ended = stand.call(name)
        if ended.record["outcome"] == "error":
            # It is another user's pipe.
            assert "PermissionError" in ended.message
        else:
            assert ended.record["outcome"] in ("success", "crashed")


# --- in a zygote of its own ---


@pytest.mark.parametrize(
    "trick",
    ["thread", "child", "thread after a fork", "garbage after a fork", "leaves at a fork",
     "stalls at a fork", "clears its death signal"],
)  # fmt: skip
def test_plays_tricks_in_its_zygote(stand: Stand, trick: str) -> None:
    """Whatever it does there, its calls are served, and nobody else's are touched."""
    name = stand.deploy("spoils_zygote", env={"TRICK": trick}, pool={"max_uses": 1})
    for _ in range(4):
        assert stand.call(name).text == "served"
    if trick in ("thread", "child"):
        started = {"thread": "threads", "child": "processes"}[trick]
        why = f"unused: the artifact starts {started} when it is imported"
        eventually(lambda: _zygote_state(stand, name) == why)


def _zygote_state(stand: Stand, name: str) -> str:
    """What the view of pools says about it; empty while there is nothing to say."""
    rows = stand.server.http.get("/api/v1/pools").json()["pools"]
    (row,) = [row for row in rows if row["task_name"] == name]
    return str(row["zygote"])


@pytest.mark.parametrize("attack", ["reads_processes", "signals", "traces"])
def test_forks_of_one_zygote_leave_each_other_alone(stand: Stand, attack: str) -> None:
    """They share a uid and a directory, and are kept from each other all the same."""
    name = stand.deploy(attack, env={"SLOW_S": "0.1"}, pool={"max_uses": 1})
    stand.call(name, pids={})
    eventually(lambda: _zygote_state(stand, name) == "ready")
    stand.server.http.post(f"/api/v1/pools/{name}/prewarm?count=2").raise_for_status()
    rows = eventually(lambda: _forked(stand, name))
    ended = stand.call(name, pids={row["instance_id"]: row["pid"] for row in rows})
    assert stand.refuses(ended)


def _forked(stand: Stand, name: str) -> list[dict[str, Any]]:
    """Two instances that the same process has forked; empty until they are there."""
    rows = stand.server.instances(name)
    found = [row for row in rows if row["origin"] == "task_zygote" and row["state"] == "READY"]
    return found if len(found) > 1 else []


# --- when the service itself is gone ---


def test_ends_with_the_service(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is left of instances that untied themselves when the service is killed."""
    with standing(stand.user, tmp_path_factory.mktemp("killed")) as other:
        for how in ("clears", "child", "main"):
            assert other.call(other.deploy("stays", how)).status == 200
        assert other.left()
        other.kill()
        other.nothing_left()
