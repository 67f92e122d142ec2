"""Large bodies go through a file that service and instance share; nobody notices but the clock."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import InstanceCrashed
from atlatl.model import HttpRequest, Outcome
from atlatl.runtimes import channel as channel_module
from atlatl.runtimes.bodies import CAPACITY_BYTES, KEPT_BYTES, BodyFile
from atlatl.runtimes.channel import Channel
from atlatl_worker import wire
from tests.running import ALWAYS, begin, call, forked, opened, process_runtime, task_of, until

SOURCE = """
import os, time
from atlatl_worker import Response, Request, wire

def main(request: Request): return Response(request.body)
def digest(request: Request):
    import hashlib
    return hashlib.sha256(request.body).hexdigest()
def grows(n: int, seconds: float = 0):
    time.sleep(seconds)
    return bytes([n % 251]) * n
def dies(request: Request): os._exit(3)
def closes(n: int):
    os.close(6)
    return b"c" * n
def claims(n: int):
    os.write(3, wire.encode(wire.REPLY, 1, b"", wire.AMOUNT.pack(n), wire.BYTES | wire.SHARED))
    time.sleep(60)
def claims_nothing():
    os.write(3, wire.encode(wire.REPLY, 1, b"", b"", wire.BYTES | wire.SHARED))
    time.sleep(60)
def resizes():
    for size in (0, 1 << 40):
        try:
            os.ftruncate(6, size)
        except OSError:
            continue
        return "resized"
    return "refused"
"""
ASYNC_SOURCE = """
from atlatl_worker import Response, Request
async def main(request: Request): return Response(request.body)
"""
EDGE = wire.SHARED_FROM_BYTES


def posted(body: bytes) -> HttpRequest:
    return HttpRequest(method="POST", path="/", query="", headers={}, body=body)


def pattern(n_bytes: int, seed: int = 0) -> bytes:
    return (bytes(range(seed % 251, 251)) + bytes(range(251))) * (n_bytes // 251 + 1)


def body_of(outcome: Outcome) -> bytes:
    assert outcome.error is None, outcome.error
    assert outcome.result is not None
    return outcome.result.body


def with_instance(
    tmp_path: Path,
    scenario: Callable[[Channel], Awaitable[None]],
    source: str = SOURCE,
    *,
    by_zygote: bool = False,
    **overrides: Any,
) -> None:
    async def run() -> None:
        runtime = process_runtime(ALWAYS if by_zygote else None)
        async with opened(runtime):
            task, code = task_of(tmp_path, source, **overrides)
            start = forked(runtime, task, code) if by_zygote else runtime.start(task, code, None)
            await scenario(await start)

    asyncio.run(run())


pytestmark = pytest.mark.slow  # real processes: `make test`


@pytest.mark.parametrize("kind", ["plain", "task zygote", "async", "several at once"])
def test_bodies_of_every_size_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    several = kind == "several at once"

    async def scenario(channel: Channel) -> None:
        for n_bytes in (0, 1, EDGE - 1, EDGE, EDGE + 1, 3 * EDGE + 7, 5_000_000, EDGE + 1, 9):
            body = pattern(n_bytes, n_bytes)[:n_bytes]
            assert body_of(await call(channel, posted(body))) == body

    with_instance(
        tmp_path,
        scenario,
        ASYNC_SOURCE if several or kind == "async" else SOURCE,
        by_zygote=kind == "task zygote",
        pool={"max_concurrent_requests": 4 if several else 1},
    )


def test_what_does_not_fit_goes_through_the_socket(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        body = pattern(CAPACITY_BYTES)[: CAPACITY_BYTES + 1]
        assert body_of(await call(channel, posted(body))) == body

    with_instance(tmp_path, scenario, confinement={"response_bytes": 2 * CAPACITY_BYTES})


def test_calls_sent_ahead_keep_out_of_the_file(tmp_path: Path) -> None:
    """All large both ways, and each answered with its own."""

    async def scenario(channel: Channel) -> None:
        for _ in range(20):
            bodies = [pattern(100_000, n)[:100_000] for n in range(4)]
            assert channel.takes_ahead
            running = [begin(channel, posted(body)) for body in bodies]
            for one, body in zip(running, bodies, strict=True):
                assert body_of(await one.end()) == body
            slow = begin(channel, {"n": 200_000, "seconds": 0.01}, function="grows")
            after = begin(channel, {"n": 300_000}, function="grows")
            assert {*body_of(await slow.end())} == {200_000 % 251}
            assert {*body_of(await after.end())} == {300_000 % 251}

    with_instance(tmp_path, scenario)


def test_a_crash_with_a_large_body_is_a_crash(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        outcome = await call(channel, posted(bytes(1_000_000)), function="dies")
        assert isinstance(outcome.error, InstanceCrashed)

    with_instance(tmp_path, scenario)


def test_a_function_that_closes_the_file_answers_through_the_socket(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        assert body_of(await call(channel, {"n": 500_000}, function="closes")) == b"c" * 500_000

    with_instance(tmp_path, scenario)


@pytest.mark.parametrize("n_bytes", [CAPACITY_BYTES + 1, 2_000_000, 2**63])
def test_an_instance_that_claims_too_much_is_killed(tmp_path: Path, n_bytes: int) -> None:
    async def scenario(channel: Channel) -> None:
        outcome = await call(channel, {"n": n_bytes}, function="claims")
        assert "over the limit" in str(outcome.error)

    limits = {"response_bytes": 100_000, "output_bytes": 1000}
    with_instance(tmp_path, scenario, confinement=limits)


def test_an_instance_that_claims_nothing_is_killed(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        outcome = await call(channel, function="claims_nothing")
        assert "without the amount" in str(outcome.error)

    with_instance(tmp_path, scenario)


def test_an_instance_cannot_change_the_size(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        assert body_of(await call(channel, function="resizes")) == b"refused"
        body = pattern(500_000)
        digest = await call(channel, posted(body), function="digest")
        assert body_of(digest).decode() == hashlib.sha256(body).hexdigest()

    with_instance(tmp_path, scenario)


def held(file: BodyFile) -> int:
    return os.fstat(file.descriptor).st_blocks * 512


def test_memory_is_given_back_when_no_large_body_comes_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "KEPT_S", 0.02)

    async def scenario(channel: Channel) -> None:
        file = channel._link.bodies
        end = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < end:
            body_of(await call(channel, posted(bytes(3_000_000))))
            assert held(file) >= 3_000_000, "while they come it stays"
        slow = begin(channel, {"n": 1, "seconds": 0.2}, function="grows")
        await asyncio.sleep(0.1)
        assert held(file) >= 3_000_000, "and while a call may write there"
        await slow.end()
        await until(lambda: held(file) == 0, "the memory to be given back")
        body_of(await call(channel, posted(bytes(3_000_000))))
        await channel.stop(1.0)
        await asyncio.sleep(0.1)  # its timer finds a closed file

    with_instance(tmp_path, scenario)


def test_memory_is_given_back() -> None:
    file = BodyFile()
    try:
        assert file.put(bytes(KEPT_BYTES))
        assert not file.clearable
        assert file.put(bytes(8_000_000))
        assert file.clearable
        assert held(file) >= 8_000_000
        assert not file.clear()
        assert file.clear()
        assert held(file) == 0
        assert not file.put(bytes(wire.SHARED_FROM_BYTES))
        assert not file.put(bytes(CAPACITY_BYTES + 1))
    finally:
        file.close()
