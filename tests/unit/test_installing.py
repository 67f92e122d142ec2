"""What an installation may write, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from atlatl.engine import installing
from atlatl.engine.installing import Room, TooMuch
from atlatl.engine.zips import remove_tree
from tests.virtual_time import virtual


@pytest.fixture
def log() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file


def refused(room: Room) -> str:
    with pytest.raises(TooMuch) as caught:
        room.check()
    return str(caught.value)


def test_all_that_is_written_counts(tmp_path: Path, log: IO[bytes]) -> None:
    room = Room(tmp_path, log, 100_000)
    room.check()
    (tmp_path / "a").write_bytes(bytes(60_000))
    room.check()
    log.write(bytes(60_000))
    log.flush()
    assert "more than 100000 bytes (`artifacts.max_install_bytes`)" in refused(room)
    log.truncate(0)
    room.check()
    for number in range(60):
        (tmp_path / str(number)).touch()
    assert "more than 100000 bytes" in refused(room)


def test_a_file_is_as_large_as_on_the_disk(tmp_path: Path, log: IO[bytes]) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    Room(tmp_path, log, 100_000).check()


def test_the_number_of_files_is_bounded(
    tmp_path: Path, log: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "MAX_FILES", 10)
    for number in range(11):
        (tmp_path / str(number)).mkdir()
    assert "more than 10 files" in refused(Room(tmp_path, log, 2**40))


def test_files_without_a_name_are_seen_by_what_is_left_on_the_disk(
    tmp_path: Path, log: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 2**40
    monkeypatch.setattr(installing, "_free_bytes", lambda _: free)
    room = Room(tmp_path, log, 100_000)
    room.check()
    free = installing.LEAST_FREE_BYTES - 1
    assert f"less than {installing.LEAST_FREE_BYTES} bytes left" in refused(room)
    free = 10_000
    small = Room(tmp_path, log, 100_000)
    free = 5001
    small.check()
    free = 4999
    assert "less than 5000 bytes left" in refused(small)


def test_directories_may_not_be_too_deep_to_look_into(tmp_path: Path, log: IO[bytes]) -> None:
    room = Room(tmp_path, log, 2**40)
    nest(tmp_path, installing.MAX_DEPTH - 1, "d")
    room.check()
    nest(tmp_path / "e", installing.MAX_DEPTH + 1, "d")
    assert f"more than {installing.MAX_DEPTH} deep" in refused(room)


def nest(directory: Path, depth: int, name: str) -> None:
    directory.mkdir(exist_ok=True)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(directory)
        for _ in range(depth):
            Path(name).mkdir()
            os.chdir(name)
        Path("file").write_bytes(b"x")
    finally:
        os.fchdir(here)
        os.close(here)


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    nest(tree, 1500, "d" * 100)
    (tree / "link").symlink_to(tmp_path)
    (tree / "beside").mkdir(mode=0o555)
    (tmp_path / "outside").write_bytes(b"x")
    remove_tree(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    remove_tree(tree)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir(mode=0o555)
    (tmp_path / "tree").symlink_to(tmp_path / "outside")
    remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o555


def test_what_nobody_may_enter_is_removed_also_by_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        (tree / "closed" / "inner").mkdir(parents=True)
        (tree / "closed" / "inner" / "file").touch()
        for path in (folder, tree, tree / "closed", tree / "closed" / "inner"):
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        (tree / "closed" / "inner").chmod(0)
        (tree / "closed").chmod(0)
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setresuid(65534, 65534, 65534)
                remove_tree(tree)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not tree.exists()


@pytest.mark.parametrize("kind", ["pipe", "socket", "hard link"])
def test_what_is_no_part_of_a_package_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_bytes(b"x")
    (tmp_path / "pkg" / "link").symlink_to("/etc/passwd")
    assert installing._oddity(tmp_path) == ""
    if kind == "pipe":
        os.mkfifo(tmp_path / "pkg" / "odd")
    elif kind == "socket":
        os.mknod(tmp_path / "pkg" / "odd", 0o140600)
    else:
        os.link(tmp_path / "pkg" / "a.py", tmp_path / "pkg" / "odd")
    said = installing._oddity(tmp_path)
    assert "it left pkg/" in said
    assert ("another name" in said) == (kind == "hard link")


def test_pip_is_told_what_its_own_files_and_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    (home / ".config" / "pip").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    work.mkdir()
    (home / ".config" / "pip" / "pip.conf").write_text(
        f"[global]\nfind-links = {tmp_path / 'wheels'}\n    /nowhere\nretries = 3\n"
    )
    (tmp_path / "more.conf").write_text("[global]\nretries = 4\n")
    (tmp_path / "ca.pem").touch()
    for name in [name for name in os.environ if name.startswith(("PIP_", "XDG_", "ATLATL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "more.conf"))
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("PIP_LOG", "/somewhere/else")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("ATLATL__TASK__ENV", '{"KEY": "secret"}')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    environment = installing._prepare(work)
    assert "secret" not in str(environment)
    assert environment["HTTPS_PROXY"] == "http://proxy"
    assert "PIP_LOG" not in environment
    assert environment["HOME"] == str(work / "home")
    told = Path(environment["PIP_CONFIG_FILE"]).read_text()
    assert "retries = 4" in told
    named = installing._named_paths(environment, work)
    assert {str(tmp_path / "wheels"), str(tmp_path / "ca.pem")} <= set(named)
    assert "/nowhere" not in named


class Ending:
    """A process that takes its time to end all others."""

    pid = 2**22 + 4711
    """No process can have that number."""

    def __init__(self) -> None:
        self.stdin = self
        self.hung_up = False

    def close(self) -> None:
        self.hung_up = True


def test_it_is_not_killed_by_whoever_has_no_time_before_it_has_ended_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))

    async def run() -> None:
        process: Any = Ending()
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ending = asyncio.create_task(installing._end(process, ended))
        for _ in range(3):
            await asyncio.sleep(0)
            ending.cancel()
        await asyncio.sleep(0)
        assert process.hung_up
        assert not ending.done()
        ended.set_result(137)
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert not killed

    asyncio.run(run())


@virtual
async def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(os, "killpg", lambda pid, number: ended.set_result(-number))
    process: Any = Ending()
    await installing._end(process, ended)
    assert ended.result() == -9
    assert asyncio.get_running_loop().time() >= installing.END_TIMEOUT_S


def test_paths_that_pip_is_told_of_are_split_as_pip_does(tmp_path: Path) -> None:
    there = tmp_path / "it's"
    there.mkdir()
    environment = {"PIP_FIND_LINKS": f"{there} {tmp_path}", "PIP_CERT": "/missing"}
    (tmp_path / "pip.conf").touch()
    assert installing._named_paths(environment, tmp_path) == [str(there), str(tmp_path)]
