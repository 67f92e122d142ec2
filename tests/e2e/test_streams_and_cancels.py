"""Long streams at slow readers, and cancels at any moment."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from atlatl import FunctionService, Settings
from atlatl.model import Arguments, Call, Execution, ExecutionStatus
from tests.e2e.server import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MIB = 1024 * 1024

STREAMS = """
async def main(n: int, size: int):
    block = b"x" * size
    for _ in range(n):
        yield block

async def quick(n: int):
    return n
"""


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")


async def _read_slowly(url: str, n: int, size: int, bytes_per_s: float) -> int:
    """Reads a chunked stream at a steady pace; the number of bytes of its body."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=64 * 1024)
    body = json.dumps({"n": n, "size": size}).encode()
    writer.write(
        f"POST /functions/streams HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], head
    total, began = 0, time.monotonic()
    while length := int(await reader.readline(), 16):
        await reader.readexactly(length + 2)
        total += length
        ahead = total / bytes_per_s - (time.monotonic() - began)
        if ahead > 0.02:
            await asyncio.sleep(ahead)
    writer.close()
    await writer.wait_closed()
    return total


def _quick(server: Server, task_id: str, n: int) -> float:
    """A call of another function of the same instance; the seconds it took."""
    began = time.monotonic()
    answer = server.http.post(
        "/api/v1/invocations",
        json={
            "task_id": task_id,
            "function_name": "quick",
            "execution_mode": "EXECUTION_MODE_SYNC",
            "parameters": [
                {
                    "name": "n",
                    "value": {
                        "@type": "type.googleapis.com/google.protobuf.Int64Value",
                        "value": str(n),
                    },
                }
            ],
        },
    )
    assert answer.json()["success"], answer.text
    return time.monotonic() - began


def test_a_gigabyte_at_a_slow_reader_keeps_memory_flat(tmp_path: Path) -> None:
    n, size = 16 * 1024, 64 * 1024
    with serving(tmp_path / "data") as server:
        pool = {"max_size": 1, "max_concurrent_requests": 8}
        server.deployed("streams", STREAMS, pool=pool, timeout_ms=240_000)
        task_id = server.http.get("/api/v1/tasks/streams").json()["task_id"]
        _quick(server, task_id, 0)
        pids = [server.process.pid, server.instances("streams")[0]["pid"]]
        idle = [_pss(pid) for pid in pids]
        peak, quick = list(idle), []

        async def main() -> int:
            reading = asyncio.create_task(_read_slowly(server.url, n, size, 40e6))
            while not reading.done():
                quick.append(await asyncio.to_thread(_quick, server, task_id, len(quick)))
                for place, pid in enumerate(pids):
                    peak[place] = max(peak[place], await asyncio.to_thread(_pss, pid))
                await asyncio.sleep(0.25)
            return await reading

        assert asyncio.run(main()) == n * size
        assert server.instances("streams")[0]["pid"] == pids[1]
    grown = [(now - before) / MIB for now, before in zip(peak, idle, strict=True)]
    print(f"service and instance grew by {grown[0]:.1f} and {grown[1]:.1f} MiB")
    assert max(grown) < 64
    # Nobody waits for the slow reader: it holds its own stream only.
    assert sorted(quick)[len(quick) // 2] < 0.5
    assert max(quick) < 5


def test_a_reader_that_leaves_ends_the_function(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("endless", ENDLESS)
        with server.http.stream("POST", "/functions/endless", json={}) as answer:
            execution_id = answer.headers["atlatl-execution-id"]
            next(answer.iter_raw())
        end = time.monotonic() + 10
        while server.http.get("/api/v1/pools").json()["pools"][0]["in_use"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        record = server.http.get(f"/api/v1/executions/{execution_id}").json()
        assert record["status"] == "CANCELLED"


ENDLESS = """
import time

def main():
    while True:
        yield "x"
        time.sleep(0.01)
"""

SYNC = "import time\ndef main(s: float, n: int):\n    time.sleep(s)\n    return n\n"
ASYNC = (
    "import asyncio\nasync def main(s: float, n: int):\n    await asyncio.sleep(s)\n    return n\n"
)
STUBBORN = (
    "import asyncio\n"
    "async def main(s: float, n: int):\n"
    "    end = asyncio.get_running_loop().time() + s\n"
    "    while True:\n"
    "        try:\n"
    "            await asyncio.sleep(max(0, end - asyncio.get_running_loop().time()))\n"
    "            return n\n"
    "        except asyncio.CancelledError:\n"
    "            pass\n"
)


@pytest.mark.parametrize(
    ("code", "pool"),
    [
        (SYNC, {"max_size": 8}),
        (ASYNC, {"max_size": 2, "max_concurrent_requests": 8}),
        (STUBBORN, {"max_size": 2, "max_concurrent_requests": 8}),
    ],
    ids=["sync", "async", "stubborn"],
)
def test_a_thousand_cancels_at_random_moments(
    tmp_path: Path, code: str, pool: dict[str, int]
) -> None:
    """One terminal status each, no innocent call ended, no place lost."""
    dice = random.Random(1)
    answers: dict[str, list[Execution]] = {}

    async def main() -> None:
        async with FunctionService(Settings(data_dir=str(tmp_path / "data"))) as service:
            settings = {"pool": pool, "breaker": {"enabled": False}, "cancel_grace_s": 0.2}
            await service.deploy("task", code.encode(), filename="main.py", settings=settings)

            async def one(n: int, *, guilty: bool) -> None:
                finished = asyncio.Event()
                call = Call(
                    execution_id=f"{'guilty' if guilty else 'innocent'}-{n}",
                    task_name="task",
                    payload=Arguments(values={"s": dice.choice([0.0, 0.005, 0.02]), "n": n}),
                )
                answers[call.execution_id] = []

                def done(record: Execution) -> None:
                    answers[call.execution_id].append(record)
                    finished.set()

                ticket = service.start(call, done)
                if guilty:
                    await asyncio.sleep(dice.choice([0, 0, 0.001, 0.005, 0.02]))
                    ticket.cancel("at random", grace_s=dice.choice([None, 0.0, 0.1]))
                async with asyncio.timeout(60):
                    await finished.wait()

            for begin in range(0, 1000, 20):
                some = range(begin, begin + 20)
                await asyncio.gather(
                    *(one(n, guilty=True) for n in some), *(one(n, guilty=False) for n in some[:5])
                )
            async with asyncio.timeout(30):
                while any(view.in_use or view.waiting for view in service.pools()):
                    await asyncio.sleep(0.02)
            assert service.health().running == service.health().pending == 0
            assert await service.invoke("task", {"s": 0.0, "n": 7}) == 7

    asyncio.run(main())
    assert all(len(records) == 1 for records in answers.values())
    ends = Counter(
        (execution_id.partition("-")[0], records[0].status)
        for execution_id, records in answers.items()
    )
    print(dict(ends))
    assert {status for kind, status in ends if kind == "guilty"} <= {
        ExecutionStatus.CANCELLED,
        ExecutionStatus.COMPLETED,
    }
    assert ends["guilty", ExecutionStatus.CANCELLED] > 100
    innocent = {i: r[0] for i, r in answers.items() if i.startswith("innocent")}
    failed = {i: r.outcome.error for i, r in innocent.items() if r.outcome and r.outcome.error}
    assert not failed
