"""A copy of a data directory that a new service can start with, made while the old one runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

from atlatl.errors import SettingInvalid, StoreUnavailable
from atlatl.stores.database import refuse_cut_short, troubles_of
from atlatl.stores.files import sync_directory
from atlatl.stores.statements import migrations, statements

DATABASE = "atlatl.db"
SECRETS = ("token", "tokens")
FILES = {"blobs": "blobs", "outputs": "output_files"}
"""Directories of files that never change, and the statements that say which of them count."""
TRIES = 5


class Copied(NamedTuple):
    files: int
    n_bytes: int
    """Of all files, the database included."""


def back_up(data_dir: Path, target: Path) -> Copied:
    """Copies what cannot be made again; code and packages can.

    Args:
        data_dir: of the service.
        target: a directory that is not there yet.

    Raises:
        SettingInvalid: the target cannot be made.
        StoreUnavailable: something cannot be read or written.
    """
    try:
        target.mkdir(mode=0o700)
    except OSError as error:
        raise SettingInvalid(
            f"{target} cannot be made: {error.strerror}; name a directory that is not there yet"
        ) from None
    try:
        with troubles_of(data_dir / DATABASE):
            _copy_all(data_dir, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    return Copied(len(sizes), sum(sizes))


def _copy_all(data_dir: Path, target: Path) -> None:
    if not (data_dir / DATABASE).exists():
        raise StoreUnavailable(f"there is no {data_dir / DATABASE}: name the service's `data_dir`")
    for folder in FILES:
        (target / folder).mkdir(mode=0o700)
    lost: list[str] = []
    for _ in range(TRIES):
        # Before: what is removed meanwhile. After: what is new. A row never comes before its file.
        _copy_files(data_dir, target)
        _copy_database(data_dir / DATABASE, target / DATABASE)
        _copy_files(data_dir, target)
        lost = _lost(target)
        if not lost:
            break
    else:
        raise StoreUnavailable(
            f"{data_dir} has lost files that its database names, {lost[0]} among them; "
            "`atlatl check` and the log may say more"
        )
    for name in SECRETS:
        with contextlib.suppress(FileNotFoundError):
            _copy(data_dir / name, target / name)
    for directory in (*(target / folder for folder in FILES), target, target.parent):
        sync_directory(directory)


def _copy_files(data_dir: Path, target: Path) -> None:
    for folder in FILES:
        for path in (data_dir / folder).iterdir():
            copy = target / folder / path.name
            if not path.name.startswith(".") and not copy.exists():
                with contextlib.suppress(FileNotFoundError):  # it was removed just now
                    _copy(path, copy)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(descriptor)


def _copy_database(database: Path, target: Path) -> None:
    """All of it as it was at one moment, without holding up who writes."""
    refuse_cut_short(database)
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        contextlib.closing(sqlite3.connect(database, timeout=5.0)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.execute("PRAGMA query_only = ON")
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file; the service changes it back
        version = copy.execute("PRAGMA user_version").fetchone()[0]
        if version != len(migrations()):
            raise StoreUnavailable(
                f"{database} has schema version {version}, this version of atlatl "
                f"{len(migrations())}: back it up with the version that wrote it"
            )
        damage = copy.execute("PRAGMA quick_check").fetchone()[0]
        if damage != "ok":
            raise StoreUnavailable(f"{database} is damaged: {damage}")


def _lost(target: Path) -> list[str]:
    """Files that the copied database names, and that were not there to be copied."""
    sql = statements()
    with contextlib.closing(sqlite3.connect(target / DATABASE)) as copy:
        return [
            f"{folder}/{checksum}"
            for folder, statement in FILES.items()
            for (checksum,) in copy.execute(sql[statement])
            if not (target / folder / checksum).exists()
        ]
