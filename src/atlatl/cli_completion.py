"""`atlatl completion`: what makes a shell complete the command line."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Annotated

import typer

VARIABLE = "_ATLATL_COMPLETE"
"""By it a shell asks for completions, in the way that typer's scripts have."""


class Shell(enum.StrEnum):
    """Shells that can be made to."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print what makes a shell complete commands, options and names of tasks."""
    from typer._completion_shared import get_completion_script

    asked = {"prog_name": "atlatl", "complete_var": VARIABLE, "shell": shell.value}
    typer.echo(get_completion_script(**asked))


def prepare(environ: Mapping[str, str] = os.environ) -> None:
    """Has typer answer when it is a shell that asks; without an effect otherwise."""
    if VARIABLE in environ:
        from typer._completion_classes import completion_init

        completion_init()


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(completion)
