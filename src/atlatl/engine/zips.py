"""Zip archives: opened only if they are safe, unpacked read-only, packed reproducibly.

Everything here waits for the disk: call it from a thread.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from atlatl.core.archives import (
    END_BYTES,
    FIXED_DATE,
    RATIO_FREE_BYTES,
    Member,
    check_directory_size,
    check_members,
    check_name,
    packs,
)
from atlatl.errors import ArtifactInvalid, ArtifactNotFound, InvalidRequest
from atlatl.settings import ArtifactSettings

_ENCRYPTED = 0x1 | 0x40 | 0x2000
"""Flags: the content, by a stronger method, and the names as well."""

_HEADER = struct.Struct("<4s22xHH")
"""Of a member: signature, lengths of its name and of its extra fields (APPNOTE.TXT 4.3.7)."""

_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` ends with at bytes that are no proper archive."""


def open_checked(content: bytes, limits: ArtifactSettings) -> zipfile.ZipFile:
    """The archive, once all its members are known to be safe.

    Raises:
        ArtifactInvalid: it is no archive, or has a member that may not be unpacked.
    """
    check_directory_size(content[-END_BYTES:], limits)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _DAMAGES as error:
        raise ArtifactInvalid(f"the artifact is no readable zip archive: {error}") from None
    members = [_member(content, info) for info in archive.infolist()]
    check_members(members, limits, archive.start_dir)
    if all(member.is_directory for member in members):
        raise ArtifactInvalid("the archive has no files: pack the function's code into it")
    return archive


def _member(content: bytes, info: zipfile.ZipInfo) -> Member:
    return Member(
        name=info.orig_filename,  # `filename` is cut at a NUL
        size_bytes=info.file_size,
        packed_bytes=info.compress_size,
        start=info.header_offset,
        end=_end(content, info),
        method=info.compress_type,
        mode=info.external_attr >> 16,
        encrypted=bool(info.flag_bits & _ENCRYPTED),
    )


def _end(content: bytes, info: zipfile.ZipInfo) -> int:
    """Where the packed bytes end: how much stands before them, only the header there says."""
    at = info.header_offset
    if not 0 <= at <= len(content) - _HEADER.size:
        raise _misplaced(info)
    signature, name_bytes, extra_bytes = _HEADER.unpack_from(content, at)
    if signature != b"PK\x03\x04":
        raise _misplaced(info)
    return at + int(_HEADER.size) + int(name_bytes) + int(extra_bytes) + info.compress_size


def _misplaced(info: zipfile.ZipInfo) -> ArtifactInvalid:
    return ArtifactInvalid(
        f"archive member {info.orig_filename[:1024]!r} is refused: it is not where the table of "
        "contents says"
    )


def unpack(content: bytes, target: Path, limits: ArtifactSettings) -> None:
    """Writes the archive's files below `target`, an empty directory.

    Raises:
        ArtifactInvalid: the archive is unsafe or damaged; the message names the member.
        OSError: the disk refused.
    """
    with open_checked(content, limits) as archive:
        for info in archive.infolist():
            # `filename` may be another, and `is_dir` goes by it.
            path = target / info.orig_filename
            if info.orig_filename.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            _extract(archive, info, path)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    try:
        with archive.open(info) as packed, path.open("xb") as file:
            shutil.copyfileobj(packed, file)
            n_bytes = file.tell()
    except _DAMAGES as error:
        raise ArtifactInvalid(
            f"archive member {info.orig_filename!r} can't be unpacked: {error}"
        ) from None
    if n_bytes != info.file_size:
        raise ArtifactInvalid(
            f"archive member {info.orig_filename!r} can't be unpacked: it has {n_bytes} bytes, and "
            f"the table of contents says {info.file_size}"
        )
    if info.external_attr >> 16 & 0o100:
        path.chmod(0o755)


def seal(tree: Path) -> None:
    """Makes a tree read-only, and readable by instances of any user."""
    for directory, _, names in os.walk(tree, topdown=False):
        for path in (Path(directory, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
        Path(directory).chmod(0o555)


def remove_tree(tree: Path) -> None:
    """Removes a tree, also a sealed one, and does nothing when there is none.

    What built it may have been hostile. Directories are moved up before they are emptied, so that
    it does not matter how deep they are, and made accessible before that.
    """
    if not tree.is_dir() or tree.is_symlink():
        tree.unlink(missing_ok=True)
        return
    tree.chmod(0o700)
    doomed = tree / f".doomed-{os.urandom(8).hex()}"
    doomed.mkdir()
    waiting, count = [tree], 0
    while waiting:
        directory = waiting.pop()
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)  # noqa: PTH108 - of thousands
                elif entry.path != str(doomed):
                    os.chmod(entry.path, 0o700)  # noqa: PTH101 - likewise
                    count += 1
                    waiting.append(doomed / str(count))
                    os.rename(entry.path, waiting[-1])  # noqa: PTH104 - likewise
        if directory != tree:
            directory.rmdir()
    doomed.rmdir()
    tree.rmdir()


def pack(root: Path, limits: ArtifactSettings) -> bytes:
    """The directory as a zip archive; the same files give the same bytes.

    Caches, version control and virtual environments are left out.

    Args:
        root: the directory, resolved.
        limits: `max_bytes` and `max_files` count.

    Raises:
        ArtifactInvalid: there are no files, too many, or one that can't be packed; the
            message names it.
    """
    buffer = io.BytesIO()
    room = limits.max_bytes
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in _names_below(root, limits):
            content = read_regular(root / name, room, within=[root])
            room -= len(content)
            archive.writestr(_packed_as(name, content, (root / name).stat().st_mode), content)
    return buffer.getvalue()


def _names_below(root: Path, limits: ArtifactSettings) -> list[str]:
    names: list[str] = []
    for name in _walk(root, limits):
        check_name(name)
        names.append(name)
    if not names:
        raise ArtifactInvalid(f"{root} has no files to deploy")
    return sorted(names)


def _walk(root: Path, limits: ArtifactSettings) -> Iterator[str]:
    found = 0
    for place, directories, files in os.walk(root, onerror=_refuse_unreadable):
        directories[:] = [name for name in directories if packs(name, directory=True)]
        files = [name for name in files if packs(name, directory=False)]
        found += len(directories) + len(files)
        if found > limits.max_files:
            raise ArtifactInvalid(
                f"{root} has more than the {limits.max_files} files and directories that "
                "`artifacts.max_files` allows"
            )
        for name in directories:
            if Path(place, name).is_symlink():
                raise ArtifactInvalid(
                    f"{Path(place, name)} is a link to a directory: put a copy in its place"
                )
        for path in (Path(place, name) for name in files):
            if path.is_symlink() and not _leads_below(path, root):
                raise ArtifactInvalid(
                    f"{path} is a link that leads out of {root}: put a copy there"
                )
            yield path.relative_to(root).as_posix()


def _leads_below(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # links in a circle
        return False


def _refuse_unreadable(error: OSError) -> None:
    raise ArtifactInvalid(f"{error.filename} can't be read: {error.strerror}")


def _packed_as(name: str, content: bytes, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, FIXED_DATE)
    permissions = 0o755 if mode & 0o100 else 0o644
    info.external_attr = (stat.S_IFREG | permissions) << 16
    # Large files are mostly packed already, and stored ones never look like a bomb.
    large = len(content) > RATIO_FREE_BYTES
    info.compress_type = zipfile.ZIP_STORED if large else zipfile.ZIP_DEFLATED
    return info


def read_regular(path: Path, max_bytes: int, within: Sequence[Path] = ()) -> bytes:
    """Reads a regular file of at most `max_bytes`.

    Args:
        path: where it is; a pipe or a device is refused without waiting for it.
        max_bytes: largest size.
        within: resolved directories one of which the opened file, links resolved, has to be
            below; empty allows all.

    Raises:
        ArtifactNotFound: there is no such file.
        ArtifactInvalid: it is too large, no regular file, or unreadable.
        InvalidRequest: it is elsewhere.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ArtifactNotFound(f"there is no {path}") from None
    except OSError as error:
        raise ArtifactInvalid(f"{path} can't be read: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        # Asked of the open file, so that swapping a link in between gains nothing.
        place = Path(f"/proc/self/fd/{fd}").readlink()
        if within and not any(place.is_relative_to(one) for one in within):
            raise InvalidRequest(f"{path} leads out of the allowed directories")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArtifactInvalid(f"{path} is no regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ArtifactInvalid(
            f"{path} has more than the {max_bytes} bytes that `artifacts.max_bytes` leaves for it"
        )
    return content
