"""The command line, against the real HTTP front in memory."""

from __future__ import annotations

import functools
import io
import json
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import atlatl.client
from atlatl import cli, cli_top, errors
from atlatl.client import Client
from atlatl.console import table
from atlatl.model import Call, Event, Execution, Mode, Outcome, Result, failed
from tests.unit.front_fakes import (
    TOKEN,
    FakeService,
    FakeTicket,
    FrontTransport,
    fails,
    hello,
    make_execution,
    make_pending,
)


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Shell:
    """Runs commands in this process, in a directory and an environment of their own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Path
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.here = here
        self.service = hello("text", b"hi")
        self.transport = FrontTransport(self.service)
        self.made: list[tuple[str, str]] = []
        monkeypatch.chdir(here)
        for name in ("ATLATL_URL", "ATLATL_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ATLATL__DATA_DIR", str(here / "data"))
        monkeypatch.setattr(atlatl.client, "Client", self._client)

    def _client(self, url: str, *, token: str, tls: object) -> Client:
        self.made.append((url, token))
        assert (tls is not None) == url.startswith("https:")
        local = url if "127.0.0.1" in url else "http://127.0.0.1:8081"
        return Client(local, token=token, transport=self.transport)

    def serve(self, service: FakeService) -> None:
        self.service = service
        self.transport = FrontTransport(service)

    def env(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def __call__(self, *args: str, stdin: bytes = b"") -> Done:
        self._monkeypatch.setattr(sys, "argv", ["atlatl", *args])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = self._capsys.readouterr()
        status = caught.value.code
        return Done(status if isinstance(status, int) else 0, said.out, said.err)


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shell:
    data = tmp_path / "data"
    data.mkdir()
    (data / "token").write_text(TOKEN + "\n")
    return Shell(monkeypatch, capsys, tmp_path)


# --- finding the service ---


def test_the_service_is_found_by_flag_then_variable_then_settings(shell: Shell) -> None:
    shell("tasks")
    shell.env(ATLATL__HTTP__PORT="9000", ATLATL__HTTP__HOST="0.0.0.0")
    shell("tasks")
    shell.env(ATLATL_URL="http://127.0.0.1:9001")
    shell("tasks")
    shell("tasks", "--url", "http://127.0.0.1:9002")
    assert [url.rpartition(":")[2] for url, _ in shell.made] == ["8081", "9000", "9001", "9002"]
    assert {token for _, token in shell.made} == {TOKEN}


def test_the_local_token_is_told_to_nobody_else(shell: Shell) -> None:
    shell("tasks", "--url", "http://functions.example")
    shell.env(ATLATL_TOKEN="from the environment")
    shell("tasks", "--url", "http://functions.example")
    (shell.here / "other").write_text("from a file\n")
    shell("tasks", "--token-file", "other")
    assert [token for _, token in shell.made] == ["", "from the environment", "from a file"]


def test_without_any_token_functions_can_be_called(shell: Shell) -> None:
    (shell.here / "data" / "token").unlink()
    assert shell("invoke", "hello").out == "hi\n"
    refused = shell("tasks")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "token" in refused.err


# --- exit status and errors ---


def test_a_failure_is_one_line_and_status_1(shell: Shell) -> None:
    unknown = shell("invoke", "nobody")
    assert (unknown.status, unknown.out, unknown.err.count("\n")) == (1, "", 1)
    assert "'nobody'" in unknown.err
    assert "`atlatl tasks`" in unknown.err
    shell.service.add("hello", fails(errors.FunctionRaised("ValueError: a\nb")))
    raised = shell("invoke", "hello")
    assert (raised.status, raised.err.count("\n")) == (1, 1)
    assert "atlatl logs new-" in raised.err
    shell.service.add("hello", fails(errors.CircuitOpenError("hello", retry_after_s=9.5)))
    assert "try again in 10 s" in shell("invoke", "hello").err


@pytest.mark.parametrize(
    "args",
    [
        ("nothing",),
        ("invoke",),
        ("tasks", "--limit", "0"),
        ("tasks", "--odd"),
        ("deploy", "missing.py"),
        ("invoke", "hello", "--data", "@missing"),
        ("invoke", "hello", "--timeout", "-1"),
        ("breakers", "explode", "hello"),
        ("breakers", "reset"),
        ("tasks", "--token-file", "missing"),
        ("serve", "--config", "missing.toml"),
        ("tasks", "--url", "nowhere"),
        ("tasks", "--url", "http://"),
        ("tasks", "--url", "ftp://127.0.0.1"),
        ("tasks", "--url", "http://127.0.0.1:99999"),
        ("invoke", "hello", "--data", '{"name": "Ada"'),
        ("invoke", "hello", "--max-retries", "0"),
        ("invoke", "hello", "--async", "--max-retries", "-1"),
        ("invoke", "hello", "--stream", "--not-before", "2030-01-01T00:00:00Z"),
        ("invoke", "hello", "--async", "--not-before", "2030-01-01"),
        ("invoke", "hello", "--callback-url", "https://example.org/"),
        ("invoke", "hello", "--async", "--stream"),
        ("redrive",),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(shell: Shell, args: tuple[str, ...]) -> None:
    done = shell(*args)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("atlatl: ")


def test_wrong_usage_names_the_help_of_its_own_command(shell: Shell) -> None:
    assert "`atlatl invoke --help`" in shell("invoke").err
    assert "`atlatl --help`" in shell("nothing").err


@pytest.mark.parametrize("command", [("invoke",), ("delete",), ("breakers", "reset")])
def test_a_name_that_no_task_can_have_is_named(shell: Shell, command: tuple[str, ...]) -> None:
    done = shell(*command, "a/b")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "'a/b'" in done.err


def test_the_version_is_that_of_the_package(shell: Shell) -> None:
    assert shell("--version") == (0, f"atlatl {version('atlatl')}\n", "")


def test_wrong_settings_are_wrong_usage_and_named(shell: Shell) -> None:
    shell.env(ATLATL__HTTP__PROT="1")
    done = shell("tasks")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "ATLATL__HTTP__PROT" in done.err


def test_nobody_there_is_status_3(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setattr(atlatl.client, "Client", Client)
    done = shell("tasks", "--url", f"http://127.0.0.1:{unused_port}")
    assert (done.status, done.err.count("\n")) == (3, 1)
    assert "atlatl serve" in done.err


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_command_it_explains_itself(shell: Shell) -> None:
    done = shell()
    assert done.status == 0
    for command in ("serve", "deploy", "invoke", "tasks", "ps", "executions", "logs", "cancel"):
        assert command in done.out
    assert "\x1b" not in done.out


# --- commands ---


def test_invoke_prints_the_value(shell: Shell) -> None:
    assert shell("invoke", "hello") == (0, "hi\n", "")
    shell.serve(hello("json", b'{"a": 1}'))
    assert shell("invoke", "hello").out == '{"a":1}\n'
    as_json = json.loads(shell("invoke", "hello", "--json").out)
    assert (as_json["value"], as_json["execution_id"]) == ({"a": 1}, "new-2")
    shell.serve(hello("response", b"no", status=404))
    assert shell("invoke", "hello").status == 1


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ('{"name": "Ada"}', b'{"name":"Ada"}'),
        ("plain words", b"plain words"),
        ("@file.json", b"[1,2]"),
        ("@file.bin", b"\xff\x00"),
        ("-", b'"from stdin"'),
    ],
)
def test_data_of_a_call(shell: Shell, data: str, sent: bytes) -> None:
    (shell.here / "file.json").write_text("[1, 2]")
    (shell.here / "file.bin").write_bytes(b"\xff\x00")
    shell("invoke", "hello", "--data", data, stdin=b'"from stdin"')
    body = shell.transport.requests[0].content
    assert body == sent or (data == "-" and body == b"from stdin")


def test_timeout_async_and_stream(shell: Shell) -> None:
    shell("invoke", "hello", "--timeout", "1.5")
    assert shell.service.tickets[0].call.timeout_ms == 1500
    assert shell("invoke", "hello", "--async").out == "new-2\n"

    def behave(ticket: FakeTicket) -> None:
        ticket.on_chunk(Result("json", b'{"n":1}'))
        ticket.finish(failed(errors.FunctionRaised("ValueError: no")))

    shell.service.add("hello", behave, streams=True)
    done = shell("invoke", "hello", "--stream")
    assert (done.status, done.out) == (1, '{"n":1}\n')
    assert "ValueError" in done.err


def test_options_of_an_async_call(shell: Shell) -> None:
    done = shell(
        *("invoke", "hello", "--async", "--data", '{"n": 1}', "--timeout", "2"),
        *("--max-retries", "0", "--not-before", "2030-01-01T01:00:00+01:00"),
        *("--callback-url", "https://example.org/done"),
    )
    assert done == (0, "new-1\n", "")
    call = shell.service.asked[-1]
    assert (call.timeout_ms, call.max_retries, call.not_before) == (2000, 0, 1_893_456_000.0)
    assert call.callback_url == "https://example.org/done"
    as_json = json.loads(shell("invoke", "hello", "--async", "--json").out)
    assert (as_json["status"], as_json["mode"]) == ("PENDING", "ASYNC")
    refused = shell("invoke", "hello", "--async", "--callback-url", "example.org")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "absolute" in refused.err


def test_wrong_usage_of_async_options_is_named(shell: Shell) -> None:
    assert "--max-retries goes with --async" in shell("invoke", "hello", "--max-retries", "1").err
    assert "--stream" in shell("invoke", "hello", "--async", "--stream").err
    assert shell.transport.requests == []


def later(execution_id: str, outcome: Outcome | None = None) -> Execution:
    call = Call(execution_id, "hello", Event(value=None), mode=Mode.ASYNC)
    return make_pending(call) if outcome is None else make_execution(call, outcome)


def test_watch_prints_what_changes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it, and that is no failure."""
    known = shell.service.known
    broken = failed(errors.FunctionRaised("ValueError: no"))

    def second() -> None:
        known["e-2"] = later("e-2", broken)
        known["e-4"] = later("e-4")

    def third() -> None:
        raise KeyboardInterrupt

    def watch(*options: str) -> list[str]:
        known.clear()
        # Newest first, as they are listed.
        known.update({name: later(name) for name in ("e-3", "e-2", "e-1")})
        steps = iter([lambda: None, second, third])
        monkeypatch.setattr("time.sleep", lambda seconds: next(steps)())
        done = shell("executions", "--watch", "--limit", "2", *options)
        assert (done.status, done.err) == (0, "")
        return done.out.splitlines()

    lines = watch()
    ids = [next(word for word in line.split() if word.startswith("e-")) for line in lines]
    assert ids == ["e-2", "e-3", "e-4", "e-2"]
    assert "PENDING" in lines[0]
    assert lines[3].split() == [
        *("2023-11-14T22:13:21.000000Z", "FAILED", "hello", "e-2", "1", "EXECUTION_ERROR")
    ]
    rows = [json.loads(line) for line in watch("--json")]
    assert [row["execution_id"] for row in rows] == ids
    assert rows[3]["status"] == "FAILED"


def test_dead_letters_are_listed_redriven_and_let_go(shell: Shell) -> None:
    assert shell("dead-letters") == (0, "there are no dead letters\n", "")
    shell.service.known["e-1"] = later("e-1", failed(errors.FunctionRaised("ValueError: a\nb")))
    shell.service.give_up("e-1")
    heading, line = shell("dead-letters").out.splitlines()
    assert heading.split()[:3] == ["EXECUTION", "ID", "TASK"]
    assert "EXECUTION_ERROR" in line
    assert json.loads(shell("dead-letters", "--json").out)["dead_letters"][0]["attempts"] == 3
    assert shell("redrive", "e-1") == (0, "e-1: PENDING\n", "")
    assert shell("redrive", "e-1").status == 1
    shell.service.give_up("e-1")
    assert "e-1" in shell("dead-letters", "--delete", "e-1").out
    gone = shell("dead-letters", "--delete", "e-1")
    assert (gone.status, gone.out, gone.err.count("\n")) == (1, "", 1)
    shell.service.give_up("e-1")
    assert json.loads(shell("dead-letters", "--delete", "e-1", "--json").out)["deleted"] is True
    shell.service.give_up("e-1")
    assert json.loads(shell("redrive", "e-1", "--json").out)["status"] == "PENDING"


def test_deploy_a_file(shell: Shell) -> None:
    (shell.here / "greet.py").write_text("def main(): ...\n")
    (shell.here / "settings.toml").write_text("timeout_ms = 5\n[env]\nA = 'a'\n")
    done = shell(
        *("deploy", "greet.py", "--handler", "greet.py:main"),
        *("--settings", "settings.toml", "--env", "B=x=y", "--env", "C="),
    )
    assert done == (0, "deployed greet (version 1)\n", "")
    deployed = shell.service.deployed[0]
    assert (deployed["name"], deployed["filename"]) == ("greet", "greet.py")
    assert deployed["settings"] == {
        "handler": "greet.py:main",
        "timeout_ms": 5,
        "env": {"A": "a", "B": "x=y", "C": ""},
    }
    again = shell("deploy", "greet.py", "--name", "greet", "--settings", '{"timeout_ms": 5}')
    assert again.out.startswith("deployed greet")
    same = shell("deploy", "greet.py", "--settings", '{"timeout_ms": 5}')
    assert same.out.startswith("unchanged greet")


def test_deploy_a_directory_packs_it_the_same_every_time(shell: Shell) -> None:
    directory = shell.here / "my.app"
    directory.mkdir()
    (directory / "main.py").write_text("import part\n")
    (directory / "part.py").write_text("X = 1\n")
    shell("deploy", "my.app")
    (directory / "main.py").touch()
    shell("deploy", "my.app")
    first, second = shell.service.deployed
    assert first["name"] == "my.app"
    assert first["source"] == second["source"]
    with zipfile.ZipFile(io.BytesIO(first["source"])) as archive:
        assert archive.namelist() == ["main.py", "part.py"]


@pytest.mark.parametrize("settings", ["[1]", "{", "missing.json"])
def test_settings_that_cannot_be_read(shell: Shell, settings: str) -> None:
    (shell.here / "greet.py").write_text("")
    done = shell("deploy", "greet.py", "--settings", settings)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert shell("deploy", "greet.py", "--env", "no assignment").status == 2


def test_lists_as_text_and_as_json(shell: Shell) -> None:
    assert "hello" in shell("tasks").out
    assert json.loads(shell("tasks", "--json").out)["next_start_after"] == "cursor"
    ps = shell("ps").out.splitlines()
    assert ps[0].split()[:2] == ["INSTANCE", "ID"]
    assert "i-1" in ps[1]
    assert json.loads(shell("ps", "--json").out)["instances"][0]["pid"] == 42
    assert shell("executions").out == "there are no executions\n"
    assert "closed" in shell("breakers").out
    assert "forced_open" in shell("breakers", "open", "hello").out


def test_logs_cancel_and_delete(shell: Shell) -> None:
    call = Call(execution_id="e-1", task_name="hello", payload=Event(value=None))
    error = errors.FunctionRaised("ValueError: no", detail="Traceback\nValueError: no")
    shell.service.known["e-1"] = make_execution(call, failed(error, output=b"one\ntwo\n"))
    assert shell("logs", "e-1").out == "one\ntwo\nTraceback\nValueError: no\n"
    assert json.loads(shell("logs", "e-1", "--json").out)["lines"] == ["one", "two"]
    assert "FAILED" in shell("executions").out
    assert shell("cancel", "e-1", "--reason", "enough", "--force").status == 0
    assert shell.service.asked[-1] == ("e-1", "enough", True)
    assert shell("cancel", "other").status == 1
    assert shell("delete", "hello").out == "deleted hello\n"
    assert shell("delete", "hello").status == 1


def test_explain_tells_a_life_line_by_line(shell: Shell) -> None:
    call = Call(execution_id="e-1", task_name="hello", payload=Event(value=None))
    error = errors.FunctionRaised("ValueError: no\x1b[2J", detail="Traceback\nValueError: no")
    shell.service.known["e-1"] = make_execution(call, failed(error, output=b"one\ntwo\n"))
    lines = shell("explain", "e-1").out.splitlines()
    assert lines[0].startswith("execution of 'hello': FAILED with EXECUTION_ERROR: ValueError: no")
    assert [line.split()[2] for line in lines if line.lstrip().startswith("+")] == [
        "accepted", "breaker", "instance", "runs", "ended", "output",
    ]  # fmt: skip
    assert lines[1].split()[:2] == ["+0.0", "ms"]
    assert [line.strip() for line in lines[-5:]][:1] == ["Traceback"]
    assert [line.strip() for line in lines[-2:]] == ["one", "two"]
    assert "\x1b" not in "".join(lines)
    told = json.loads(shell("explain", "e-1", "--json").out)
    assert (told["execution_id"], told["task_name"], told["status"]) == ("e-1", "hello", "FAILED")
    assert set(told["steps"][0]) == {"at", "after_ms", "kind", "text", "details"}
    assert shell("explain", "other").status == 1


def test_top_prints_one_frame_where_there_is_no_terminal(shell: Shell) -> None:
    shell.service.figures = FIGURES
    plain = shell("top")
    assert plain.out.startswith("12 calls/s  3 errors/s")
    rows = plain.out.splitlines()[3:]
    assert rows[0].split()[:2] == ["TASK", "CALLS/S"]
    assert max(map(len, rows)) < 80
    assert [row.split()[0] for row in rows[1:]] == ["busy", "hello"]
    assert shell("top", "--once") == plain
    frame = json.loads(shell("top", "--json").out)
    assert [row["task_name"] for row in frame["tasks"]] == ["busy", "hello"]
    assert frame["queue"]["dead"] == 1
    shell.service.figures = None
    assert shell("top").status == 1


def test_a_terminal_gets_what_fits_and_what_is_wrong_in_red() -> None:
    idle = {**FIGURES["tasks"][0], "task_name": "hello\x1b[2J", "errors_per_s": 0.0}
    frame = cli_top.frame_of({"at": "", **FIGURES}, [idle])
    screen = cli_top.screen_of(frame, 40, 6)
    lines = screen.split("\n")
    assert len(lines) == 6
    assert "\x1b[31mbusy" in lines[4]
    assert "\x1b[31m" not in lines[5]
    assert "\x1b[2J" not in screen
    assert all(len(re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", line)) <= 40 for line in lines)
    assert len(cli_top.screen_of(frame, 80, 1).split("\n")) == 1


FIGURES: dict[str, Any] = {
    "service": {
        "calls_per_s": 12.0,
        "errors_per_s": 3.0,
        "refused_per_s": 0.0,
        "p50_ms": 1.5,
        "p99_ms": None,
        "running": 1,
        "waiting": 0,
        "tasks": 2,
        "uptime_s": 3661.0,
        "cpu_percent": 10.0,
        "service_memory_bytes": 10**8,
        "instances_memory_bytes": 0,
    },
    "queue": {"ready": 0, "delayed": 0, "running": 0, "dead": 1, "oldest_s": 0.0},
    "tasks": [
        {
            "task_name": "busy",
            "calls_per_s": 12.0,
            "errors_per_s": 3.0,
            "refused_per_s": 0.0,
            "p50_ms": 1.5,
            "p99_ms": None,
            "in_use": 1,
            "idle": 0,
            "starting": 0,
            "waiting": 0,
            "breaker": "closed",
        }
    ],
}


def test_health_and_stats(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell("health").out == "healthy: all is well\n"
    assert "total_executions" in shell("stats").out
    assert json.loads(shell("stats", "--json", "--hours", "2").out)["service_stats"]
    assert shell.service.asked[-1] == 2
    bad = functools.partial(_unhealthy, shell.service.health())
    monkeypatch.setattr(shell.service, "health", bad)
    assert shell("health").status == 1


def _unhealthy(health: Any) -> Any:
    from msgspec.structs import replace

    return replace(health, status="unhealthy", message="it is shutting down")


def test_a_table_cannot_steer_the_terminal() -> None:
    rows = [{"name": "\x1b[31mred", "n": 1.25, "ok": True}, {"name": "b"}]
    assert table(rows, ("name", "n", "ok"), "") == (
        "NAME      N    OK\n [31mred  1.2  yes\nb         -    -"
    )


def test_the_command_line_starts_without_the_servers_libraries() -> None:
    script = "import sys, atlatl.cli; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert not loaded & {"grpc", "starlette", "uvicorn", "httpx", "asyncio"}
