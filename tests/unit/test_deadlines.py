from __future__ import annotations

import asyncio

import pytest

from atlatl.engine.deadlines import Deadlines
from tests import virtual_time


@pytest.mark.parametrize("hundredths", [1, 7, 28, 29, 57, 58, 113, 229])
def test_each_expires_at_its_time_and_rounding_never_spins(hundredths: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        expired: list[tuple[str, float]] = []
        deadlines = Deadlines[str](loop.time, lambda item: expired.append((item, loop.time())))
        when = hundredths / 100
        deadlines.add(when, "late")
        deadlines.add(when / 2, "early")
        gone = deadlines.add(when / 3, "withdrawn")
        deadlines.discard(gone, "withdrawn")
        await asyncio.sleep(when + 0.05)
        assert [item for item, _ in expired] == ["early", "late"]
        assert when <= expired[1][1] <= when + 0.0101

    virtual_time.run(main())


def test_closing_forgets_all() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        expired: list[str] = []
        deadlines = Deadlines[str](loop.time, expired.append)
        deadlines.add(1.0, "never")
        deadlines.close()
        await asyncio.sleep(2)
        assert not expired

    virtual_time.run(main())
