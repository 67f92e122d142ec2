"""atlatl inside the process that submits: `service.submit`, and its results checked.

usage: python -m bench.queue.embedded N

Prints one line of JSON: seconds until all were accepted, and until all had ended.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from atlatl import FunctionService, Settings
from atlatl.model import Execution
from atlatl.settings import PoolSettings
from bench import work
from bench.lean_http import run_loop
from bench.queue.atlatl import INSTANCES, TAIL, TASK
from bench.results import ROOT
from bench.rounds import Wrong
from bench.work import Ran

AT_ONCE = 16
"""Submits that are on their way at the same time."""
PATIENCE_S = 300.0


def run(n: int) -> Ran:
    """In a process of its own, with a directory of its own."""
    command = [sys.executable, "-m", "bench.queue.embedded", str(n)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return Ran(*json.loads(done.stdout.splitlines()[-1]))


async def _main(n: int) -> Ran:
    pool = PoolSettings(min_size=INSTANCES, max_size=INSTANCES)
    with tempfile.TemporaryDirectory(prefix="atlatl-bench-") as directory:
        settings = Settings(data_dir=str(Path(directory, "data")), pool=pool)
        async with FunctionService(settings) as service:
            await service.deploy(TASK, work.SOURCE.encode(), filename=f"{TASK}.py")
            await _round(service, 200)
            return await _round(service, n)


async def _round(service: FunctionService, n: int) -> Ran:
    ids = [""] * n
    places = iter(range(n))

    async def submit() -> None:
        for place in places:
            ids[place] = await service.submit(TASK, work.arguments(place))

    began = time.monotonic()
    await asyncio.gather(*(submit() for _ in range(AT_ONCE)))
    submitted = time.monotonic()
    await _ended(service, ids[-TAIL:])
    ended = time.monotonic()
    found = [await service.execution(identity) for identity in ids]
    late = [each.execution_id for each in found if each.outcome is None]
    if late:
        await _ended(service, late)
        ended = time.monotonic()
        found = [await service.execution(identity) for identity in ids]
    if len(set(ids)) != n:
        raise Wrong("two executions have the same id")
    work.check((number, _value(each)) for number, each in enumerate(found))
    return Ran(submitted - began, ended - began)


async def _ended(service: FunctionService, ids: list[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    for identity in reversed(ids):
        while (await service.wait(identity, 10.0)).outcome is None:
            if time.monotonic() > end:
                raise Wrong(f"execution {identity} has not ended after {PATIENCE_S:.0f} s")


def _value(execution: Execution) -> object:
    outcome = execution.outcome
    if outcome is None or outcome.error is not None or outcome.result is None:
        raise Wrong(f"execution {execution.execution_id} is {execution.status}: {outcome}")
    return json.loads(outcome.result.body)


if __name__ == "__main__":
    print(json.dumps(run_loop(_main(int(sys.argv[1])))), flush=True)
