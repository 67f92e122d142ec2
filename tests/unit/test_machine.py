"""What processes there are below one, though they come and go meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlatl.runtimes.machine import tree

NOBODY = 2**22 + 4711
"""No process can have that number."""


def test_a_thread_that_ends_hides_no_children_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    iterdir = Path.iterdir

    def with_one_that_has_ended(path: Path) -> Iterator[Path]:
        yield path / str(NOBODY)
        yield from iterdir(path)

    with subprocess.Popen(["sleep", "100"]) as child:
        try:
            monkeypatch.setattr(Path, "iterdir", with_one_that_has_ended)
            assert child.pid in tree(os.getpid())
            assert list(tree(NOBODY)) == [NOBODY]
        finally:
            child.kill()
