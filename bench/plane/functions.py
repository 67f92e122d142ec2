"""The functions that are deployed, with the settings that a user would give them."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from bench import work

INSTANCES = 2
"""One for each core of the machine that the aims are for."""

WORK = work.SOURCE
WARM: dict[str, Any] = {"pool": {"min_size": INSTANCES, "max_size": INSTANCES}}
"""Of a function that is called all the time: as many instances as there are cores."""

ECHO = '''"""Gives back what it got."""

from atlatl_worker import Request


def main(request: Request) -> bytes:
    return request.body
'''

SPIN = '''"""Works for a while without waiting for anything."""


def spin(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) & 0xFFFFFFFF
    return total


def main(rounds: int) -> int:
    return spin(rounds)
'''

FRESH = '''"""Says which process it runs in, and how often that has been called."""

import os
{imports}
calls = 0


def main() -> dict:
    global calls
    calls += 1
    return {{"pid": os.getpid(), "calls": calls, "value": {value}}}
'''
PLAIN = FRESH.format(imports="", value="42")
NUMPY = FRESH.format(imports="\nimport numpy as np\n", value="int(np.arange(10).sum()) - 3")
FRESH_VALUE = 42
COLD: dict[str, Any] = {"pool": {"min_size": 0, "max_uses": 1}}
"""Each instance answers once, so that every call has a start of its own."""

SLEEPS = '''"""Takes its time."""

import time


def main(ms: int) -> int:
    time.sleep(ms / 1000)
    return ms
'''
SOON: dict[str, Any] = {"scale_interval_s": 0.5}
"""How often a pool looks for idle instances; growth on demand does not wait for it."""
BURST: dict[str, Any] = {
    "pool": {"min_size": 0, "max_size": 16, "idle_timeout_s": 0.5},
    "scaling": SOON,
}
"""Soon without an instance when nobody calls, so that the next burst may come."""
UNUSED: dict[str, Any] = {"pool": {"idle_timeout_s": 0.5}, "scaling": SOON}


def with_requirements(source: str, *requirements: str) -> bytes:
    """A zip of the function and its `requirements.txt`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("main.py", source)
        archive.writestr("requirements.txt", "".join(f"{line}\n" for line in requirements))
    return content.getvalue()
