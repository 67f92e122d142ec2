"""What a kernel keeps is found out as instances will use it: also by those who may do little."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from atlatl.core.confinement import Kept

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ASKS = """
import asyncio, msgspec, sys
from atlatl.runtimes.zygote import Zygote

async def main():
    zygote = Zygote(lambda: None)
    await zygote.start()
    print(msgspec.json.encode(zygote.kept).decode())
    await zygote.close()

asyncio.run(main())
"""


def kept(*before: str) -> Kept:
    done = subprocess.run(
        [*before, sys.executable, "-c", ASKS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what root may do")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_the_right_to_mount_calls_and_files_are_still_filtered() -> None:
    """Such is root in a container, unless it is given more."""
    all_of_it = kept()
    little = kept("setpriv", "--bounding-set=-sys_admin")
    assert all_of_it.mounts
    assert not little.mounts
    assert (little.landlock, little.seccomp) == (all_of_it.landlock, all_of_it.seccomp)
