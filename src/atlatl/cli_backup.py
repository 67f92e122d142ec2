"""`atlatl backup`: reads the data directory, whether a service runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlatl.console import FAILED, AsJson, fail, local_settings, show
from atlatl.errors import AtlatlError


def backup(
    target: Annotated[Path, typer.Argument(help="A directory that is made for it.")],
    config: Annotated[Path | None, typer.Option(help="Settings; else atlatl.toml.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Of the service; else as the settings say.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy the data directory as it is at one moment, while the service runs or not."""
    # Imported late: the other commands need no database.
    from atlatl.stores.backup import back_up

    flags = {"data_dir": str(data_dir)} if data_dir is not None else {}
    try:
        copied = back_up(Path(local_settings(config, flags).data_dir), target)
    except AtlatlError as error:
        fail(error.message, FAILED)
    mebibytes = copied.n_bytes / 2**20
    show(
        {"target": str(target), **copied._asdict()},
        as_json=as_json,
        text=f"{target}: {copied.files} files, {mebibytes:.1f} MiB",
    )


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(backup)
