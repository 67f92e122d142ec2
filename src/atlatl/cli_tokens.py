"""The commands about tokens. They write to the data directory, whether a service runs or not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlatl.console import FAILED, AsJson, fail, local_settings, show, table
from atlatl.errors import AtlatlError

if TYPE_CHECKING:
    from atlatl.front.auth import Token
    from atlatl.front.tokens import TokenFile

Config = Annotated[Path | None, typer.Option(help="Settings; else atlatl.toml.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Of the service; else as the settings say.")
]

app = typer.Typer(
    help="Make, list and revoke tokens; a running service knows within a second.",
    rich_markup_mode=None,
)


def _file(config: Path | None, data_dir: Path | None) -> TokenFile:
    # Imported late: it brings a part of the server's modules.
    from atlatl.front.tokens import TokenFile

    flags = {"data_dir": str(data_dir)} if data_dir is not None else {}
    return TokenFile(Path(local_settings(config, flags).data_dir))


def _now() -> datetime:
    from atlatl.assembly import wall_clock

    return datetime.fromtimestamp(wall_clock(), UTC)


@app.command()
def create(
    scope: Annotated[
        str,
        typer.Option(
            help="invoke: call functions, and read and cancel executions by id. deploy: also add "
            "tasks, and list. admin: everything."
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only tasks of such names, like `billing-*`; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option(help="To know it by; else one is chosen.")] = "",
    rate_limit: Annotated[
        float, typer.Option(min=0, help="Requests a second; 0 is no limit.")
    ] = 0.0,
    expires: Annotated[
        str, typer.Option(help="Like 90d, 12h or 2026-12-31T00:00:00Z; else never.")
    ] = "",
    config: Config = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it: this once, for only its hash is kept."""
    from atlatl.front.tokens import parse_expiry

    now = _now()
    try:
        secret, token = _file(config, data_dir).create(
            scope,
            now=now,
            tasks=task or (),
            name=name,
            rate_limit_per_s=rate_limit,
            expires_at=parse_expiry(expires, now),
        )
    except AtlatlError as error:
        fail(error.message, FAILED)
    show({"token": secret, **_row(token, now)}, as_json=as_json, text=secret)


@app.command("list")
def list_all(config: Config = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the tokens, without what only their owners know; the admin token is not among them."""
    now = _now()
    try:
        tokens = _file(config, data_dir).read()
    except AtlatlError as error:
        fail(error.message, FAILED)
    rows = [_row(token, now) for token in tokens]
    columns = ("name", "scope", "tasks", "rate_limit_per_s", "created_at", "expires_at", "expired")
    shown = [{**row, "tasks": " ".join(row["tasks"]) or "all"} for row in rows]
    show({"tokens": rows}, as_json=as_json, text=table(shown, columns, "there are no tokens"))


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the token.")],
    config: Config = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a token; a running service refuses it within a second."""
    try:
        token = _file(config, data_dir).revoke(name)
    except AtlatlError as error:
        fail(error.message, FAILED)
    show({"name": token.name, "revoked": True}, as_json=as_json, text=f"revoked {token.name}")


def _row(token: Token, now: datetime) -> dict[str, Any]:
    from atlatl.front.tokens import has_expired

    return {
        "name": token.name,
        "scope": token.scope,
        "tasks": list(token.tasks),
        "rate_limit_per_s": token.rate_limit_per_s,
        "created_at": _shown(token.created_at),
        "expires_at": _shown(token.expires_at),
        "expired": has_expired(token, now),
    }


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds").replace("+00:00", "Z")
