"""Prints and returns what no caller should get."""

import sys

from atlatl_worker import Response


def prints() -> str:
    line = "x" * 1023 + "\n"
    for _ in range(64 * 1024):
        sys.stdout.write(line)
    return "printed 64 MiB"


def returns() -> bytes:
    return bytes(40 * 1024 * 1024)


def streams():
    for _ in range(40):
        yield bytes(1024 * 1024)


def nul() -> str:
    return "before\0after"


def header(name: str, value: str) -> Response:
    return Response("x", headers=[(name, value)])


def status(number: int) -> Response:
    return Response("x", status=number)


def deep() -> list:
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def endless() -> list:
    ring: list = []
    ring.append(ring)
    return ring


def raises() -> None:
    raise ValueError("\0\r\n\ud800" + "x" * 10_000_000)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def unspeakable() -> None:
    raise Unspeakable


main = prints
