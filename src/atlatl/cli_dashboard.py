"""The command that prints where the dashboard is."""

from __future__ import annotations

import typer

from atlatl.console import AsJson, CaFile, TokenFile, Url, connected, show


def dashboard(
    as_json: AsJson = False, url: Url = "", token_file: TokenFile = None, ca_file: CaFile = None
) -> None:
    """Print an address of the dashboard that signs one browser in, within ten minutes."""
    with connected(url, token_file, ca_file) as client:
        address = client.dashboard_address()
    show({"address": address}, as_json=as_json, text=address)


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(dashboard)
