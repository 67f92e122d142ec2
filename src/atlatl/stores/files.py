"""The data directory: its lock, and bytes kept in files named by their SHA-256."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from atlatl.errors import ArtifactNotFound, ChecksumMismatch, SettingInvalid

_CHECKSUM = re.compile(r"[0-9a-f]{64}")


class DirectoryLock:
    """Keeps a second service away from a data directory, for as long as this process lives."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            SettingInvalid: another service holds it; the message names directory and pid.
            OSError: the lock file can't be made.
        """
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise SettingInvalid(
                f"data directory {self._directory} is in use by the service with pid {holder}: "
                "stop that one, or give this one a `data_dir` of its own"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Lets go of the lock; does nothing when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def make_private_directory(path: Path) -> None:
    """Makes the directory with its parents, open to its owner only; an existing one is left."""
    if path.is_dir():
        return
    path.mkdir(mode=0o700, parents=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes names in the directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says which file an error is about, where the system call does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class BlobFiles:
    """Files named by the hex SHA-256 of their bytes.

    A blob is staged under another name, then published. What was never published
    is an orphan, as is what nobody names any more; `sweep` removes both.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self) -> None:
        make_private_directory(self.directory)

    def stage(self, content: bytes) -> Path:
        """Writes the bytes durably under a name of their own."""
        with (
            _naming(self.directory),
            tempfile.NamedTemporaryFile(prefix=".new-", dir=self.directory, delete=False) as file,
        ):
            staged = Path(file.name)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
        return staged

    def publish(self, staged: Path, checksum: str) -> None:
        """Gives staged bytes their name, durably; a second time it changes nothing."""
        final = self._path(checksum)
        try:
            staged.replace(final)
        except FileNotFoundError:
            if not final.exists():
                raise
        sync_directory(self.directory)

    def read(self, checksum: str) -> bytes:
        """The bytes, verified.

        Raises:
            ArtifactNotFound: there is no such file.
            ChecksumMismatch: the file has changed since it was written.
        """
        path = self._path(checksum)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactNotFound(f"no bytes with SHA-256 {checksum} are stored") from None
        found = hashlib.sha256(content).hexdigest()
        if found != checksum:
            raise ChecksumMismatch(
                f"{path} was changed: its SHA-256 is {found}; deploy the function again"
            )
        return content

    def remove(self, checksum: str) -> None:
        self._path(checksum).unlink(missing_ok=True)

    def published(self) -> list[str]:
        """Names of the blobs that are there."""
        return [path.name for path in self.directory.iterdir() if _CHECKSUM.fullmatch(path.name)]

    def sweep(self, wanted: Collection[str]) -> None:
        """Removes all files but the wanted ones."""
        for path in self.directory.iterdir():
            if path.name not in wanted:
                with contextlib.suppress(IsADirectoryError):  # not ours
                    path.unlink()

    def _path(self, checksum: str) -> Path:
        if not _CHECKSUM.fullmatch(checksum):
            raise ArtifactNotFound(f"{checksum!r} is no SHA-256 of stored bytes")
        return self.directory / checksum
