"""What the package brings to who installs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

from atlatl.front.dashboard import STATIC, static_files

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_has_every_file_of_the_dashboard(tmp_path: Path) -> None:
    # Without isolation nothing is fetched; where the build tool is not installed, pip gets it.
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *here, "-w", tmp_path, ROOT],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("atlatl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, served in static_files().items():
            assert archive.read(f"atlatl/front/static/{name}") == served.content
        licence = (STATIC / "vendor" / "uPlot-LICENSE.txt").read_bytes()
        assert licence in [archive.read(name) for name in archive.namelist()]
