"""Who is told of ends, when, how often, and what that may not hold up."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from msgspec.structs import replace

from atlatl.core.hosts import Address
from atlatl.core.turns import JITTER_RATIO, MAX_WISH_S
from atlatl.engine import callbacks as module
from atlatl.engine.callbacks import PER_HOST, PLACES, Callbacks
from atlatl.engine.messenger import Messenger
from atlatl.errors import FunctionRaised, StoreUnavailable
from atlatl.events import CallbackTried, Event
from atlatl.model import Callback, Execution, ExecutionStatus, Mode, Outcome, OutcomeKind, Result
from atlatl.model import failed as failure_of
from atlatl.settings import CallbackSettings
from tests import receiver as receivers
from tests.receiver import receiver
from tests.virtual_time import virtual

START = 1_000_000.0
BURST = 1000
Answer = Callable[[httpx.Request], Awaitable[httpx.Response]]


async def takes(_: httpx.Request) -> httpx.Response:
    return httpx.Response(204, stream=httpx.ByteStream(b""))


async def refuses(_: httpx.Request) -> httpx.Response:
    return httpx.Response(503, stream=httpx.ByteStream(b""))


async def hangs(_: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class FakeQueue:
    """The part of a queue that has the callbacks, in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, Callback] = {}
        self.asked = 0
        self.largest = 0
        self.puts = 0
        self.broken: Exception | None = None
        self.reading_s = 0.0
        """How old an answer is when it arrives."""
        self.writing_s = 0.0
        """Until a write begins."""

    async def callbacks(self, *, now: float, limit: int) -> Sequence[Callback]:
        self._work()
        self.asked += 1
        due = sorted(
            (one for one in self.kept.values() if one.ready_at <= now),
            key=lambda one: (one.ready_at, one.execution_id),
        )[:limit]
        self.largest = max(self.largest, len(due))
        await asyncio.sleep(self.reading_s)
        return due

    async def next_callback_at(self) -> float | None:
        self._work()
        return min((one.ready_at for one in self.kept.values()), default=None)

    async def put_callback(self, callback: Callback, *, tries: int, ready_at: float) -> bool:
        await asyncio.sleep(self.writing_s)
        self._work()
        self.puts += 1
        if self.kept.get(callback.execution_id) != callback:
            return False
        self.kept[callback.execution_id] = replace(callback, tries=tries, ready_at=ready_at)
        return True

    async def drop_callback(self, callback: Callback) -> bool:
        await asyncio.sleep(self.writing_s)
        self._work()
        if self.kept.get(callback.execution_id) != callback:
            return False
        del self.kept[callback.execution_id]
        return True

    def _work(self) -> None:
        if self.broken is not None:
            raise self.broken


class World:
    """Everything around the callbacks: a queue, records, and receivers by the names of hosts."""

    def __init__(self, **settings: Any) -> None:
        self.settings = CallbackSettings(**settings)
        self.queue = FakeQueue()
        self.records: dict[str, Execution] = {}
        self.answers: dict[str, Answer] = {}
        self.told: list[tuple[float, str]] = []
        """When, and of which execution a receiver heard."""
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.events: list[CallbackTried] = []
        self.messenger = Messenger(
            self.settings,
            resolve=self.resolve,
            transport=httpx.MockTransport(self.receive),
        )
        self.it = Callbacks(
            self.queue,  # type: ignore[arg-type]
            self.find,
            self.messenger,
            self,
            steady=self.steady,
            chance=lambda: 0.5,
            max_tries=self.settings.max_tries,
        )

    def steady(self) -> float:
        return START + self.now()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def emit(self, event: Event) -> None:
        assert isinstance(event, CallbackTried)
        self.events.append(event)

    async def find(self, execution_id: str) -> Execution | None:
        return self.records.get(execution_id)

    async def resolve(self, _: str) -> Sequence[Address]:
        return [ip_address("93.184.216.34")]

    async def receive(self, request: httpx.Request) -> httpx.Response:
        self.told.append((self.now(), request.headers["atlatl-execution-id"]))
        host = request.headers["host"]
        for name in (host, "all"):
            self.under_way[name] += 1
            self.most[name] = max(self.most[name], self.under_way[name])
        try:
            return await self.answers.get(host, takes)(request)
        finally:
            self.under_way.subtract([host, "all"])

    def add(self, *urls: str, tries: int = 0, after_s: float = 0.0) -> list[str]:
        """Ends an execution for each URL; returns their ids."""
        ids = []
        for url in urls:
            execution_id = f"e-{len(self.records):06}"
            self.records[execution_id] = ended(execution_id)
            self.queue.kept[execution_id] = Callback(
                execution_id=execution_id, url=url, tries=tries, ready_at=self.steady() + after_s
            )
            ids.append(execution_id)
        return ids

    def redrive(self, execution_id: str) -> None:
        """Takes a dead letter's end away."""
        end = self.records[execution_id]
        self.records[execution_id] = replace(end, status=ExecutionStatus.PENDING, outcome=None)
        del self.queue.kept[execution_id]

    def end_again(self, execution_id: str, url: str) -> None:
        self.records[execution_id] = ended(execution_id, attempt=2)
        again = Callback(execution_id=execution_id, url=url, ready_at=self.steady())
        self.queue.kept[execution_id] = again
        self.it.notify()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.it.run())
        try:
            yield
        finally:
            assert not task.done(), task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, reached: Callable[[], bool], step_s: float = 0.01) -> None:
        async with asyncio.timeout(100_000):
            while not reached():
                await asyncio.sleep(step_s)

    async def all_over(self) -> None:
        await self.until(lambda: not self.queue.kept)

    def times(self, execution_id: str) -> list[float]:
        return [round(at, 3) for at, told in self.told if told == execution_id]


def ended(execution_id: str, error: FunctionRaised | None = None, **facts: Any) -> Execution:
    result = Result(kind="json", body=b"1")
    outcome = Outcome(kind=OutcomeKind.SUCCESS, result=result)
    if error is not None:
        outcome = failure_of(error)
    known: dict[str, Any] = {
        "execution_id": execution_id,
        "task_id": "t-1",
        "task_name": "hello",
        "function_name": "main",
        "mode": Mode.ASYNC,
        "status": outcome.status,
        "outcome": outcome,
    }
    return Execution(**known | facts)


# --- when ---


@virtual
async def test_what_is_due_at_start_is_made_and_dropped() -> None:
    world = World()
    ids = world.add("http://a.test/", "http://b.test/")
    async with world.running():
        await world.all_over()
    assert sorted(told for _, told in world.told) == ids
    assert [(one.tries, one.failure, one.given_up) for one in world.events] == [(1, "", False)] * 2
    assert {one.task_name for one in world.events} == {"hello"}


@virtual
async def test_a_new_one_is_made_when_it_is_told_of_and_not_before() -> None:
    world = World()
    async with world.running():
        await asyncio.sleep(50)
        asked = world.queue.asked
        (new,) = world.add("http://a.test/")
        await asyncio.sleep(50)
        assert world.told == []
        assert world.queue.asked == asked == 1
        world.it.notify()
        await world.all_over()
    assert world.times(new) == [100]


@virtual
async def test_one_that_is_due_later_is_made_then() -> None:
    world = World()
    (later,) = world.add("http://a.test/", after_s=12.5)
    async with world.running():
        await world.all_over()
    assert world.times(later) == [12.5]
    assert world.queue.asked == 2


@virtual
async def test_a_word_in_the_middle_of_a_look_is_heard() -> None:
    world = World()
    world.queue.reading_s = 5
    async with world.running():
        await asyncio.sleep(1)
        (new,) = world.add("http://a.test/")
        world.it.notify()
        await world.all_over()
    assert world.times(new) == [10]


@virtual
async def test_the_store_is_asked_seldom_however_many_executions_end() -> None:
    world = World()
    async with world.running():
        for _ in range(1000):
            world.add("http://a.test/")
            world.it.notify()
            await asyncio.sleep(0.001)
        await world.all_over()
    assert len(world.told) == 1000
    assert world.queue.asked < 30


@virtual
async def test_the_store_is_asked_seldom_while_a_receiver_is_slow() -> None:
    world = World(timeout_s=100)
    world.answers["slow.test"] = hangs
    world.add("http://slow.test/")
    async with world.running():
        await asyncio.sleep(99)
        assert world.queue.asked <= 100
        (retried,) = world.add("http://a.test/", after_s=30)  # nobody tells of it
        await asyncio.sleep(60)
    assert world.times(retried) == [pytest.approx(129, abs=1)]


# --- again ---


@virtual
async def test_failures_are_repeated_with_growing_pauses_then_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(max_tries=5)
    world.answers["a.test"] = refuses
    (refused,) = world.add("http://a.test/ended?key=secret")
    async with world.running():
        await world.all_over()
    assert world.times(refused) == [0, 1, 3, 7, 15]
    assert [one.tries for one in world.events] == [1, 2, 3, 4, 5]
    assert [one.given_up for one in world.events] == [False] * 4 + [True]
    assert {one.failure for one in world.events} == {"it answered 503 Service Unavailable"}
    (line,) = [one for one in caplog.records if one.levelname == "WARNING"]
    for part in (refused, "a.test", "5 tries", "503"):
        assert part in line.getMessage()
    assert "secret" not in caplog.text


@virtual
async def test_a_receiver_that_recovers_is_told() -> None:
    world = World()
    answers = iter([refuses, refuses])

    async def recovers(request: httpx.Request) -> httpx.Response:
        return await next(answers, takes)(request)

    world.answers["a.test"] = recovers
    (told,) = world.add("http://a.test/")
    async with world.running():
        await world.all_over()
    assert world.times(told) == [0, 1, 3]
    assert world.events[-1].failure == ""


def refuses_until(retry_after: str, status: int = 503) -> Answer:
    headers = {"retry-after": retry_after}

    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(b""))

    return refuse


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wish", ["100", format_datetime(datetime.fromtimestamp(START + 100, UTC))])
@virtual
async def test_a_receiver_is_left_alone_for_as_long_as_it_says(status: int, wish: str) -> None:
    world = World()
    world.answers["a.test"] = refuses_until(wish, status)
    (refused,) = world.add("http://a.test/")
    (other,) = world.add("http://b.test/", after_s=50)
    async with world.running():
        await world.until(lambda: len(world.times(refused)) == 2, step_s=1)
    assert world.times(refused) == [0, pytest.approx(100 * (1 + JITTER_RATIO / 2))]
    assert world.times(other) == [50]


@pytest.mark.parametrize(
    "wish", ["9" * 5000, "31536000", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59"]
)
@virtual
async def test_no_receiver_has_a_callback_wait_for_ever(wish: str) -> None:
    world = World(max_tries=3)
    world.answers["a.test"] = refuses_until(wish)
    (refused,) = world.add("http://a.test/")
    async with world.running():
        await asyncio.sleep(3 * MAX_WISH_S)
    assert not world.queue.kept
    longest_s = MAX_WISH_S * (1 + JITTER_RATIO / 2)
    assert world.times(refused) == [0, pytest.approx(longest_s), pytest.approx(2 * longest_s)]


@virtual
async def test_tries_of_a_former_life_count() -> None:
    world = World(max_tries=8)
    world.answers["a.test"] = refuses
    world.add("http://a.test/", tries=7)
    async with world.running():
        await world.all_over()
    assert len(world.told) == 1
    assert world.events[0].given_up


@virtual
async def test_an_answer_of_the_store_that_is_old_repeats_nothing() -> None:
    """It was read before the callback was made, and arrives after that."""
    world = World()
    world.queue.reading_s = 0.5
    answered = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await answered.wait()
        return await takes(request)

    world.answers["a.test"] = slow
    (first,) = world.add("http://a.test/")
    async with world.running():
        await world.until(lambda: len(world.told) == 1)
        (second,) = world.add("http://b.test/")
        world.it.notify()
        await asyncio.sleep(0.25)  # in the middle of the look for the second one
        answered.set()
        await world.all_over()
    assert [len(world.times(one)) for one in (first, second)] == [1, 1]


# --- who holds up whom ---


@virtual
async def test_a_receiver_that_hangs_holds_up_nobody_else() -> None:
    world = World(timeout_s=10, max_tries=2)
    world.answers["slow.test"] = hangs
    world.add(*["http://slow.test/"] * 1000)
    others = world.add(*[f"http://{host}.test/" for host in "abcde"] * 20)
    async with world.running():
        await world.until(lambda: all(world.times(one) for one in others))
        assert world.now() < 1  # long before the first of those to slow.test has failed
        assert world.under_way["slow.test"] == PER_HOST == 4
    assert world.most["slow.test"] == PER_HOST
    assert world.most["all"] <= PLACES == 16


@virtual
async def test_a_receiver_that_hangs_holds_up_no_other_port_of_its_host() -> None:
    world = World(timeout_s=10, max_tries=2)
    world.answers["a.test:81"] = hangs
    world.add(*["http://a.test:81/"] * 100)
    (other,) = world.add("http://a.test/")
    async with world.running():
        await world.until(lambda: bool(world.times(other)))
        assert world.now() < 1


@virtual
async def test_a_crowd_for_a_slow_receiver_does_not_hide_what_is_due_behind_it() -> None:
    world = World(timeout_s=10, max_tries=2)
    world.answers["slow.test"] = hangs
    crowd = world.add(*["http://slow.test/"] * 20_000)
    others = world.add("http://a.test/", "http://b.test/", after_s=0.5)
    async with world.running():
        await world.until(lambda: all(world.times(one) for one in others))
        assert world.now() < 20
    assert world.queue.largest < 10_000
    assert world.queue.puts > 10_000  # put off
    assert len(world.queue.kept) == len(crowd)


@virtual
async def test_a_burst_for_one_quick_receiver_is_made_quickly() -> None:
    world = World()

    async def quick(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.005)
        return await takes(request)

    world.answers["a.test"] = quick
    world.add(*["http://a.test/"] * BURST)
    async with world.running():
        await world.all_over()
        assert world.now() == pytest.approx(BURST / PER_HOST * 0.005, rel=0.1)
    assert len(world.told) == BURST
    assert world.queue.puts == 0


@virtual
async def test_hosts_that_hang_take_turns_with_those_that_do_not() -> None:
    world = World(timeout_s=10, max_tries=1)
    for number in range(20):
        world.answers[f"slow{number}.test"] = hangs
    world.add(*[f"http://slow{number}.test/" for number in range(20)] * 10)
    (other,) = world.add("http://a.test/")
    async with world.running():
        await world.until(lambda: bool(world.times(other)))
        assert world.now() < 30
    assert world.most["all"] == PLACES


# --- executions ---


@virtual
async def test_a_record_that_is_not_kept_any_more(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    (gone,) = world.add("http://a.test/")
    world.records.clear()
    async with world.running():
        await world.all_over()
    assert world.told == []
    assert f"execution {gone}" in caplog.text


@virtual
async def test_an_execution_that_goes_on_after_a_redrive_is_told_of_at_its_next_end() -> None:
    """It was redriven between the look for callbacks and the look at its record."""
    world = World()
    (redriven,) = world.add("http://a.test/")
    world.records[redriven] = ended(redriven, FunctionRaised("no"))
    find = world.find

    async def find_late(execution_id: str) -> Execution | None:
        if world.now() == 0:
            world.redrive(execution_id)
        return await find(execution_id)

    world.it._find = find_late
    async with world.running():
        await asyncio.sleep(300)
        assert world.told == []
        assert world.queue.asked < 5
        world.end_again(redriven, "http://a.test/")
        await world.all_over()
    assert len(world.told) == 1


@virtual
async def test_memory_may_know_of_an_end_a_moment_later_than_the_store() -> None:
    world = World()
    (one,) = world.add("http://a.test/")
    end = world.records[one]
    world.records[one] = replace(end, status=ExecutionStatus.RUNNING, outcome=None)
    asyncio.get_running_loop().call_later(0.05, world.records.update, {one: end})
    async with world.running():
        await world.all_over()
        assert world.now() < 1
    assert len(world.told) == 1


@virtual
async def test_a_second_end_during_a_try_is_told_too() -> None:
    """A dead letter is redriven, and ends well, while its first end is on its way."""
    world = World()
    statuses: list[str] = []

    async def slow(request: httpx.Request) -> httpx.Response:
        statuses.append(request.headers["atlatl-status"])
        await asyncio.sleep(5.5)
        return await takes(request)

    world.answers["a.test"] = slow
    (one,) = world.add("http://a.test/")
    world.records[one] = ended(one, FunctionRaised("no"))
    later = asyncio.get_running_loop().call_later
    later(1, world.redrive, one)
    later(2, world.end_again, one, "http://a.test/")
    async with world.running():
        await asyncio.sleep(100)
    assert not world.queue.kept
    assert statuses == ["FAILED", "COMPLETED"]
    assert world.times(one) == [0, 5.5]


@pytest.mark.parametrize("answer", [takes, refuses])
@virtual
async def test_a_second_end_between_the_answer_and_its_writing_is_told_too(answer: Answer) -> None:
    world = World(max_tries=1)
    world.queue.writing_s = 3
    world.answers["a.test"] = answer
    (one,) = world.add("http://a.test/")
    world.records[one] = ended(one, FunctionRaised("no"))
    later = asyncio.get_running_loop().call_later
    later(1, world.redrive, one)
    later(2, world.end_again, one, "http://b.test/")
    async with world.running():
        await asyncio.sleep(100)
    assert not world.queue.kept
    assert world.times(one) == [0, 3]


@virtual
async def test_a_second_end_between_a_failure_and_its_writing_has_all_its_tries() -> None:
    world = World(max_tries=3)
    world.queue.writing_s = 3
    world.answers["a.test"] = refuses
    (one,) = world.add("http://a.test/", tries=1)
    world.records[one] = ended(one, FunctionRaised("no"))
    later = asyncio.get_running_loop().call_later
    later(1, world.redrive, one)
    later(2, world.end_again, one, "http://a.test/")
    async with world.running():
        await asyncio.sleep(100)
    assert not world.queue.kept
    assert [event.tries for event in world.events] == [2, 1, 2, 3]


# --- trouble ---


@virtual
async def test_a_store_that_fails_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.queue.broken = StoreUnavailable("the disk is full")
    ids = world.add("http://a.test/")
    async with world.running():
        await asyncio.sleep(100)
        assert world.told == []
        world.queue.broken = None
        await world.all_over()
    assert [told for _, told in world.told] == ids
    assert caplog.text.count("the disk is full") == 1


@virtual
async def test_a_try_whose_end_cannot_be_written_is_not_repeated_meanwhile() -> None:
    world = World()

    async def breaks_the_store(request: httpx.Request) -> httpx.Response:
        world.queue.broken = StoreUnavailable("the disk is full")
        return await takes(request)

    world.answers["a.test"] = breaks_the_store
    world.add("http://a.test/")
    async with world.running():
        await asyncio.sleep(100)
        world.it.notify()
        world.queue.broken = None
        await world.all_over()
    assert len(world.told) == 1


@virtual
async def test_rows_and_records_that_are_broken_hold_up_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(max_tries=2)
    bad = world.add("http://[::1/", "", "ftp://a.test/", "http://10.0.0.1/", "http://a.test:x/")
    (unreadable,) = world.add("http://a.test/")
    (unwritable,) = world.add("http://b.test/")
    (good,) = world.add("http://c.test/")

    async def find(execution_id: str) -> Execution | None:
        if execution_id == unreadable:
            raise ValueError("not JSON")
        return world.records.get(execution_id)

    drop = world.queue.drop_callback

    async def drop_callback(callback: Callback) -> bool:
        if callback.execution_id == unwritable:
            raise ValueError("no such column")
        return await drop(callback)

    monkeypatch.setattr(world.it, "_find", find)
    monkeypatch.setattr(world.queue, "drop_callback", drop_callback)
    async with world.running():
        await world.until(lambda: len(world.queue.kept) == 1)
        await asyncio.sleep(1000)
    assert [told for _, told in world.told] == [unwritable, good]
    assert list(world.queue.kept) == [unwritable]
    for execution_id in (*bad, unreadable):
        assert f"execution {execution_id}" in caplog.text


@virtual
async def test_a_look_that_fails_is_repeated(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.add("http://a.test/")
    world.queue.broken = ValueError("no such column")
    async with world.running():
        await asyncio.sleep(3)
        world.queue.broken = None
        await world.all_over()
    assert "can't be read" in caplog.text


@virtual
async def test_those_that_cannot_be_put_off_stay_due(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 100)
    monkeypatch.setattr(module, "KEPT", 10)
    world = World()
    world.answers["slow.test"] = hangs
    world.add(*["http://slow.test/"] * 300)

    async def put_callback(_: Callback, **__: float) -> bool:
        raise ValueError("no such column")

    monkeypatch.setattr(world.queue, "put_callback", put_callback)
    async with world.running():
        await asyncio.sleep(1)
    assert "could not be put off" in caplog.text
    assert len(world.queue.kept) == 300


@virtual
async def test_the_end_of_the_service_leaves_callbacks_for_the_next_life() -> None:
    world = World()
    world.answers["a.test"] = hangs
    world.add("http://a.test/", "http://a.test/")
    async with world.running():
        await world.until(lambda: len(world.told) == 2)
    assert len(world.queue.kept) == 2
    assert world.events == []
    assert world.under_way["all"] == 0


# --- with sockets ---


def test_a_receiver_that_fails_breaks_off_and_then_takes_it() -> None:
    """Over real connections, with the pauses between tries left out."""

    async def told() -> tuple[list[str], list[str]]:
        script = (receivers.answers(500), receivers.resets, receivers.answers(200))
        async with receiver(*script) as it, receiver(receivers.hangs) as stuck:
            world = World(allowed_hosts=(it.address, stuck.address))
            ids = world.add(stuck.url, it.url, stuck.url)
            hours = itertools.count()
            world.it = Callbacks(
                world.queue,  # type: ignore[arg-type]
                world.find,
                Messenger(world.settings),
                world,
                steady=lambda: START + 3600.0 * next(hours),
                chance=lambda: 0.5,
                max_tries=8,
            )
            world.queue.kept = {
                key: replace(one, ready_at=START) for key, one in world.queue.kept.items()
            }
            async with world.running():
                await world.until(lambda: ids[1] not in world.queue.kept)
                await world.until(lambda: len(stuck.received) == 2)
            assert {urlsplit(one.url).port for one in world.queue.kept.values()} == {stuck.port}
            return [one.failure for one in world.events], [
                one.headers["idempotency-key"] for one in it.received
            ]

    failures, keys = asyncio.run(told())
    assert failures[0] == "it answered 500 Said"
    assert failures[1] != ""
    assert failures[2:] == [""]
    assert keys == ["e-000001:1"] * 3
