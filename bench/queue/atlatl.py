"""atlatl as a process of its own, submitted to over HTTP, and its results checked."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import work
from bench.lean_http import Answer, connected, each_once, request, run_loop
from bench.rounds import Wrong
from bench.service import Service
from bench.work import SOURCE, Ran

CONNECTIONS = 16
INSTANCES = 2
TASK = "work"
WAIT_S = 10
PATIENCE_S = 300.0
TAIL = 64
"""The last ones submitted, which are asked for until all of them have ended."""
SETTINGS = {"ATLATL__POOL__MIN_SIZE": str(INSTANCES), "ATLATL__POOL__MAX_SIZE": str(INSTANCES)}


class Queue(Service):
    """A service that has work submitted to it."""

    def deploy_work(self, *names: str) -> None:
        """Deploys the work under these names."""
        for name in names:
            self.deploy(name, SOURCE)

    def run(self, n: int) -> Ran:
        """Has `n` executions done and checks each of them; raises Wrong."""
        return run_loop(self._run(n))

    async def _run(self, n: int) -> Ran:
        headers = [("Prefer", "respond-async")]
        submits = [
            request("POST", f"/functions/{TASK}", work.body(number), headers) for number in range(n)
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
        work.check((number, value(answer)) for number, answer in enumerate(results))
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
def running(directory: Path, *, warm: bool = True) -> Iterator[Queue]:
    """A service with the work deployed.

    Args:
        directory: its data; may have tasks and executions in it from before.
        warm: its instances have worked already.
    """
    service = Queue(directory, SETTINGS)
    try:
        if warm:
            service.deploy_work(TASK)
            service.run(200)
        yield service
    finally:
        service.stop()
