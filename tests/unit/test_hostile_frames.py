"""An instance that lies: it is killed, and what it said of others' calls counts for nothing."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from atlatl.errors import ArtifactInvalid, FunctionRaised, InstanceCrashed, InstanceLost
from atlatl.runtimes import answers, link
from atlatl.runtimes.pings import Pings
from atlatl_worker import wire
from tests.puppet import Pending, Puppet, opened
from tests.virtual_time import run

JSON_ONE = wire.encode(wire.REPLY, 1, b"", b"1")


@pytest.fixture
def files() -> Iterator[Any]:
    with opened() as files:
        yield files


Test = Callable[[Any], Awaitable[None]]


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def runs(**fixtures: Any) -> None:
        run(test(**fixtures))  # type: ignore[arg-type]

    return runs


async def one_call(files: Any, *, several: bool = False, **overrides: Any) -> Puppet:
    """With one call that has just been handed over; its request id is 1."""
    puppet = Puppet(files, several=several, **overrides)
    await puppet.assigned()
    puppet.call()
    await asyncio.sleep(0)
    assert [(frame.kind, frame.request_id) for frame in puppet.heard()] == [(wire.CALL, 1)]
    return puppet


def error_of(pending: Pending) -> Any:
    """The one thing that the caller was told."""
    (outcome,) = pending.told
    assert outcome is not None
    return outcome.error


def value_of(pending: Pending) -> Any:
    (outcome,) = pending.told
    assert outcome is not None and outcome.error is None, outcome
    return json.loads(outcome.result.body)  # type: ignore[union-attr]


REPLY = functools.partial(wire.encode, wire.REPLY)
LIES = {
    "garbage": (b"garbage" * 100, "no frame"),
    "a frame that is too large": (wire.HEADER.pack(2**32 - 1, 1, 0, wire.REPLY, 0, 0), "limit"),
    "metadata longer than its frame": (
        wire.HEADER.pack(4, 1, 5, wire.REPLY, 0, 0) + b"1234",
        "longer than the frame",
    ),
    "kind 0": (wire.HEADER.pack(0, 1, 0, 0, 0, 0), "no frame"),
    "kind 9": (wire.HEADER.pack(0, 1, 0, 9, 0, 0), "no frame"),
    "kind 255": (wire.HEADER.pack(0, 1, 0, 255, 0, 0), "no frame"),
    "an unknown content": (wire.HEADER.pack(0, 1, 0, wire.REPLY, 7, 0), "no frame"),
    "what should be zero": (wire.HEADER.pack(0, 1, 0, wire.REPLY, 0, 1), "no frame"),
    "a call": (wire.encode(wire.CALL, 1, b"{}"), "only the service sends"),
    "a credit": (wire.encode_credit(1, 100), "only the service sends"),
    "a cancellation": (wire.encode(wire.CANCEL, 1), "only the service sends"),
    "a ping": (wire.encode(wire.PING, 1), "only the service sends"),
    "a pong to no ping": (wire.encode(wire.PONG, 1), "answer to no ping"),
    "a million pongs": (wire.encode(wire.PONG, 7) * 1_000_000, "answer to no ping"),
    "another id": (REPLY(2, b"", b"1"), "answer to no call"),
    "id 0": (REPLY(0, b"", b"{}"), "answer to no call"),
    "the largest id": (REPLY(2**32 - 1, b"", b"1"), "answer to no call"),
    "an item for another id": (wire.encode(wire.CHUNK, 2, b"", b"1"), "answer to no call"),
    "metadata that is none": (REPLY(1, b"[" * 10_000, b"1"), "cannot be read"),
    "metadata that is no UTF-8": (REPLY(1, b'{"output":"\xff"}', b"1"), "cannot be read"),
    "a run without an end": (REPLY(1, b'{"run_s":1e999}', b"1"), "cannot be read"),
    "memory below zero": (REPLY(1, b'{"memory_bytes":-1}', b"1"), "cannot be read"),
    "memory beyond all": (REPLY(1, b'{"memory_bytes":1%030d}' % 0, b"1"), "cannot be read"),
    "output beyond all": (REPLY(1, b'{"output":"x","written":1%030d}' % 0, b"1"), "cannot be read"),
    "output outside of its file": (REPLY(1, b'{"printed":[0,99999999999]}', b"1"), "outside"),
    "output backwards": (REPLY(1, b'{"printed":[5,2]}', b"1"), "outside"),
    "text that is none": (REPLY(1, b"", b"\xff", wire.TEXT), "no UTF-8"),
    "a fault that is none": (REPLY(1, b"", b"{}", wire.ERROR), "cannot be read"),
    "a fault of no kind": (
        REPLY(1, b"", b'{"kind":"__class__","message":""}', wire.ERROR),
        "cannot be read",
    ),
    "a status that is none": (REPLY(1, b'{"status":99}', b"", wire.RESPONSE), "status 99"),
    "a header with another behind it": (
        REPLY(1, b'{"headers":[["a","b\\r\\nset-cookie: c"]]}', b"", wire.RESPONSE),
        "HTTP does not allow",
    ),
    "a body that is not shared": (
        REPLY(1, b"", wire.AMOUNT.pack(2**63), wire.SHARED),
        "over the limit",
    ),
    "a shared body without its length": (REPLY(1, b"", b"", wire.SHARED), "without the amount"),
    "an item without credit": (
        wire.encode(wire.CHUNK, 1, b"", b"x" * wire.WINDOW_BYTES, wire.TEXT) * 3,
        "no credit",
    ),
    "an item that is a response": (wire.encode(wire.CHUNK, 1, b"", b"", wire.RESPONSE), "no value"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("several", [False, True])
@virtual
async def test_a_lie_ends_the_instance_and_is_named(files: Any, lie: str, several: bool) -> None:
    sent, word = LIES[lie]
    puppet = await one_call(files, several=several)
    if "credit" in lie:
        puppet.channel._flights.by_request(1).on_chunk = lambda item: None  # type: ignore[union-attr]
    puppet.says(sent)
    assert puppet.killed
    assert word in puppet.fault
    assert puppet.wire.aborted
    assert not puppet.channel.accepting
    puppet.dies()
    error = error_of(puppet.pending[0])
    assert isinstance(error, InstanceCrashed)
    assert word in error.message
    assert len(puppet.lost) == 1


@pytest.mark.parametrize("lie", LIES)
@virtual
async def test_a_blank_may_say_nothing_at_all(files: Any, lie: str) -> None:
    puppet = Puppet(files)
    puppet.says(LIES[lie][0])
    assert puppet.killed


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage" * 100,
        wire.encode(wire.CHUNK, 0, b"", b"{}"),
        wire.encode(wire.END, 0, b"", b"{}"),
        wire.encode(wire.PONG, 0),
        wire.encode(wire.REPLY, 1, b"", b"{}"),
        wire.encode(wire.REPLY, 0, b"", b"[]"),
        wire.encode(wire.REPLY, 0, b"", b'{"main":{}}'),
        wire.encode(wire.REPLY, 0, b"", b"\xff"),
        wire.encode(wire.REPLY, 0, b"", b"[" * 100_000),
        wire.encode(wire.REPLY, 0, b"", b'{"kind":"none","message":""}', wire.ERROR),
    ],
)
@virtual
async def test_a_bad_answer_to_the_assignment_is_no_start(files: Any, answer: bytes) -> None:
    puppet = Puppet(files)
    with pytest.raises(ArtifactInvalid):
        await puppet.assigned(answer)


@virtual
async def test_who_answers_twice_is_killed_and_the_first_answer_stands(files: Any) -> None:
    puppet = await one_call(files)
    puppet.says(JSON_ONE)
    other = puppet.call()
    await asyncio.sleep(0)
    puppet.says(JSON_ONE)
    assert "an answer to no call" in puppet.fault
    puppet.dies()
    assert value_of(puppet.pending[0]) == 1
    assert isinstance(error_of(other), InstanceCrashed)


@virtual
async def test_of_several_calls_the_others_are_not_at_fault(files: Any) -> None:
    puppet = await one_call(files, several=True)
    second = puppet.call()
    await asyncio.sleep(0)
    puppet.says(wire.encode(wire.REPLY, 2, b"", b"2"), b"garbage" * 9)
    puppet.dies()
    assert value_of(second) == 2
    assert isinstance(error_of(puppet.pending[0]), InstanceCrashed)
    third = puppet.call()
    await asyncio.sleep(0)
    assert isinstance(error_of(third), InstanceLost)


@virtual
async def test_what_comes_behind_a_lie_is_not_read(files: Any) -> None:
    puppet = await one_call(files)
    puppet.says(b"garbage" * 9, JSON_ONE)
    puppet.says(JSON_ONE)
    puppet.dies()
    assert isinstance(error_of(puppet.pending[0]), InstanceCrashed)


@pytest.mark.parametrize("told", [-1e300, 0.0, 1.0, 1e300])
@virtual
async def test_nobody_ran_longer_than_since_it_was_called(files: Any, told: float) -> None:
    """A number like that would break whoever counts in milliseconds."""
    puppet = await one_call(files)
    await asyncio.sleep(2.0)
    puppet.says(REPLY(1, json.dumps({"run_s": told}).encode(), b"1"))
    (outcome,) = puppet.pending[0].told
    assert outcome is not None
    assert outcome.run_s == min(max(told, 0.0), 2.0)


@virtual
async def test_a_fault_of_any_length_is_kept_in_part(files: Any) -> None:
    puppet = await one_call(files)
    fault = {"kind": "raised", "message": "m" * 1_000_000, "detail": "d" * 20_000_000}
    puppet.says(REPLY(1, b"", json.dumps(fault).encode(), wire.ERROR))
    error = error_of(puppet.pending[0])
    assert isinstance(error, FunctionRaised)
    assert len(error.message) == answers.MESSAGE_CHARS
    assert len(error.detail) == answers.DETAIL_CHARS
    assert not puppet.killed


@virtual
async def test_a_pong_may_be_late_and_comes_once(files: Any) -> None:
    puppet = Puppet(files)
    await puppet.assigned()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await puppet.channel.ping()
    (ping,) = puppet.heard()
    puppet.says(wire.encode(wire.PONG, ping.request_id))
    assert not puppet.killed
    puppet.says(wire.encode(wire.PONG, ping.request_id))
    assert "an answer to no ping" in puppet.fault


@virtual
async def test_a_stream_that_nobody_hears_of_ends(files: Any) -> None:
    """It has what it sends taken, and never reads that it was: credits would fill the memory."""
    puppet = await one_call(files)
    puppet.wire.reads = False
    streaming = stream(puppet, 2)
    for _ in range(2 * link.MAX_UNREAD_BYTES // len(wire.encode_credit(1, 1))):
        await anext(streaming)
        if puppet.killed:
            break
    assert "reads nothing of what it is sent" in puppet.fault
    assert len(puppet.wire.sent) < 1.01 * link.MAX_UNREAD_BYTES
    puppet.dies()
    assert isinstance(error_of(puppet.pending[1]), InstanceCrashed)


async def stream(puppet: Puppet, number: int) -> AsyncIterator[None]:
    """Ends the first call; the second one sends an item at a time, and each is taken."""
    puppet.says(JSON_ONE)
    pending = puppet.call(stream=True)
    await asyncio.sleep(0)
    item = wire.encode(wire.CHUNK, number, b"", b"", wire.TEXT)
    while True:
        puppet.says(item)
        puppet.channel.credit(pending.execution_id, 0)
        pending.items.clear()
        await asyncio.sleep(0)
        yield


@virtual
async def test_credits_of_one_turn_go_out_in_one(files: Any) -> None:
    """Else an item as small as its frame would cost a write of its own."""
    puppet = await one_call(files)
    puppet.says(wire.encode(wire.CHUNK, 1, b"", b"", wire.TEXT) * 1000)
    await asyncio.sleep(0)
    (credit,) = puppet.heard()
    assert wire.amount_of(credit) == 1000 * wire.ITEM_BYTES


@virtual
async def test_a_lasting_stream_is_not_taken_for_deaf(files: Any) -> None:
    puppet = await one_call(files)
    streaming = stream(puppet, 2)
    for _ in range(2 * link.MAX_UNREAD_BYTES // len(wire.encode_credit(1, 1))):
        await anext(streaming)
        puppet.wire.sent.clear()
    puppet.says(wire.encode(wire.END, 2))
    assert not puppet.killed
    assert len(puppet.pending[1].told) == 1


def test_pings_that_are_lost_are_told_so() -> None:
    async def ask() -> None:
        pings = Pings()
        waiting, given_up = pings.add(1), pings.add(2)
        given_up.cancel()
        pings.fail(InstanceLost("it ended"))
        with pytest.raises(InstanceLost):
            await waiting
        with pytest.raises(wire.WireError):
            pings.answered(1)

    asyncio.run(ask())
