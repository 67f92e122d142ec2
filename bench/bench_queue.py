"""Durable executions beside Celery with Redis, on the same work in the same run.

usage: bench_queue.py [--quick] [--only PART ...] [--executions N] [--rounds N] [--waiting N]

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
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import comparison
import machine
import queue_atlatl
import queue_redis
import queue_tasks
import queue_work
from queue_parts import AIMS, PARTS, SIDES, Size, fsync_us

RESULTS = Path(__file__).parent / "results"
PEERS = ("billiard", "celery", "kombu", "redis")
WHOLE = Size(executions=5000, waiting=100_000, sync_s=4.0)
QUICK = Size(executions=500, waiting=20_000, sync_s=1.0)


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    try:
        result = measure(options.only, options.size, options.rounds)
    except queue_redis.Missing as missing:
        _say(str(missing))
        return 1
    if options.stored:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"queue-{result['version']}-{result['commit'].rstrip('+')}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _say(f"wrote bench/results/{path.name}")
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


def measure(parts: Sequence[str], size: Size, rounds: int) -> dict[str, Any]:
    """Runs these parts one after the other; gives the result with all that it depends on."""
    redis_server = queue_redis.version()
    quiet = machine.wait_for_quiet(_say)
    if not quiet:
        _say("it did not become quiet: take these figures with care")
    load = {"quiet_before": quiet, "load_average_before": round(os.getloadavg()[0], 2)}
    others = machine.Others()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="atlatl-bench-") as name:
        directory = Path(name)
        disk = {"type": _file_system(directory), "fsync_us": fsync_us(directory)}
        for part in parts:
            found |= _rounds(part, size, rounds, directory)
    return {
        "benchmark": "queue",
        "version": version("atlatl"),
        "commit": machine.commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "disk": disk,
        "packages": {**machine.versions(*PEERS), "redis-server": redis_server},
        "load": {**load, "others_cores": round(others.cores(), 2)},
        "size": size._asdict(),
        "setup": {
            **SIDES,
            "body_bytes": queue_work.BODY_BYTES,
            "connections": queue_atlatl.CONNECTIONS,
            "instances and worker processes": queue_atlatl.INSTANCES,
            "worker_prefetch_multiplier": queue_tasks.PREFETCH_MULTIPLIER,
        },
        "rounds": found,
    }


def _rounds(part: str, size: Size, rounds: int, directory: Path) -> dict[str, list[float]]:
    """What was measured by name, one of each round."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=directory) as own:
        _say(f"{part}: preparing")
        turns = list(PARTS[part](size, Path(own)).values())
        for number in range(1, rounds + 1):
            # Each round goes the other way round: nobody always comes first.
            for turn in turns[:: 1 if number % 2 else -1]:
                for name, measured in turn().items():
                    found.setdefault(name, []).append(round(measured, 4))
            _say(f"{part}: round {number} of {rounds}")
    return found


def _file_system(directory: Path) -> str:
    done = subprocess.run(
        ["stat", "--file-system", "--format=%T", directory],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def report(result: dict[str, Any]) -> str:
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
