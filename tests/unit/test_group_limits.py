"""Groups whose making goes wrong, or is overtaken by the end of the process."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from pathlib import Path

import pytest

from atlatl.errors import StartFailed
from atlatl.runtimes.groups import Group, Groups
from atlatl.runtimes.limits import Limits
from atlatl.settings import ConfinementSettings

LONG_S = 30.0
DEFAULTS = ConfinementSettings()
CPU_LIMITED = ConfinementSettings(cpu_s=1)


class Scripted(Groups):
    """Groups that fail in a given way."""

    memory = processes = True

    def __init__(self, error: OSError) -> None:
        super().__init__(Path("/missing"))
        self.error = error
        self.given_up = ""

    def enter(self, pid: int) -> Group:
        raise self.error

    def give_up(self, why: str) -> None:
        self.given_up = why


@pytest.mark.parametrize(
    ("number", "given_up"),
    [(errno.EMFILE, False), (errno.ENOMEM, False), (errno.EACCES, True), (errno.EBUSY, True)],
)
def test_groups_are_given_up_only_for_an_error_that_will_not_pass(
    number: int, given_up: bool, caplog: pytest.LogCaptureFixture
) -> None:
    groups = Scripted(OSError(number, "refused"))

    async def run() -> None:
        with pytest.raises(StartFailed, match="refused"):
            await Limits(DEFAULTS, groups).enter(1)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert bool(groups.given_up) == given_up
    assert bool(caplog.messages) == given_up


class Slow(Group):
    """A group that takes its time to begin its count of CPU time."""

    def __init__(self) -> None:
        super().__init__("1", {}, None)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.done: list[str] = []

    def count_cpu(self, pid: int) -> None:
        self.begun.set()
        assert self.go_on.wait(LONG_S)
        self.done.append("counted")

    def forget_cpu(self) -> None:
        self.done.append("forgotten")

    def remove(self) -> bool:
        self.done.append("removed")
        return True


@pytest.mark.parametrize("given_up", [False, True])
def test_what_is_made_while_the_process_ends_is_removed_too(given_up: bool) -> None:
    async def run() -> None:
        limits, group = Limits(DEFAULTS, None), Slow()
        applying = asyncio.create_task(limits.apply(group, 1, CPU_LIMITED))
        assert await asyncio.to_thread(group.begun.wait, LONG_S)
        if given_up:
            applying.cancel()
            await asyncio.gather(applying, return_exceptions=True)
        limits.leave(group)
        await asyncio.sleep(0)
        group.go_on.set()
        await limits.close()
        assert group.done == ["counted", "forgotten", "removed"]
        if not given_up:
            await applying

    asyncio.run(run())
