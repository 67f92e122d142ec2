"""Short calls handed ahead, in the service: nobody waits behind a long one, none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atlatl import FunctionService, Settings
from atlatl.core.lending import Lending
from atlatl.core.pace import LOOKED_AT
from atlatl.engine.pool import InstancePool
from atlatl.errors import Draining, InstanceCrashed, TimedOut
from atlatl.model import Arguments, Call, Execution, ExecutionStatus, Mode
from tests.notes import NOTE, Notes
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CODE = f"""{NOTE}
import os, time

def main(n: int, port: int = 0, s: float = 0.0):
    if port: _note(port, b"%d" % n)
    if s: time.sleep(s)
    return n

def prints(n: int, size: int):
    print(f"{{n:08}}" * (size // 8), end="")
    return n

def items(n: int):
    for i in range(n): yield i
"""

CALLERS = 32


class Service:
    """A service with one task whose calls are handed ahead, and what became of its calls."""

    def __init__(self, service: FunctionService, taken_back: Counter[str]) -> None:
        self.service = service
        self.taken_back = taken_back
        self.answers: dict[str, list[Execution]] = {}
        self._ids = itertools.count(1)

    @property
    def pool(self) -> InstancePool:
        return self.service._registry.named("task").pool

    @property
    def handing_ahead(self) -> bool:
        ahead = self.pool._lending._ahead
        return ahead is not None and ahead.on

    def call(self, *, function: str = "main", timeout_ms: int = 0, **values: Any) -> Call:
        return Call(
            execution_id=f"e-{next(self._ids)}",
            task_name="task",
            function=function,
            timeout_ms=timeout_ms,
            payload=Arguments(values=values),
        )

    def start(self, call: Call) -> tuple[Any, asyncio.Future[Execution]]:
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        answers = self.answers[call.execution_id] = []

        def done(record: Execution) -> None:
            answers.append(record)
            future.set_result(record)

        return self.service.start(call, done), future

    async def run(self, **facts: Any) -> Execution:
        _, future = self.start(self.call(**facts))
        async with asyncio.timeout(60):
            return await future

    async def ended(self, **facts: Any) -> Execution:
        """The record of a call that has to succeed."""
        record = await self.run(**facts)
        assert record.outcome is not None
        assert record.outcome.error is None, record.outcome.error
        return record

    async def many(self, numbers: Iterable[int], **facts: Any) -> list[Execution]:
        """One call for each number, by as many callers as there may be."""
        left, records = iter(numbers), []

        async def caller() -> None:
            for n in left:
                records.append(await self.run(n=n, **facts))

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return records

    async def warm_up(self) -> None:
        """On a machine where others work, too, calls may seem long for a while."""
        async with asyncio.timeout(120):
            while not self.handing_ahead:
                await self.many(range(LOOKED_AT))

    async def at_rest(self) -> None:
        async with asyncio.timeout(30):
            while any(view.in_use or view.waiting for view in self.service.pools()):
                await asyncio.sleep(0.02)
        assert self.service.health().running == self.service.health().pending == 0
        assert self.pool._lending._gate.lent == self.pool._lending.leased == 0
        assert all(len(records) == 1 for records in self.answers.values())


@pytest.fixture
def taken_back(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often calls were taken back."""
    counter: Counter[str] = Counter()
    undo = Lending.undo

    def counting(self: Lending, lease: Any, now: float) -> None:
        counter["calls"] += 1
        undo(self, lease, now)

    monkeypatch.setattr(Lending, "undo", counting)
    return counter


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path, taken_back: Counter[str], instances: int, **overrides: Any
) -> AsyncIterator[Service]:
    settings = {
        "breaker": {"enabled": False},
        **overrides,
        "pool": {"max_size": instances, **overrides.get("pool", {})},
    }
    async with FunctionService(Settings(data_dir=str(tmp_path / "data"))) as service:
        await service.deploy("task", CODE.encode(), filename="main.py", settings=settings)
        house = Service(service, taken_back)
        await service.prewarm("task", instances)
        await house.warm_up()
        yield house


def in_service(
    tmp_path: Path,
    taken_back: Counter[str],
    scenario: Callable[[Service], Awaitable[None]],
    *,
    instances: int = 4,
    **overrides: Any,
) -> None:
    async def main() -> None:
        async with serving(tmp_path, taken_back, instances, **overrides) as house:
            await scenario(house)
            await house.at_rest()

    asyncio.run(main())


def output_bytes(pid: int) -> int:
    """What the file that an instance prints into occupies."""
    return Path(f"/proc/{pid}/fd/1").stat().st_blocks * 512


@pytest.fixture
def notes() -> Iterator[Notes]:
    with Notes() as notes:
        yield notes


def ran(notes: Notes) -> Counter[int]:
    return Counter(map(int, notes.words()))


# --- the promise ---


def test_no_quick_call_waits_for_a_long_one(
    tmp_path: Path, taken_back: Counter[str], notes: Notes
) -> None:
    sleep_s, n_calls = 0.5, 4000

    async def scenario(house: Service) -> None:
        late: list[float] = []
        left = iter(range(n_calls))

        async def caller() -> None:
            for n in left:
                long = n % 200 == 100
                began = time.monotonic()
                await house.ended(n=n, port=notes.port, s=sleep_s if long else 0.0)
                if not long:
                    late.append(time.monotonic() - began)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        print(f"{taken_back['calls']} taken back, the latest after {max(late) * 1000:.1f} ms")
        assert max(late) < sleep_s
        assert taken_back["calls"] > 0
        assert ran(notes) == Counter(range(n_calls))
        assert {records[0].attempt for records in house.answers.values()} == {1}

    # So many that there are free ones, whoever sleeps.
    in_service(tmp_path, taken_back, scenario, instances=24)


# --- ends ---


def test_a_thousand_cancels_at_random_moments(
    tmp_path: Path, taken_back: Counter[str], notes: Notes
) -> None:
    """One terminal status each, no innocent call ended, no place lost, nothing run twice."""
    dice = random.Random(1)

    async def scenario(house: Service) -> None:
        async def one(n: int, *, guilty: bool) -> ExecutionStatus:
            s = dice.choice([0.0] * 60 + [0.001, 0.005, 0.02])
            ticket, future = house.start(house.call(n=n, port=notes.port, s=s))
            if guilty:
                wait_s = dice.choice([None, None, 0, 0, 0.0005, 0.001, 0.005])
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
                ticket.cancel("at random", grace_s=dice.choice([None, 0.0, 0.1, 5.0]))
            async with asyncio.timeout(60):
                record = await future
            if not guilty:
                assert record.outcome is not None
                assert record.outcome.error is None, record.outcome.error
            return record.status

        statuses: Counter[ExecutionStatus] = Counter()
        for begin in range(0, 1000, 20):
            await house.warm_up()
            innocent = asyncio.gather(*(one(2000 + begin + n, guilty=False) for n in range(20)))
            some = (one(n, guilty=True) for n in range(begin, begin + 20))
            statuses.update(await asyncio.gather(*some))
            await innocent
        print(dict(statuses), taken_back)
        assert set(statuses) <= {ExecutionStatus.CANCELLED, ExecutionStatus.COMPLETED}
        assert statuses[ExecutionStatus.CANCELLED] > 100
        assert taken_back["calls"] > 100
        await house.at_rest()
        how_often = ran(notes)
        assert max(how_often.values()) == 1
        assert set(range(2000, 3000)) <= set(how_often)
        await house.ended(n=7)

    in_service(tmp_path, taken_back, scenario)


def test_kills_end_one_call_each(tmp_path: Path, taken_back: Counter[str], notes: Notes) -> None:
    kills = 40

    async def scenario(house: Service) -> None:
        dice = random.Random(2)
        stop = asyncio.Event()
        numbers = itertools.takewhile(lambda _: not stop.is_set(), itertools.count())
        calling = asyncio.create_task(house.many(numbers, port=notes.port))
        for _ in range(kills):
            await asyncio.sleep(dice.random() * 0.05)
            busy = [view.pid for view in house.service.instances() if view.in_flight > 1]
            if busy:
                os.kill(dice.choice(busy), signal.SIGKILL)
                await until(lambda: len(house.service.instances()) > 0)
        stop.set()
        records = await calling
        errors = [r.outcome.error for r in records if r.outcome and r.outcome.error]
        print(f"{len(records)} calls, {len(errors)} ended by {kills} kills", taken_back)
        assert all(type(error) is InstanceCrashed for error in errors), errors
        assert 0 < len(errors) <= kills
        how_often = ran(notes)
        assert max(how_often.values()) == 1
        assert sum(how_often.values()) >= len(records) - len(errors)

    in_service(tmp_path, taken_back, scenario)


def test_a_time_limit_ends_one_call(tmp_path: Path, taken_back: Counter[str], notes: Notes) -> None:

    async def scenario(house: Service) -> None:
        for turn in range(10):
            await house.warm_up()
            late = asyncio.gather(*(house.run(n=-1, s=60.0, timeout_ms=50) for _ in range(2)))
            numbers = range(turn * 200, turn * 200 + 200)
            for record in await house.many(numbers, port=notes.port):
                assert record.status is ExecutionStatus.COMPLETED, record.outcome
            for record in await late:
                assert record.outcome is not None
                assert type(record.outcome.error) is TimedOut, record.outcome
        assert ran(notes) == Counter(range(2000))

    in_service(tmp_path, taken_back, scenario)


def test_callers_hang_up(tmp_path: Path, taken_back: Counter[str], notes: Notes) -> None:

    async def scenario(house: Service) -> None:
        long = [asyncio.create_task(house.service.call(house.call(n=-1, s=60.0))) for _ in "ab"]
        await asyncio.sleep(0.05)
        quick = asyncio.create_task(house.many(range(500), port=notes.port))
        await asyncio.sleep(0.001)
        for each in long:
            each.cancel()
        gone = [
            asyncio.create_task(house.service.call(house.call(n=1000 + n, port=notes.port)))
            for n in range(100)
        ]
        await asyncio.sleep(0)
        for each in gone:
            each.cancel()
        for record in await quick:
            assert record.status is ExecutionStatus.COMPLETED, record.outcome
        for each in (*long, *gone):
            with contextlib.suppress(asyncio.CancelledError):
                await each
        await house.at_rest()
        how_often = ran(notes)
        assert max(how_often.values()) == 1
        assert set(range(500)) <= set(how_often)

    in_service(tmp_path, taken_back, scenario)


# --- output and streams ---


def test_output_is_kept_apart_and_bounded(tmp_path: Path, taken_back: Counter[str]) -> None:
    size = 16 * 1024

    async def scenario(house: Service) -> None:
        for _ in range(5):
            for record in await house.many(range(1000), function="prints", size=size):
                assert record.outcome is not None
                assert record.outcome.error is None
                n = int(record.outcome.result.body)  # type: ignore[union-attr]
                assert record.outcome.output == (f"{n:08}" * (size // 8)).encode()
        for view in house.service.instances():
            assert output_bytes(view.pid) < 4 * 1024 * 1024

    overrides = {"confinement": {"output_bytes": 100_000}, "pool": {"max_size": 2}}
    in_service(tmp_path, taken_back, scenario, instances=2, **overrides)


def test_generators_among_others(tmp_path: Path, taken_back: Counter[str]) -> None:
    async def scenario(house: Service) -> None:
        joined, plain = await asyncio.gather(
            house.many([20] * 200, function="items"), house.many(range(2000))
        )
        for record in joined:
            assert record.outcome is not None
            assert record.outcome.result is not None
            assert record.outcome.result.body == b"[%b]" % b",".join(b"%d" % n for n in range(20))
        assert len(plain) == 2000
        assert all(record.status is ExecutionStatus.COMPLETED for record in plain)

    in_service(tmp_path, taken_back, scenario)


# --- what the operator does ---


def test_deploys_and_ends_of_instances_fail_no_call(
    tmp_path: Path, taken_back: Counter[str], notes: Notes
) -> None:

    async def scenario(house: Service) -> None:
        stop = asyncio.Event()
        numbers = itertools.takewhile(lambda _: not stop.is_set(), itertools.count())
        calling = asyncio.create_task(house.many(numbers, port=notes.port))
        for turn in range(4):
            for _ in range(20):
                await asyncio.sleep(0.01)
                await asyncio.gather(*(house.run(n=-1, s=0.02) for _ in range(2)))
            code = f"{CODE}\n# version {turn}\n".encode()
            await house.service.deploy("task", code, filename="main.py")
            await house.service.prewarm("task", 3)
            await until(lambda: house.handing_ahead)
            await house.pool.resize(0, 1 + turn)
        stop.set()
        records = await calling
        failed = [r.outcome.error for r in records if r.outcome and r.outcome.error]
        assert failed == []
        assert ran(notes) == Counter(range(len(records)))
        assert {record.attempt for record in records} == {1}
        assert len({record.version for record in records}) == 5
        assert len({record.instance_id for record in records}) > 10

    in_service(tmp_path, taken_back, scenario, pool={"max_uses": 300, "max_size": 4})


def test_a_drain_ends_no_call_that_was_started(
    tmp_path: Path, taken_back: Counter[str], notes: Notes
) -> None:

    async def main() -> None:
        async with serving(tmp_path, taken_back, 2) as house:
            calls = [house.start(house.call(n=n, port=notes.port))[1] for n in range(20)]
            calls += [house.start(house.call(n=99, port=notes.port, s=0.2))[1]]
            calls += [house.start(house.call(n=100 + n, port=notes.port))[1] for n in range(40)]
            tickets = house.service._manager.of_task("task")
            began = {each.execution_id for each in tickets if each.lease is not None}
            await house.service.drain()
            for future in calls:
                record = await future
                assert record.outcome is not None
                error = record.outcome.error
                assert error is None or type(error) is Draining, error
                assert error is None or record.execution_id not in began
            ended = [future.result() for future in calls]
            done = sum(record.status is ExecutionStatus.COMPLETED for record in ended)
            assert ran(notes).total() == done
            assert max(ran(notes).values()) == 1

    asyncio.run(main())


def test_durable_executions_need_one_attempt(
    tmp_path: Path, taken_back: Counter[str], notes: Notes
) -> None:

    async def scenario(house: Service) -> None:
        async def accepted(n: int) -> str:
            values = {"n": n, "port": notes.port, "s": 0.2 if n % 200 == 100 else 0.0}
            call = house.call(**values)
            record = await house.service.accept(
                Call(
                    execution_id=call.execution_id,
                    task_name="task",
                    payload=call.payload,
                    mode=Mode.ASYNC,
                )
            )
            return record.execution_id

        ids: list[str] = []
        for begin in range(0, 2000, 100):
            ids += await asyncio.gather(*(accepted(n) for n in range(begin, begin + 100)))
        for execution_id in ids:
            record = await house.service.wait(execution_id, 60)
            assert record.status is ExecutionStatus.COMPLETED, record
            assert record.attempt == 1
        assert ran(notes) == Counter(range(2000))

    in_service(tmp_path, taken_back, scenario)
