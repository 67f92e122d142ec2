"""Another user than root, for tests that root runs: an id, and a Python which that user can run."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOBODY = 65534


def as_user(uid: int = NOBODY) -> dict[str, Any]:
    """What `subprocess` wants to be told to run something as that user."""
    return {"user": uid, "group": uid, "extra_groups": []}


@functools.cache
def python() -> str:
    """A Python with what the tests need, for a user that may not enter root's home.

    The one that runs the tests, or the system's with the same packages; skips when neither will do.
    """
    if _works(sys.executable):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    of_the_system = shutil.which(version, path="/usr/bin:/usr/local/bin")
    if of_the_system is not None:
        directory = Path(tempfile.mkdtemp(prefix="atlatl-python-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        made = environment(of_the_system, directory)
        if _works(made):
            return made
    pytest.skip(f"an ordinary user can neither run {sys.executable} nor a {version} of the system")


def _works(executable: str) -> bool:
    command = [executable, "-c", "import atlatl.app, pip, pytest, tests.running"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, **as_user())
    except PermissionError:
        return False
    return done.returncode == 0


def environment(executable: str, directory: Path, *others: Path) -> str:
    """The Python of a virtual environment made there.

    It has the packages of the one that runs the tests, and before them those in `others`.
    """
    subprocess.run([executable, "-m", "venv", "--without-pip", directory], check=True)
    [site] = directory.glob("lib/python*/site-packages")
    paths = [*others, sysconfig.get_path("purelib"), ROOT / "src"]
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in paths))
    return str(directory / "bin/python")
