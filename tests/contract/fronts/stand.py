"""A real service in this process, behind all of its fronts."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atlatl import FunctionService, Settings
from atlatl.engine.views import PoolView
from atlatl.front.access import Gate
from atlatl.front.asgi import asgi
from atlatl.front.auth import Authorizer, admin_token
from atlatl.front.fast import FastPath
from atlatl.front.grpc import GrpcServer
from atlatl.front.listener import HttpListener
from atlatl.settings import parse

LONG_S = 20.0
"""Bound of every wait: only a broken service comes near it."""

CODE = Path(__file__).with_name("functions.py").read_bytes()
MAX_BYTES = 2 * 1024 * 1024
"""Largest body over HTTP and largest message over gRPC."""
MAX_INFLIGHT_BYTES = 3 * 1024 * 1024

TREE: Mapping[str, Any] = {
    "http": {"port": 0, "max_body_bytes": MAX_BYTES},
    "grpc": {"port": 0, "max_message_bytes": MAX_BYTES},
    "limits": {"max_inflight_bytes": MAX_INFLIGHT_BYTES},
    "blank_pool": {"min_size": 2, "max_size": 4},
    "pool": {"max_size": 4},
    "breaker": {"enabled": False},
}


class Stand:
    """The service, and what tests look at behind the fronts' backs.

    Args:
        data_dir: of the service.
    """

    def __init__(self, data_dir: Path) -> None:
        settings = parse(Settings, {**TREE, "data_dir": str(data_dir)})
        self.service = FunctionService(settings)
        self.data_dir = data_dir
        self._settings = settings
        self._common: dict[str, str] = {}
        self._numbers = itertools.count(1)

    async def open(self) -> None:
        await self.service.open()
        self.token = admin_token(self.data_dir)
        authorizer = Authorizer(self.token)
        self.app = asgi(self.service, authorizer=authorizer)
        self._http = HttpListener(
            self.app,
            self._settings.http,
            FastPath(self.service, Gate(authorizer, self._settings.http.host)),
        )
        await self._http.start()
        self._grpc = GrpcServer(self._settings.grpc, self.service, authorizer)
        await self._grpc.start()
        self.url = f"http://127.0.0.1:{self._http.port}"
        self.grpc_address = f"127.0.0.1:{self._grpc.port}"

    async def close(self) -> None:
        await self._grpc.stop(0)
        await self._http.stop()
        await self.service.close()

    # --- tasks ---

    async def deploy(
        self, function: str, *, name: str = "", code: bytes = CODE, **settings: Any
    ) -> str:
        """A task of its own for one function of `functions`, until the test is over."""
        name = name or self.new_name(function)
        handler = {"handler": f"functions.py:{function}"}
        await self.service.deploy(
            name, code, filename="functions.py", settings={**handler, **settings}
        )
        return name

    async def task(self, function: str) -> str:
        """The task with default settings that all tests share."""
        if function not in self._common:
            self._common[function] = await self.deploy(function)
        return self._common[function]

    def new_name(self, kind: str) -> str:
        """A name, or an id, that nobody else has."""
        return f"{kind}-{next(self._numbers)}"

    async def tidy(self) -> None:
        """Waits until nothing goes on, and deletes what one test has deployed."""
        await self.at_rest()
        for task in self.service.tasks(limit=1000).items:
            if task.name not in self._common.values():
                await self.service.delete_task(task.name, force=True)

    # --- what goes on ---

    def pool(self, name: str) -> PoolView:
        return next(view for view in self.service.pools() if view.task_name == name)

    def instance_ids(self) -> set[str]:
        return {view.instance_id for view in self.service.instances()}

    async def busy(self, name: str, *, in_use: int = 1, waiting: int = 0) -> None:
        """Waits until so many calls of a task run, and so many wait."""
        await self.until(
            lambda: (self.pool(name).in_use, self.pool(name).waiting) == (in_use, waiting),
            f"{in_use} running and {waiting} waiting",
        )

    async def at_rest(self) -> None:
        """Waits until nothing runs, nothing waits and nothing is lent."""
        await self.until(self._idle, "rest")

    def _idle(self) -> bool:
        health = self.service.health()
        lent = any(view.in_use or view.waiting for view in self.service.pools())
        return not (health.running or health.pending or lent)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        ends = time.monotonic() + LONG_S
        while not holds():
            assert time.monotonic() < ends, f"no {what} within {LONG_S} s"
            await asyncio.sleep(0.005)
