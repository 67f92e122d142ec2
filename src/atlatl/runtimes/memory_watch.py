"""Where no cgroup limits memory: instances are measured, and end when they use too much."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable

from atlatl.runtimes.channel import Channel
from atlatl.runtimes.machine import tree_bytes

log = logging.getLogger(__name__)

INTERVAL_S = 0.25
REST_ROUNDS = 8
"""One that has nothing to do is measured once in so many rounds: it may have left threads."""


async def watch_memory(channels: Callable[[], Iterable[Channel]]) -> None:
    """Measures in a thread, again and again, until it is cancelled.

    Args:
        channels: the instances that are there now.
    """
    for turn in itertools.cycle(range(REST_ROUNDS)):
        await asyncio.sleep(INTERVAL_S)
        watched = [
            (each, limit)
            for each in channels()
            if (limit := each.usage.memory_limit_bytes)
            and (not each.rests or each.pid % REST_ROUNDS == turn)
        ]
        if not watched:
            continue
        pids = [(channel.pid, limit) for channel, limit in watched]
        try:
            sizes = await asyncio.to_thread(_measure, pids)
        except Exception:
            # Without another try nothing would keep them from then on.
            log.exception("the memory of instances could not be measured; it is tried again")
            continue
        for (channel, limit), n_bytes in zip(watched, sizes, strict=True):
            if n_bytes > limit and not channel.gone:
                channel.usage.end_for_memory(n_bytes)


def _measure(pids: list[tuple[int, int]]) -> list[int]:
    return [tree_bytes(pid, limit) for pid, limit in pids]
