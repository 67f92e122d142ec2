"""Calls that wait in an instance while it runs another: taken back, lost, and lied about."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from atlatl.errors import AtlatlError, Cancelled, InstanceCrashed, InstanceLost, ResultInvalid
from atlatl.model import Result
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.output import REWIND_BYTES
from tests.running import (
    Running,
    alive,
    begin,
    call,
    inside,
    open_descriptors,
    opened,
    process_runtime,
    task_of,
    until,
    value,
    within,
)

SOURCE = """
import fcntl, os, time
from atlatl_worker import wire

TOKENS = 5

def main(x: int = 0):
    return x

def notes(path: str, word: str, seconds: float = 0.0):
    with open(path, "a") as file:
        file.write(word + "\\n")
    time.sleep(seconds)
    return word

def prints(word: str, times: int = 1, seconds: float = 0.0):
    time.sleep(seconds)
    print(word * times, end="")

def prints_and_dies(word: str):
    print(word, end="")
    os._exit(1)

def polls(context):
    while not context.cancelled: time.sleep(0.001)
    return "told"

def items(n: int, size: int = 1):
    for _ in range(n): yield "x" * size

def sends(frames: list, seconds: float = 0.0):
    time.sleep(seconds)
    os.write(3, b"".join(
        wire.encode(kind, number, b"", b"1") for kind, number in frames
    ))
    time.sleep(60)

def takes_tokens(path: str, stay: float = 0.0, n: int = 15):
    while not os.path.exists(path): time.sleep(0.001)
    taken = len(os.read(TOKENS, n))
    time.sleep(stay)
    return taken

def adds_tokens(n: int, path: str):
    try:
        writing = os.open(f"/proc/self/fd/{TOKENS}", os.O_WRONLY | os.O_NONBLOCK)
    except PermissionError:
        with open(path + "-new", "w") as file: file.write("refused")
        os.replace(path + "-new", path)
        return
    try:
        while n > 0: n -= os.write(writing, bytes(min(n, 4096)))
    except BlockingIOError:
        pass
    open(path, "w").close()
    time.sleep(0.5)

def makes_tokens_wait(path: str):
    while not os.path.exists(path): time.sleep(0.001)
    os.read(TOKENS, 100)
    fcntl.fcntl(TOKENS, fcntl.F_SETFL, 0)
    open(path + "-too", "w").close()
    time.sleep(60)

def closes_tokens(path: str):
    os.close(TOKENS)
    open(path, "w").close()
    time.sleep(0.1)
"""

Scenario = Callable[[Channel], Awaitable[None]]


def check(
    folder: Path,
    scenario: Scenario,
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    **settings: Any,
) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            task, code = task_of(folder, SOURCE, **settings)
            await scenario(await runtime.start(task, code, None))
            pids = runtime.pids()
        assert not any(alive(pid) for pid in pids)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def numbers(channel: Channel, *xs: int) -> list[Running]:
    return [begin(channel, {"x": x}) for x in xs]


async def noting(channel: Channel, path: Path, seconds: float = 0.0) -> Running:
    """A call that has begun for certain."""
    running = begin(
        channel, {"path": within(path), "word": "first", "seconds": seconds}, function="notes"
    )
    await until(path.exists)
    return running


def words(channel: Channel, path: Path, *words: str) -> list[Running]:
    return [
        begin(channel, {"path": within(path), "word": word}, function="notes") for word in words
    ]


def taken_back(running: Running) -> bool:
    return running.answers == [None]


def values(calls: list[Running]) -> list[Any]:
    return [value(each.answers[0]) for each in calls]


async def said(running: Running) -> str:
    outcome = await running.end()
    assert outcome is not None
    assert outcome.result is not None, outcome.error
    return outcome.result.body.decode()


# --- what it is for ---


def test_calls_run_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        calls = words(channel, path, *map(str, range(16)))
        assert [await said(each) for each in calls] == [str(n) for n in range(16)]
        assert path.read_text().split() == [str(n) for n in range(16)]
        assert all(len(each.answers) == 1 for each in calls)

    check(tmp_path, scenario)


def test_those_that_have_not_begun_are_taken_back_and_never_run(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        first = await noting(channel, path, seconds=0.3)
        others = words(channel, path, "a", "b", "c")
        await asyncio.sleep(0)
        channel.take_back()
        assert all(map(taken_back, others))
        assert await said(first) == "first"
        late = words(channel, path, "late")
        assert await said(late[0]) == "late"
        assert path.read_text().split() == ["first", "late"]
        assert channel.accepting

    check(tmp_path, scenario)


def test_those_that_were_not_even_sent_are_taken_back(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        first, *others = words(channel, path, "a", "b", "c")
        channel.take_back()
        assert all(map(taken_back, others))
        assert await said(first) == "a"
        channel.take_back()
        assert value(await call(channel, {"x": 1})) == 1
        assert path.read_text().split() == ["a"]

    check(tmp_path, scenario)


def test_what_is_taken_back_is_told_in_order_and_when_all_is_done(tmp_path: Path) -> None:
    """Whoever is told may at once cancel the call that is left: it is the last one then."""

    async def scenario(channel: Channel) -> None:
        first = await noting(channel, inside(channel.pid, "notes"), seconds=60)
        told: list[str] = []
        others = numbers(channel, 1, 2, 3)
        for each in others:
            flight = channel._flights.by_execution(each.execution_id)
            assert flight is not None

            def done(outcome: object, name: str = each.execution_id) -> None:
                if not told:
                    channel.cancel(first.execution_id)
                told.append(name)

            flight.done = done
        channel.take_back()
        assert not channel.accepting
        assert told == [each.execution_id for each in others]
        assert isinstance((await first.end()).error, Cancelled)

    check(tmp_path, scenario)


def test_nothing_stale_runs_when_new_calls_with_tokens_follow(tmp_path: Path) -> None:
    """The channel says when it takes calls ahead again; until then it must not be sent any."""

    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        for turn in range(30):
            path.unlink(missing_ok=True)
            first = await noting(channel, path, seconds=0.003)
            stale = words(channel, path, *["stale"] * 15)
            await asyncio.sleep(0)
            channel.take_back()
            begun = [each for each in stale if not taken_back(each)]
            assert channel.takes_ahead == (len(begun) == len(stale))
            await first.end()
            for each in begun:  # on a slow machine some were sent too late
                await each.end()
            assert channel.takes_ahead == (len(begun) == len(stale))
            await words(channel, path, "alone")[0].end()
            assert channel.takes_ahead
            for each in words(channel, path, *map(str, range(16))):
                await each.end()
            expected = ["first", *["stale"] * len(begun), "alone", *map(str, range(16))]
            assert path.read_text().split() == expected, turn
            assert channel.takes_ahead

    check(tmp_path, scenario)


def test_a_call_that_was_never_sent_says_nothing_about_what_was_read(tmp_path: Path) -> None:
    """Only an answer shows that the instance has read past what was taken back."""

    async def scenario(channel: Channel) -> None:
        first = await noting(channel, inside(channel.pid, "notes"), seconds=0.1)
        numbers(channel, 1, 2)
        channel.take_back()
        await first.end()
        assert (await call(channel, environment={"\ud800": "x"})).error is not None
        assert not channel.takes_ahead
        assert value(await call(channel, {"x": 1})) == 1
        assert channel.takes_ahead

    check(tmp_path, scenario)


# --- ends ---


@pytest.mark.parametrize("grace_s", [None, 0.0, 0.05])
def test_only_the_running_call_is_ended(tmp_path: Path, grace_s: float | None) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        first = await noting(channel, path, seconds=60)
        others = words(channel, path, "a", "b")
        await asyncio.sleep(0)
        channel.cancel(first.execution_id, grace_s=grace_s)
        assert all(map(taken_back, others))
        assert isinstance((await first.end()).error, Cancelled)
        assert path.read_text().split() == ["first"]

    check(tmp_path, scenario)


def test_a_running_call_may_end_by_itself(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        running = begin(channel, function="polls")
        others = numbers(channel, 1, 2)
        await asyncio.sleep(0.02)
        channel.cancel(running.execution_id, grace_s=20)
        assert all(map(taken_back, others))
        assert not channel.accepting
        await running.end()
        assert channel.accepting
        assert alive(channel.pid)
        assert value(await call(channel, {"x": 3})) == 3

    check(tmp_path, scenario)


@pytest.mark.parametrize("grace_s", [None, 0.0, 5.0])
def test_a_waiting_call_is_cancelled_without_harm(tmp_path: Path, grace_s: float | None) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        first = await noting(channel, path, seconds=0.1)
        others = words(channel, path, "a", "b", "c")
        channel.cancel(others[1].execution_id, grace_s=grace_s)
        assert all(map(taken_back, others))
        assert await said(first) == "first"
        assert channel.accepting
        assert path.read_text().split() == ["first"]

    check(tmp_path, scenario)


def test_a_kill_ends_the_running_call_and_gives_the_others_back(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        first = await noting(channel, path, seconds=60)
        others = words(channel, path, "a", "b", "c")
        await asyncio.sleep(0.01)
        os.kill(channel.pid, signal.SIGKILL)
        error = (await first.end()).error
        assert isinstance(error, InstanceCrashed), error
        assert all(map(taken_back, others))
        assert path.read_text().split() == ["first"]

    check(tmp_path, scenario)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_was_answered_before_the_end_counts(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Writing to an instance that is gone ends the connection: what it had said is read first."""

    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "notes")
        calls = words(channel, path, *"abc")
        dies = begin(channel, {"word": "last words"}, function="prints_and_dies")
        rest = numbers(channel, 1, 2)
        await asyncio.sleep(0)
        # No turn of the loop: we are late, and have something to say to it by then.
        while alive(channel.pid):
            os.sched_yield()
        rest += numbers(channel, 3)
        channel._link._flush()
        outcome = await dies.end()
        assert [await said(each) for each in calls] == ["a", "b", "c"]
        assert isinstance(outcome.error, InstanceCrashed)
        assert outcome.output == b"last words"
        assert all(map(taken_back, rest))

    check(tmp_path, scenario, loop)


def test_it_is_killed_with_calls_in_it(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        first = await noting(channel, inside(channel.pid, "notes"), seconds=60)
        others = numbers(channel, 1, 2)
        channel.kill()
        assert isinstance((await first.end()).error, InstanceLost)
        assert all(map(taken_back, others))

    check(tmp_path, scenario)


def test_it_is_stopped_with_calls_in_it(tmp_path: Path) -> None:
    """Nobody does that; what was sent is run all the same."""

    async def scenario(channel: Channel) -> None:
        first = await noting(channel, inside(channel.pid, "notes"), seconds=0.1)
        others = numbers(channel, 1, 2)
        await asyncio.sleep(0)
        await channel.stop(10)
        assert await said(first) == "first"
        assert values(others) == [1, 2]

    check(tmp_path, scenario)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            task, code = task_of(tmp_path, SOURCE)
            await until(lambda: runtime.blanks == 1)
            before = open_descriptors()
            for _ in range(3):
                channel = await runtime.start(task, code, None)
                begin(channel, {"x": 1})
                begin(channel, {"x": 2})
                channel.kill()
                await channel.stop(1)
            await until(lambda: runtime.blanks >= 1)
            blanks = runtime.blanks
            await until(lambda: open_descriptors() <= before + 6 * (blanks - 1) + 6)

    asyncio.run(run())


# --- output ---


def test_each_call_gets_what_it_printed(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        calls = [begin(channel, {"word": f"<{n}>"}, function="prints") for n in range(16)]
        for n, each in enumerate(calls):
            assert (await each.end()).output == f"<{n}>".encode()

    check(tmp_path, scenario)


@pytest.mark.parametrize("depth", [2, 3, 16])
def test_the_output_stays_bounded_without_a_pause(tmp_path: Path, depth: int) -> None:
    """The instance is handed calls as its pool would: ahead, whenever it takes them."""
    size = 16 * 1024

    async def scenario(channel: Channel) -> None:
        n_calls = 3 * 16 * 1024 * 1024 // size
        sent, largest = 0, 0
        answers: list[bytes] = []
        finished = asyncio.Event()

        def send() -> None:
            nonlocal sent
            in_it = sent - len(answers)
            while sent < n_calls and in_it < (depth if channel.takes_ahead else 1):
                running = begin(
                    channel, {"word": f"{sent:08}", "times": size // 8}, function="prints"
                )
                flight = channel._flights.by_execution(running.execution_id)
                assert flight is not None
                flight.done = done
                sent += 1
                in_it += 1

        def done(outcome: Any) -> None:
            nonlocal sent, largest
            largest = max(largest, channel._link.output._mark)
            if outcome is None:
                sent -= 1
            else:
                answers.append(outcome.output)
            if len(answers) == n_calls:
                finished.set()
            asyncio.get_running_loop().call_soon(send)

        send()
        async with asyncio.timeout(60):
            await finished.wait()
        assert all(len(output) == size for output in answers)
        assert len(set(answers)) == n_calls - _repeated(answers)
        assert largest <= 2 * REWIND_BYTES + depth * size

    check(tmp_path, scenario, confinement={"output_bytes": 1_000_000})


def _repeated(answers: list[bytes]) -> int:
    """Numbers are given again to those that come after what was taken back."""
    return len(answers) - len({output[:8] for output in answers})


# --- generators ---


def test_a_generator_before_and_behind_others(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        seen: list[bytes] = []

        def on_chunk(item: Result) -> None:
            seen.append(item.body)
            channel.credit(streaming.execution_id, len(item.body))

        before = numbers(channel, 1, 2)
        joined = begin(channel, {"n": 3}, function="items")
        streaming = begin(channel, {"n": 4}, function="items", on_chunk=on_chunk)
        behind = numbers(channel, 3, 4)
        await behind[-1].end()
        assert values(before) + values(behind) == [1, 2, 3, 4]
        assert (await joined.end()).result == Result(kind="text", body=b"xxx")
        assert (await streaming.end()).error is None
        assert seen == [b"x"] * 4

    check(tmp_path, scenario)


def test_a_stream_that_waits_for_its_reader_gives_the_others_back(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        seen: list[Result] = []
        streaming = begin(
            channel, {"n": 9, "size": 100_000}, function="items", on_chunk=seen.append
        )
        behind = numbers(channel, 1, 2)
        await until(lambda: seen)
        channel.take_back()
        assert all(map(taken_back, behind))
        while not streaming.answers:
            while seen:
                channel.credit(streaming.execution_id, len(seen.pop().body))
            await asyncio.sleep(0.001)
        assert streaming.answers[0].error is None
        assert value(await call(channel, {"x": 1})) == 1

    check(tmp_path, scenario)


def test_a_joined_stream_over_its_limit_fails_whoever_runs_by_then(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        for size in (1_000, 20_000):
            streaming = begin(channel, {"n": 10, "size": size}, function="items")
            behind = numbers(channel, *range(5))
            outcome = await streaming.end()
            assert isinstance(outcome.error, ResultInvalid | None)
            assert (outcome.error is None) == (size == 1_000), outcome
            for each in behind:
                await each.end()
            # What ran behind it, ran; the others were given back.
            assert all(taken_back(each) or value(each.answers[0]) >= 0 for each in behind)

    check(tmp_path, scenario, confinement={"response_bytes": 100_000})


def test_a_reader_that_fails_ends_its_stream_only(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        def on_chunk(item: Result) -> None:
            raise RuntimeError("on purpose")

        streaming = begin(channel, {"n": 3}, function="items", on_chunk=on_chunk)
        behind = numbers(channel, *range(5))
        assert isinstance((await streaming.end()).error, Cancelled)
        for each in behind:
            await each.end()
        assert all(taken_back(each) or value(each.answers[0]) >= 0 for each in behind)

    check(tmp_path, scenario)


# --- instances that lie ---


async def harmed(calls: list[Running], word: str) -> None:
    """Every call ends, and at least one with a word about what the instance did."""
    outcomes = [await each.end() for each in calls]
    errors = [outcome.error for outcome in outcomes if outcome is not None]
    told = [str(error) for error in errors if error is not None]
    assert any(word in each for each in told), told
    assert all(isinstance(error, InstanceLost | InstanceCrashed | None) for error in errors)
    assert all(len(each.answers) == 1 for each in calls)


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        ([(2, 3)], "out of turn"),
        ([(3, 3)], "out of turn"),
        ([(2, 99)], "answer to no call"),
    ],
)
def test_answers_out_of_turn_end_the_instance(
    tmp_path: Path, frames: list[tuple[int, int]], word: str
) -> None:
    async def scenario(channel: Channel) -> None:
        assert value(await call(channel)) == 0  # request 1
        calls = [begin(channel, {"frames": frames}, function="sends"), *numbers(channel, 1, 2)]
        await harmed(calls, word)
        assert not channel.accepting

    check(tmp_path, scenario)


def test_an_answer_to_a_call_that_has_not_begun_harms_no_other(tmp_path: Path) -> None:
    """By the tokens neither of them has, so both can run elsewhere."""

    async def scenario(channel: Channel) -> None:
        sends = begin(channel, {"frames": [(2, 1), (2, 3)]}, function="sends")
        others = numbers(channel, 1, 2)
        assert value(await sends.end()) == 1
        for each in others:
            await each.end()
        assert all(map(taken_back, others))
        assert not channel.accepting

    check(tmp_path, scenario)


def test_an_answer_to_a_call_that_was_taken_back_ends_the_instance(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        sends = begin(channel, {"frames": [(2, 2)], "seconds": 0.1}, function="sends")
        others = numbers(channel, 1)
        await asyncio.sleep(0.01)
        channel.take_back()
        assert taken_back(others[0])
        await harmed([sends], "answer to no call")

    check(tmp_path, scenario)


@pytest.mark.parametrize("stay", [0.0, 60.0])
def test_stolen_tokens_end_the_instance(tmp_path: Path, stay: float) -> None:
    """Calls without a token are passed over: no answer would ever come."""

    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "go")
        steals = begin(channel, {"path": within(path), "stay": stay}, function="takes_tokens")
        others = numbers(channel, 1, 2, 3)
        await asyncio.sleep(0)
        path.touch()
        if stay:
            await asyncio.sleep(0.05)
            channel.cancel(steals.execution_id)
            await steals.end()
            await harmed(others, "")
        else:
            await steals.end()
            channel.take_back()  # as its pool does when nothing is answered
            await harmed(others, "calls that it")
        assert not channel.accepting

    check(tmp_path, scenario)


def test_a_stolen_token_is_seen_by_the_next_answer(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "go")
        steals = begin(channel, {"path": within(path), "n": 1}, function="takes_tokens")
        others = numbers(channel, 1, 2, 3)
        await asyncio.sleep(0)
        path.touch()
        await steals.end()
        await others[1].end()
        await channel.ping()  # by then it has passed over the last one
        assert not others[2].answers
        await harmed([others[2], *numbers(channel, 4)], "out of turn")

    check(tmp_path, scenario)


@pytest.mark.parametrize("n", [1, 20, 10**9])
def test_added_tokens_harm_only_the_own_task(tmp_path: Path, n: int) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "added")
        adds = begin(channel, {"n": n, "path": within(path)}, function="adds_tokens")
        await until(path.exists)
        others = numbers(channel, 1, 2, 3)
        await asyncio.sleep(0.01)
        channel.take_back()
        refused = path.read_text() == "refused"  # the pipe is another user's
        assert channel.accepting == (refused or n < 10**9)  # there is no room for ours then
        channel.cancel(adds.execution_id, grace_s=30)
        await adds.end()
        for each in others:
            await each.end()
        assert all(len(each.answers) == 1 for each in (adds, *others))

    check(tmp_path, scenario)


def test_an_instance_that_closes_its_tokens_ends(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "done")
        harms = begin(channel, {"path": within(path)}, function="closes_tokens")
        others = numbers(channel, 1, 2)
        await until(path.exists)
        assert (await harms.end()).error is None
        for each in others:
            await each.end()
        assert all(map(taken_back, others))
        assert not channel.accepting

    check(tmp_path, scenario)


def test_the_service_never_waits_for_a_token(tmp_path: Path) -> None:
    """Whatever an instance does to what it shares with the service."""

    async def scenario(channel: Channel) -> None:
        path = inside(channel.pid, "done")
        harms = begin(channel, {"path": within(path)}, function="makes_tokens_wait")
        others = numbers(channel, 1, 2)
        await asyncio.sleep(0)
        path.touch()
        await until(path.with_name("done-too").exists)
        channel.take_back()
        assert not others[0].answers
        channel.cancel(harms.execution_id)
        await harmed(others, "before it had answered")

    check(tmp_path, scenario)


def test_errors_of_a_death_are_told_once_with_calls_waiting(tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        lost: list[AtlatlError] = []
        channel.on_lost = lost.append
        dies = begin(channel, {"word": "x"}, function="prints_and_dies")
        others = numbers(channel, *range(15))
        assert isinstance((await dies.end()).error, InstanceCrashed)
        await until(lambda: lost)
        assert all(map(taken_back, others))
        assert len(lost) == 1

    check(tmp_path, scenario)
