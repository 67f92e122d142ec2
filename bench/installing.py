"""Puts the peers into the benchmarks' own environment, and knows which of them are there.

usage: python -m bench.installing [ray | workerd]

Without a name: those of `requirements.txt`, and wrk. Each one by itself, so that one that cannot
be had is skipped by name while the others are measured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from bench.results import ROOT, say
from bench.rounds import Missing

REQUIREMENTS = ROOT / "bench" / "requirements.txt"
ENVIRONMENT = ROOT / ".venv-bench"
RAY, WORKERD = "2.60.0", "1.20261117.1"


def need(package: str) -> str:
    """Its version; raises Missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise Missing(f"{package} is not installed: `make bench-peers`") from None


def requirements(content: str) -> list[str]:
    """The lines of a requirements file that name something.

    Example: of `# peers`, ` fastapi==1.0  # why` and an empty line it is `fastapi==1.0`.
    """
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in content.splitlines()]
    return [line for line in lines if line]


# --- installing ---


def install() -> None:
    """What is in `requirements.txt`, one after the other; says what could not be had.

    Nothing that is there already, such as what atlatl itself runs on, gets another version.
    """
    for requirement in requirements(REQUIREMENTS.read_text(encoding="utf-8")):
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
            constraints.write("\n".join(f"{each.name}=={each.version}" for each in distributions()))
            constraints.flush()
            if not _pip(sys.executable, "-c", constraints.name, requirement):
                say(f"{requirement} could not be installed: its benchmarks are skipped")
    if shutil.which("wrk") is None and not _apt("wrk"):
        say("wrk could not be installed: a slower client in Python makes the load")


def ray_python() -> Path:
    """The Python of Ray's environment, which is made when it is first wanted; raises Missing."""
    directory = ENVIRONMENT / "ray"
    python = directory / "bin" / "python"
    if not (directory / ".ready").is_file():
        say("setting up Ray in an environment of its own; that is large")
        venv.create(directory, clear=True, with_pip=True, symlinks=True)
        if not _pip(str(python), f"ray[serve]=={RAY}"):
            raise Missing(f"Ray {RAY} could not be installed")
        (directory / ".ready").touch()
    return python


def workerd_program() -> Path:
    """workerd, which npm installs when it is first wanted; raises Missing."""
    program = ENVIRONMENT / "npm" / "node_modules" / "workerd" / "bin" / "workerd"
    if not program.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("workerd needs npm: `apt-get install npm`")
        prefix = str(ENVIRONMENT / "npm")
        if not _runs([npm, "install", "--silent", "--prefix", prefix, f"workerd@{WORKERD}"]):
            raise Missing(f"workerd {WORKERD} could not be installed")
    return program


def _pip(python: str, *arguments: str) -> bool:
    return _runs(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    )


def _apt(package: str) -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return _runs(["apt-get", "install", "--yes", "--quiet", package], environment)


def _runs(command: Sequence[str], environment: dict[str, str] | None = None) -> bool:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        say((done.stderr or done.stdout).strip()[-500:])
    return done.returncode == 0


if __name__ == "__main__":
    FURTHER: dict[str, Callable[[], object]] = {"ray": ray_python, "workerd": workerd_program}
    for name in sys.argv[1:]:
        try:
            FURTHER[name]()
        except Missing as missing:
            sys.exit(str(missing))
    if not sys.argv[1:]:
        install()
