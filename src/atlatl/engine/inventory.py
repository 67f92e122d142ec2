"""What a sealed tree held when it was made, and what somebody has done to it since."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 1.0
"""A tree is looked at when an instance starts from it, but not more often than this."""

LOOK_SHARE = 0.01
"""Of all time, at most, goes into looking at one tree: some have tens of thousands of files."""

LOOK_WAIT_S = 0.005
"""How long a start waits for the look; what is found later counts from the next start on."""


class Stamp(NamedTuple):
    """A file as the file system shows it: nobody writes to one without moving its change time."""

    mode: int
    size_bytes: int
    inode: int
    changed_ns: int


Stamps = dict[str, Stamp]
"""By path below the tree, with `/`."""


def stamps(tree: Path) -> Stamps:
    """Everything below the tree, as it is now. Waits for the disk: call it from a thread."""
    found: Stamps = {}
    for place, directories, files in os.walk(tree):
        below = "" if place == str(tree) else f"{Path(place).relative_to(tree).as_posix()}/"
        for name in (*directories, *files):
            facts = os.lstat(os.path.join(place, name))  # noqa: PTH118 - called for each file
            if stat.S_ISDIR(facts.st_mode):
                # Its own times move with what Python caches there, see `difference`.
                found[below + name] = Stamp(facts.st_mode, 0, 0, 0)
            else:
                found[below + name] = Stamp(
                    facts.st_mode, facts.st_size, facts.st_ino, facts.st_ctime_ns
                )
    return found


def digests(tree: Path) -> dict[str, str]:
    """SHA-256 of each file and target of each link. Call it from a thread."""
    found: dict[str, str] = {}
    for name, stamp in stamps(tree).items():
        path = tree / name
        if stat.S_ISLNK(stamp.mode):
            found[name] = f"link to {path.readlink()}"
        elif stat.S_ISREG(stamp.mode):
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What differs first, by name, and how; empty when nothing does.

    What Python has cached beside its sources in the meantime is no difference.
    """
    for name, kept in before.items():
        if name not in now:
            return f"{name} is gone"
        if now[name] != kept:
            return f"{name} was changed"
    for name in now:
        if name not in before and "__pycache__" not in name.split("/"):
            return f"{name} was added"
    return ""


class _Sealed:
    """A tree as it was made, and what is known of it since."""

    def __init__(self, stamps: Stamps) -> None:
        self.stamps = stamps
        self.not_before = 0.0
        """When the next look may begin."""
        self.look: asyncio.Task[str] | None = None
        """Whose result nobody has been told."""


class Watched:
    """Sealed trees of which instances start.

    Looks are made by the way, in threads, and cost next to nothing.
    """

    def __init__(self) -> None:
        self._trees: dict[Path, _Sealed] = {}
        self._under_way: set[asyncio.Task[str]] = set()

    def add(self, tree: Path, sealed: Stamps) -> None:
        """From now on it has to stay like this."""
        self._trees[tree] = _Sealed(sealed)

    def drop(self, tree: Path) -> None:
        """It is no more."""
        self._trees.pop(tree, None)

    async def changed(self, tree: Path) -> str:
        """What is known to be different in a tree, by name; empty for nothing.

        Of several who wait for one look, only the first is told.
        """
        sealed = self._trees.get(tree)
        if sealed is None:
            return ""
        if sealed.look is None:
            if asyncio.get_running_loop().time() < sealed.not_before:
                return ""
            sealed.look = asyncio.create_task(self._look(tree, sealed))
            self._under_way.add(sealed.look)
            sealed.look.add_done_callback(self._under_way.discard)
        look = sealed.look
        done, _ = await asyncio.wait([look], timeout=LOOK_WAIT_S)
        if not done or sealed.look is not look:
            return ""
        sealed.look = None
        # What was found in a tree that has been made again since says nothing.
        return look.result() if self._trees.get(tree) is sealed else ""

    async def _look(self, tree: Path, sealed: _Sealed) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return difference(sealed.stamps, await asyncio.to_thread(stamps, tree))
        except OSError as error:
            return f"it can't be read: {error.strerror}"
        finally:
            took_s = loop.time() - began
            sealed.not_before = loop.time() + max(LOOK_EVERY_S, took_s / LOOK_SHARE)

    async def close(self) -> None:
        """Returns when no look is under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
