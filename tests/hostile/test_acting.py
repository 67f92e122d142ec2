"""Functions that act on others: signals, rights, code, processes that stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.server import alive, eventually
from tests.hostile.stand import LEFT_WITHIN_S, ORDINARY, Stand

pytestmark = pytest.mark.slow

NOBODY = ("EPERM", "ESRCH")


def test_signals_parent_service_and_others(stand: Stand) -> None:
    ended = stand.attack("signals", pids=stand.pids)
    refused = stand.refuses(ended, reasons=NOBODY)
    assert {"signal its parent", "signal the service", "signal another instance"} <= set(refused)


def test_kills_everybody(stand: Stand) -> None:
    """Whom it met is seen by who is left: the other instances, and the service."""
    bystander = stand.deploy("leaves_files", "itself", pool={"min_size": 1})
    pid = stand.call(bystander).text
    assert stand.call(stand.deploy("signals", "everybody")).text == "sent"
    assert stand.call(bystander).text == pid


def test_has_the_kernel_signal_the_service(stand: Stand) -> None:
    """By the owner of a descriptor; SIGURG is ignored, so only its harmlessness can be seen."""
    name = stand.deploy("signals", "by_the_kernel")
    assert stand.call(name, pid=stand.pid).status in (200, 500)


def test_deploys_over_the_services_own_port(stand: Stand) -> None:
    ended = stand.attack("deploys", port=stand.port, victim="other")
    stand.refuses(ended, reasons=["401", "403"])
    assert stand.server.http.get("/api/v1/tasks/planted").status_code == 404
    assert stand.server.http.get("/api/v1/tasks/other").status_code == 200


def test_becomes_somebody_else(stand: Stand) -> None:
    stand.refuses(stand.attack("escalates"))
    who = stand.call(stand.deploy("escalates", "who")).value
    assert who["NoNewPrivs"] == ["1"]
    assert {who["CapEff"][0], who["CapPrm"][0], who["CapInh"][0]} == {"0" * 16}
    assert len(set(who["Uid"])) == len(set(who["Gid"])) == 1
    assert who["Uid"] != ["0"] * 4
    if stand.user != ORDINARY:
        assert int(who["Uid"][0]) > 65_535
        assert who["Groups"] == []


def test_uses_programs_that_may_become_root(stand: Stand) -> None:
    said = stand.call(stand.deploy("escalates", "whoever")).value
    assert said, "none of the programs is on this machine"
    assert not any(output.strip() == "0" for _, output in said.values()), said
    assert all(said[name][0] != 0 for name in ("su", "sudo", "pkexec") if name in said), said


def test_every_instance_has_a_uid_of_its_own(stand: Stand) -> None:
    if stand.user == ORDINARY:
        pytest.skip("an ordinary user has one uid only; reported, see test_reported.py")
    uids = {row["instance_id"]: _uid(row["pid"]) for row in stand.server.instances("good")}
    assert len(set(uids.values())) == len(uids) == 2
    assert stand.uid not in uids.values()


def _uid(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_changes_its_own_code(stand: Stand) -> None:
    refused = stand.refuses(stand.attack("writes_code"))
    assert len(refused) > 10


def test_gives_itself_more(stand: Stand) -> None:
    stand.refuses(stand.attack("raises_limits", pids=stand.pids))


def test_what_it_was_given(stand: Stand) -> None:
    name = stand.deploy("raises_limits", "limits", confinement={"open_files": 99})
    limits = stand.call(name).value
    assert limits["RLIMIT_NOFILE"] == [99, 99]
    assert limits["RLIMIT_CORE"] == [0, 0]
    assert limits["RLIMIT_FSIZE"][1] == 64 * 1024 * 1024


# --- what stays ---


def test_a_daemon_does_not_survive_the_answer(stand: Stand) -> None:
    ended = stand.attack("stays")
    assert ended.outcome == ("success", "")
    _only_instances(stand)


def test_a_daemon_that_unties_itself(stand: Stand) -> None:
    assert stand.call(stand.deploy("stays", "clears")).outcome == ("success", "")
    _only_instances(stand)


def test_a_child_ends_with_its_instance(stand: Stand) -> None:
    name = stand.deploy("stays", "child")
    pid = stand.call(name).value
    assert alive(pid)
    stand.delete(name)
    stand.nothing_left()
    assert not alive(pid)


def test_one_that_runs_away(stand: Stand) -> None:
    """Faster than it can be killed one by one: it ends with its instance at the latest."""
    name = stand.deploy("stays", "runs_away")
    assert stand.call(name).value == 1
    stand.delete(name)
    stand.nothing_left()


def _only_instances(stand: Stand) -> None:
    """Waits until no process of an attack is left but those that lead a session.

    So do instances, and the zygote that the task gets when its import was slow; a daemon that has
    forked twice does not.
    """
    eventually(lambda: all(_leads(int(each.split()[0])) for each in stand.left()), LEFT_WITHIN_S)


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def test_dies_and_leaves_no_picture(stand: Stand) -> None:
    ended = stand.attack("dies")
    assert ended.status == 502
    assert ended.outcome == ("crashed", "INSTANCE_CRASHED")
    assert "signal 11 (SIGSEGV)" in ended.message
    places = [stand.data_dir, stand.directory, Path("/tmp"), Path("/")]
    assert [path for place in places for path in place.glob("core*") if _recent(path)] == []


def _recent(path: Path) -> bool:
    return path.is_file() and path.stat().st_uid not in (0, os.geteuid())


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (6, "SIGABRT"), (31, "SIGSYS")])
def test_kills_itself(stand: Stand, number: int, name: str) -> None:
    """A kill of its own is not called lack of memory."""
    ended = stand.call(stand.deploy("dies", "by"), number=number)
    assert ended.outcome == ("crashed", "INSTANCE_CRASHED")
    assert f"signal {number} ({name})" in ended.message
