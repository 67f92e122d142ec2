"""Looks for secrets of the service in its own memory and environment, where a fork leaves them."""

import os
import re

from trying import attempts

LARGEST = 64 * 1024 * 1024


def main(pattern: str) -> object:
    # With a bracket in it, so that the pattern itself is no match.
    wanted = re.compile(pattern.encode())
    return attempts(
        {
            "environment": lambda: found(wanted, environment()),
            "memory": lambda: search(wanted),
        }
    )


def environment() -> bytes:
    return b"\0".join(name + b"=" + value for name, value in os.environb.items())


def search(wanted: re.Pattern[bytes]) -> str:
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.readlines():
            span, access = line.split()[:2]
            first, last = (int(end, 16) for end in span.split("-"))
            if access.startswith("r") and last - first <= LARGEST and "[v" not in line:
                try:
                    memory.seek(first)
                    found(wanted, memory.read(last - first), line)
                except (LookupError, OSError):
                    continue
                return line
    raise LookupError("nothing")


def found(wanted: re.Pattern[bytes], where: bytes, name: str = "") -> str:
    if wanted.search(where) is None:
        raise LookupError("nothing")
    return name or "found"
