"""Packages that do harm while they are built: contained, named, and gone when they are refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault import hostile_install
from tests.ordinary import NOBODY, as_user, environment, python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
USERS = ["root", "ordinary"]


@pytest.fixture(params=USERS)
def who(request: pytest.FixtureRequest) -> str:
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("as root only")
    return str(request.param)


@pytest.fixture
def directory(who: str) -> Iterator[Path]:
    """One that the user can reach and write to."""
    with tempfile.TemporaryDirectory(prefix="atlatl-install-") as name:
        if who == "ordinary" and os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def installed(directory: Path, who: str, mode: str, **limits: Any) -> dict[str, Any]:
    another = who == "ordinary" and os.geteuid() == 0
    return told_by(python() if another else sys.executable, directory, another, mode, limits)


def told_by(
    executable: str, directory: Path, another: bool, mode: str, limits: dict[str, Any]
) -> dict[str, Any]:
    done = subprocess.run(
        [
            executable,
            "-m",
            hostile_install.__name__,
            str(directory),
            mode,
            json.dumps(limits),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "HOME": str(directory),
            "SECRET": "of the service",
            "ATLATL__TASK__ENV": '{"KEY": "of the service"}',
        },
        capture_output=True,
        text=True,
        timeout=100,
        **(as_user() if another else {}),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    assert told["intact"]
    assert told["left"] == []
    return told


def test_a_build_sees_its_artifact_and_nothing_else(directory: Path, who: str) -> None:
    told = installed(directory, who, "looks")
    assert told["error"] == ""
    assert "Successfully installed hostile-1.0" in told["log"]
    found = told["found"]
    for what in ("token", "database", "other", "shadow", "environ", "memory", "signal", "mount"):
        assert found[what].startswith("refused"), (what, found[what])
    # Where its own temporary directory covers the place, it may write there: nobody sees it.
    assert found["write code"].startswith("refused")
    assert all(answer.startswith("refused") for answer in found["neighbours"])
    assert not found["environment"]
    assert found["privileges"] == 1
    assert not told["daemon_lives"]
    assert not list(Path("/var/tmp").glob("atlatl-was-here-*"))
    if who == "root":
        assert found["uid"] not in (0, told["uid"])


def test_pip_is_found_wherever_the_interpreter_looks_for_it(directory: Path, who: str) -> None:
    """Not below its prefix here, and not below /tmp, where a command may read all of its own."""
    another = who == "ordinary" and os.geteuid() == 0
    of_pip = Path(sysconfig.get_path("purelib"), "pip")
    with tempfile.TemporaryDirectory(prefix="atlatl-pip-", dir="/var/tmp") as name:
        apart = Path(name)
        apart.chmod(0o755)
        shutil.copytree(of_pip, apart / "packages/pip")
        executable = environment(
            python() if another else sys.executable, apart / "venv", apart / "packages"
        )
        told = told_by(executable, directory, another, "nothing", {})
    assert told["error"] == ""
    assert "Successfully installed hostile-1.0" in told["log"]


@pytest.mark.parametrize("mode", ["loop", "ignores", "prints"])
def test_a_build_without_an_end_is_ended(directory: Path, who: str, mode: str) -> None:
    told = installed(directory, who, mode, install_timeout_s=6.0)
    assert "pip took more than 6 s (`artifacts.install_timeout_s`)" in told["error"]
    assert told["took_s"] < 30
    assert not running(str(directory))


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fill", r"wrote more than 20000000 bytes \(`artifacts.max_install_bytes`\)"),
        ("fill home", r"wrote more than 20000000 bytes \(`artifacts.max_install_bytes`\)"),
        ("files", r"wrote more than 20000000 bytes \(`artifacts.max_install_bytes`\)"),
        ("deep", "deep|look into"),
    ],
)
def test_a_build_that_fills_the_disk_is_ended(
    directory: Path, who: str, mode: str, said: str
) -> None:
    told = installed(directory, who, mode, max_install_bytes=20_000_000, install_timeout_s=60.0)
    assert re.search(said, told["error"])
    assert told["took_s"] < 60
    assert not running(str(directory))


def test_a_build_that_hides_what_it_writes_is_ended(directory: Path, who: str) -> None:
    told = installed(directory, who, "hide", install_timeout_s=10.0)
    root = who == "root"
    assert ("took more than" if root else "nobody can look into") in told["error"]


def test_a_build_cannot_kill_the_one_who_watches_it(directory: Path, who: str) -> None:
    told = installed(directory, who, "kills", install_timeout_s=30.0)
    assert told["took_s"] < 30
    assert not running(str(directory))


def running(word: str) -> list[int]:
    """Processes with that word in their command or environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            state = (process / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in told and state not in (b"Z", b"X"):
            found.append(int(process.name))
    return found
