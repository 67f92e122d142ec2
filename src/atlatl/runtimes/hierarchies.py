"""Where this process stands in the kernel's trees of groups; see cgroups(7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MEMORY, PROCESSES, CPU = "memory", "pids", "cpuacct"
"""Controllers, by the names that the kernel gives them."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


class Hierarchy(NamedTuple):
    """A tree of groups, as this process sees it."""

    version: int
    controllers: frozenset[str]
    """Of version 1: what it limits or counts. Of version 2 `cpuacct` stands for what is always
    counted there."""
    own: Path
    """The group that this process is in."""


def hierarchies(proc: Path) -> list[Hierarchy]:
    """The hierarchies that can be of use here, and where in them the process is."""
    useful = {MEMORY, PROCESSES}
    return [each for each in _seen(proc) if each.version == 1 or each.controllers & useful]


def memory_groups(proc: Path) -> Iterator[tuple[int, Path]]:
    """Groups whose limits of memory count for the process, each with its hierarchy's version."""
    for version, controllers, own in _seen(proc):
        if version == 2 or MEMORY in controllers:
            yield from ((version, group) for group in (own, *own.parents))


def _seen(proc: Path) -> Iterator[Hierarchy]:
    try:
        memberships, mounts = _lines(proc / "cgroup"), _lines(proc / "mountinfo")
    except OSError:
        return
    for line in memberships:
        _, names, path = line.split(":", 2)
        controllers = frozenset(names.split(",")) - {""}
        own = next(_own_directories(mounts, controllers, path), None)
        if own is None:
            continue
        version = 1 if controllers else 2
        if version == 2:
            controllers = _available(own) | {CPU}
        yield Hierarchy(version, controllers, own)


def _lines(path: Path) -> list[str]:
    """A mount may be called anything, also what is no text."""
    text = path.read_text("utf-8", "surrogateescape")
    return [line for line in text.split("\n") if line]


def _available(own: Path) -> frozenset[str]:
    try:
        return frozenset((own / "cgroup.controllers").read_text().split())
    except OSError:  # this process is outside of what it can see
        return frozenset()


def _own_directories(mounts: list[str], controllers: frozenset[str], path: str) -> Iterator[Path]:
    """See proc(5) for the form of a line."""
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        _, _, _, root, point, *_ = (_unescaped(field) for field in fields.split(" "))
        kind, _, options = rest.split(" ", 2)  # what is mounted may have an empty name
        wanted = kind == "cgroup" and controllers and controllers <= set(options.split(","))
        if not wanted and (kind != "cgroup2" or controllers):
            continue
        try:
            yield Path(point) / PurePosixPath(path).relative_to(root)
        except ValueError:  # it lies outside of what is mounted here
            continue


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)
