"""The page on security says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from atlatl.core.confinement import Kept, missing
from atlatl.settings import ConfinementSettings
from atlatl_worker import means, seccomp

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def test_the_refused_calls_are_those_of_the_filter() -> None:
    rows = re.findall(r"^\| (`.*?) \| .* \|$", section("System calls that are refused"), re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    # `clone` stands there for the flags with which it is refused.
    assert sorted(set(named) - {"clone"}) == sorted(seccomp.DENIED)
    assert len(named) == len(set(named))


def test_the_calls_that_are_looked_at_more_closely_are_named() -> None:
    text = section("System calls that are refused")
    named = {each for machine in seccomp.MACHINES.values() for each in machine.numbers}
    lost = {each for each in named if f"`{each}`" not in text and not each.startswith("sched_set")}
    assert lost == set()


def test_the_gaps_of_an_ordinary_user_are_those_that_are_reported() -> None:
    """On a kernel with everything, without root and without a cgroup."""
    kept = Kept(
        landlock=6, seccomp=True, mounts=True, user_namespaces=True, network_namespaces=True,
        processes=True,
    )  # fmt: skip
    subjects = [each.partition(": ")[0] for each in missing(kept, ConfinementSettings())]
    rows = section("What an ordinary user's service cannot keep")
    assert re.findall(r"^\| (?!subject|---)(.*?) \|", rows, re.M) == subjects


def test_the_first_user_id_is_the_right_one() -> None:
    assert f"from {means.FIRST_UID} on" in PAGE


def test_the_policy_and_the_page_name_each_other() -> None:
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "](docs/security.md)" in policy
    assert "](../SECURITY.md)" in PAGE
