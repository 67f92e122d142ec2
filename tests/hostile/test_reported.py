"""What is not kept here is said wherever one would look; what is said to be kept is tried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hostile.not_kept import NOT_KEPT
from tests.hostile.stand import ORDINARY, Stand

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
STRICT = {"level": "strict", "network": False}


def test_all_that_an_ordinary_user_cannot_keep_is_reported(stand: Stand) -> None:
    said = stand.reported("good")
    if stand.user == ORDINARY:
        assert said >= set(NOT_KEPT.values())
    else:
        assert said == set()


def test_nothing_is_reported_that_the_table_does_not_have(stand: Stand) -> None:
    """On a kernel with all that docs/security.md asks for, which this suite runs on."""
    expected = set(NOT_KEPT.values()) if stand.user == ORDINARY else set()
    assert stand.reported("good") == expected


def test_the_check_says_it(stand: Stand) -> None:
    done = stand.server.cli("check", "--json")
    (item,) = [each for each in json.loads(done.stdout)["items"] if each["item"] == "confinement"]
    assert item["ok"] is not False, item
    for subject in stand.reported("good"):
        assert f"{subject}: " in item["detail"]


def test_it_is_said_at_start(stand: Stand) -> None:
    lines = [json.loads(line) for line in stand.server.lines if line.startswith("{")]
    said = [each for each in lines if each["event"].startswith("confinement: ")]
    if stand.user == ORDINARY:
        (line,) = said
        assert line["level"] == "warning"
        assert all(f"{subject}: " in line["event"] for subject in stand.reported("good"))
    else:
        assert not any(line["level"] == "warning" for line in said)


def test_strict_is_kept_or_refused(stand: Stand) -> None:
    """Where it is kept, nothing is left of the network or of what the kernel has by name."""
    if stand.user == ORDINARY:
        code = "def main(): return 1\n"
        answer = stand.server.deploy("strict", code, confinement=STRICT)
        assert answer.status_code == 422
        for subject in set(NOT_KEPT.values()):
            assert f"{subject}: " in answer.json()["detail"]
        return
    name = stand.deploy("connects", "network", confinement=STRICT)
    stand.refuses(stand.call(name, port=stand.port))
    name = stand.deploy("hoards", "outlasting", confinement=STRICT)
    stand.refuses(stand.call(name))
    name = stand.deploy("reads_processes", confinement=STRICT)
    stand.refuses(stand.call(name, pids=stand.pids))


def test_the_documents_have_the_same_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for subject in set(NOT_KEPT.values()):
        assert f"| {subject} |" in page
