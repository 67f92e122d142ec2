"""Submits to Celery with `delay`: one process of several, each with some threads.

usage: python -m bench.queue.clients THREADS, with BENCH_QUEUE_REDIS set

Says `ready`, then for each line `FIRST END` of its input submits these numbers, and answers
with a line of JSON: when it began and ended (monotonic seconds), and the ids in their order.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from bench.queue.tasks import work
from bench.work import arguments, shares

WARM_UP = 20


def main(threads: int) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        first, end = map(int, line.split())
        inputs = [arguments(number) for number in range(first, end)]
        ids = [""] * len(inputs)
        began = time.monotonic()
        if threads == 1:
            _submit(inputs, ids, range(len(inputs)))
        else:
            _in_threads(inputs, ids, threads)
        print(json.dumps({"began": began, "ended": time.monotonic(), "ids": ids}), flush=True)


def _in_threads(inputs: list[dict[str, object]], ids: list[str], threads: int) -> None:
    running = [
        threading.Thread(target=_submit, args=(inputs, ids, share))
        for share in shares(len(inputs), threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _submit(inputs: list[dict[str, object]], ids: list[str], places: range) -> None:
    submit = work.delay
    for place in places:
        ids[place] = submit(**inputs[place]).id


if __name__ == "__main__":
    main(int(sys.argv[1]))
