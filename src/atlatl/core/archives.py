"""What may be in an archive, and what goes into one that atlatl packs.

Only names, sizes and kinds are judged here; reading and writing is the engine's.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator, Sequence

from atlatl.errors import ArtifactInvalid
from atlatl.model import Record
from atlatl.settings import ArtifactSettings

MAX_RATIO = 200
"""Largest factor by which a member, and the whole, may grow. Source code reaches 10, logs 100,
bombs 1000."""

RATIO_FREE_BYTES = 1_048_576
"""A member up to this size may grow by any factor: it does no harm."""
RATIO_FREE_TOTAL_BYTES = 16 * RATIO_FREE_BYTES
"""The same for all members together, of which there can be thousands."""

MAX_DEPTH = 64
"""Parts of a path. The format allows 500, each of them a directory to be made."""

STORED, DEFLATED = 0, 8
"""The ways of packing that are unpacked. The readers of the others write as much at a time as the
archive likes, whatever size it states."""

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
    start: int = 0
    """Where in the archive its own header begins."""
    end: int = 0
    """Where its packed bytes end."""
    method: int = DEFLATED
    """How it is packed."""
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


def check_members(members: Sequence[Member], limits: ArtifactSettings, content_bytes: int) -> None:
    """Raises ArtifactInvalid unless the archive can be unpacked safely; the message names why.

    Args:
        members: all entries.
        limits: `max_files` and `max_bytes` count.
        content_bytes: of the archive before its table of contents, where all members lie.
    """
    if len(members) > limits.max_files:
        raise ArtifactInvalid(
            f"the archive has {len(members)} members; `artifacts.max_files` allows "
            f"{limits.max_files}"
        )
    for member in members:
        check_name(member.name.removesuffix("/"))
        _check_kind(member)
        _check_growth(member)
    _check_total(members, limits, content_bytes)
    _check_apart(members, content_bytes)
    _check_distinct(members, limits)


def check_name(name: str) -> None:
    """Raises ArtifactInvalid unless `name` is a plain path below the artifact's directory."""
    problem = _problem_of(name)
    if problem:
        raise ArtifactInvalid(f"file {_shown(name)} is refused: {problem}")


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
    if len(parts) > MAX_DEPTH:
        return f"its path has more than {MAX_DEPTH} parts"
    return ""


def _shown(name: str) -> str:
    """A name of any length as it may stand in a message."""
    return repr(name if len(name) <= 1024 else name[:1024] + "...")


def _check_kind(member: Member) -> None:
    kind = member.mode & _KIND
    expected = (0, _DIRECTORY) if member.is_directory else (0, _FILE)
    if kind not in expected:
        found = _KIND_NAMES.get(kind, "of a kind that its name contradicts")
        raise _refused(member, f"it is {found}; only files and directories are unpacked")
    if member.encrypted:
        raise _refused(member, "it is encrypted")
    if member.method not in (STORED, DEFLATED):
        raise _refused(
            member, f"it is packed with method {member.method}; use `deflate` or none at all"
        )


def _check_growth(member: Member) -> None:
    if member.method == STORED and member.size_bytes != member.packed_bytes:
        raise _refused(
            member,
            f"it is stored as it is, and yet {member.packed_bytes} bytes are to be "
            f"{member.size_bytes}",
        )
    if member.size_bytes > max(RATIO_FREE_BYTES, member.packed_bytes * MAX_RATIO):
        raise _refused(
            member,
            f"its {member.packed_bytes} bytes would unpack to {member.size_bytes}, more than "
            f"{MAX_RATIO} times as many",
        )


def _check_total(members: Sequence[Member], limits: ArtifactSettings, content_bytes: int) -> None:
    total = 0
    for member in members:
        total += member.size_bytes
        if total > limits.max_bytes:
            raise _refused(
                member,
                f"with it the archive unpacks to more than the {limits.max_bytes} bytes that "
                "`artifacts.max_bytes` allows",
            )
    if total > max(RATIO_FREE_TOTAL_BYTES, content_bytes * MAX_RATIO):
        raise ArtifactInvalid(
            f"the archive is refused: its {content_bytes} bytes would unpack to {total}, more "
            f"than {MAX_RATIO} times as many"
        )


def _check_apart(members: Sequence[Member], content_bytes: int) -> None:
    """Members that share their packed bytes make much out of little, and tools disagree on them."""
    end, before = 0, ""
    for member in sorted(members, key=lambda member: member.start):
        if member.start < end:
            raise _refused(member, f"it overlaps {_shown(before)}")
        end, before = member.end, member.name
        if end > content_bytes:
            raise _refused(member, "it overlaps the table of contents")


def _check_distinct(members: Sequence[Member], limits: ArtifactSettings) -> None:
    """No two may have one place, not even where file names know neither case nor accents' forms."""
    taken: dict[str, str] = {}
    """What stands where; as written, by the form in which such a place compares names."""
    for member in members:
        for place in _places(member.name):
            folded = _folded(place.removesuffix("/"))
            before = taken.get(folded)
            if before is None:
                taken[folded] = place
            elif before != place or not place.endswith("/"):
                raise _refused(member, _clash(place, before))
        if len(taken) > limits.max_files:
            raise ArtifactInvalid(
                f"the archive has more than the {limits.max_files} files and directories that "
                "`artifacts.max_files` allows"
            )


def _places(name: str) -> Iterator[str]:
    """Every directory above, then the member itself."""
    at = name.find("/")
    while -1 < at < len(name) - 1:
        yield name[: at + 1]
        at = name.find("/", at + 1)
    yield name


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _clash(place: str, before: str) -> str:
    if before.removesuffix("/") != place.removesuffix("/"):
        return (
            f"{_shown(place)} and {_shown(before)} differ only in case or in how letters are "
            "composed, and not every file system can hold both"
        )
    if place.endswith("/"):
        return f"{_shown(before)} is a file, not a directory"
    return "its name is taken"


def _refused(member: Member, why: str) -> ArtifactInvalid:
    return ArtifactInvalid(f"archive member {_shown(member.name)} is refused: {why}")


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
