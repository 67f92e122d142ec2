"""An event loop on whose clock a test turns: a limit is reached once what it is for has happened.

Other than in virtual time there are real sockets. Nothing is measured: however slow the machine
is, the limit comes after what the test has waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

ROUNDS = 200
"""Of the loop, after which both ends of a connection in it have read what the other one wrote."""


class TurnedLoop(asyncio.SelectorEventLoop):
    turned_s = 0.0

    def time(self) -> float:
        return super().time() + self.turned_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, on such a loop."""
    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        return runner.run(main)


async def turn(seconds: float) -> None:
    """Moves the clock when all that is under way has gone as far as it can."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TurnedLoop)
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    loop.turned_s += seconds
