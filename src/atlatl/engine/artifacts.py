"""The shelf of code: read in, unpacked once, its dependencies installed once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from atlatl.engine.dependencies import Dependencies
from atlatl.engine.fetching import Fetcher, is_remote
from atlatl.engine.inventory import Stamps, Watched, difference, digests, stamps
from atlatl.engine.single_flight import SingleFlight
from atlatl.engine.sources import Source, check_checksum, from_bytes, from_location, from_path
from atlatl.engine.zips import remove_tree, seal, unpack
from atlatl.errors import StoreUnavailable
from atlatl.model import Artifact
from atlatl.ports import Store
from atlatl.settings import Settings

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class ArtifactShelf:
    """Turns what users bring into directories that instances run from.

    Code lies below `code/`, named by the SHA-256 of its bytes, installed
    dependencies below `deps/`. Both can be made again at any time; the bytes
    themselves are the store's.
    """

    def __init__(self, data_dir: Path, settings: Settings, store: Store) -> None:
        """An empty shelf.

        Args:
            data_dir: a directory that only this service uses.
            settings: the group `artifacts` counts.
            store: holds the bytes of artifacts.
        """
        # Absolute, because pip and the instances run in other directories.
        self._code = data_dir.absolute() / "code"
        self._deps = data_dir.absolute() / "deps"
        self._limits = settings.artifacts
        self._store = store
        self._unpacked: set[str] = set()
        self._unpacks: SingleFlight[None] = SingleFlight()
        self._fetcher = Fetcher(self._limits)
        self._watched = Watched()
        self._dependencies = Dependencies(self._deps, self._limits, self._watched)

    async def open(self) -> None:
        """Makes the directories and removes what a crash left half done."""
        for directory in (self._code, self._deps):
            await _on_disk(directory, _prepare, directory)

    async def close(self) -> None:
        """Ends the work that is going on."""
        await self._unpacks.close()
        await self._dependencies.close()
        await self._watched.close()

    async def read_source(self, source: Path | str | bytes, filename: str = "") -> Source:
        """Reads code that a user deploys.

        Args:
            source: path of a `.py` or `.zip` file or of a directory, or the file's bytes.
            filename: with bytes, the name that tells their kind; empty tells it from them.

        Raises:
            ArtifactNotFound: nothing is at the path.
            ArtifactInvalid: too large, unreadable, or an archive that may not be unpacked.
            UnsupportedOperation: a kind of artifact that nothing here runs.
        """
        if isinstance(source, bytes):
            return await asyncio.to_thread(from_bytes, source, filename, self._limits)
        return await asyncio.to_thread(from_path, Path(source), self._limits)

    async def fetch(self, location: str, checksum: str = "") -> Source:
        """Reads code from where a request says it is.

        Raises:
            ChecksumMismatch: it has another SHA-256 than `checksum`, unless that is empty.
            AtlatlError: see `Fetcher.fetch` for URLs, `sources.from_location` for all else.
        """
        if is_remote(location):
            source = await self._fetcher.fetch(location)
        else:
            source = await asyncio.to_thread(from_location, location, self._limits)
        check_checksum(source, checksum)
        return source

    async def unpack(self, artifact: Artifact) -> Path:
        """The directory with the artifact's files, read-only.

        The first use in the life of a service takes verified bytes from the store, whatever a
        directory of an earlier life contains; so does the next one after somebody changed it.

        Raises:
            ArtifactNotFound: the store does not have the bytes.
            ArtifactInvalid, ChecksumMismatch: the bytes are not what they should be.
            StoreUnavailable: the disk refused.
        """
        key = _key(artifact)
        if key in self._unpacked and (changed := await self._watched.changed(self._code / key)):
            log.error(_CHANGED, self._code / key, changed)
            self._unpacked.discard(key)
        if key not in self._unpacked:
            await self._unpacks.run(key, lambda: self._unpack(artifact, key))
        return self._code / key

    async def dependencies(self, code: Path) -> tuple[Path | None, str]:
        """Installs the `requirements.txt` in a directory, unless it was before.

        Args:
            code: the directory of the handler's file: what `unpack` gave, or one below it.

        Returns:
            The directory to import from, None when nothing is required; and pip's log.

        Raises:
            ArtifactInvalid: they can't be installed; the message has the end of pip's log.
            StoreUnavailable: the disk refused.
        """
        key = code.relative_to(self._code).parts[0]
        with _disk(self._deps):
            return await self._dependencies.install(code, key)

    async def forget(self, checksum: str) -> None:
        """Removes an artifact with its bytes, code and dependencies, unless a task names it."""
        await self._store.delete_artifact(checksum)
        if any(one.checksum == checksum for one in await self._store.load_artifacts()):
            return
        for key in [key for key in self._unpacked if key.startswith(checksum)]:
            self._unpacked.discard(key)
            self._watched.drop(self._code / key)
        await _on_disk(self._code, self._remove_code, checksum)
        with _disk(self._deps):
            await self._dependencies.forget(checksum)

    async def _unpack(self, artifact: Artifact, key: str) -> None:
        content = await self._store.blob(artifact.checksum)
        if artifact.filename.endswith(".zip"):
            fill = partial(unpack, content, limits=self._limits)
        else:
            fill = partial(_write, content, artifact.filename)
        sealed = await _on_disk(self._code, _place, self._code / key, fill)
        self._watched.add(self._code / key, sealed)
        self._unpacked.add(key)

    def _remove_code(self, checksum: str) -> None:
        for tree in self._code.glob(f"{checksum}*"):
            remove_tree(tree)


_CHANGED = "%s is not as it was stored: %s; it is made again from what is stored"


def _key(artifact: Artifact) -> str:
    """Name of the artifact's directory; a single file's also depends on how it is called."""
    if artifact.filename.endswith(".zip"):
        return artifact.checksum
    return f"{artifact.checksum}-{hashlib.sha256(artifact.filename.encode()).hexdigest()[:16]}"


def _prepare(directory: Path) -> None:
    # Instances of other users read here; the data directory above decides who gets this far.
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for left_over in directory.glob(".new-*"):
        remove_tree(left_over)


def _write(content: bytes, filename: str, target: Path) -> None:
    (target / filename).write_bytes(content)


def _place(final: Path, fill: Callable[[Path], None]) -> Stamps:
    """Fills a directory under another name, then puts it in its place in one step.

    Says what of one that was there before is not as it should be.
    """
    stage = Path(tempfile.mkdtemp(prefix=".new-", dir=final.parent))
    try:
        fill(stage)
        seal(stage)
        if final.is_dir() and (changed := _difference(stage, final)):
            log.error(_CHANGED, final, changed)
        remove_tree(final)
        stage.rename(final)
        return stamps(final)
    except BaseException:
        remove_tree(stage)
        raise


def _difference(right: Path, found: Path) -> str:
    try:
        return difference(digests(right), digests(found))
    except OSError as error:
        return f"{error.filename} can't be read: {error.strerror}"


async def _on_disk(place: Path, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs work that waits for the disk in a thread."""
    with _disk(place):
        return await asyncio.to_thread(work, *args, **kwargs)


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename or place}: {error.strerror or error}; check the room on its disk "
            "and its permissions",
            retry_after_s=1.0,
        ) from error
