"""What may be in an archive, and what goes into one that atlatl packs.

Only names, sizes and kinds are judged here; reading and writing is the engine's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from atlatl.errors import ArtifactInvalid
from atlatl.model import Record
from atlatl.settings import ArtifactSettings

MAX_RATIO = 200
"""Largest factor by which a member may grow. Source code reaches 10, logs 100, bombs 1000."""

RATIO_FREE_BYTES = 1_048_576
"""Members up to this size may grow by any factor: they do no harm."""

DIRECTORY_BYTES_PER_FILE = 512
"""Room for one entry in the table of contents: 46 bytes and the name."""

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""The time of every packed file, the earliest that the format knows."""

SKIPPED_DIRECTORIES = frozenset(
    {
        "__pycache__",
        ".git",
        ".hg",
        ".svn",
        ".venv",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    }
)
SKIPPED_ENDINGS = (".pyc", ".pyo")

_KIND, _FILE, _DIRECTORY = 0o170000, 0o100000, 0o040000
_KIND_NAMES = {
    0o120000: "a link",
    0o060000: "a device",
    0o020000: "a device",
    0o010000: "a pipe",
    0o140000: "a socket",
}


class Member(Record, frozen=True):
    """One entry of an archive, as its table of contents states it."""

    name: str
    """A directory's ends with `/`."""
    size_bytes: int
    """Unpacked."""
    packed_bytes: int
    mode: int = 0
    """Unix mode with the kind of file; 0 where the archive does not say."""
    encrypted: bool = False

    @property
    def is_directory(self) -> bool:
        return self.name.endswith("/")


def packs(name: str, *, directory: bool) -> bool:
    """Whether a file or directory of this name goes into a packed artifact."""
    if directory:
        return name not in SKIPPED_DIRECTORIES
    return not name.endswith(SKIPPED_ENDINGS)


def check_members(members: Sequence[Member], limits: ArtifactSettings) -> None:
    """Raises ArtifactInvalid unless the archive can be unpacked safely; the message names why."""
    if len(members) > limits.max_files:
        raise ArtifactInvalid(
            f"the archive has {len(members)} members; `artifacts.max_files` allows "
            f"{limits.max_files}"
        )
    for member in members:
        check_name(member.name.removesuffix("/"))
        _check_kind(member)
        _check_growth(member)
    _check_total(members, limits)
    _check_distinct(member.name for member in members)


def check_name(name: str) -> None:
    """Raises ArtifactInvalid unless `name` is a plain path below the artifact's directory."""
    problem = _problem_of(name)
    if problem:
        raise ArtifactInvalid(f"file {name!r} is refused: {problem}")


def _problem_of(name: str) -> str:
    parts = name.split("/")
    if not name.isprintable():
        return "its name has unprintable characters"
    if "\\" in name or name[1:2] == ":":
        return "its name is not a path with `/` below the archive's root"
    if name.startswith("/"):
        return "its path is absolute"
    if ".." in parts:
        return "its path leads out of the archive"
    if "" in parts or "." in parts:
        return "its path has an empty part"
    if len(name.encode()) > 1024 or any(len(part.encode()) > 255 for part in parts):
        return "its name is too long"
    return ""


def _check_kind(member: Member) -> None:
    kind = member.mode & _KIND
    expected = (0, _DIRECTORY) if member.is_directory else (0, _FILE)
    if kind not in expected:
        found = _KIND_NAMES.get(kind, "of a kind that its name contradicts")
        raise ArtifactInvalid(
            f"archive member {member.name!r} is refused: it is {found}; only files and "
            "directories are unpacked"
        )
    if member.encrypted:
        raise ArtifactInvalid(f"archive member {member.name!r} is refused: it is encrypted")


def _check_growth(member: Member) -> None:
    if member.size_bytes > max(RATIO_FREE_BYTES, member.packed_bytes * MAX_RATIO):
        raise ArtifactInvalid(
            f"archive member {member.name!r} is refused: its {member.packed_bytes} bytes would "
            f"unpack to {member.size_bytes}, more than {MAX_RATIO} times as many"
        )


def _check_total(members: Sequence[Member], limits: ArtifactSettings) -> None:
    total = 0
    for member in members:
        total += member.size_bytes
        if total > limits.max_bytes:
            raise ArtifactInvalid(
                f"archive member {member.name!r} is refused: with it the archive unpacks to more "
                f"than the {limits.max_bytes} bytes that `artifacts.max_bytes` allows"
            )


def _check_distinct(names: Iterable[str]) -> None:
    files: set[str] = set()
    directories: set[str] = set()
    for name in names:
        path = name.removesuffix("/")
        if path in files or (path == name and path in directories):
            raise ArtifactInvalid(f"archive member {name!r} is refused: its name is taken")
        (files if path == name else directories).add(path)
        while (path := path.rpartition("/")[0]) and path not in directories:
            if path in files:
                raise ArtifactInvalid(
                    f"archive member {name!r} is refused: {path!r} is a file, not a directory"
                )
            directories.add(path)


END_BYTES = 22 + 65_536 + 20 + 56
"""The end of an archive that says how large its table of contents is, at its longest."""


def check_directory_size(tail: bytes, limits: ArtifactSettings) -> None:
    """Raises ArtifactInvalid when the table of contents is too large to be read at all.

    Each entry costs memory as soon as the archive is opened, so their number has to be
    bounded before that.

    Args:
        tail: the last `END_BYTES` of the archive, or all of it.
        limits: `max_files` counts.
    """
    size_bytes = _directory_bytes(tail)
    if size_bytes > limits.max_files * DIRECTORY_BYTES_PER_FILE:
        raise ArtifactInvalid(
            f"the archive's table of contents has {size_bytes} bytes, too many for the "
            f"{limits.max_files} files that `artifacts.max_files` allows"
        )


def _directory_bytes(tail: bytes) -> int:
    """The stated size of the central directory; 0 where `zipfile` would find none either.

    The record is looked for where `zipfile` does (APPNOTE.TXT 4.3.14 to 4.3.16): a second one
    inside its fields or in the comment must not be taken for it.
    """
    end = len(tail) - 22
    if end < 0:
        return 0
    if not (tail[end:].startswith(b"PK\x05\x06") and tail.endswith(b"\0\0")):
        end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return 0
    locator, end64 = end - 20, end - 20 - 56
    large = tail.startswith(b"PK\x06\x07", locator) and tail.startswith(b"PK\x06\x06", end64)
    if end64 >= 0 and large:
        return int(struct.unpack_from("<Q", tail, end64 + 40)[0])
    return int(struct.unpack_from("<L", tail, end + 12)[0])
