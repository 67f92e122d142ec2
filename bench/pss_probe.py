"""What a further warm instance costs: memory by mapping, and CPU time until its first result.

    python -m bench.pss_probe [--count 50] [--task-zygote] [--no-stock] [--deps DIR] [FILE]

Memory is proportional (PSS), so it means something only with many instances alive at once.
CPU time counts the instance's process alone and does not feel who else uses the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from atlatl.engine.arguments import encode
from atlatl.model import Arguments, Artifact, Call, Outcome, Task
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.process import ProcessRuntime
from atlatl.settings import Settings, parse, task_settings

MIB = 1024 * 1024
HELLO = """
def main(name: str = "you", times: int = 1) -> dict:
    return {"hello": name * times}
"""
COLUMNS = ("Pss", "Private_Dirty", "Private_Clean", "Shared_Dirty")


def task_in(folder: Path, source: str) -> Task:
    folder.chmod(0o755)  # as stored code is: instances of a service of root are other users
    (folder / "app.py").write_text(source)
    artifact = Artifact(
        artifact_id="hello", version="1", checksum="", filename="app.py", size_bytes=len(source)
    )
    return Task(
        task_id="hello",
        name="hello",
        version=1,
        artifact=artifact,
        handler="app.py:main",
        overrides={},
        settings=task_settings(Settings(), {}),
        shapes={},
    )


async def call(channel: Channel, number: int) -> None:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    payload = Arguments(values={})
    channel.send(
        Call(execution_id=f"e-{number}", task_name="hello", payload=payload, function="main"),
        encode(channel.shapes["main"], payload),
        ended.set_result,
        deadline=time.monotonic() + 60,
    )
    outcome = await ended
    assert outcome.error is None, outcome.error


def cpu_s(pid: int) -> float:
    """CPU time of a process that sleeps."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def faults(pid: int) -> int:
    """Page faults so far: each copied or new page is one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def mappings(pid: int) -> dict[str, Counter[str]]:
    """KiB by name of the mapping, and by column of /proc/PID/smaps."""
    found: dict[str, Counter[str]] = {}
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            parts = line.split(maxsplit=5)
            name = Path(parts[5]).name if len(parts) == 6 else "anonymous"
            name += f" {parts[1][:3]}"
        elif head[:-1] in COLUMNS:
            found.setdefault(name, Counter())[head[:-1]] += int(rest.split()[0])
    return found


async def in_stock(runtime: ProcessRuntime, options: argparse.Namespace) -> Channel | None:
    """The process that the next start will use."""
    if options.no_stock:
        return None
    if not options.task_zygote:
        return runtime._blanks[0]
    (entry,) = runtime.reserve._entries.values()
    assert entry.zygote is not None
    while entry.zygote.spare is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.02)
    return entry.zygote.spare


async def probe(options: argparse.Namespace, folder: Path) -> None:
    size = 0 if options.no_stock else options.count
    tree = {
        "blank_pool": {"min_size": size, "max_size": max(1, size)},
        "zygote": {"max_task_zygotes": int(options.task_zygote), "min_import_ms": 0},
    }
    ids = itertools.count(1)
    runtime = ProcessRuntime(parse(Settings, tree), time.monotonic, lambda: f"i-{next(ids)}")
    await runtime.open()
    try:
        while runtime.blanks < size:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        task = task_in(folder, options.file.read_text() if options.file else HELLO)
        if options.task_zygote:
            await (await runtime.start(task, folder, options.deps)).stop(0)
            while runtime.reserve.state(task) != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        channels: list[Channel] = []
        spent: list[float] = []
        faulted: list[int] = []
        for _ in range(options.count):
            blank = await in_stock(runtime, options)
            before = (cpu_s(blank.pid), faults(blank.pid)) if blank else (0.0, 0)
            channel = await runtime.start(task, folder, options.deps)
            await call(channel, next(ids))
            await asyncio.sleep(0.005)
            base = before if blank is not None and channel.pid == blank.pid else (0.0, 0)
            spent.append(cpu_s(channel.pid) - base[0])
            faulted.append(faults(channel.pid) - base[1])
            channels.append(channel)
        for _, channel in itertools.product(range(options.calls - 1), channels):
            await call(channel, next(ids))
        report(channels, spent, faulted)
    finally:
        await runtime.close()


def report(channels: list[Channel], spent: list[float], faulted: list[int]) -> None:
    each = [mappings(channel.pid) for channel in channels]
    total = [sum(rows["Pss"] for rows in one.values()) / 1024 for one in each]
    print(f"{len(each)} instances, origin {Counter(channel.origin for channel in channels)}")
    print(
        f"PSS MiB: median {statistics.median(total):.3f} min {min(total):.3f} max {max(total):.3f}"
    )
    quarter = statistics.quantiles(spent, n=4)
    print(
        f"CPU ms to first result: median {quarter[1] * 1e3:.3f} quartiles {quarter[0] * 1e3:.3f} "
        f"{quarter[2] * 1e3:.3f}; page faults median {statistics.median(faulted)}"
    )
    names = sorted(
        {name for one in each for name in one},
        key=lambda name: -statistics.median(one.get(name, Counter())["Pss"] for one in each),
    )
    print(f"{'median KiB':40}", *(f"{column:>14}" for column in COLUMNS))
    for name in names[:14]:
        row = [
            statistics.median(one.get(name, Counter())[column] for one in each)
            for column in COLUMNS
        ]
        print(f"{name:40}", *(f"{kib:14.0f}" for kib in row))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--task-zygote", action="store_true")
    parser.add_argument("--no-stock", action="store_true")
    parser.add_argument("--deps", type=Path, help="where the module finds what it imports")
    parser.add_argument("file", type=Path, nargs="?", help="a module with a function `main`")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(probe(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
