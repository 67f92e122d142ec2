"""What Landlock is asked for, by each version of its interface; no kernel is."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from atlatl_worker import kernel, landlock
from tests.running import open_descriptors

FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF, 6: 0xFFFF, 7: 0xFFFF}
"""All rights to files that a version knows; see landlock(7)."""
SIZES = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16, 6: 24, 7: 24}
"""Of what describes a set of rules. An older kernel refuses one that is longer and not 0."""

versions = pytest.mark.parametrize("abi", FILES)


class Kernel:
    """Takes the calls, and hands out descriptors of nothing."""

    def __init__(self) -> None:
        self.sets: list[tuple[int, ...]] = []
        """Rights to files and ports, and scopes, as far as they were told."""
        self.sizes: list[int] = []
        self.rules: list[tuple[int, int, int]] = []
        """The set, the rights and the descriptor that they are for."""
        self.in_force: list[int] = []
        self.given: list[int] = []
        self.refuses = False

    def call(self, what: str, number: int, *arguments: int) -> int:
        assert what == "landlock"
        if self.refuses:
            raise OSError(22, "refused")
        if number == 444:
            address, size, flags = arguments
            assert flags == 0
            self.sets.append(struct.unpack(f"{size // 8}Q", ctypes.string_at(address, size)))
            self.sizes.append(size)
            self.given.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            return self.given[-1]
        if number == 445:
            rules, kind, address, flags = arguments
            assert (kind, flags) == (1, 0)
            rights, target = struct.unpack("=Qi", ctypes.string_at(address, 12))
            self.rules.append((rules, rights, target))
        else:
            assert number == 446
            self.in_force.append(arguments[0])
        return 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    fake = Kernel()
    monkeypatch.setattr(kernel, "call", fake.call)
    yield fake
    for descriptor in fake.given:
        with suppress(OSError):
            os.close(descriptor)


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


@versions
def test_all_that_a_version_knows_is_taken_away(abi: int, asked: Kernel) -> None:
    assert landlock.file_rights(abi) == FILES[abi]
    landlock.file_rules(abi)
    told = (FILES[abi], 0, 0b11 if abi >= 6 else 0)
    assert asked.sets == [told[: SIZES[abi] // 8]]
    assert asked.sizes == [SIZES[abi]]


@versions
def test_the_network_and_others_go_where_the_version_knows_how(abi: int, asked: Kernel) -> None:
    landlock.restrict_tcp(abi)
    landlock.restrict_scope(abi)
    tcp = [(0, 0b11, 0)[: SIZES[abi] // 8]] if abi >= 4 else []
    scopes = [(0, 0, 0b11)] if abi >= 6 else []
    assert asked.sets == [*tcp, *scopes]
    assert asked.in_force == asked.given
    assert not any(map(is_open, asked.given))


def test_without_the_interface_the_version_is_0(asked: Kernel) -> None:
    asked.refuses = True
    assert landlock.version() == 0


@versions
def test_a_rule_asks_for_no_right_that_the_kernel_would_refuse(abi: int, tmp_path: Path) -> None:
    """Rights that it does not know, or to what only directories have."""
    (tmp_path / "file").touch()
    of_files = 0b111 | (1 << 14 if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    for path, expected in ((tmp_path, FILES[abi]), (tmp_path / "file", of_files)):
        rule = landlock.Rule(abi, str(path), landlock.EVERYTHING)
        rights, target = struct.unpack("=Qi", ctypes.string_at(rule.address, 12))
        assert rights == expected
        assert Path(f"/proc/self/fd/{target}").readlink() == path
        rule.close()
        assert not is_open(target)


def test_a_rule_is_added_for_what_is_there(asked: Kernel, tmp_path: Path) -> None:
    landlock.allow(7, 7, str(tmp_path), landlock.READ)
    [(rules, rights, target)] = asked.rules
    assert (rules, rights) == (7, 0b1100)
    assert not is_open(target)
    landlock.allow(7, 7, str(tmp_path / "missing"), landlock.READ)
    assert len(asked.rules) == 1


def test_a_rule_that_is_refused_leaves_nothing_open(asked: Kernel, tmp_path: Path) -> None:
    rules, asked.refuses = landlock.file_rules(7), True
    before = open_descriptors()
    with pytest.raises(OSError, match="refused"):
        landlock.allow(rules, 7, str(tmp_path), landlock.READ)
    assert open_descriptors() == before
    with pytest.raises(OSError, match="refused"):
        landlock.restrict(rules)
    assert not is_open(rules)


def test_what_every_instance_may_do_is_read_but_for_devices(tmp_path: Path) -> None:
    rules = landlock.usual_rules(7, [str(tmp_path), str(tmp_path / "missing")])
    found = {}
    for rule in rules:
        rights, target = struct.unpack("=Qi", ctypes.string_at(rule.address, 12))
        found[str(Path(f"/proc/self/fd/{target}").readlink())] = rights
        rule.close()
    assert found[str(tmp_path)] == landlock.RUN
    assert found["/dev/null"] == landlock.USE
    assert found["/proc"] == landlock.READ
    assert not any("missing" in path for path in found)
    writable = [path for path, rights in found.items() if rights & ~landlock.RUN]
    assert writable
    assert all(path.startswith("/dev/") for path in writable)
