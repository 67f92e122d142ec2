"""The command line. Every command but `serve` is a client of the HTTP API."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from atlatl import (
    cli_backup,
    cli_completion,
    cli_dashboard,
    cli_executions,
    cli_tokens,
    cli_top,
)
from atlatl.console import (
    FAILED,
    WRONG_USAGE,
    AsJson,
    CaFile,
    Limit,
    Name,
    TokenFile,
    Url,
    connected,
    fail,
    local_settings,
    show,
    table,
    task_names,
    write_item,
)
from atlatl.core.moments import parse_moment
from atlatl.errors import SettingInvalid

if TYPE_CHECKING:
    from atlatl.settings import Settings

app = typer.Typer(
    name="atlatl",
    help="A self-hosted function service.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
"""What all wrong usage is; typer does not name it itself."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atlatl {version('atlatl')}")
        raise typer.Exit


@app.callback()
def options(
    version_wanted: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """A self-hosted function service."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="Settings; else atlatl.toml.")] = None,
    host: Annotated[str, typer.Option(help="Address of the HTTP front.")] = "",
    port: Annotated[int | None, typer.Option(help="Of HTTP; 0 chooses one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Of gRPC; 0 chooses one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    functions: Annotated[
        Path | None, typer.Option(help="Directory whose functions are deployed at start.")
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    flags = {
        "http": {"host": host or None, "port": port},
        "grpc": {"port": grpc_port},
        "data_dir": str(data_dir) if data_dir is not None else None,
    }
    settings = local_settings(config, _given(flags))
    # gRPC prints lines of its own to standard error; what goes wrong is said by an error of ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported late: the other commands start without the server's libraries.
    from atlatl.app import serve as serve_app

    raise typer.Exit(serve_app(settings, functions=functions))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given; groups without any are left out."""
    found = {k: _given(v) if isinstance(v, dict) else v for k, v in flags.items()}
    return {k: v for k, v in found.items() if v not in (None, {})}


@app.command()
def deploy(
    path: Annotated[Path, typer.Argument(exists=True, help="A .py file, a directory, or a .zip.")],
    name: Annotated[str, typer.Option(help="Of the task; else the file's, without .py.")] = "",
    handler: Annotated[str, typer.Option(help="`file:function`.")] = "",
    settings: Annotated[str, typer.Option(help="A .json or .toml file, or a JSON object.")] = "",
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Deploy a function, or change one."""
    from atlatl.engine.sources import from_path
    from atlatl.settings import ArtifactSettings

    wanted = _settings(settings)
    if handler:
        wanted["handler"] = handler
    if env:
        wanted["env"] = {**wanted.get("env", {}), **dict(map(_assignment, env))}
    with connected(url, token_file, ca_file) as client:
        source = from_path(path, ArtifactSettings())
        row = client.deploy(
            name or _task_name(path.resolve()),
            source.content,
            filename=source.filename,
            settings=wanted,
        )
    done = "deployed" if row["created"] or row["changed"] else "unchanged"
    show(row, as_json=as_json, text=f"{done} {row['task_name']} (version {row['version']})")


def _task_name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _settings(text: str) -> dict[str, Any]:
    """Settings of a task, from a file or from the text itself."""
    from atlatl.configuration import read_toml

    if not text:
        return {}
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=dict[str, Any])
        if text.endswith(".toml"):
            return read_toml(Path(text))
        return msgspec.json.decode(Path(text).read_bytes(), type=dict[str, Any])
    except OSError as error:
        fail(f"--settings {text[:80]!r}: {error.strerror}", WRONG_USAGE)
    except (msgspec.DecodeError, SettingInvalid) as error:
        fail(f"--settings {text[:80]!r}: {error}", WRONG_USAGE)


def _assignment(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        fail(f"--env {text!r} is not like NAME=VALUE", WRONG_USAGE)
    return name, value


@app.command()
def invoke(
    name: Name,
    data: Annotated[str, typer.Option(help="JSON or text; @FILE or - (stdin) for more.")] = "",
    timeout: Annotated[float, typer.Option(help="Time limit in seconds.", min=0)] = 0,
    later: Annotated[
        bool, typer.Option("--async", help="Only hand the call in, and print its id.")
    ] = False,
    max_retries: Annotated[
        int | None, typer.Option(min=0, help="With --async: attempts after one that failed.")
    ] = None,
    not_before: Annotated[
        str, typer.Option(help="With --async: like 2026-01-31T09:00:00Z (RFC 3339).")
    ] = "",
    callback_url: Annotated[
        str, typer.Option(help="With --async: gets the result by a POST.")
    ] = "",
    stream: Annotated[bool, typer.Option("--stream", help="Print items as they come.")] = False,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Call a function and print what it returns."""
    value = _value(data)
    limit: dict[str, Any] = {"timeout_ms": max(1, round(timeout * 1000))} if timeout else {}
    how = _deferral(later, stream, max_retries, not_before, callback_url)
    with connected(url, token_file, ca_file) as client:
        if later:
            row = client.submit(name, value, **limit, **how)
            show(row, as_json=as_json, text=row["execution_id"])
            return
        if stream:
            for item in client.stream(name, value, **limit):
                write_item(msgspec.json.encode(item).decode() if as_json else item)
            return
        answer = client.call(name, value, **limit)
    if as_json:
        show(msgspec.structs.asdict(answer), as_json=True)
    else:
        write_item(answer.value)
    if answer.status >= 400:
        fail(f"function {name!r} answered with status {answer.status}", FAILED)


def _deferral(
    later: bool, stream: bool, max_retries: int | None, not_before: str, callback_url: str
) -> dict[str, Any]:
    """What goes with --async, as options of `Client.submit`."""
    stated = {
        "--max-retries": max_retries is not None,
        "--not-before": bool(not_before),
        "--callback-url": bool(callback_url),
    }
    for flag in (name for name, given in stated.items() if given and not later):
        fail(f"{flag} goes with --async only", WRONG_USAGE)
    if later and stream:
        fail("--async only hands the call in, so there is nothing to --stream", WRONG_USAGE)
    try:
        moment = parse_moment(not_before) if not_before else None
    except ValueError:
        form = "like 2026-01-31T09:00:00Z, with its offset from UTC"
        fail(f"--not-before {not_before[:80]!r} is no moment {form}", WRONG_USAGE)
    return {"max_retries": max_retries, "not_before": moment, "callback_url": callback_url}


def _value(data: str) -> Any:
    """The argument of a call: JSON if it is JSON, else text, else bytes."""
    if not data:
        return None
    if data.lstrip().startswith(("{", "[")):
        return _json(data)
    content = data.encode()
    if data == "-":
        content = sys.stdin.buffer.read()
    elif data.startswith("@"):
        try:
            content = Path(data[1:]).read_bytes()
        except OSError as error:
            fail(f"--data {data}: {error.strerror}", WRONG_USAGE)
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _json(data: str) -> Any:
    """What begins like JSON and is none is a slip; as text it would puzzle the function."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "text that begins like this goes in by @FILE or -"
        fail(f"--data {data[:80]!r} begins like JSON and is none: {error}; {hint}", WRONG_USAGE)


@app.command()
def tasks(
    prefix: Annotated[str, typer.Option(help="Only names that begin with it.")] = "",
    limit: Limit = 100,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """List what is deployed."""
    with connected(url, token_file, ca_file) as client:
        page = client.tasks(prefix=prefix, limit=limit)
    columns = ("task_name", "version", "state", "instances", "execution_count", "last_status")
    show(page, as_json=as_json, text=table(page["tasks"], columns, "nothing is deployed"))


@app.command()
def ps(
    as_json: AsJson = False, url: Url = "", token_file: TokenFile = None, ca_file: CaFile = None
) -> None:
    """List the live instances."""
    with connected(url, token_file, ca_file) as client:
        rows = client.instances()
    columns = ("instance_id", "task_name", "version", "state", "pid", "age_s", "uses", "in_flight")
    text = table(rows, (*columns, "memory_bytes"), "no instance is alive")
    show({"instances": rows}, as_json=as_json, text=text)


cli_executions.register(app)
cli_top.register(app)
cli_dashboard.register(app)
cli_completion.register(app)
cli_backup.register(app)
app.add_typer(cli_tokens.app, name="token")


@app.command()
def delete(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Cancel what is in progress.")] = False,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Delete a task."""
    with connected(url, token_file, ca_file) as client:
        row = client.delete(name, force=force)
    show(row, as_json=as_json, text=f"deleted {name}")


@app.command()
def breakers(
    verb: Annotated[str, typer.Argument(help="reset, open or disable; none lists them.")] = "",
    task: Annotated[str, typer.Argument(help="Whose breaker.", autocompletion=task_names)] = "",
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """List the circuit breakers, or set one."""
    if verb and (verb not in ("reset", "open", "disable") or not task):
        fail("say `atlatl breakers reset|open|disable TASK`, or nothing", WRONG_USAGE)
    with connected(url, token_file, ca_file) as client:
        rows = [client.set_breaker(task, verb)] if verb else client.breakers()
    columns = ("task_name", "state", "mode", "failure_count", "rejected_count", "last_error")
    show({"breakers": rows}, as_json=as_json, text=table(rows, columns, "nothing is deployed"))


@app.command()
def health(
    as_json: AsJson = False, url: Url = "", token_file: TokenFile = None, ca_file: CaFile = None
) -> None:
    """Say how the service does; status 1 when it cannot serve."""
    with connected(url, token_file, ca_file) as client:
        row = client.health()
    show(row, as_json=as_json, text=f"{row['status']}: {row['message']}")
    if not row["healthy"]:
        raise typer.Exit(FAILED)


@app.command()
def stats(
    hours: Annotated[int, typer.Option(help="Of the last hours; 0 is all.", min=0)] = 0,
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print the figures of the service."""
    with connected(url, token_file, ca_file) as client:
        row = client.stats(hours=hours)
    groups = [row["service_stats"], row["execution_stats"], row["function_service_stats"]]
    figures = {name: value for group in groups for name, value in group.items()}
    plain = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    width = max(map(len, plain))
    show(row, as_json=as_json, text="\n".join(f"{n.ljust(width)}  {v}" for n, v in plain.items()))


@app.command()
def check(
    config: Annotated[Path | None, typer.Option(help="Settings; else atlatl.toml.")] = None,
    prometheus: Annotated[
        str, typer.Option(help="URL of a Prometheus server that should have the alert rules.")
    ] = "",
    as_json: AsJson = False,
    url: Url = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Say whether all is ready for production; status 1 when something is not."""
    # Imported late: half of the server's modules come with it.
    from atlatl import checks
    from atlatl.configuration import load_settings

    seen = None
    settings: Settings | SettingInvalid
    try:
        settings = load_settings(config, os.environ, {})
    except SettingInvalid as error:
        settings = error
    else:
        named = bool(url or os.environ.get("ATLATL_URL"))
        with connected(url, token_file, ca_file, settings) as client:
            seen = checks.look(client, expected=named)
    items = checks.check(settings, seen, prometheus, checks.try_out(settings))
    rows = [{"item": each.item, "ok": each.ok, "detail": each.detail} for each in items]
    width = max(len(each.item) for each in items)
    lines = [f"{each.verdict:7}  {each.item:{width}}  {each.said}" for each in items]
    show({"items": rows}, as_json=as_json, text="\n".join(lines))
    if not all(each.ok for each in items):
        raise typer.Exit(FAILED)


def main() -> None:
    """Runs the command line; ends the process with its exit status."""
    cli_completion.prepare()
    try:
        status = app(args=sys.argv[1:] or ["--help"], prog_name="atlatl", standalone_mode=False)
    except _USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "atlatl"
        message = f"atlatl: {error.format_message()} (see `{command} --help`)"
        typer.secho(message, err=True, fg=typer.colors.RED)
        status = WRONG_USAGE
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


if __name__ == "__main__":
    main()
