"""Which function of which file a task calls."""

from __future__ import annotations

from collections.abc import Iterable

from atlatl.errors import ArtifactInvalid

DEFAULT_FUNCTION = "main"
DEFAULT_FILES = ("main.py", "app.py")


def resolve_handler(filenames: Iterable[str], handler: str = "") -> str:
    """The handler as `file.py:function`.

    Args:
        filenames: paths of the artifact's files, relative to it, with `/`.
        handler: as the deployer gave it: `file:function`, `file.py:function`, `file.py`,
            a bare `function`, or empty. What is left out is the artifact's only Python file,
            else `main.py`, else `app.py`; and the function `main`.

    Raises:
        ArtifactInvalid: the file does not exist, or none is the obvious one.
    """
    sources = sorted(name for name in filenames if name.endswith(".py"))
    file, function = _split(handler)
    if not function.isidentifier():
        raise ArtifactInvalid(
            f"handler {handler!r} names no function; write it as `file.py:function`"
        )
    return f"{_source(sources, file) if file else _default_source(sources)}:{function}"


def _split(handler: str) -> tuple[str, str]:
    """File and function; an empty file is the default one."""
    if ":" in handler:
        file, _, function = handler.rpartition(":")
        return file.removeprefix("./"), function or DEFAULT_FUNCTION
    if handler.endswith(".py"):
        return handler.removeprefix("./"), DEFAULT_FUNCTION
    return "", handler or DEFAULT_FUNCTION


def _source(sources: list[str], file: str) -> str:
    for candidate in (file, f"{file}.py", f"{file.replace('.', '/')}.py"):
        if candidate in sources:
            return candidate
    raise ArtifactInvalid(
        f"handler file {file!r} is not in the artifact, which has {_listed(sources)}"
    )


def _default_source(sources: list[str]) -> str:
    if len(sources) == 1:
        return sources[0]
    for name in DEFAULT_FILES:
        if name in sources:
            return name
    raise ArtifactInvalid(
        f"the artifact has {_listed(sources)}, and none is `main.py` or `app.py`; "
        "name the handler as `file.py:function`"
    )


def _listed(sources: list[str]) -> str:
    if not sources:
        return "no Python file"
    shown = ", ".join(sources[:10])
    return shown if len(sources) <= 10 else f"{shown} and {len(sources) - 10} more"
