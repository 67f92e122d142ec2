"""The pings that an instance has not answered."""

from __future__ import annotations

import asyncio

from atlatl.errors import AtlatlError
from atlatl_worker import wire


class Pings:
    """Each ping gets one pong. An instance that sends others wants to keep the service busy."""

    def __init__(self) -> None:
        self._sent: dict[int, asyncio.Future[None]] = {}

    def add(self, number: int) -> asyncio.Future[None]:
        """A ping is sent; what is returned is done when its pong has come."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent[number] = pong
        return pong

    def answered(self, number: int) -> None:
        """A pong came, perhaps after whoever waited for it has given up; raises WireError."""
        pong = self._sent.pop(number, None)
        if pong is None:
            raise wire.WireError("an answer to no ping")
        if not pong.done():
            pong.set_result(None)

    def fail(self, error: AtlatlError) -> None:
        """No more pongs will come."""
        for pong in self._sent.values():
            if not pong.done():
                pong.set_exception(error)
                # Whoever waited may have been cancelled; then nobody retrieves it.
                pong.exception()
        self._sent.clear()
