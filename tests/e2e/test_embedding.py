"""The service inside other programs: a plain script, a Starlette and a FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

import atlatl
from atlatl import FunctionService, Settings
from atlatl.errors import FunctionRaised, InvalidRequest, TaskNotFound

HELLO = "def main(name: str):\n    if name == 'bad':\n        raise ValueError('bad name')\n    return {'hello': name}\n"  # noqa: E501


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.py"
    path.write_text(HELLO)
    return path


def test_a_plain_script_needs_no_port(tmp_path: Path, hello: Path) -> None:
    async def main() -> None:
        async with FunctionService(Settings(data_dir=str(tmp_path / "data"))) as service:
            await service.deploy("hello", hello, settings={"pool": {"max_size": 4}})
            assert await service.invoke("hello", {"name": "Ada"}) == {"hello": "Ada"}
            with pytest.raises(FunctionRaised, match="bad name"):
                await service.invoke("hello", {"name": "bad"})
            with pytest.raises(InvalidRequest, match="name"):
                await service.invoke("hello", {})
            with pytest.raises(TaskNotFound, match="helo"):
                await service.invoke("helo", {})
            answers = await asyncio.gather(
                *(service.invoke("hello", {"name": str(n)}) for n in range(100))
            )
            assert answers == [{"hello": str(n)} for n in range(100)]
            assert service.stats().completed == 101
            assert service.health().status == "healthy"

    asyncio.run(main())


def test_cancelling_the_caller_cancels_the_execution(tmp_path: Path) -> None:
    async def main() -> None:
        async with FunctionService(Settings(data_dir=str(tmp_path / "data"))) as service:
            code = b"import time\ndef main():\n    time.sleep(60)\n"
            await service.deploy("slow", code, filename="slow.py")
            caller = asyncio.create_task(service.invoke("slow"))
            while not service.health().running:
                await asyncio.sleep(0.01)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert (await service.executions()).items[0].status.value == "CANCELLED"
            while service.pools()[0].in_use:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def _starlette(service: FunctionService, lifespan: Any) -> Any:
    return Starlette(routes=[Mount("/fn", atlatl.asgi(service))], lifespan=lifespan)


def _fastapi(service: FunctionService, lifespan: Any) -> Any:
    app = FastAPI(lifespan=lifespan)
    app.mount("/fn", atlatl.asgi(service))
    return app


@pytest.mark.parametrize("make", [_starlette, _fastapi])
def test_mounted_under_a_prefix(
    tmp_path: Path, hello: Path, make: Callable[[FunctionService, Any], Any]
) -> None:
    service = FunctionService(Settings(data_dir=str(tmp_path / "data")))

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with service:
            await service.deploy("hello", hello)
            yield

    app = make(service, lifespan)

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        base = "http://127.0.0.1:8000"
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            early = await client.post("/fn/functions/hello", json={"name": "Ada"})
            assert early.status_code == 503
            async with app.router.lifespan_context(app):
                answer = await client.post("/fn/functions/hello", json={"name": "Ada"})
                assert answer.json() == {"hello": "Ada"}
                figures = (await client.get("/fn/api/serverless/metrics")).json()
                assert figures["total"]["request_count"] == 1
                assert figures["circuit_breaker"]["state"] == "closed"
                assert figures["pool"]["total_requests"] == 1

    asyncio.run(main())


def test_the_promise_is_what_is_listed() -> None:
    for name in atlatl.__all__:
        assert getattr(atlatl, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = atlatl.nothing_like_it
