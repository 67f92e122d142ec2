"""An audit that could not be made says so, and one that was made is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.audit import judge

CLEAN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "b is not known"}
FAULTY = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3", "2.1"]}]}
HOPELESS = {"name": "d", "version": "2", "vulns": [{"id": "CVE-2", "fix_versions": []}]}


def said(*found: dict[str, Any]) -> str:
    return json.dumps({"dependencies": found})


@pytest.mark.parametrize(
    ("found", "line", "status"),
    [
        ([CLEAN, CLEAN], "no known vulnerability in 2 of the 2 packages", 0),
        ([CLEAN, UNKNOWN], "no known vulnerability in 1 of the 2 packages", 0),
        ([CLEAN, UNKNOWN], "b is not known", 0),
        ([CLEAN, FAULTY], "c 2: CVE-1, mended in 3, 2.1", 1),
        ([HOPELESS, UNKNOWN], "d 2: CVE-2, mended in no version yet", 1),
        ([UNKNOWN, UNKNOWN], "skipped: the service knows none of the 2 packages", 0),
        ([], "skipped: the service knows none", 0),
    ],
)
def test_what_was_found_is_told(found: list[dict[str, Any]], line: str, status: int) -> None:
    verdict = judge(said(*found), "")
    assert line in "\n".join(verdict.lines)
    assert verdict.status == status


def test_no_vulnerability_is_claimed_only_of_what_was_looked_up() -> None:
    assert "no known" not in "\n".join(judge(said(UNKNOWN), "").lines)
    assert "no known" not in "\n".join(judge(said(CLEAN, FAULTY), "").lines)


def test_a_service_that_cannot_be_reached_is_skipped_by_name() -> None:
    verdict = judge("", "Traceback\nrequests.exceptions.ConnectionError: no route\n")
    assert verdict.status == 0
    assert verdict.lines[0].startswith("pip-audit is skipped: the service cannot be reached: ")


@pytest.mark.parametrize("output", ["", "no JSON", "[]", "{}"])
def test_an_audit_that_breaks_fails(output: str) -> None:
    verdict = judge(output, "usage: pip-audit\nerror: no such option\n")
    assert verdict == (["pip-audit failed: error: no such option"], 1)
