"""Looks the locked dependencies up among the known vulnerabilities.

Ends with 1 when one of them has any. That needs a service on the network: where it cannot be
asked, or knows nothing of the packages, that is said, and nothing is claimed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
LOCK = "requirements.lock"
TIMEOUT_S = 90
UNREACHABLE = (
    "ConnectionError",
    "ConnectTimeout",
    "Could not connect",
    "Max retries exceeded",
    "ReadTimeout",
    "ServiceError",
    "timed out",
)


class Verdict(NamedTuple):
    """What is to be said, and the exit status."""

    lines: list[str]
    status: int


def main() -> int:
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", LOCK, "--no-deps", "--disable-pip",
        "--progress-spinner", "off", "--timeout", "5", "--format", "json",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        verdict = skipped(f"it had no answer within {TIMEOUT_S} s")
    else:
        verdict = judge(done.stdout, done.stderr)
    print("\n".join(verdict.lines))
    return verdict.status


def judge(said: str, complained: str) -> Verdict:
    """From what pip-audit printed on its two outputs."""
    try:
        found: list[dict[str, Any]] = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return _without_result(complained)
    looked_up = [each for each in found if "skip_reason" not in each]
    if not looked_up:
        return skipped(f"the service knows none of the {len(found)} packages of {LOCK}")
    lines = [f"pip-audit: {each['name']}: {each['skip_reason']}" for each in found
             if "skip_reason" in each]  # fmt: skip
    faults = [
        f"pip-audit: {each['name']} {each['version']}: {fault['id']}, "
        f"mended in {', '.join(fault.get('fix_versions', [])) or 'no version yet'}"
        for each in looked_up
        for fault in each.get("vulns", [])
    ]
    lines += faults or [
        f"pip-audit: no known vulnerability in {len(looked_up)} of the {len(found)} packages"
    ]
    return Verdict(lines, 1 if faults else 0)


def _without_result(complained: str) -> Verdict:
    last = complained.strip().splitlines()[-1:] or ["it said nothing"]
    if any(word in complained for word in UNREACHABLE):
        return skipped(f"the service cannot be reached: {last[0]}")
    return Verdict([f"pip-audit failed: {last[0]}"], 1)


def skipped(why: str) -> Verdict:
    return Verdict([f"pip-audit is skipped: {why}; nothing is known of the dependencies"], 0)


if __name__ == "__main__":
    sys.exit(main())
