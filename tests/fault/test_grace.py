"""Calls that are given time to end by themselves: who tidies up may, who does not is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import Cancelled
from atlatl.model import Result
from atlatl.ports import InstanceChannel
from tests.contract.test_runtime import check
from tests.running import (
    LONG_S,
    alive,
    all_end,
    begin,
    call,
    inside,
    until,
    value,
    within,
)

SOURCE = """
import os, time

calls = 0

def main(x: int = 0):
    global calls
    calls += 1
    return [os.getpid(), calls]

def tidies_up(context, path: str):
    open(path, "w").close()
    while not context.cancelled: time.sleep(0.001)
    print("tidied up")
    return "too late for anybody"

def never_looks(path: str, s: float):
    open(path, "w").close()
    time.sleep(s)

def items(path: str, n: int, size: int):
    try:
        for _ in range(n): yield "x" * size
    finally:
        open(path, "w").close()

def slow_items(path: str):
    try:
        while True:
            yield ""
            time.sleep(0.001)
    finally:
        open(path, "w").close()
"""

ASYNC_SOURCE = """
import asyncio, os

calls = 0

async def main(x: int = 0):
    global calls
    calls += 1
    return [os.getpid(), calls]

async def tidies_up(path: str):
    open(path, "w").close()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        print("tidied up")
        raise

async def never_looks(path: str, s: float):
    open(path, "w").close()
    end = asyncio.get_running_loop().time() + s
    while (left := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            pass

async def items(path: str, n: int, size: int):
    try:
        for _ in range(n): yield "x" * size
    finally:
        open(path, "w").close()

async def slow_items(path: str):
    try:
        while True:
            yield ""
            await asyncio.sleep(0.001)
    finally:
        open(path, "w").close()
"""

ENDLESS = 10**9

both = pytest.mark.parametrize("source", [SOURCE, ASYNC_SOURCE], ids=["sync", "async"])


async def serves_on(channel: InstanceChannel) -> None:
    """The instance takes calls, and is the one that it was."""
    await until(lambda: channel.accepting)
    assert value(await call(channel)) == [channel.pid, 2]


async def first(channel: InstanceChannel) -> None:
    assert value(await call(channel)) == [channel.pid, 1]


@both
def test_who_tidies_up_in_time_keeps_the_instance(tmp_path: Path, source: str) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        await first(channel)
        begun = inside(channel.pid, "begun")
        running = begin(channel, {"path": within(begun)}, function="tidies_up")
        await until(begun.exists)
        channel.cancel(running.execution_id, grace_s=LONG_S)
        assert not channel.accepting
        outcome = await running.end()
        assert isinstance(outcome.error, Cancelled)
        assert outcome.output == b"tidied up\n"
        assert len(running.answers) == 1
        await serves_on(channel)

    check("process", tmp_path, scenario, source)


@both
def test_who_just_ends_in_time_keeps_the_instance(tmp_path: Path, source: str) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        await first(channel)
        begun = inside(channel.pid, "begun")
        running = begin(channel, {"path": within(begun), "s": 0.1}, function="never_looks")
        await until(begun.exists)
        channel.cancel(running.execution_id, grace_s=LONG_S)
        assert isinstance((await running.end()).error, Cancelled)
        await serves_on(channel)

    check("process", tmp_path, scenario, source)


@both
def test_who_outlasts_the_grace_is_killed(tmp_path: Path, source: str) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        begun = inside(channel.pid, "begun")
        running = begin(channel, {"path": within(begun), "s": 600}, function="never_looks")
        await until(begun.exists)
        channel.cancel(running.execution_id, grace_s=0.2)
        assert alive(channel.pid)
        assert isinstance((await running.end()).error, Cancelled)
        assert not channel.accepting
        await all_end([channel.pid])

    check("process", tmp_path, scenario, source)


@pytest.mark.parametrize("grace_s", [None, 0.0])
@both
def test_without_a_grace_the_only_call_ends_at_once(
    tmp_path: Path, source: str, grace_s: float | None
) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        begun = inside(channel.pid, "begun")
        running = begin(channel, {"path": within(begun)}, function="tidies_up")
        await until(begun.exists)
        channel.cancel(running.execution_id, grace_s=grace_s)
        outcome = await running.end()
        assert outcome.output == b""
        assert not channel.accepting
        await all_end([channel.pid])

    check("process", tmp_path, scenario, source, cancel_grace_s=LONG_S)


@both
def test_a_generator_that_waits_for_its_reader_is_closed(tmp_path: Path, source: str) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        await first(channel)
        closed, seen = inside(channel.pid, "closed"), list[Result]()
        facts = {"path": within(closed), "n": ENDLESS, "size": 65_536}
        running = begin(channel, facts, function="items", on_chunk=seen.append)
        await until(lambda: len(seen) == 4)
        channel.cancel(running.execution_id, grace_s=LONG_S)
        assert isinstance((await running.end()).error, Cancelled)
        assert closed.exists()
        await serves_on(channel)

    check("process", tmp_path, scenario, source)


@pytest.mark.parametrize("function", ["items", "slow_items"])
@both
def test_a_generator_whose_reader_takes_everything_is_closed(
    tmp_path: Path, source: str, function: str
) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        await first(channel)
        closed, seen = inside(channel.pid, "closed"), list[int]()

        def take(item: Result) -> None:
            seen.append(len(item.body))
            channel.credit(running.execution_id, len(item.body))

        facts: dict[str, Any] = {"path": within(closed)}
        if function == "items":
            facts |= {"n": ENDLESS, "size": 10}
        running = begin(channel, facts, function=function, on_chunk=take)
        await until(lambda: len(seen) > 10)
        channel.cancel(running.execution_id, grace_s=LONG_S)
        assert isinstance((await running.end()).error, Cancelled)
        assert closed.exists()
        await serves_on(channel)

    check("process", tmp_path, scenario, source)


def test_one_of_several_has_the_grace_that_it_is_given(tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        begun = inside(channel.pid, "begun")
        stubborn = begin(channel, {"path": within(begun), "s": 0.5}, function="never_looks")
        other = begin(channel, {"path": "/tmp/other", "s": 0.3}, function="never_looks")
        await until(begun.exists)
        channel.cancel(stubborn.execution_id, grace_s=LONG_S)
        assert (await other.end()).error is None
        assert isinstance((await stubborn.end()).error, Cancelled)
        assert alive(channel.pid)
        await until(lambda: channel.accepting)
        assert value(await call(channel)) == [channel.pid, 1]

    settings = {"pool": {"max_concurrent_requests": 8}, "cancel_grace_s": 0.01}
    check("process", tmp_path, scenario, ASYNC_SOURCE, **settings)


def test_a_grace_is_kept_by_the_fake_too(tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        running = begin(
            channel, {"path": str(tmp_path / "begun"), "s": 600}, function="never_looks"
        )
        channel.cancel(running.execution_id, grace_s=1.0)
        assert isinstance((await running.end()).error, Cancelled)
        assert channel.accepting

    check("fake", tmp_path, scenario, ASYNC_SOURCE)
