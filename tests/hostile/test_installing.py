"""Packages that attack while they are built, deployed to the service like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.hostile_install import BACKEND, PYPROJECT
from tests.hostile.stand import Stand
from tests.shelf_samples import zipped
from tests.unit.test_dependencies import OFFLINE, wheel

pytestmark = pytest.mark.slow

HANDLER = b"import hostile\n\n\ndef main():\n    return hostile.FOUND\n"


def attack(stand: Stand, mode: str) -> bytes:
    backend = BACKEND.format(
        data=str(stand.data_dir),
        service=stand.pid,
        mode=mode,
        other=str(stand.outside),
        home=str(stand.directory),
        code=str(stand.data_dir / "code"),
    )
    return zipped(
        {
            "main.py": HANDLER,
            "requirements.txt": b"./hostile\n",
            "hostile/pyproject.toml": PYPROJECT,
            "hostile/backend.py": backend.encode(),
        }
    )


def test_a_build_finds_nothing_of_the_service(stand: Stand) -> None:
    answer = stand.server.deploy("builder", attack(stand, "looks"), handler="main.py:main")
    try:
        assert answer.status_code == 201, answer.json()["detail"]
        assert "Successfully installed hostile-1.0" in answer.json()["log"]
        found = stand.server.call("builder").json()
    finally:
        stand.server.http.delete("/api/v1/tasks/builder?force=true")
    for what in ("token", "database", "other", "shadow", "environ", "memory", "signal", "mount"):
        assert found[what].startswith("refused"), (what, found[what])
    assert found["neighbours"] == [] or all(
        each.startswith("refused") for each in found["neighbours"]
    )
    assert not found["environment"]
    assert stand.secret not in str(found)
    assert not Path(f"/proc/{found['daemon']}").exists()


def test_a_build_that_fails_leaves_no_task(stand: Stand) -> None:
    """The good function goes on meanwhile, as after every attack."""
    answer = stand.server.deploy("builder", attack(stand, "no such mode") + b"", handler="main:x")
    assert answer.status_code in (400, 422), answer.text
    assert stand.server.http.get("/api/v1/tasks/builder").status_code == 404


def test_a_package_is_there_for_a_confined_function(stand: Stand) -> None:
    files = {
        "main.py": b"import friendly\n\n\ndef main():\n    return friendly.VALUE\n",
        "requirements.txt": OFFLINE + b"friendly\n",
        **wheel("friendly", "VALUE = 42\n"),
    }
    answer = stand.server.deploy("friend", zipped(files), handler="main.py:main")
    try:
        assert answer.status_code == 201, answer.json()["detail"]
        assert stand.server.call("friend").json() == 42
    finally:
        stand.server.http.delete("/api/v1/tasks/friend?force=true")
