"""What a newcomer sees whose machine lacks something: one line that says what to install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what `make` needs to begin with, and no .venv."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


def interpreter(directory: Path, *answers: str) -> Path:
    """A Python that fails, or answers, as the shell patterns in `answers` say."""
    path = directory / "python-for-test"
    cases = "".join(f"    {answer} ;;\n" for answer in answers)
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def make(checkout: Path, target: str, python: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", target, f"PYTHON={python}"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "HOME": str(checkout)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_without_venv_one_line_names_the_command(checkout: Path, target: str) -> None:
    done = make(checkout, target, interpreter(checkout, "*ensurepip*) exit 1"))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "sudo apt-get install python3-venv" in line
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_named_with_its_version(checkout: Path) -> None:
    python = interpreter(checkout, "*version_info\\[*) echo 3.9; exit", "*version_info*) exit 1")
    done = make(checkout, "demo", python)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "3.11" in line
    assert "3.9" in line
    assert "sudo apt-get install" in line


def test_without_any_python_one_line_names_the_command(checkout: Path) -> None:
    done = make(checkout, "test", checkout / "no-such-python")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "sudo apt-get install python3 python3-venv" in line


def test_help_and_clean_need_no_python(checkout: Path) -> None:
    for target in ("help", "clean"):
        assert make(checkout, target, checkout / "no-such-python").returncode == 0
