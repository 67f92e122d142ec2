"""Functions and machines that misbehave: nothing hangs, leaks or outlives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import uvloop

from atlatl.errors import (
    ArtifactInvalid,
    AtlatlError,
    Cancelled,
    FunctionRaised,
    InstanceCrashed,
    InstanceLost,
    InvalidRequest,
    OutOfMemory,
    ResultInvalid,
    StartFailed,
)
from atlatl.model import Result
from atlatl.runtimes import zygote as zygote_module
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.link import Link
from atlatl.runtimes.marked import kill_marked
from atlatl.runtimes.process import ProcessRuntime
from atlatl.runtimes.zygote import Exit, Zygote
from atlatl_worker import wire
from tests.running import (
    LONG_S,
    PROMISED_S,
    alive,
    all_end,
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
import ctypes, logging, math, os, signal, socket, subprocess, sys, threading, time

def main(x: int = 0):
    return x

def exits(): os._exit(3)
def segfaults(): ctypes.string_at(0)
def kills_itself(): os.kill(os.getpid(), signal.SIGKILL)
def no_memory(): raise MemoryError
def sys_exits(): sys.exit("bye")
def nan(): return math.nan
def an_object(): return object()
def deep():
    value = []
    for _ in range(100_000): value = [value]
    return value
def too_much(): return "x" * 2_000_000
def prints_a_lot():
    for _ in range(100): print("y" * 100_000)
    return "printed"
def prints_and_dies():
    print("last words", end="")
    os._exit(4)
def prints(text: str):
    print(text); logging.getLogger("app").info("logged %s", text)
    subprocess.run(["echo", "from a child"])
def closes_output():
    sys.stdout.close(); os.close(1); print("nobody hears this"); return 1
def endless_thread():
    threading.Thread(target=lambda: [time.sleep(1) for _ in iter(int, 1)]).start()
    return "started"
def never_returns():
    while True: time.sleep(1)
def spins():
    while True: pass
def closes_socket():
    os.close(3); time.sleep(60)
def writes_garbage():
    os.write(3, b"garbage" * 100); time.sleep(60)
def claims_too_much():
    os.write(3, b"\\xff\\xff\\xff\\xff" + bytes(12)); time.sleep(60)
def answers_for_others():
    from atlatl_worker import wire
    os.write(3, wire.encode(wire.REPLY, 4_000_000, b"", b"1")); time.sleep(60)
def forks():
    if os.fork() == 0: return "from the child"
    return "from the parent"
def daemon(path: str, stay: bool = False):
    subprocess.Popen(["sleep", "1000"])
    script = "setsid sh -c 'echo $$ > " + path + "; exec sleep 1000' & "
    subprocess.run(["sh", "-c", script])
    while stay: time.sleep(1)
def child():
    p = subprocess.Popen(["sleep", "1000"])
    q = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return [p.pid, q.pid]
def environment(names: list): return {name: os.environ.get(name) for name in names}
def sees():
    os.environ["OWN"] = "kept"
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    child = "import os; print(os.environ.get('MINE'), os.environ.get('N4999'))"
    shown = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout
    c = [libc.getenv(name) for name in (b"MINE", b"N4999")]
    return [
        *map(os.environ.get, ("MINE", "N4999")),
        *[None if text is None else text.decode() for text in c],
        *[None if text == "None" else text for text in shown.split()],
    ]
def fills(n: int): return len(b"x" * n)
def importable(name: str):
    try:
        __import__(name)
    except ImportError:
        return False
    return True
def where(): return [os.getcwd(), sys.path, sorted(int(fd) for fd in os.listdir("/proc/self/fd"))]
def many(n: int, size: int):
    for _ in range(n): yield b"z" * size
def ends(context): return [context.remaining_ms() > 0, context.cancelled]
def waits_for_its_deadline(context):
    while not context.cancelled: time.sleep(0.001)
    return context.remaining_ms()
def leaves_a_thread_that_asks(context):
    def ask():
        while True: context.cancelled
    threading.Thread(target=ask, daemon=True).start()

class Dict(dict):
    def items(self): raise KeyError("evil")
class Text(str):
    def encode(self, *_): return 5
class Silent(Exception):
    def __repr__(self): raise SystemExit
    __str__ = __repr__
class Type(type):
    @property
    def __name__(self): raise OSError
class Nameless(Exception, metaclass=Type): pass

def a_dict_with_code(): return Dict(a=1)
def a_text_with_code(): return Text("text")
def changed_headers(headers: list):
    from atlatl_worker import Response
    response = Response("x")
    response.headers = headers[0]
    return response
def sys_exits_silently(): sys.exit(Silent())
def raises_silently(): raise Silent
def raises_nameless(): raise Nameless
def text_that_is_none(stream: bool):
    from atlatl_worker import results, wire
    results.encode_result = lambda *_: (wire.TEXT, bytes([255]), {})
    return iter_once() if stream else ""
def iter_once(): yield ""
"""

ASYNC_SOURCE = """
import asyncio, os, time
from contextvars import ContextVar

async def main(x: int = 0, seconds: float = 0):
    print("begin", x)
    await asyncio.sleep(seconds)
    print("end", x)
    return x

async def stubborn():
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass

async def blocks():
    time.sleep(600)

async def exits():
    raise SystemExit(2)

async def dies():
    os._exit(9)

async def speaks(word: str, die: bool = False, seconds: float = 0):
    print(word, flush=True)
    await asyncio.sleep(seconds)
    if die: os._exit(1)

def plain(seconds: float):
    time.sleep(seconds)
    return "plain"

def polls(context):
    while not context.cancelled: time.sleep(0.001)
    print("told")
"""

Scenario = Callable[[ProcessRuntime, Channel], Awaitable[None]]


def check(folder: Path, scenario: Scenario, source: str = SOURCE, **settings: Any) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            task, code = task_of(folder, source, **settings)
            await scenario(runtime, await runtime.start(task, code, None))
            pids = runtime.pids()
        assert not any(alive(pid) for pid in pids)

    asyncio.run(run())


def several(folder: Path, scenario: Scenario, **settings: Any) -> None:
    overrides = {"pool": {"max_concurrent_requests": 8}, "cancel_grace_s": 0.3, **settings}
    check(folder, scenario, ASYNC_SOURCE, **overrides)


# --- one bad call ---


@pytest.mark.parametrize(
    ("function", "word"),
    [
        ("exits", "exited with code 3"),
        ("segfaults", r"signal 11 \(SIGSEGV\)"),
        ("kills_itself", r"signal 9 \(SIGKILL\)"),
        ("closes_socket", "closed its connection"),
        ("writes_garbage", "no frame|over the limit"),
        ("claims_too_much", "no frame|over the limit"),
        ("answers_for_others", "answer to no call"),
    ],
)
def test_a_crash_is_named_and_told_once(tmp_path: Path, function: str, word: str) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        lost: list[AtlatlError] = []
        channel.on_lost = lost.append
        running = begin(channel, function=function)
        with pytest.raises(InstanceCrashed, match=word):
            raise (await running.end()).error or AssertionError
        await until(lambda: lost, "on_lost")
        assert not channel.accepting
        assert (len(lost), len(running.answers)) == (1, 1)
        assert not alive(channel.pid)

    check(tmp_path, scenario)


@pytest.mark.parametrize(
    ("function", "error", "word"),
    [
        ("no_memory", OutOfMemory, "MemoryError"),
        ("sys_exits", FunctionRaised, "called sys.exit"),
        ("nan", ResultInvalid, "JSON"),
        ("an_object", ResultInvalid, "object"),
        ("deep", ResultInvalid, "deep"),
        ("too_much", ResultInvalid, "response_bytes"),
        ("a_dict_with_code", FunctionRaised, "KeyError: 'evil'"),
        ("sys_exits_silently", FunctionRaised, r"sys.exit\(\(its text"),
        ("raises_silently", FunctionRaised, r"Silent: \(its text"),
        ("raises_nameless", FunctionRaised, "cannot be put into words"),
    ],
)
def test_a_failure_leaves_the_instance_alive(
    tmp_path: Path, function: str, error: type[AtlatlError], word: str
) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        with pytest.raises(error, match=word):
            raise (await call(channel, function=function)).error or AssertionError
        assert value(await call(channel, {"x": 1})) == 1

    check(tmp_path, scenario, confinement={"response_bytes": 1_000_000})


@pytest.mark.parametrize("headers", [5, [5], [["a", 1]], [["a", "b", "c"]], [["a", "b\r\nc: d"]]])
def test_headers_that_are_none(tmp_path: Path, headers: object) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, {"headers": [headers]}, function="changed_headers")
        assert isinstance(outcome.error, ResultInvalid), outcome
        assert value(await call(channel, {"x": 1})) == 1

    check(tmp_path, scenario)


def test_a_text_with_code_of_its_own_is_its_text(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, function="a_text_with_code")
        assert outcome.result == Result(kind="text", body=b"text")

    check(tmp_path, scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_text_that_is_no_utf8_ends_the_instance(tmp_path: Path, stream: bool) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, {"stream": stream}, function="text_that_is_none")
        with pytest.raises(InstanceCrashed, match="UTF-8"):
            raise outcome.error or AssertionError

    check(tmp_path, scenario)


@pytest.mark.parametrize("source", [SOURCE, ASYNC_SOURCE])
@pytest.mark.parametrize("name", ["", "A=B", "A\0B", "\ud800"])
def test_an_impossible_variable_harms_no_instance(tmp_path: Path, source: str, name: str) -> None:
    """The caller is told before an instance is asked; here is who would have to bear it."""

    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, environment={name: "x"})
        assert outcome.error is None or isinstance(outcome.error, InvalidRequest)
        assert channel.accepting
        assert value(await call(channel, {"x": 1})) == 1

    check(tmp_path, scenario, source)


def test_the_traceback_begins_in_the_users_file(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        error = (await call(channel, function="sys_exits")).error
        assert error is not None
        assert "app.py" in error.detail
        assert "atlatl_worker" not in error.detail

    check(tmp_path, scenario)


@pytest.mark.parametrize("function", ["never_returns", "spins"])
def test_a_function_that_never_returns_is_cancelled_d102(tmp_path: Path, function: str) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        lost: list[AtlatlError] = []
        channel.on_lost = lost.append
        running = begin(channel, function=function)
        channel.cancel(running.execution_id, grace_s=0.0)
        assert isinstance((await running.end()).error, Cancelled)
        await all_end([channel.pid])
        assert not channel.accepting
        assert lost == []

    check(tmp_path, scenario)


def test_threads_and_forks_do_not_answer_twice(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        started = (await call(channel, function="endless_thread")).result
        assert started == Result(kind="text", body=b"started")
        for _ in range(3):
            answer = (await call(channel, function="forks")).result
            assert answer == Result(kind="text", body=b"from the parent")
        assert value(await call(channel, {"x": 5})) == 5
        await channel.stop(LONG_S)
        assert not alive(channel.pid)

    check(tmp_path, scenario)


# --- output ---


def test_output_belongs_to_its_call(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        first = await call(channel, {"text": "one"}, function="prints")
        second = await call(channel, {"text": "two"}, function="prints")
        assert first.output == b"one\nINFO app: logged one\nfrom a child\n"
        assert second.output == b"two\nINFO app: logged two\nfrom a child\n"
        assert (await call(channel)).output == b""

    check(tmp_path, scenario)


def test_output_is_cut_and_says_so(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        for _ in range(5):
            outcome = await call(channel, function="prints_a_lot")
            assert outcome.error is None
            assert outcome.output.startswith(b"y" * 1000)
            last = f"\n[{10_000_100 - 2000} more bytes were cut off: output_bytes is 2000]\n"
            assert outcome.output.endswith(last.encode())

    check(tmp_path, scenario, confinement={"output_bytes": 2000})


def test_output_is_there_after_a_crash(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, function="prints_and_dies")
        assert isinstance(outcome.error, InstanceCrashed)
        assert outcome.output == b"last words"

    check(tmp_path, scenario)


def test_a_closed_output_is_no_error(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        assert value(await call(channel, function="closes_output")) == 1
        assert value(await call(channel, {"x": 2})) == 2

    check(tmp_path, scenario)


def test_output_of_calls_that_share_an_instance(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        running = [begin(channel, {"x": x, "seconds": 0.05}) for x in range(5)]
        for x, one in enumerate(running):
            outcome = await one.end()
            assert outcome.output == f"begin {x}\nend {x}\n".encode()

    several(tmp_path, scenario)


def test_output_of_other_calls_is_not_in_a_crash(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        other = await call(channel, {"word": "secret"}, function="speaks")
        assert other.output == b"secret\n"
        outcome = await call(channel, {"word": "mine", "die": True}, function="speaks")
        assert isinstance(outcome.error, InstanceCrashed)
        assert outcome.output == b"mine\n"

    several(tmp_path, scenario)


def test_output_beside_another_call_is_nobodys_after_a_crash(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        fatal = {"word": "mine", "die": True, "seconds": 0.3}
        last = begin(channel, fatal, function="speaks")
        await call(channel, {"word": "secret"}, function="speaks")
        outcome = await last.end()
        assert isinstance(outcome.error, InstanceCrashed)
        assert outcome.output == b""

    several(tmp_path, scenario)


# --- what an instance is ---


def test_an_instance_holds_and_sees_only_its_own(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        where = value(await call(channel, function="where"))
        cwd, path, descriptors = where
        assert path[0] == cwd
        assert not any("site-packages" in entry for entry in path)
        assert descriptors[:7] == [0, 1, 2, 3, 4, 5, 6]
        assert len(descriptors) <= 8, "one more is the listing's own"
        for name in ("atlatl", "msgspec", "pytest"):
            assert value(await call(channel, {"name": name}, function="importable")) is False
        assert value(await call(channel, {"name": "atlatl_worker"}, function="importable")) is True

    check(tmp_path, scenario)


def test_environment_is_the_tasks_and_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVICE", "x")

    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        names = {"names": ["SECRET_OF_THE_SERVICE", "MINE", "EXTRA"]}
        extra = await call(channel, names, function="environment", environment={"EXTRA": "2"})
        assert value(extra) == {"SECRET_OF_THE_SERVICE": None, "MINE": "1", "EXTRA": "2"}
        after = await call(channel, names, function="environment")
        assert value(after)["EXTRA"] is None

    check(tmp_path, scenario, env={"MINE": "1"})


def test_a_calls_variables_reach_children_and_c_code_and_go_again(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        many = {f"N{n}": str(n) for n in range(5000)}
        seen = await call(channel, function="sees", environment={**many, "MINE": "2"})
        assert value(seen) == ["2", "4999", "2", "4999", "2", "4999"]
        # What the function itself sets stays, and what was hidden is back.
        assert value(await call(channel, function="sees")) == ["1", None] * 3
        own = await call(channel, {"names": ["OWN"]}, function="environment")
        assert value(own) == {"OWN": "kept"}

    check(tmp_path, scenario, env={"MINE": "1"})


def test_the_memory_of_an_instance_is_told(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        before = (await call(channel)).memory_bytes
        assert 1_000_000 < before < 200_000_000
        assert (await call(channel, function="nan")).memory_bytes >= before
        after = (await call(channel, {"n": 50_000_000}, function="fills")).memory_bytes
        assert after > before + 40_000_000
        # Of one that died in a call, what it had said last is known.
        assert (await call(channel, function="exits")).memory_bytes == after

    check(tmp_path, scenario)


def test_a_file_named_like_a_library_module(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            source = "import random\ndef main(): return random.randint(3, 3)\n"
            task, code = task_of(tmp_path, source, "json.py:main")
            assert value(await call(await runtime.start(task, code, None))) == 3
            task, code = task_of(tmp_path, source, "pkg/deep.py:main")
            assert value(await call(await runtime.start(task, code, None))) == 3

    asyncio.run(run())


def test_the_context_knows_the_deadline(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        assert value(await call(channel, function="ends")) == [True, False]
        late = await call(channel, function="ends", deadline=time.monotonic() - 1)
        assert value(late) == [False, True]

    check(tmp_path, scenario)


def test_the_context_notices_the_deadline(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        soon = time.monotonic() + 0.05
        outcome = await call(channel, function="waits_for_its_deadline", deadline=soon)
        assert value(outcome) == 0
        assert time.monotonic() >= soon

    check(tmp_path, scenario)


def test_a_plain_function_beside_others_is_told_that_it_was_cancelled(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        other = begin(channel, {"x": 1, "seconds": 0.3})
        polling = begin(channel, function="polls")
        channel.cancel(polling.execution_id)
        outcome = await polling.end()
        assert isinstance(outcome.error, Cancelled)
        assert outcome.output == b"told\n"
        assert value(await other.end()) == 1

    several(tmp_path, scenario, cancel_grace_s=LONG_S)


def test_a_thread_that_asks_takes_no_other_calls_frames(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        await call(channel, function="leaves_a_thread_that_asks")
        for x in range(100):
            assert value(await call(channel, {"x": x})) == x

    check(tmp_path, scenario)


# --- streams ---


def test_a_slow_reader_stops_the_writer(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        sizes: list[int] = []
        running = begin(
            channel,
            {"n": 100, "size": 65_536},
            function="many",
            on_chunk=lambda item: sizes.append(len(item.body)),
        )
        await until(lambda: sum(sizes) == 4 * 65_536)
        assert not running.outcome.done()
        while not running.outcome.done():
            taken = sum(sizes)
            channel.credit(running.execution_id, 65_536)
            await until(lambda taken=taken: sum(sizes) > taken or running.outcome.done())
            assert sum(sizes) - taken <= 65_536
            if sum(sizes) == 100 * 65_536:
                break
        assert (await running.end()).error is None

    check(tmp_path, scenario)


def test_a_stream_of_empty_items_is_bounded_too(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        items: list[Result] = []
        endless = {"n": 10**9, "size": 0}
        running = begin(channel, endless, function="many", on_chunk=items.append)
        window = wire.WINDOW_BYTES // wire.ITEM_BYTES
        await until(lambda: len(items) == window)
        channel.credit(running.execution_id, 0)
        await until(lambda: len(items) > window)
        assert len(items) == window + 1
        channel.cancel(running.execution_id)
        await running.end()

    check(tmp_path, scenario)


def test_a_joined_stream_of_empty_items_has_a_limit(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, {"n": 10**9, "size": 0}, function="many")
        assert isinstance(outcome.error, ResultInvalid)

    check(tmp_path, scenario, confinement={"response_bytes": 1000})


def test_a_joined_stream_has_a_limit(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        outcome = await call(channel, {"n": 100, "size": 65_536}, function="many")
        assert isinstance(outcome.error, ResultInvalid)

    check(tmp_path, scenario, confinement={"response_bytes": 300_000})


def test_a_large_body_both_ways(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            task, code = task_of(tmp_path, "def main(text: str): return text\n")
            channel = await runtime.start(task, code, None)
            text = "ü" * 5_000_000
            result = (await call(channel, {"text": text})).result
            assert result is not None
            assert result.body == text.encode()

    asyncio.run(run())


# --- several in flight ---


def test_a_stubborn_coroutine_waits_for_the_others(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        stubborn = begin(channel, function="stubborn")
        other = begin(channel, {"x": 1, "seconds": 1})
        channel.cancel(stubborn.execution_id)
        assert not channel.accepting
        assert value(await other.end()) == 1
        assert isinstance((await stubborn.end()).error, Cancelled)
        assert not alive(channel.pid)

    several(tmp_path, scenario)


def test_a_blocked_loop_is_killed_and_the_others_are_lost(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        other = begin(channel, {"x": 1, "seconds": 500})
        blocking = begin(channel, function="blocks")
        channel.cancel(blocking.execution_id)
        assert isinstance((await blocking.end()).error, Cancelled)
        assert isinstance((await other.end()).error, InstanceLost)

    several(tmp_path, scenario)


def test_force_has_no_grace_for_a_blocked_loop(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        other = begin(channel, {"x": 1, "seconds": 500})
        blocking = begin(channel, function="blocks")
        channel.cancel(blocking.execution_id)
        channel.cancel(blocking.execution_id, grace_s=0.0)
        assert isinstance((await blocking.end()).error, Cancelled)
        assert isinstance((await other.end()).error, InstanceLost)

    several(tmp_path, scenario, cancel_grace_s=500.0)


def test_force_spares_the_neighbours_of_a_loop_that_turns(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        other = begin(channel, {"x": 1, "seconds": 0.5})
        forced = begin(channel, {"x": 2, "seconds": 500})
        channel.cancel(forced.execution_id, grace_s=0.0)
        assert isinstance((await forced.end()).error, Cancelled)
        assert value(await other.end()) == 1
        assert alive(channel.pid)

    several(tmp_path, scenario)


def test_death_under_several_calls(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        running = [begin(channel, {"seconds": 500}), begin(channel, function="dies")]
        for one in running:
            with pytest.raises(InstanceLost, match="code 9"):
                raise (await one.end()).error or AssertionError

    several(tmp_path, scenario)


def test_neither_exit_nor_plain_functions_stop_the_loop(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        plain = begin(channel, {"seconds": 0.3}, function="plain")
        outcome = await call(channel, function="exits")
        assert isinstance(outcome.error, FunctionRaised)
        assert value(await call(channel, {"x": 4})) == 4
        assert not plain.outcome.done()
        assert (await plain.end()).result == Result(kind="text", body=b"plain")

    several(tmp_path, scenario)


# --- starts ---


@pytest.mark.parametrize("stock", [0, 1])
def test_an_instance_shares_neither_chance_nor_identity(tmp_path: Path, stock: int) -> None:
    source = """
import multiprocessing, os, random, sys, threading
def main():
    thread = threading.main_thread()
    state = [random.getrandbits(64), random.Random().getrandbits(64), hash(random.getstate())]
    return [state, thread.native_id == os.getpid(), sys.modules["__main__"].__dict__.get("main")]
def forks():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(random.getrandbits, (64,))
"""

    async def run() -> None:
        async with opened(process_runtime({"blank_pool": {"min_size": stock}})) as runtime:
            task, code = task_of(tmp_path, source)
            channels = [await runtime.start(task, code, None) for _ in range(3)]
            seen = [value(await call(channel)) for channel in channels]
            numbers = [number for state, *_ in seen for number in state]
            numbers += [value(await call(channel, function="forks")) for channel in channels]
            assert len(set(numbers)) == len(numbers)
            assert [rest for _, *rest in seen] == [[True, None]] * 3

    asyncio.run(run())


@pytest.mark.parametrize(
    ("source", "error", "word"),
    [
        ("import os\nos._exit(7)\n", ArtifactInvalid, "exited with code 7 while it imported"),
        ("import sys\nsys.exit(1)\n", ArtifactInvalid, "app.py, line 2.*sys.exit"),
        ("while True: pass\n", StartFailed, "not ready within 300 ms"),
    ],
)
def test_starts_that_fail_leave_nothing(
    tmp_path: Path, source: str, error: type[AtlatlError], word: str
) -> None:
    async def run() -> None:
        limits = {"instance_creation_timeout_ms": 300}
        runtime = process_runtime({"limits": limits, "blank_pool": {"min_size": 0}})
        async with opened(runtime):
            good, good_code = task_of(tmp_path, SOURCE)
            task, code = task_of(tmp_path, source)
            with pytest.raises(error, match=word):
                await runtime.start(task, code, None)
            await until(lambda: len(runtime.pids()) == 1 + runtime.blanks)
            assert value(await call(await runtime.start(good, good_code, None), {"x": 1})) == 1

    asyncio.run(run())


def test_what_an_import_prints_is_in_the_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(process_runtime()) as runtime:
            task, code = task_of(tmp_path, "print('looking for it')\n1 / 0\n")
            with pytest.raises(ArtifactInvalid) as caught:
                await runtime.start(task, code, None)
            assert "looking for it" in caught.value.detail
            assert "ZeroDivisionError" in caught.value.detail

    asyncio.run(run())


def test_the_stock_is_kept(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime({"blank_pool": {"min_size": 2, "max_size": 3}})
        async with opened(runtime):
            await until(lambda: runtime.blanks == 2)
            task, code = task_of(tmp_path, SOURCE)
            channels = [await runtime.start(task, code, None) for _ in range(4)]
            await until(lambda: runtime.blanks == 3, "the stock grew with the demand")
            used = {channel.pid for channel in channels}
            blank = next(pid for pid in reversed(runtime.pids()) if pid not in used)
            os.kill(blank, signal.SIGKILL)
            await until(lambda: blank not in runtime.pids())
            await until(lambda: runtime.blanks == 3, "the stock was refilled")
            assert len(used) == 4

    asyncio.run(run())


def test_a_start_ends_when_the_runtime_closes_without_a_zygote(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime({"blank_pool": {"min_size": 0}})
        async with opened(runtime):
            os.kill(runtime.pids()[0], signal.SIGKILL)
            await until(lambda: not runtime.ready)
            starting = asyncio.ensure_future(runtime.start(*task_of(tmp_path, SOURCE), None))
            await asyncio.sleep(0)
            await runtime.close()
            with pytest.raises(StartFailed):
                await asyncio.wait_for(starting, PROMISED_S)

    asyncio.run(run())


def test_a_blank_that_died_refuses_its_task_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        zygote = Zygote(lambda: None)
        await zygote.start()
        try:
            exits: list[Exit] = []
            spawned = await zygote.spawn(exits.append, in_stock=True)
            channel = Channel("i", spawned, time.monotonic)
            await channel.connect()
            os.kill(spawned.pid, signal.SIGKILL)
            await until(lambda: exits)
            channel.process_exited(exits[0])
            await until(lambda: channel.gone)
            with pytest.raises(StartFailed, match="SIGKILL"):
                await asyncio.wait_for(channel.assign(task_of(tmp_path, SOURCE)[0], {}), PROMISED_S)
        finally:
            await zygote.close()

    asyncio.run(run())


def test_a_start_given_up_twice_leaves_no_process(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime({"blank_pool": {"min_size": 0}})
        async with opened(runtime):
            task, code = task_of(tmp_path, "open('/tmp/begun', 'w')\nwhile True: pass\n")
            starting = asyncio.ensure_future(runtime.start(task, code, None))
            await until(lambda: len(runtime.pids()) == 2)
            pid = runtime.pids()[1]
            await until(Path(f"/proc/{pid}/root/tmp/begun").exists)
            for _ in range(3):
                starting.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([starting])
            await all_end([pid])

    asyncio.run(run())


# --- nothing is left ---


def test_crashes_leave_no_zombie_and_no_descriptor(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            task, code = task_of(tmp_path, SOURCE)
            channel = await runtime.start(task, code, None)
            await until(lambda: runtime.blanks == 1)
            before = open_descriptors()
            for number in range(1, 1001):
                if number % 50:
                    assert value(await call(channel, {"x": number})) == number
                    continue
                outcome = await call(channel, function="exits")
                assert isinstance(outcome.error, InstanceCrashed)
                channel = await runtime.start(task, code, None)
            await until(lambda: runtime.blanks == 1 and len(runtime.pids()) == 3)
            await until(lambda: open_descriptors() <= before, "descriptors are given back")
            zygote = runtime.pids()[0]
            children = Path(f"/proc/{zygote}/task/{zygote}/children")
            await until(lambda: len(children.read_text().split()) == 2, "no zombie is left")

    before = open_descriptors()
    asyncio.run(run())
    assert open_descriptors() <= before


def test_children_and_daemons_end_with_their_instance(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        pids = value(await call(channel, function="child"))
        assert all(alive(pid) for pid in pids)
        os.kill(channel.pid, signal.SIGKILL)
        await all_end(pids)

    check(tmp_path, scenario)


def test_a_daemon_is_killed_while_its_instance_lives(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        path = inside(channel.pid, "daemon")
        await call(channel, {"path": within(path)}, function="daemon")
        await until(lambda: path.exists() and path.read_text().strip())
        daemon = int(path.read_text())
        await all_end([daemon])
        assert alive(channel.pid)
        assert value(await call(channel, {"x": 1})) == 1

    check(tmp_path, scenario)


def test_children_end_when_the_runtime_closes_on_a_dead_zygote(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        pids = value(await call(channel, function="child"))
        os.kill(runtime.pids()[0], signal.SIGKILL)
        await runtime.close()
        assert not any(alive(pid) for pid in pids)

    check(tmp_path, scenario)


def test_the_zygote_dies_and_is_replaced(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        task, code = task_of(tmp_path, SOURCE)
        lost: list[AtlatlError] = []
        channel.on_lost = lost.append
        pids = value(await call(channel, function="child"))
        running = begin(channel, function="never_returns")
        old = runtime.pids()
        os.kill(old[0], signal.SIGKILL)
        assert isinstance((await running.end()).error, InstanceLost)
        await all_end([*old, *pids])
        assert len(lost) == 1
        again = await runtime.start(task, code, None)
        assert value(await call(again, {"x": 2})) == 2
        assert runtime.ready

    check(tmp_path, scenario)


def test_the_loop_turns_while_what_a_dead_zygote_left_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned, waited = threading.Event(), []

    def patient(mark: str, sessions: Collection[int]) -> None:
        waited.append(turned.wait(LONG_S))
        kill_marked(mark, sessions)

    monkeypatch.setattr(zygote_module, "kill_marked", patient)

    async def scenario(runtime: ProcessRuntime, channel: Channel) -> None:
        task, code = task_of(tmp_path, SOURCE)
        running = begin(channel, function="never_returns")
        os.kill(runtime.pids()[0], signal.SIGKILL)
        assert isinstance((await running.end()).error, InstanceLost)
        again = await runtime.start(task, code, None)
        assert value(await call(again, {"x": 2})) == 2
        asyncio.get_running_loop().call_soon(turned.set)  # while the runtime closes

    check(tmp_path, scenario)
    assert waited == [True]


OWNER = """
import asyncio, sys
from pathlib import Path
from tests.running import begin, call, inside, process_runtime, task_of, value, within
from tests.fault.test_process_runtime import SOURCE

async def main(folder):
    runtime = process_runtime()
    await runtime.open()
    task, code = task_of(folder, SOURCE)
    channel = await runtime.start(task, code, None)
    pids = value(await call(channel, function="child"))
    path = inside(channel.pid, "d")
    begin(channel, {"path": within(path), "stay": True}, function="daemon")
    while not path.exists():
        await asyncio.sleep(0.01)
    print(*runtime.pids(), *pids, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_service(tmp_path: Path, number: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) >= 4
        owner.send_signal(number)
        owner.wait(LONG_S)
    asyncio.run(all_end(pids))


def test_close_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime()
        await runtime.open()
        task, code = task_of(tmp_path, SOURCE)
        channel = await runtime.start(task, code, None)
        pids = value(await call(channel, function="child"))
        pids += runtime.pids()
        running = begin(channel, function="never_returns")
        await runtime.close()
        assert isinstance((await running.end()).error, InstanceLost)
        assert not any(alive(pid) for pid in pids)
        assert runtime.pids() == []
        with pytest.raises(StartFailed):
            await runtime.start(task, code, None)
        await runtime.close()

    asyncio.run(run())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("turns", range(5))
def test_close_while_a_blank_is_being_connected(
    monkeypatch: pytest.MonkeyPatch, loop_factory: Callable[[], Any], turns: int
) -> None:
    async def run() -> None:
        connecting = asyncio.Event()
        real = Link.connect

        async def connect(link: Link) -> None:
            connecting.set()
            await real(link)

        monkeypatch.setattr(Link, "connect", connect)
        runtime = process_runtime()
        await runtime.open()
        await connecting.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(LONG_S):
            await runtime.close()
        assert runtime.pids() == []

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


def test_the_same_on_uvloop(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = process_runtime()
        async with opened(runtime):
            task, code = task_of(tmp_path, SOURCE)
            channel = await runtime.start(task, code, None)
            assert value(await call(channel, {"x": 1})) == 1
            outcome = await call(channel, function="exits")
            assert isinstance(outcome.error, InstanceCrashed)
            channel = await runtime.start(task, code, None)
            running = begin(channel, function="never_returns")
            channel.cancel(running.execution_id)
            assert isinstance((await running.end()).error, Cancelled)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
