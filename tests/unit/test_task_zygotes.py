"""The memory of task zygotes, which a thread asks for while they come and go."""

from __future__ import annotations

import time
from typing import Any

from atlatl.runtimes.limits import Limits
from atlatl.runtimes.task_zygotes import Entry, TaskZygotes
from atlatl.settings import ConfinementSettings, ZygoteSettings


def test_one_that_comes_while_memory_is_measured_is_no_error() -> None:
    limits = Limits(ConfinementSettings(), None)
    zygotes = TaskZygotes(ZygoteSettings(), 1.0, time.monotonic, lambda *_: None, limits)

    class Coming(Entry):
        @property
        def zygote(self) -> Any:
            zygotes._entries["later", 1] = Entry({})
            return None

        @zygote.setter
        def zygote(self, value: object) -> None:
            pass

    zygotes._entries["first", 1] = Coming({})
    assert zygotes.memory_bytes() == 0
    assert len(zygotes._entries) == 2
