"""Instances for tests: write a function, start it on a runtime, call it."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from atlatl.engine.arguments import encode
from atlatl.model import Arguments, Artifact, Call, Outcome, Payload, Task
from atlatl.ports import InstanceChannel, OnChunk, Runtime
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.groups import Groups
from atlatl.runtimes.process import ProcessRuntime
from atlatl.settings import Settings, parse, task_settings

LONG_S = 20.0
"""Bound of every wait: only a broken runtime comes near it."""

PROMISED_S = 2.0
"""What no process outlives its owner by."""

_ids = itertools.count(1)


def task_of(
    folder: Path, source: str, handler: str = "app.py:main", **overrides: Any
) -> tuple[Task, Path]:
    """A task of one file, and the directory of its code."""
    code = folder / f"code-{next(_ids)}"
    file = code / handler.rpartition(":")[0]
    file.parent.mkdir(parents=True)
    file.write_text(source)
    artifact = Artifact(
        artifact_id="art", version="1", checksum="", filename="app.py", size_bytes=len(source)
    )
    task = Task(
        task_id="task-1",
        name="sample",
        version=3,
        artifact=artifact,
        handler=handler,
        overrides=overrides,
        settings=task_settings(Settings(), overrides),
        shapes={},
    )
    return task, code


def process_runtime(
    settings: Mapping[str, Any] | None = None, groups: Groups | None = None
) -> ProcessRuntime:
    """Without task zygotes unless the settings ask for them: a slow machine would make some."""
    tree = {
        "blank_pool": {"min_size": 1, "max_size": 1},
        "zygote": {"max_task_zygotes": 0},
        **(settings or {}),
    }
    ids = (f"i-{number}" for number in _ids)
    return ProcessRuntime(parse(Settings, tree), time.monotonic, ids.__next__, groups)


ALWAYS = {"zygote": {"min_import_ms": 0}}
"""Settings with which every task gets a zygote of its own."""


async def forked(runtime: ProcessRuntime, task: Task, code: Path) -> Channel:
    """An instance that the task's own zygote has forked."""
    if runtime.reserve.state(task) != "ready":
        await (await runtime.start(task, code, None)).stop(0)
        await until(lambda: runtime.reserve.state(task) == "ready", "the task's own zygote")
    channel = await runtime.start(task, code, None)
    assert channel.origin == "task_zygote"
    return channel


@asynccontextmanager
async def opened(runtime: Runtime) -> AsyncIterator[Runtime]:
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


@dataclass
class Running:
    """A call on its way."""

    execution_id: str
    outcome: asyncio.Future[Outcome]
    answers: list[Outcome] = field(default_factory=list)

    def done(self, outcome: Outcome) -> None:
        self.answers.append(outcome)
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    async def end(self) -> Outcome:
        async with asyncio.timeout(LONG_S):
            return await self.outcome


def begin(
    channel: InstanceChannel,
    payload: Payload | Mapping[str, Any] | None = None,
    *,
    function: str = "main",
    on_chunk: OnChunk | None = None,
    deadline: float | None = None,
    attempt: int = 1,
    **facts: Any,
) -> Running:
    """Sends a call; named arguments may be given as a mapping."""
    if payload is None or isinstance(payload, Mapping):
        payload = Arguments(values=dict(payload or {}))
    call = Call(
        execution_id=f"e-{next(_ids)}",
        task_name="sample",
        payload=payload,
        function=function,
        **facts,
    )
    running = Running(call.execution_id, asyncio.get_running_loop().create_future())
    channel.send(
        call,
        encode(channel.shapes[function], payload),
        running.done,
        deadline=time.monotonic() + 60 if deadline is None else deadline,
        attempt=attempt,
        on_chunk=on_chunk,
    )
    return running


async def call(channel: InstanceChannel, payload: Any = None, **facts: Any) -> Outcome:
    return await begin(channel, payload, **facts).end()


def value(outcome: Outcome) -> Any:
    """The decoded JSON result of a call that has to have succeeded."""
    assert outcome.error is None, (outcome.error, outcome.error.detail, outcome.output)
    assert outcome.result is not None
    assert outcome.result.kind == "json"
    return msgspec.json.decode(outcome.result.body)


async def until(
    holds: Callable[[], object], what: str = "the condition", within_s: float = LONG_S
) -> None:
    """Waits until `holds()`; fails after a while."""
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends, f"{what} did not come true within {within_s} s"
        await asyncio.sleep(0.01)


async def all_end(pids: Iterable[int]) -> None:
    """Fails unless the processes end within the 2 s that are promised."""
    pids = list(pids)
    await until(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}", PROMISED_S)


_folders: deque[int] = deque()


def inside(pid: int, name: str) -> Path:
    """A file in an instance's own /tmp, as a test sees it; it stays there when the instance ends.

    The function knows it by the path that `within` tells.
    """
    _folders.append(os.open(f"/proc/{pid}/root/tmp", os.O_PATH | os.O_DIRECTORY))
    if len(_folders) > 4:
        os.close(_folders.popleft())
    return Path(f"/proc/self/fd/{_folders[-1]}") / name


def within(path: Path) -> str:
    """How the instance names a file that a test got from `inside`."""
    return f"/tmp/{path.name}"


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
