"""The HTTP listener's end, and the short way over sockets, on the loops that it may run on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from atlatl.front.listener import HttpListener
from atlatl.settings import HttpSettings
from tests.connections import answers
from tests.running import until
from tests.unit.fast_fakes import LARGE, asks, fast_path, served, warm
from tests.unit.fast_fakes import result as successful
from tests.unit.front_fakes import FakeService, front

pytestmark = pytest.mark.slow  # real processes, sockets or packages: `make test`

LONG_S = 20.0

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def once(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(work, LONG_S))

    return once


@asynccontextmanager
async def listening(service: FakeService) -> AsyncIterator[HttpListener]:
    listener = HttpListener(front(service), HttpSettings(port=0), fast_path(service))
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


class Caller:
    """The far end of a connection, with next to no room for what it does not read."""

    def __init__(self, listener: HttpListener) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)
        self._port = listener.port
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Caller:
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def sends(self, content: bytes) -> None:
        await self._loop.sock_sendall(self._socket, content)

    async def hears(self) -> bytes:
        """All, until the connection is closed."""
        heard = b""
        try:
            while piece := await self._loop.sock_recv(self._socket, 65536):
                heard += piece
        except ConnectionResetError:
            pass
        return heard


def test_pipelined_requests_of_every_kind(run: Any) -> None:
    async def main() -> None:
        service = served()
        service.add("soon", warm(successful("json", b'"soon"'), after_s=0.01))
        get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        some = asks("echo", b"1") + asks("soon") + get + asks("large") + asks("fails")
        last = asks("soon", b"", b"Connection: close")
        async with listening(service) as listener, Caller(listener) as caller:
            await caller.sends(some * 3 + last + asks("echo", b"2"))
            said = answers(await caller.hears())
        assert [answer.status for answer in said] == [200, 200, 200, 200, 500] * 3 + [200]
        assert [len(answer.body) for answer in said[3::5]] == [LARGE] * 3
        assert len(service.tickets) == 13
        assert service.bytes.held == 0

    run(main())


def test_a_call_under_way_at_the_end_gets_its_answer(run: Any) -> None:
    async def main() -> None:
        service = served()
        service.add("soon", warm(successful("json", b'"soon"'), after_s=0.3))
        async with listening(service) as listener, Caller(listener) as caller:
            await caller.sends(asks("soon"))
            await until(lambda: bool(service.tickets))
            await listener.stop()
            (answer,) = answers(await caller.hears())
        assert answer.body == b'"soon"'
        assert answer.header("connection") == "close"

    run(main())


@pytest.mark.parametrize("name", ["hangs", "large"])
def test_what_takes_too_long_at_the_end_is_cut_off(run: Any, name: str) -> None:
    async def main() -> None:
        service = served()
        service.add("large", warm(successful("bytes", b"x" * 20 * LARGE)))
        async with listening(service) as listener, Caller(listener) as caller:
            await caller.sends(asks(name))
            await until(lambda: bool(service.tickets))
            await listener.stop()
            await until(lambda: service.bytes.held == 0)
            assert len(await caller.hears()) < 20 * LARGE
        (ticket,) = service.tickets
        assert ticket.cancelled == (["the caller hung up"] if name == "hangs" else [])

    run(main())


def test_a_reader_who_vanishes_leaves_no_bytes_behind(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        service = served()
        service.add("large", warm(successful("bytes", b"x" * 20 * LARGE)))
        async with listening(service) as listener:
            async with Caller(listener) as caller:
                await caller.sends(asks("large"))
                await until(lambda: service.bytes.held == 20 * LARGE)
            await until(lambda: service.bytes.held == 0)

    run(main())
    assert [record for record in caplog.records if record.levelname != "INFO"] == []
