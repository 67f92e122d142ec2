"""What shells are given to complete."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import atlatl.console
from atlatl import console
from tests.unit.test_cli import Done, Shell, shell

__all__ = ["shell"]


def asked(shell: Shell, line: str) -> Done:
    """As bash asks, with the cursor at the end."""
    words = line.split(" ")
    shell.env(_ATLATL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    return shell()


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: Shell, kind: str) -> None:
    done = shell("completion", kind)
    assert done.status == 0
    assert f"_ATLATL_COMPLETE=complete_{kind}" in done.out


def test_another_shell_is_wrong_usage(shell: Shell) -> None:
    assert shell("completion", "csh").status == 2


def test_commands_and_options_are_completed(shell: Shell) -> None:
    assert {"deploy", "delete"} <= set(asked(shell, "atlatl de").out.split())
    assert asked(shell, "atlatl tok").out.split() == ["token"]
    assert asked(shell, "atlatl token re").out.split() == ["revoke"]
    assert "--timeout" in asked(shell, "atlatl invoke --ti").out


def test_names_of_tasks_are_completed(shell: Shell) -> None:
    for name in ("help", "hel-p.2", "other", "hel p", "hel;reboot", "hel$(reboot)", 'hel"', "hel*"):
        shell.service.add(name, lambda call: None)
    for command in ("invoke", "delete", "breakers reset", "executions --task"):
        done = asked(shell, f"atlatl {command} hel")
        assert (done.status, done.err) == (0, "")
        # Not those which a shell would take for something of its own.
        assert set(done.out.split("\n")) - {""} == {"hello", "help", "hel-p.2"}, command


def test_the_service_that_the_line_names_is_asked(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of another\n")
    url = "http://127.0.0.1:9999"
    asked(shell, f"atlatl invoke --url {url} --token-file {tmp_path / 'secret'} hel")
    assert shell.made == [(url, "of another")]


def test_without_a_service_nothing_is_said(shell: Shell) -> None:
    (shell.here / "atlatl.toml").write_text("nonsense = 1\n")
    done = asked(shell, "atlatl invoke hel")
    assert (done.status, done.out.strip(), done.err) == (0, "", "")


def test_a_service_that_does_not_answer_is_not_waited_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(atlatl.console, "connected", lambda *_: never.wait(20))
    monkeypatch.setattr(console, "PATIENCE_S", 0.01)
    done = asked(shell, "atlatl invoke hel")
    never.set()
    assert (done.status, done.out.strip(), done.err) == (0, "", "")
