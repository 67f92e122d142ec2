"""Settings from files and from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlatl.configuration import load_settings
from atlatl.errors import SettingInvalid
from atlatl.loader import _read


def refused(tmp_path: Path, text: str | bytes = "", environ: dict[str, str] | None = None) -> str:
    file = tmp_path / "atlatl.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SettingInvalid) as caught:
        load_settings(file, environ or {}, {})
    return caught.value.message


def test_the_same_paths_lead_through_file_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "atlatl.toml"
    file.write_text("[http]\nport = 1\n[pool]\nmax_size = 3\n[artifacts]\nmax_bytes = 5\n")
    environ = {"ATLATL__HTTP__PORT": "2", "ATLATL__POOL": '{"max_size": 4}', "HTTP__PORT": "9"}
    settings = load_settings(file, environ, {"http": {"port": 3}, "data_dir": "~/x"})
    assert (settings.http.port, settings.pool.max_size, settings.artifacts.max_bytes) == (3, 4, 5)
    assert settings.data_dir == str(Path.home() / "x")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a = " * 10_000,
        b"\xff",
        "a = 1\na = 2",
        "data_dir = 5",
        "data_dir = ['x']",
        'data_dir = "~nobody-of-that-name/x"',
        'data_dir = "a\\u0000b"',
        "http = 5",
        "[http]\nport = 1e999",
        "[http]\nport = 99999999999999999999999999",
        "[http]\nheader_timeout_s = nan",
        f"[limits]\ninstance_creation_timeout_ms = {'9' * 400}",
        f"[limits]\ninstance_creation_timeout_ms = {2**63}",
        "[http.port]",
        "[no.such.group]",
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str | bytes) -> None:
    assert refused(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATLATL__HTTP__PORT", "many"),
        ("ATLATL__HTTP__PORT", "9" * 5000),
        ("ATLATL__HTTP__PORT", "[" * 100_000),
        ("ATLATL__HTTP__PORT", '{"a":' * 10_000),
        ("ATLATL__HTTP__PORT", "[\udcff]"),
        ("ATLATL__HTTP__PORT", "\udcff"),
        ("ATLATL__HTTP", "5"),
        ("ATLATL__", "5"),
        ("ATLATL__HTTP__PORT__MORE", "5"),
        ("ATLATL__TASK__ENV__NAME", "5"),
        ("ATLATL__POOL", '{"max_size": 1e999}'),
        ("ATLATL__DATA_DIR", "~nobody-of-that-name"),
        ("ATLATL__DATA_DIR", "a\0b"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(tmp_path: Path, name: str, value: str) -> None:
    assert refused(tmp_path, environ={name: value})


def test_a_file_of_functions_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "atlatl.toml").write_text("a = " + "[" * 50_000)
    with pytest.raises(SettingInvalid, match="can't be read as TOML"):
        _read(tmp_path / "atlatl.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# " + "x" * 70_000, "more than 65536 bytes"),
        ("\n[" + "a." * 8000 + "a]\n", "line 2 has more than 400 dots"),
        ("a = \xff", "can't be read as TOML"),
    ],
)
def test_a_file_that_nobody_writes_is_refused_before_it_takes_time(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "atlatl.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingInvalid, match=said):
        load_settings(tmp_path / "atlatl.toml", {}, {})


def test_of_a_file_without_an_end_the_beginning_is_enough() -> None:
    with pytest.raises(SettingInvalid, match="/dev/zero can't be read: it has more than"):
        load_settings(Path("/dev/zero"), {}, {})
