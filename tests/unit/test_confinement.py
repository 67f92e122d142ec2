"""What of a level a machine can't keep: a judgement on what was tried."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict, replace

from atlatl.core.confinement import Kept, missing, summary
from atlatl.settings import ConfinementSettings
from atlatl_worker.means import Means

ALL = Kept(
    landlock=7,
    seccomp=True,
    uids=True,
    mounts=True,
    network_namespaces=True,
    private_proc=True,
    processes=True,
    memory_groups=True,
    process_groups=True,
    cpu_groups=True,
)
USERS = replace(ALL, uids=False, user_namespaces=True)
NO_GROUPS: dict[str, Any] = {"memory_groups": False, "process_groups": False, "cpu_groups": False}
STANDARD = ConfinementSettings(cpu_s=2)
STRICT = ConfinementSettings(level="strict", network=False, cpu_s=2)


def subjects(kept: Kept, settings: ConfinementSettings) -> list[str]:
    return [each.partition(":")[0] for each in missing(kept, settings)]


@pytest.mark.parametrize("kept", [ALL, USERS])
@pytest.mark.parametrize("settings", [STANDARD, STRICT])
def test_nothing_is_missing_where_all_holds(kept: Kept, settings: ConfinementSettings) -> None:
    assert missing(kept, settings) == []


def test_all_that_a_zygote_tells_is_known_here() -> None:
    """They cannot share the fields: what decides may not import what tries."""
    assert set(Means._fields) <= set(Kept.__struct_fields__)
    assert Means._field_defaults.items() <= asdict(Kept()).items()


def test_level_none_promises_nothing() -> None:
    assert missing(Kept(), ConfinementSettings(level="none", cpu_s=2)) == []


@pytest.mark.parametrize("settings", [STANDARD, STRICT])
@pytest.mark.parametrize(
    ("kept", "lacking"),
    [
        (replace(ALL, landlock=0), ["files"]),
        (replace(USERS, landlock=0), ["files", "signals"]),
        (replace(USERS, landlock=5), ["signals"]),
        (replace(ALL, mounts=False), ["temporary files"]),
        (replace(ALL, seccomp=False), ["system calls"]),
        (replace(ALL, memory_groups=False), ["memory"]),
        (replace(ALL, process_groups=False), []),
        (replace(ALL, processes=False), []),
        (replace(USERS, process_groups=False, processes=False), ["processes"]),
        (replace(ALL, cpu_groups=False), ["CPU time"]),
        (replace(ALL, private_proc=False), ["other processes"]),
        (replace(ALL, uids=False, as_root=True), ["user"]),
        (replace(ALL, uids=False, as_root=True, landlock=5), ["user", "signals"]),
    ],
)
def test_what_is_missing_is_named(
    kept: Kept, lacking: list[str], settings: ConfinementSettings
) -> None:
    assert subjects(kept, settings) == lacking


def test_cpu_time_is_missing_only_where_it_is_limited() -> None:
    kept = replace(ALL, cpu_groups=False)
    assert missing(kept, ConfinementSettings()) == []


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (ALL, []),
        (replace(ALL, seccomp=False), ["network: only TCP is kept away"]),
        (replace(ALL, seccomp=False, landlock=3), ["network: it is in reach"]),
        (replace(ALL, network_namespaces=False), []),
    ],
)
def test_a_network_that_is_to_be_out_of_reach(kept: Kept, said: list[str]) -> None:
    found = [
        each.partition(" (")[0]
        for each in missing(kept, ConfinementSettings(network=False))
        if each.startswith("network")
    ]
    assert found == said
    assert "network" not in subjects(kept, ConfinementSettings())


def test_strict_needs_a_network_namespace() -> None:
    assert subjects(replace(ALL, network_namespaces=False), STRICT) == ["network"]


def test_one_line_tells_both_levels_apart() -> None:
    defaults = ConfinementSettings()
    assert summary(ALL, defaults) == ("`standard` and `strict` are kept", True)
    said, all_kept = summary(replace(ALL, network_namespaces=False), defaults)
    assert said == (
        "`standard` is kept; `strict` is refused: network: no network namespace can be made"
    )
    assert not all_kept
    said, _ = summary(replace(USERS, **NO_GROUPS), defaults)
    assert said.startswith("`standard` is kept, but for memory: ")
    assert said.endswith("; `strict` is refused")
