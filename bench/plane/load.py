"""Load on an HTTP server from a process of its own, with a look at the status and body of each
answer.

With wrk where it is installed: the check costs it 0.3 us of the 7 to 17 us of CPU that a call
takes, most of them in the kernel. Elsewhere `generator.py` does the same for about a fifth more; a
result says which of them it is from, and both sides of a ratio always have the same.
"""

from __future__ import annotations

import functools
import http.client
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.results import ROOT
from bench.rounds import Wrong

START_S = 60.0
"""Time that a server has for its first good answer."""
PATIENCE_S = 60.0
"""For a single answer, and for what is under way when the time is over."""
SCRIPT = Path(__file__).parent / "check.lua"


class Target(NamedTuple):
    """What is asked, and the answer that it has to have, byte for byte."""

    port: int
    paths: Sequence[str]
    """Asked in turn."""
    content: bytes
    answer: bytes
    media_type: str = "application/json"


class Load(NamedTuple):
    """Calls that were all answered as they should be."""

    calls: int
    seconds: float
    times_us: Sequence[tuple[int, int]]
    """Microseconds, and how many calls took so many."""

    @property
    def per_s(self) -> float:
        return self.calls / self.seconds

    def percentile_us(self, percent: float) -> float:
        return percentile(self.times_us, percent)


def percentile(times_us: Iterable[tuple[int, int]], percent: float) -> float:
    """The least time that so many percent of the calls did not exceed.

    Example: of [(10, 98), (20, 1), (900, 1)] the 50th is 10, the 99th 20, the 100th 900.
    """
    ordered = sorted(times_us)
    left = math.ceil(sum(count for _, count in ordered) * percent / 100)
    for us, count in ordered:
        left -= count
        if left <= 0:
            return us
    raise ValueError("no call was made")


def load(target: Target, connections: int, seconds: float) -> Load:
    """Asks on so many connections at once for so long.

    Raises:
        Wrong: an answer had another status than 200 or another body, or there was none.
    """
    with tempfile.TemporaryDirectory(prefix="atlatl-bench-") as directory:
        run = _wrk if generator() != PORTABLE else _portable
        return parse(run(target, connections, seconds, Path(directory)))


PORTABLE = "uvloop"


@functools.cache
def generator() -> str:
    """What makes the load: `wrk 4.1.0` for example, or PORTABLE."""
    path = shutil.which("wrk")
    if path is None or os.environ.get("BENCH_GENERATOR") == PORTABLE:
        return PORTABLE
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    return " ".join((said.stdout or said.stderr).split()[:2])


def _wrk(target: Target, connections: int, seconds: float, directory: Path) -> str:
    command = [
        "wrk", "--threads", "1", "--connections", str(connections),
        "--duration", f"{max(1, round(seconds))}s", "--timeout", f"{PATIENCE_S:.0f}s",
        "--script", str(SCRIPT), f"http://127.0.0.1:{target.port}/",
        "--", *_files(target, directory), target.media_type, str(int(connections == 1)),
    ]  # fmt: skip
    return _output(command, seconds)


def _portable(target: Target, connections: int, seconds: float, directory: Path) -> str:
    command = [
        sys.executable, "-m", "bench.plane.generator", str(target.port), str(connections),
        str(seconds), *_files(target, directory), target.media_type,
    ]  # fmt: skip
    return _output(command, seconds)


def _files(target: Target, directory: Path) -> list[str]:
    contents = {
        "paths": "".join(f"{path}\n" for path in target.paths).encode(),
        "content": target.content,
        "answer": target.answer,
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return [str(directory / name) for name in contents]


def _output(command: Sequence[str], seconds: float) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 2 * PATIENCE_S,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise Wrong(
            f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
        )
    return done.stdout


def parse(output: str) -> Load:
    """The last line of what the generator says; raises Wrong when an answer was not right."""
    said: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    if said["wrong"] or said["broken"] or not said["answered"]:
        raise Wrong(
            f"of {said['answered']} answers {said['wrong']} were wrong, and {said['broken']} calls "
            f"had none; for example: {said['example'] or '-'}"
        )
    return Load(said["answered"], said["seconds"], [(us, count) for us, count in said["times"]])


# --- the answer to expect ---


def pinned(
    port: int,
    path: str,
    content: bytes,
    right: Callable[[bytes], bool],
    media_type: str = "application/json",
) -> Target:
    """Asks until there is an answer; when it is right, its bytes are what all have to be.

    Servers write the same JSON with and without blanks.

    Raises:
        Wrong: there is none in time, or it is not right.
    """
    end = time.monotonic() + START_S
    while True:
        try:
            status, body = ask(port, path, content, media_type)
        except OSError as error:
            if time.monotonic() > end:
                raise Wrong(f"nothing answers on port {port}: {error!r}") from None
            time.sleep(0.02)
            continue
        if status == 200 and right(body):
            return Target(port, [path], content, body, media_type)
        # Some servers listen before they have their routes.
        if status == 200 or time.monotonic() > end:
            raise Wrong(f"the first answer was {status} {body[:300]!r}")
        time.sleep(0.02)


def ask(port: int, path: str, content: bytes, media_type: str) -> tuple[int, bytes]:
    """One call on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", path, content, {"Content-Type": media_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from None
    finally:
        connection.close()
