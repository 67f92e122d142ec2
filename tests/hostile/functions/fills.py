"""Writes until there is no room, wherever it may write."""

import os

from trying import attempts, why

PIECE = b"x" * (1024 * 1024)
MOST = 256
"""Pieces, even when nothing contains it."""


def main(directories: list) -> dict:
    """How many MiB each of the directories took, and what ended that."""
    return {path: fill(path, f"{number}.filled") for number, path in enumerate(directories)}


def fill(path: str, name: str) -> list:
    written = 0
    try:
        with open(f"{path}/{name}", "wb", buffering=0) as file:
            while written < MOST:
                written += file.write(PIECE) / len(PIECE)
    except OSError as error:
        return [written, why(error)]
    return [written, ""]


def many(most: int) -> dict:
    """Empty files, which take no bytes of a limit in bytes."""
    made = 0
    try:
        for made in range(most):
            os.close(os.open(f"/tmp/{made}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        return {"made": made, "then": why(error)}
    return {"made": made, "then": ""}


def hollow() -> object:
    """A file that says it is large."""

    def make() -> int:
        with open("/tmp/hollow", "wb") as file:
            return file.truncate(2**40)

    return attempts({"one TiB": make})


def elsewhere(directories: list, name: str) -> object:
    """Everywhere that is not its own."""

    def write(path: str) -> int:
        return os.open(f"{path}/{name}", os.O_CREAT | os.O_WRONLY)

    return attempts({f"write in {path}": lambda path=path: write(path) for path in directories})
