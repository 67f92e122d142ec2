"""Reads what it was told of, and what lies in any directory."""

import os

from trying import attempts


def main(files: list, directories: list) -> object:
    return attempts(
        {f"read {path}": lambda path=path: read(path) for path in files}
        | {f"list {path}": lambda path=path: os.listdir(path) for path in directories}
    )


def read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    return os.read(descriptor, 100)
