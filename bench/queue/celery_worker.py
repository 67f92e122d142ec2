"""Celery with Redis: a worker, clients in processes of their own, and its results checked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import redis

from bench import work
from bench.queue import redis_server
from bench.results import ROOT
from bench.rounds import Wrong
from bench.work import Ran

CLIENTS, THREADS = 2, 8
"""Processes that submit, and connections of each."""
POLL_S = 0.01
PATIENCE_S = 300.0
TAIL = 64
"""The last ones submitted, which are asked for until all of them have ended."""
OPTIONS = (
    "--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip


class Celery:
    """One worker with its Redis, and clients that are ready to submit."""

    def __init__(self, url: str, clients: Sequence[subprocess.Popen[str]]) -> None:
        self._redis: Any = redis.Redis.from_url(url)
        self._clients = clients

    def run(self, n: int) -> Ran:
        """Has `n` executions done and checks each of them; raises Wrong."""
        parts = work.shares(n, len(self._clients))
        for client, part in zip(self._clients, parts, strict=True):
            _tell(client, f"{part.start} {part.stop}")
        told = [json.loads(_line(client)) for client in self._clients]
        began = min(each["began"] for each in told)
        submitted = max(each["ended"] for each in told)
        ids = [identity for each in told for identity in each["ids"]]
        tails = [identity for each in told for identity in each["ids"][-TAIL:]]
        self._wait_for(tails)
        ended = time.monotonic()
        if self._missing(ids):
            self._wait_for(ids)
            ended = time.monotonic()
        self._check(ids)
        return Ran(submitted - began, ended - began)

    def _wait_for(self, ids: Sequence[str]) -> None:
        end = time.monotonic() + PATIENCE_S
        while missing := self._missing(ids):
            if time.monotonic() > end:
                raise Wrong(f"{missing} executions have not ended after {PATIENCE_S:.0f} s")
            time.sleep(POLL_S)

    def _missing(self, ids: Sequence[str]) -> int:
        return len(ids) - int(self._redis.exists(*map(_key, ids)))

    def _check(self, ids: Sequence[str]) -> None:
        """Status and answer of each; results of this round are forgotten then."""
        if len(set(ids)) != len(ids):
            raise Wrong("two executions have the same id")
        keys = list(map(_key, ids))
        stored = [json.loads(each) for each in self._redis.mget(keys)]
        if failed := [each for each in stored if each["status"] != "SUCCESS"]:
            raise Wrong(f"{len(failed)} executions failed, the first one: {failed[0]}")
        work.check((number, each["result"]) for number, each in enumerate(stored))
        self._redis.delete(*keys)


def _key(identity: str) -> str:
    return f"celery-task-meta-{identity}"


@contextlib.contextmanager
def running(
    fsync: redis_server.Fsync,
    *,
    acks_late: bool,
    clients: int = CLIENTS,
    threads: int = THREADS,
) -> Iterator[Celery]:
    """All of it, with directories of its own, warm."""
    with (
        tempfile.TemporaryDirectory(prefix="atlatl-bench-") as directory,
        redis_server.running(Path(directory), fsync) as url,
        contextlib.ExitStack() as stack,
    ):
        environment = {
            **os.environ,
            "BENCH_QUEUE_REDIS": url,
            "BENCH_QUEUE_ACKS_LATE": "1" if acks_late else "0",
        }
        log = stack.enter_context((Path(directory) / "worker.log").open("wb"))
        worker = stack.enter_context(_ended(_worker(environment, log)))
        started = [
            stack.enter_context(_ended(_client(threads, environment))) for _ in range(clients)
        ]
        for each in started:
            _line(each)
        celery = Celery(url, started)
        celery.run(100 * clients)
        yield celery
        if worker.poll() is not None:
            raise Wrong("the Celery worker died: " + Path(log.name).read_text()[-500:])


def _worker(environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "celery", "--app=bench.queue.tasks", "worker", *OPTIONS]
    environment = {**environment, "BENCH_QUEUE_WORKER": "1"}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)


def _client(threads: int, environment: dict[str, str]) -> subprocess.Popen[Any]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.queue.clients", str(threads)],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Ends it as an operator would, and kills it if it does not end."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _tell(client: subprocess.Popen[str], line: str) -> None:
    assert client.stdin is not None
    client.stdin.write(line + "\n")
    client.stdin.flush()


def _line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise Wrong(f"a client of Celery ended with status {client.wait()}")
    return line
