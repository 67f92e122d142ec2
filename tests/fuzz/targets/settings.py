"""Settings of the service and of tasks: JSON, TOML, variables; and the file of tokens."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from atlatl.configuration import load_settings
from atlatl.errors import AtlatlError
from atlatl.front.answers import read_json
from atlatl.front.auth import Authorizer
from atlatl.front.tokens import TokenFile, has_expired, parse_expiry
from atlatl.settings import Settings, TaskSettings, parse, task_settings
from tests.fuzz.fuzzing import Target

OF_SERVICE, OF_TASK, TOML, VARIABLES, TOKENS = range(5)


@contextmanager
def settings() -> Iterator[Callable[[bytes], None]]:
    """The first byte chooses where the rest comes from."""
    with tempfile.TemporaryDirectory() as folder:
        yield lambda data: _settings(Path(folder) / "atlatl.toml", data)


def _settings(file: Path, data: bytes) -> None:
    which, rest = (data[0] if data else 0) % 5, data[1:]
    try:
        if which == OF_SERVICE:
            _check(parse(Settings, read_json(rest, dict[str, Any], "settings")))
        elif which == OF_TASK:
            _check(task_settings(Settings(), read_json(rest, dict[str, Any], "settings")))
        elif which == TOML:
            file.write_bytes(rest)
            _check(load_settings(file, {}, {}))
        elif which == TOKENS:
            _tokens(file.parent, rest)
        else:
            pairs = [line.partition("=")[::2] for line in _text(rest).split("\n")]
            file.write_bytes(b"")
            _check(load_settings(file, {"ATLATL__" + name: value for name, value in pairs}, {}))
    except AtlatlError as error:
        error.message.encode("utf-8", "replace")


def _tokens(folder: Path, content: bytes) -> None:
    with contextlib.suppress(AtlatlError):
        parse_expiry(content.decode("latin-1"), NOW)
    (folder / "tokens").write_bytes(content)
    tokens = TokenFile(folder).read()
    authorizer = Authorizer("admin")
    authorizer.hold([token for token in tokens if not has_expired(token, NOW)])
    for token in tokens:
        grant = authorizer.known(f"Bearer {token.sha256}")
        assert grant is None, "a hash is no token"
    msgspec.json.encode(tokens)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape").replace("\0", "")


def _check(found: Settings | TaskSettings) -> None:
    """It can be stored, and read again."""
    again = msgspec.json.decode(msgspec.json.encode(found), type=type(found))
    assert again == found
    with contextlib.suppress(UnicodeEncodeError):
        json.dumps(msgspec.to_builtins(found)).encode()


def _seeds() -> list[bytes]:
    task = (
        b'{"handler":"a.py:main","timeout_ms":5000,"env":{"A":"1"},"labels":{"a":"b"},'
        b'"pool":{"max_size":4},"breaker":{"failure_threshold":3},"retry":{"max_retries":1},'
        b'"confinement":{"output_bytes":10},"scaling":{"policy":"threshold"}}'
    )
    service = b'{"data_dir":"x","http":{"port":1},"artifacts":{"allowed_hosts":["*.a.invalid:1"]}}'
    toml = b'data_dir = "x"\n[http]\nport = 1\nheader_timeout_s = inf\n[task.env]\nA = "1"\n'
    variables = (
        b'HTTP__PORT=1\nPOOL={"max_size":3}\nTASK__ENV={"A":"1"}\nAUTH__REQUIRED=true\nDATA_DIR=~'
    )
    deep = 50_000
    token = (
        b'{"version":1,"tokens":[{"name":"ci","scope":"deploy","sha256":"' + b"0" * 64 + b'",'
        b'"created_at":"2026-01-01T00:00:00Z","tasks":["a-*","b?[c]"],"rate_limit_per_s":5,'
        b'"expires_at":"2027-01-01T00:00:00+01:00"}]}'
    )
    return [
        b"\4" + token, b"\4" + b'{"tokens":' + b"[" * deep, b"\4" + b"90d", b"\4\xff", b"\4{}",
        b"\4" + token.replace(b"5", b"1e999"), b"\4" + token.replace(b"a-*", b"*" * 100 + b"["),
        b"\0" + service, b"\1" + task, b"\2" + toml, b"\3" + variables,
        b"\1" + b'{"labels":' * deep, b"\1" + b'{"timeout_ms":1e999}', b"\1" + b'{"pool":null}',
        b"\1" + b'{"pool":{"idle_timeout_s":1e308,"max_size":99999999999999999999}}',
        b"\2a = " + b"[" * deep, b"\2data_dir = 5", b"\2a.b.c.d = 1\na.b = 2",
        b"\3HTTP__PORT=" + b"[" * deep,
        b"\2" + b"[a]\n" * 2 + b"x = 1979-05-27T07:32:00Z", b"\3DATA_DIR=~nobody-there", b"\3__=1",
    ]  # fmt: skip


TARGETS = [
    Target(
        name="settings",
        opened=settings,
        traced=("/atlatl/settings.py", "/atlatl/front/", "/atlatl/configuration.py", "/tomllib/"),
        seeds=_seeds,
    ),
]
