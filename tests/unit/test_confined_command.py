"""What a confined command may read besides the system."""

from __future__ import annotations

from pathlib import Path

from atlatl_worker.confined_command import _apart


def test_what_leads_to_where_it_writes_is_left_out(tmp_path: Path) -> None:
    data, libraries = tmp_path / "service/data", tmp_path / "service/data libraries"
    work = data / "deps/work"
    for directory in (work, libraries, data / "code"):
        directory.mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    wanted = [data, tmp_path, libraries, data / "code", tmp_path / "link", work, tmp_path / "gone"]
    left = _apart(map(str, wanted), [str(work)])
    assert left == [str(libraries), str(data / "code")]
