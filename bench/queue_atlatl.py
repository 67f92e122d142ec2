"""atlatl as a process of its own, submitted to over HTTP, and its results checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import queue_work
import uvloop
from queue_http import Answer, connected, each_once, request
from queue_work import Ran, Wrong

T = TypeVar("T")

CONNECTIONS = 16
INSTANCES = 2
TASK = "work"
WAIT_S = 10
PATIENCE_S = 300.0
TAIL = 64
"""The last ones submitted, which are asked for until all of them have ended."""
SETTINGS = {"ATLATL__POOL__MIN_SIZE": str(INSTANCES), "ATLATL__POOL__MAX_SIZE": str(INSTANCES)}
_STARTED = re.compile(r"atlatl serves on http://127\.0\.0\.1:(\d+)")


class Service:
    """`atlatl serve` on a data directory of its own."""

    def __init__(self, directory: Path) -> None:
        """Starts it; returns when it says that it serves, `started_s` after it was begun."""
        self.directory = directory
        command = [
            sys.executable, "-m", "atlatl.cli", "serve",
            "--port", "0", "--grpc-port", "0", "--data-dir", str(directory),
        ]  # fmt: skip
        self._log = (directory.parent / f"{directory.name}.log").open("wb")
        began = time.monotonic()
        self._process = subprocess.Popen(
            command, env={**os.environ, **SETTINGS}, stdout=subprocess.PIPE, stderr=self._log,
            text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.port = self._read_port()
        self.started_s = time.monotonic() - began

    def _read_port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _STARTED.search(line):
                return int(found[1])
        raise Wrong("atlatl did not start:\n" + Path(self._log.name).read_text()[-1000:])

    def deploy(self, *names: str) -> None:
        """Deploys the work under these names."""
        token = (self.directory / "token").read_text().strip()
        with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
            for name in names:
                where = f"http://127.0.0.1:{self.port}/api/v1/tasks/{name}"
                answer = client.put(
                    where, content=queue_work.SOURCE.encode(), params={"filename": f"{name}.py"}
                )
                if answer.status_code not in (200, 201):
                    raise Wrong(f"deploying {name} answered {answer.status_code} {answer.text}")

    def run(self, n: int) -> Ran:
        """Has `n` executions done and checks each of them; raises Wrong."""
        return run_loop(self._run(n))

    async def _run(self, n: int) -> Ran:
        headers = [("Prefer", "respond-async")]
        submits = [
            request("POST", f"/functions/{TASK}", queue_work.body(number), headers)
            for number in range(n)
        ]
        async with connected(self.port, CONNECTIONS) as connections:
            began = time.monotonic()
            accepted = await each_once(connections, submits)
            submitted = time.monotonic()
            identities = [_identity(answer) for answer in accepted]
            asks = [result_request(identity) for identity in identities]
            await self._ended(identities[-TAIL:])
            ended = time.monotonic()
            results = await each_once(connections, asks)
            late = [place for place, answer in enumerate(results) if answer.status == 202]
            if late:
                await self._ended([identities[place] for place in late])
                ended = time.monotonic()
                results = await each_once(connections, asks)
        if len(set(identities)) != n:
            raise Wrong("two executions have the same id")
        queue_work.check((number, value(answer)) for number, answer in enumerate(results))
        return Ran(submitted - began, ended - began)

    async def _ended(self, identities: Sequence[str]) -> None:
        """Returns when all of these have ended; asks for the last one first, likely to be it."""
        end = time.monotonic() + PATIENCE_S
        asks = [result_request(identity, wait_s=WAIT_S) for identity in identities]
        async with connected(self.port, 1) as (connection,):
            for ask in reversed(asks):
                while (await connection.ask(ask)).status == 202:
                    if time.monotonic() > end:
                        raise Wrong(f"executions have not ended after {PATIENCE_S:.0f} s")

    def stop(self) -> None:
        """As an operator would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._log.close()


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _identity(accepted: Answer) -> str:
    if accepted.status != 202:
        raise Wrong(f"a submit answered {accepted.status} {accepted.body[:300]!r}, not 202")
    return accepted.header("atlatl-execution-id")


def result_request(identity: str, wait_s: int = 0) -> bytes:
    """Asks for a result, which may have to be waited for."""
    wait = f"?wait={wait_s}" if wait_s else ""
    return request("GET", f"/api/v1/executions/{identity}/result{wait}")


def value(answer: Answer) -> Any:
    if answer.status != 200:
        raise Wrong(f"a result answered {answer.status} {answer.body[:300]!r}")
    return json.loads(answer.body)


@contextlib.contextmanager
def running(directory: Path, *, warm: bool = True) -> Iterator[Service]:
    """A service with the work deployed.

    Args:
        directory: its data; may have tasks and executions in it from before.
        warm: its instances have worked already.
    """
    service = Service(directory)
    try:
        if warm:
            service.deploy(TASK)
            service.run(200)
        yield service
    finally:
        service.stop()
