"""Where the settings come from: defaults, `atlatl.toml`, environment variables, flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import platformdirs
from msgspec.structs import replace

from atlatl.errors import SettingInvalid
from atlatl.settings import Group, Settings, merge, parse

PREFIX = "ATLATL__"
DEFAULT_FILE = "atlatl.toml"
MAX_BYTES = 65_536
"""Of the file: three times all settings there are, with a comment to each."""
MAX_DOTS = 400
"""In a line of it: a key of as many parts as fit into the file would take half a minute."""


def load_settings(
    config: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Settings:
    """The settings of a service, with `data_dir` resolved.

    Args:
        config: a TOML file; None is `atlatl.toml` in the working directory, if there is one.
        environ: `ATLATL__GROUP__NAME` variables; lists and maps as JSON.
        overrides: from flags, the strongest.

    Raises:
        SettingInvalid: a file can't be read, a key is unknown, a value is wrong.
    """
    tree = merge(merge(_from_file(config), _from_environ(environ)), overrides)
    settings = parse(Settings, tree)
    data_dir = settings.data_dir or platformdirs.user_data_dir("atlatl", appauthor=False)
    return replace(settings, data_dir=_resolved(data_dir))


def _resolved(data_dir: str) -> str:
    if "\0" in data_dir:
        raise SettingInvalid("setting refused: `data_dir` has a NUL in it")
    try:
        return str(Path(data_dir).expanduser().absolute())
    except (OSError, RuntimeError) as error:  # a `~name` that is nobody
        raise SettingInvalid(f"setting refused: `data_dir` is {data_dir!r}: {error}") from None


def connectable(host: str) -> str:
    """The address to connect to for a listener on `host`, from the same machine.

    Those that mean all of a machine's addresses cannot be connected to everywhere.
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _from_file(config: Path | None) -> dict[str, Any]:
    path = config or Path(DEFAULT_FILE)
    if config is None and not path.is_file():
        return {}
    return read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    """What a file of settings says; raises SettingInvalid."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SettingInvalid(f"{path} can't be read: it has more than {MAX_BYTES} bytes")
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.count(b".") > MAX_DOTS:
                raise SettingInvalid(
                    f"{path} can't be read: line {number} has more than {MAX_DOTS} dots; no key "
                    "has so many parts, and long lists can have several lines"
                )
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        raise SettingInvalid(f"{path} can't be read as TOML: {error}") from None
    except OSError as error:
        raise SettingInvalid(f"{path} can't be read: {error.strerror}") from None


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for variable in sorted(environ):
        if variable.startswith(PREFIX):
            path = [part.lower() for part in variable.removeprefix(PREFIX).split("__")]
            value = _convert(variable, environ[variable], path)
            for name in reversed(path):
                value = {name: value}
            tree = merge(tree, value)
    return tree


def _convert(variable: str, text: str, path: list[str]) -> Any:
    """The text as the type that the setting has; raises SettingInvalid naming the variable."""
    kind: Any = Settings
    for name in path:
        hints = get_type_hints(kind) if isinstance(kind, type) and issubclass(kind, Group) else {}
        if name not in hints:
            raise SettingInvalid(f"environment variable {variable}: there is no such setting")
        kind = hints[name]
    try:
        text.encode()
        if text[:1] in ("[", "{"):
            return msgspec.json.decode(text)
        return msgspec.to_builtins(msgspec.convert(text, kind, strict=False))
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise SettingInvalid(f"environment variable {variable}: {error}") from None
