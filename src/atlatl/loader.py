"""Deploys every function of a directory at start: `atlatl serve --functions DIR`.

Each `.py` file and each sub-directory is one task, named after it. `DIR/atlatl.toml`
may have a table of settings for each task; a sub-directory may have its own
`atlatl.toml`, whose members are the task's settings. What can't be deployed is said
and does not stop the rest; nothing is ever deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atlatl.configuration import read_toml
from atlatl.errors import AtlatlError, InvalidRequest, SettingInvalid
from atlatl.service import FunctionService

SETTINGS_FILE = "atlatl.toml"


async def deploy_directory(
    service: FunctionService, directory: Path, say: Callable[[str], None]
) -> int:
    """Deploys what lies in `directory`; returns how many could not be deployed.

    Args:
        service: an open service.
        directory: with functions.
        say: gets one line for each function.

    Raises:
        InvalidRequest: there is no such directory.
        SettingInvalid: its `atlatl.toml` can't be read or names a task that is not there.
    """
    sources, tables = await asyncio.to_thread(_look, directory)
    failures = 0
    for name, source in sources.items():
        try:
            settings = await asyncio.to_thread(_settings, source, tables.get(name, {}))
            done = await service.deploy(name, source, settings=settings)
        except AtlatlError as error:
            failures += 1
            say(f"could not deploy {name} from {source}: {error.message}")
        else:
            state = "deployed" if done.changed else "unchanged"
            say(f"{state} {name} from {source} (version {done.task.version})")
    if not sources:
        say(f"{directory} has no functions: neither `.py` files nor directories with one")
    return failures


def _look(directory: Path) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """What is to be deployed by name, and the tables of settings by name."""
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is not a directory; `--functions` wants one")
    sources = {_name(path): path for path in sorted(directory.iterdir()) if _is_function(path)}
    file = directory / SETTINGS_FILE
    tables = _read(file)
    for name, table in tables.items():
        if name not in sources or not isinstance(table, dict):
            raise SettingInvalid(f"{file}: [{name}] is no function in {directory}")
    return sources, tables


def _is_function(path: Path) -> bool:
    if path.name.startswith((".", "_")):
        return False
    return path.is_dir() or path.suffix == ".py"


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _settings(source: Path, table: dict[str, Any]) -> dict[str, Any]:
    own = _read(source / SETTINGS_FILE) if source.is_dir() else {}
    if own and table:
        raise SettingInvalid(
            f"{source.name} has settings both in its own {SETTINGS_FILE} and in the one beside it; "
            "keep one"
        )
    return own or table


def _read(path: Path) -> dict[str, Any]:
    return read_toml(path) if path.is_file() else {}
