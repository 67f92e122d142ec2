"""Durable executions beside Celery with Redis, on the same work in the same run.

usage: python -m bench queue [--quick] [--only PART ...] [--executions N] [--rounds N] [--waiting N]

clients   submitted from outside on 16 connections, two processes to do the work
embedded  submitted inside one process: `service.submit` beside `delay`
start     from exec to the ready line with 100 000 executions waiting, and with none
sync      p50 and p99 of synchronous calls while the queue works through a backlog

In each round every side takes its turn, with a fresh service, a fresh directory and a warm-up;
every execution's status and answer are checked. The table is made from the raw rounds; those of
a whole run go to bench/results/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import comparison, results, work
from bench.queue import atlatl, redis_server, tasks
from bench.queue.parts import AIMS, PARTS, SIDES, Size, fsync_us
from bench.results import say
from bench.rounds import Missing, interleaved, watched

PEERS = ("billiard", "celery", "kombu", "redis")
WHOLE = Size(executions=5000, waiting=100_000, sync_s=4.0)
QUICK = Size(executions=500, waiting=20_000, sync_s=1.0)


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    try:
        result = measure(options.only, options.size, options.rounds)
    except Missing as missing:
        say(str(missing))
        return 1
    if options.stored:
        results.store(result)
    print(report(result))
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 short rounds; stored nowhere")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--executions", type=int, help="in a round of clients and embedded")
    parser.add_argument("--waiting", type=int, help="in the backlog of start and sync")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else WHOLE
    options.size = size._replace(
        executions=options.executions or size.executions, waiting=options.waiting or size.waiting
    )
    rounds = options.rounds or (3 if options.quick else 5)
    options.stored = options.size == WHOLE and rounds >= 5 and options.only is None
    options.rounds, options.only = rounds, options.only or list(PARTS)
    return options


def measure(parts: Sequence[str], size: Size, rounds: int) -> results.Result:
    """Runs these parts one after the other; gives the result with all that it depends on."""
    redis = redis_server.version()
    heading = results.heading("queue", PEERS)
    found: dict[str, list[float]] = {}
    with (
        watched() as load,
        tempfile.TemporaryDirectory(prefix="atlatl-bench-") as name,
    ):
        directory = Path(name)
        disk = {"type": _file_system(directory), "fsync_us": fsync_us(directory)}
        for part in parts:
            found |= _measured(part, size, rounds, directory)
    return {
        **heading,
        "packages": {**heading["packages"], "redis-server": redis},
        "disk": disk,
        "load": load,
        "size": size._asdict(),
        "setup": {
            **SIDES,
            "body_bytes": work.BODY_BYTES,
            "connections": atlatl.CONNECTIONS,
            "instances and worker processes": atlatl.INSTANCES,
            "worker_prefetch_multiplier": tasks.PREFETCH_MULTIPLIER,
        },
        "rounds": found,
    }


def _measured(part: str, size: Size, rounds: int, directory: Path) -> dict[str, list[float]]:
    """What was measured by name, one of each round."""
    with tempfile.TemporaryDirectory(dir=directory) as own:
        say(f"{part}: preparing")
        return interleaved(PARTS[part](size, Path(own)), rounds, part)[0]


def _file_system(directory: Path) -> str:
    done = subprocess.run(
        ["stat", "--file-system", "--format=%T", directory],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def report(result: results.Result) -> str:
    """A result as text, worked out from its raw rounds."""
    rounds: comparison.Rounds = result["rounds"]
    size, disk, packages = result["size"], result["disk"], result["packages"]
    lines = [
        f"{size['executions']} executions a round, {size['waiting']} in the backlog; "
        f"4 KiB are durable on {disk['type']} after {disk['fsync_us']:.0f} us",
        f"Celery {packages['celery']}, Redis {packages['redis-server']}; atlatl "
        f"{result['version']} at {result['commit']}",
        *(f"{side}: {words}" for side, words in SIDES.items()),
        f"others kept {result['load']['others_cores']} cores busy meanwhile",
        "",
        comparison.medians(rounds),
        "",
        comparison.verdicts(rounds, AIMS),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
