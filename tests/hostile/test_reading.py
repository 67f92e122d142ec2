"""Functions that read what is not theirs: files, other processes, what a fork left in memory."""

from __future__ import annotations

import ast
import pwd
from pathlib import Path

import pytest

from tests.hostile.stand import Ended, Stand

pytestmark = pytest.mark.slow

DENIED = ("EACCES", "EPERM", "ENOENT")
"""A file that cannot be seen is as good as one that cannot be read."""


def test_reads_the_passwords_of_the_machine(stand: Stand) -> None:
    home = pwd.getpwuid(0).pw_dir
    files = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", f"{home}/.bashrc"]
    ended = stand.attack("reads_files", files=files, directories=[home])
    stand.refuses(ended, reasons=DENIED)
    assert "/etc/shadow" in ended.message


def test_reads_the_database(stand: Stand) -> None:
    files = [str(path) for path in stand.data_dir.iterdir() if path.is_file()]
    assert any(path.endswith(".db") for path in files)
    ended = stand.attack("reads_files", files=files, directories=[str(stand.data_dir)])
    _only_its_own(stand, ended)


def _only_its_own(stand: Stand, ended: Ended) -> None:
    """It may list what leads to its own artifact, where nothing else is to be seen."""
    names = {path.name for path in stand.directory.rglob("*")} - {"code"}
    own = {path.name for path in stand.data_dir.glob("code/*")}
    assert all(what.startswith("list ") for what in ended.achieved), ended.achieved
    for what, seen in ended.achieved.items():
        listed = set(ast.literal_eval(seen))
        assert len(listed) <= 1, (what, listed)
        assert not listed & (names - own - {"data"}), (what, listed)
    assert not set(ended.refused.values()) - set(DENIED)


def test_reads_the_token(stand: Stand) -> None:
    files = [str(stand.data_dir / "token")]
    stand.refuses(stand.attack("reads_files", files=files, directories=[]), reasons=DENIED)


def test_reads_the_artifacts_of_others(stand: Stand) -> None:
    def is_secret(path: Path) -> bool:
        return stand.secret.encode() in path.read_bytes()

    files = [path for path in stand.private_files if is_secret(path)]
    assert files
    directories = {str(parent) for path in files for parent in list(path.parents)[:3]}
    others = {path.parent.name for path in files}
    ended = stand.attack(
        "reads_files", files=[str(path) for path in files], directories=sorted(directories)
    )
    _only_its_own(stand, ended)
    assert not any(name in seen for name in others for seen in ended.achieved.values())


def test_reads_everything_that_the_service_keeps(stand: Stand) -> None:
    """Before it was deployed; what is added for it is its own artifact."""
    files = [str(path) for path in stand.private_files][:200]
    stand.refuses(stand.attack("reads_files", files=files, directories=[]), reasons=DENIED)


def test_reads_files_of_the_same_user(stand: Stand) -> None:
    """And lists the directories of the machine."""
    directories = ["/", "/home", "/var/lib", "/var/log", "/run", str(stand.directory)]
    files = [str(stand.outside), "/var/lib/dpkg/status", "/etc/fstab", "/var/log/dpkg.log"]
    ended = stand.attack("reads_files", files=files, directories=directories)
    _only_its_own(stand, ended)


def test_goes_around_the_names_of_things(stand: Stand) -> None:
    ended = stand.attack("links", secret=str(stand.data_dir / "token"))
    stand.refuses(ended)


def test_reads_the_first_process(stand: Stand) -> None:
    stand.refuses(stand.attack("reads_processes", pids={"init": 1}))


def test_reads_environment_and_memory_of_the_service(stand: Stand) -> None:
    pids = {name: stand.pids[name] for name in ("the service", "the zygote")}
    ended = stand.attack("reads_processes", pids=pids)
    stand.refuses(ended)
    assert "environ the service" in ended.refused
    assert "mem the service" in ended.refused


def test_reads_other_instances(stand: Stand) -> None:
    pids = {"another instance": stand.pids["another instance"]}
    stand.refuses(stand.attack("reads_processes", pids=pids))


def test_walks_through_all_processes(stand: Stand) -> None:
    name = stand.deploy("reads_processes", "all_of_them")
    ended = stand.call(name)
    if ended.status == 200 or ended.message.startswith("Contained"):
        stand.refuses(ended)
    else:
        # Not even the list.
        assert ended.outcome == ("error", "EXECUTION_ERROR")
        assert ended.message.startswith(("PermissionError", "FileNotFoundError"))


def test_tries_all_process_ids(stand: Stand) -> None:
    most = max(stand.pids.values()) + 100
    stand.refuses(stand.call(stand.deploy("reads_processes", "by_number"), most=most))


@pytest.mark.parametrize("what", ["secret", "token"])
def test_searches_its_own_memory_for_secrets(stand: Stand, what: str) -> None:
    """A process that is forked has what its parents had in memory."""
    text = stand.secret if what == "secret" else stand.server.token
    ended = stand.attack("searches_itself", pattern=f"[{text[0]}]{text[1:]}")
    stand.refuses(ended, reasons=["LookupError"])


def test_searches_its_own_memory_and_finds_what_is_there(stand: Stand) -> None:
    """The search is no proof unless it finds what there is."""
    ended = stand.attack("searches_itself", pattern="[N]either a secret nor a token")
    stand.refuses(ended)
    ended = stand.attack("searches_itself", pattern="[L]ooks for secrets of the service")
    assert "memory" in ended.achieved


def test_traces_others(stand: Stand) -> None:
    ended = stand.attack("traces", pids=stand.pids)
    stand.refuses(ended, reasons=["EPERM", "ESRCH", "ENOSYS"])


def test_finds_the_files_of_the_one_before(stand: Stand) -> None:
    """What one task leaves in its directories, another does not see, nor another instance."""
    first = stand.deploy("leaves_files", pool={"max_uses": 1})
    assert stand.call(first, mark="left").value
    look = stand.deploy("leaves_files", "look", pool={"max_uses": 1})
    assert not any("left" in names for names in stand.call(look).value.values())
    again = stand.call(first, mark="again")
    assert again.value
    assert not (Path("/tmp/left").exists() or Path("/dev/shm/left").exists())
