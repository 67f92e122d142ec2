"""Installs a function's `requirements.txt`, once for all functions that have the same one."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

import msgspec

from atlatl.engine.installing import install
from atlatl.engine.inventory import Stamp, Stamps, Watched, difference, digests, stamps
from atlatl.engine.single_flight import SingleFlight
from atlatl.engine.zips import remove_tree, seal
from atlatl.errors import ArtifactInvalid
from atlatl.settings import ArtifactSettings

logger = logging.getLogger(__name__)

_ARCHIVE_ENDINGS = (".whl", ".zip", ".gz", ".bz2", ".xz")
_USERS = ".users"
_LISTING = ".files"
_ALREADY = "requirements.txt: installed already, with the same content"
_CHANGED = "%s is not as it was installed: %s; it is installed again"


class Dependencies:
    """Directories of installed packages, named by what was asked for.

    Beside each stands a directory with one empty file for each artifact that uses it;
    when the last one goes, so do the packages. And a listing of what was installed: where the
    directory is another, the packages are installed again.
    """

    def __init__(self, directory: Path, limits: ArtifactSettings, watched: Watched) -> None:
        """None are installed yet.

        Args:
            directory: holds them.
            limits: `install_timeout_s` and `max_install_bytes` count.
            watched: looks after what is installed.
        """
        self._directory = directory
        self._limits = limits
        self._watched = watched
        self._sound: set[Path] = set()
        """Installed in this life, or found to be as they were installed."""
        self._installs: SingleFlight[str] = SingleFlight()
        self._users = asyncio.Lock()
        self._known: dict[Path, Path | None] = {}
        """What is there, by the code that needs it: every start of an instance asks."""
        self._forgotten = 0

    async def install(self, code: Path, artifact_key: str) -> tuple[Path | None, str]:
        """The directory to import from, and pip's log.

        Args:
            code: directory that holds the `requirements.txt`, if there is one.
            artifact_key: name of the artifact that needs it.

        Raises:
            ArtifactInvalid: pip is missing, failed, took too long or wrote too much.
            OSError: the disk refused.
        """
        known = self._known.get(code)
        if known is not None and (changed := await self._watched.changed(known)):
            logger.error(_CHANGED, known, changed)
            self._distrust(known)
        if code in self._known:
            return known, "" if known is None else _ALREADY
        forgotten = self._forgotten
        installed, log = await self._install_all(code, artifact_key)
        if forgotten == self._forgotten:
            self._known[code] = installed
        return installed, log

    async def _install_all(self, code: Path, artifact_key: str) -> tuple[Path | None, str]:
        text = await asyncio.to_thread(_requirements, code)
        if not text:
            return None, ""
        installed = self._directory / _key(text, owner=str(code))
        async with self._users:
            await asyncio.to_thread(self._add_user, installed, artifact_key)
        install = partial(self._install, code, installed)
        return installed, await self._installs.run(installed.name, install)

    def _distrust(self, installed: Path) -> None:
        self._sound.discard(installed)
        self._known = {code: place for code, place in self._known.items() if place != installed}

    async def forget(self, artifact_prefix: str) -> None:
        """Removes the packages that only artifacts whose key begins with the prefix used."""
        try:
            async with self._users:
                for removed in await asyncio.to_thread(self._drop_users, artifact_prefix):
                    self._watched.drop(removed)
        finally:
            self._forgotten += 1
            self._known.clear()
            self._sound.clear()

    async def close(self) -> None:
        """Ends installations that are going on."""
        await self._installs.close()

    def _add_user(self, installed: Path, artifact_key: str) -> None:
        users = installed.with_name(installed.name + _USERS)
        users.mkdir(parents=True, exist_ok=True)
        (users / artifact_key).touch()

    def _drop_users(self, artifact_prefix: str) -> list[Path]:
        """What was removed, because nobody uses it any more."""
        removed = []
        for users in self._directory.glob(f"*{_USERS}"):
            for user in users.glob(f"{artifact_prefix}*"):
                user.unlink(missing_ok=True)
            if not any(users.iterdir()):
                installed = users.with_name(users.name.removesuffix(_USERS))
                removed.append(installed)
                remove_tree(installed)
                _listing(installed).unlink(missing_ok=True)
                users.rmdir()
        return removed

    async def _install(self, code: Path, installed: Path) -> str:
        if installed in self._sound:
            return _ALREADY
        if await asyncio.to_thread(installed.is_dir):
            changed = await asyncio.to_thread(_changed, installed)
            if not changed:
                self._trust(installed, await asyncio.to_thread(stamps, installed))
                return _ALREADY
            logger.error(_CHANGED, installed, changed)
        if importlib.util.find_spec("pip") is None:
            raise ArtifactInvalid(
                f"requirements.txt needs pip, which {sys.executable} does not have: install it "
                "with `apt install python3-pip` or `python3 -m ensurepip`, then deploy again"
            )
        work = Path(await asyncio.to_thread(tempfile.mkdtemp, "", ".new-", self._directory))
        try:
            log = await install(code, work, self._limits)
            self._trust(installed, await asyncio.to_thread(_publish, work / "site", installed))
        finally:
            await asyncio.to_thread(remove_tree, work)
        return log

    def _trust(self, installed: Path, found: Stamps) -> None:
        self._watched.add(installed, found)
        self._sound.add(installed)


def _requirements(code: Path) -> str:
    """The text of the file; empty when there is none or it asks for nothing."""
    try:
        text = (code / "requirements.txt").read_text("utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ArtifactInvalid(f"requirements.txt is not UTF-8: {error}") from None
    return text if any(_lines(text)) else ""


def _lines(text: str) -> list[str]:
    stripped = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def _key(text: str, owner: str) -> str:
    """Names an installation: the same key, the same packages.

    Requirements that may name files of the artifact are never shared with another artifact.
    """
    shared = not any(
        "/" in line or line.startswith(("-", ".")) or line.endswith(_ARCHIVE_ENDINGS)
        for line in _lines(text)
    )
    parts = [text, sys.implementation.cache_tag, sysconfig.get_platform(), "" if shared else owner]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _publish(site: Path, installed: Path) -> Stamps:
    seal(site)
    remove_tree(installed)
    found = stamps(site)
    _listing(installed).write_bytes(msgspec.json.encode(Listing(found, digests(site))))
    # A rename may reach the disk before the content of thousands of files does, and this
    # directory is trusted for as long as it exists.
    os.sync()
    site.chmod(0o755)  # only so may it get another parent
    site.rename(installed)
    installed.chmod(0o555)
    return found


class Listing(msgspec.Struct):
    """What was installed."""

    stamps: dict[str, Stamp]
    digests: dict[str, str]


def _listing(installed: Path) -> Path:
    return installed.with_name(installed.name + _LISTING)


def _changed(installed: Path) -> str:
    """What is different from what was installed, by name; empty when nothing is."""
    try:
        listing = msgspec.json.decode(_listing(installed).read_bytes(), type=Listing)
        if not difference(listing.stamps, stamps(installed)):
            return ""
        # Also a copy of the data directory has other stamps.
        return difference(listing.digests, digests(installed))
    except (OSError, msgspec.DecodeError) as error:
        return f"the listing of its files can't be read ({error})"
