"""What the command line needs besides its commands: where the service is, and how to print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import msgspec
import typer

from atlatl.errors import AtlatlError

if TYPE_CHECKING:
    import ssl

    from atlatl.client import Client, Row
    from atlatl.settings import Settings

FAILED, WRONG_USAGE, UNREACHABLE = 1, 2, 3
"""Exit statuses besides 0."""

_HINTS = {
    "TASK_NOT_FOUND": "`atlatl tasks` lists what is deployed",
    "EXECUTION_NOT_FOUND": "`atlatl executions` lists the newest ones",
}


Url = Annotated[str, typer.Option("--url", help="Address of the service; else ATLATL_URL.")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="File with the token; else ATLATL_TOKEN.")
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca-file", help="Authorities to believe https by; else ATLATL_CA_FILE."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(help="Execution id.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")]


PATIENCE_S = 2.0
"""What a shell waits for names at most, when it completes one."""
WITHOUT_QUOTES = re.compile(r"\w[\w.+-]*")
"""No shell takes any of it for something of its own: others may have chosen the names."""


def task_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names that a shell may offer; none, and nothing said, when no service gives them at once."""
    # Here: how long it takes to load is the machine's affair, not the service's.
    import atlatl.client  # noqa: F401

    found: list[str] = []

    def ask() -> None:
        url, *files = (ctx.params.get(name) for name in ("url", "token_file", "ca_file"))
        token_file, ca_file = (Path(file) if file else None for file in files)
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(Exception),
            connected(url or "", token_file, ca_file) as client,
        ):
            rows = client.tasks(prefix=incomplete, limit=200)["tasks"]
            found.extend(row["task_name"] for row in rows)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return [name for name in found if WITHOUT_QUOTES.fullmatch(name)]


Name = Annotated[str, typer.Argument(help="Name of the task.", autocompletion=task_names)]


@contextmanager
def connected(
    url: str, token_file: Path | None, ca_file: Path | None, settings: Settings | None = None
) -> Iterator[Client]:
    """A client of the service that the user means.

    A failure inside ends the program with one line and the exit status that belongs to it.

    Args:
        url: as given by a flag; empty takes `ATLATL_URL`, then the settings.
        token_file: as given by a flag; None takes `ATLATL_TOKEN`, then the data directory's.
        ca_file: as given by a flag; None takes `ATLATL_CA_FILE`, then of a service that the
            settings describe its own certificate, and of others the public authorities.
        settings: of the service, if they were read already.
    """
    # Imported here: it takes a quarter of a second, which `--help` need not wait for.
    from atlatl.client import Client, ServiceUnreachable

    named = url or os.environ.get("ATLATL_URL", "")
    if not named:
        settings = settings or local_settings()
    where = named or _url(settings or local_settings())
    _check_url(where)
    token = _token(where, token_file, settings)
    tls = None
    if where.startswith("https:"):
        tls = _trust(ca_file, None if named else settings)
    try:
        with Client(where, token=token, tls=tls) as client:
            yield client
    except AtlatlError as error:
        fail(_told(error), FAILED)
    except ServiceUnreachable as error:
        hint = "start it with `atlatl serve`, or name it with --url"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = "name the authority of its certificate with --ca-file"
        fail(f"{error}; {hint}", UNREACHABLE)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port
        known = False
    if not known:
        fail(f"{url!r} is no address of a service; one is like http://127.0.0.1:8081", WRONG_USAGE)


def local_settings(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings as a service that is started here would read them.

    Args:
        config: a TOML file; None is `atlatl.toml` in the working directory, if it is there.
        flags: the strongest.
    """
    from atlatl.configuration import load_settings

    try:
        return load_settings(config, os.environ, flags or {})
    except AtlatlError as error:
        fail(error.message, WRONG_USAGE)


def fail(message: str, status: int) -> NoReturn:
    """Prints one line and ends the program."""
    typer.secho(f"atlatl: {' '.join(message.split())}", err=True, fg=typer.colors.RED)
    raise typer.Exit(status)


def _told(error: AtlatlError) -> str:
    parts = [error.message]
    hint = _HINTS.get(error.code)
    if hint and "`atlatl" not in error.message:
        parts.append(hint)
    if error.retry_after_s is not None:
        parts.append(f"try again in {error.retry_after_s:.0f} s")
    if error.execution_id and error.outcome not in ("invalid", "rejected"):
        parts.append(f"see `atlatl logs {error.execution_id}`")
    return "; ".join(parts)


def _url(settings: Settings) -> str:
    # Imported here, as in `local_settings`: most of the commands that are given a URL need it not.
    from atlatl.configuration import connectable

    host = connectable(settings.http.host)
    scheme = "https" if settings.tls.cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.http.port}"


def _trust(ca_file: Path | None, local: Settings | None) -> ssl.SSLContext:
    """Whom to believe that it is the service, and what to show when it asks who we are.

    Args:
        ca_file: as given by a flag.
        local: of the service, when it was found by its settings: it is believed by the very
            certificate that they name, whatever name stands in that.
    """
    # Imported late: it takes its time, and most services are asked without TLS.
    import ssl

    chosen = ca_file or os.environ.get("ATLATL_CA_FILE", "")
    try:
        if chosen:
            context = ssl.create_default_context(cafile=chosen)
        elif local is not None:
            from atlatl.front.tls import trusting_only

            context = trusting_only(Path(local.tls.cert_file).read_bytes())
        else:
            context = ssl.create_default_context()
        if own := os.environ.get("ATLATL_CERT_FILE", ""):
            context.load_cert_chain(own, os.environ.get("ATLATL_KEY_FILE") or None)
    except (OSError, ValueError) as error:
        fail(f"the certificates for {chosen or 'https'} cannot be used: {error}", WRONG_USAGE)
    return context


def _token(url: str, token_file: Path | None, settings: Settings | None) -> str:
    """The token; that of the data directory goes to this machine only."""
    if token_file is not None:
        return _read_token(token_file)
    if token := os.environ.get("ATLATL_TOKEN", ""):
        return token
    settings = settings or local_settings()
    own = Path(settings.data_dir, "token")
    here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1", settings.http.host)
    return _read_token(own) if here and os.access(own, os.R_OK) else ""


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        fail(f"the token file {path} cannot be read: {error.strerror}", WRONG_USAGE)


# --- printing ---


def show(value: Any, *, as_json: bool, text: str = "") -> None:
    """Prints what a command found: JSON, or `text`."""
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if text:
        typer.echo(text)


def show_line(value: Any, *, as_json: bool, text: str) -> None:
    """Prints one of many things, as they come: JSON on one line, or `text`."""
    typer.echo(msgspec.json.encode(value).decode() if as_json else text)


def line(cells: Iterable[Any]) -> str:
    """Cells of a line that belongs to no table; what is not there is left out."""
    return "  ".join(_cell(value) for value in cells if value is not None)


def table(rows: Sequence[Row], columns: Sequence[str], nothing: str) -> str:
    """Rows under their headings, in columns as wide as they need to be.

    Args:
        rows: what to print.
        columns: members of a row, in order; a unit at the end of a name goes into the heading.
        nothing: what to say when there are no rows.
    """
    if not rows:
        return nothing
    lines = [[_heading(name) for name in columns]]
    lines += [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    aligned = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def _heading(name: str) -> str:
    return name.upper().replace("_", " ")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    # What came from a function's name or error must not steer the terminal.
    return "".join(char if char.isprintable() else " " for char in str(value))


def write_item(item: Any) -> None:
    """Prints a value that a function returned: text and bytes as they are, all else as JSON."""
    if isinstance(item, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(item)
        sys.stdout.buffer.flush()
    else:
        typer.echo(item if isinstance(item, str) else msgspec.json.encode(item).decode())
