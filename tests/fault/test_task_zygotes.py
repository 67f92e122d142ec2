"""Zygotes of single tasks: quick when all is well, and harmless whatever the artifact does."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from atlatl import FunctionService, Settings
from atlatl.errors import ArtifactInvalid, AtlatlError, InstanceCrashed, InstanceLost, StartFailed
from atlatl.front.rows import pool_row
from atlatl.model import Task
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.groups import Group
from atlatl.runtimes.machine import parent_of
from atlatl.runtimes.process import ProcessRuntime
from atlatl.settings import ConfinementSettings, parse
from atlatl_worker.confine import FIRST_FREE_FD
from tests.running import (
    ALWAYS,
    LONG_S,
    alive,
    all_end,
    begin,
    call,
    forked,
    open_descriptors,
    opened,
    process_runtime,
    task_of,
    until,
    value,
)

SOURCE = """
import os, random, subprocess, sys, threading, time
from pathlib import Path

import atlatl_worker

hooks = []
random.seed(1)

@atlatl_worker.after_fork
def hook():
    hooks.append(os.getpid())

def main(x: int = 0): return x
def waits():
    while True: time.sleep(1)
def exits(): os._exit(3)
def prints(): print("printed"); os.system("echo by a child"); return 1
def chance(): return random.getrandbits(64)
def hooked(): return [hooks, os.getpid()]
def child():
    return [subprocess.Popen(["sleep", "1000"], start_new_session=True).pid]
def self_view():
    status = Path("/proc/self/status").read_text()
    return {
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:5],
        "count": len(os.listdir("/proc/self/fd")),
        "environment": dict(os.environ),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "oom": Path("/proc/self/oom_score_adj").read_text(),
        "privileges": [line for line in status.splitlines() if line.startswith("NoNewPrivs")],
        "session": os.getsid(0) == os.getpid(),
        "signals": [line for line in status.splitlines() if line.startswith("Sig")],
        "directory": os.getcwd(),
        "argv": sys.argv,
        "native_id": threading.main_thread().native_id == os.getpid(),
    }
"""

Scenario = Callable[[ProcessRuntime, Task, Path], Awaitable[None]]


def check(
    folder: Path,
    scenario: Scenario,
    source: str = SOURCE,
    settings: dict[str, Any] | None = None,
    **overrides: Any,
) -> None:
    async def run() -> None:
        async with opened(process_runtime({**ALWAYS, **(settings or {})})) as runtime:
            assert isinstance(runtime, ProcessRuntime)
            await scenario(runtime, *task_of(folder, source, **overrides))
            pids = runtime.pids()
        assert runtime.pids() == []
        assert not any(alive(pid) for pid in pids)

    before = open_descriptors()
    asyncio.run(run())
    assert open_descriptors() <= before


def its_zygote(runtime: ProcessRuntime) -> int:
    (pid,) = runtime.reserve.pids()
    return pid


def descriptors_of(pid: int) -> list[Path]:
    return sorted(Path(f"/proc/{pid}/fd").iterdir())


async def works(runtime: ProcessRuntime, task: Task, code: Path, origin: str = "") -> Channel:
    """A start that has to succeed."""
    channel = await runtime.start(task, code, None)
    assert value(await call(channel, {"x": 5})) == 5
    assert not origin or channel.origin == origin
    return channel


async def not_used(runtime: ProcessRuntime, task: Task, code: Path, why: str) -> None:
    await works(runtime, task, code)
    await until(lambda: why in runtime.reserve.state(task), f"{why!r} said")
    assert runtime.reserve.state(task).startswith("unused: ")
    assert (await works(runtime, task, code)).origin != "task_zygote"
    await until(lambda: runtime.reserve.pids() == [])


# --- as an ordinary instance ---


def test_it_is_in_all_things_an_ordinary_instance(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        ordinary = await runtime.start(task, code, None)
        assert ordinary.origin in ("blank", "fork")
        special = await forked(runtime, task, code)
        views = [value(await call(c, function="self_view")) for c in (ordinary, special)]
        assert views[0] == views[1]
        assert views[0]["native_id"]
        assert special.shapes == ordinary.shapes
        assert (await call(special, function="prints")).output == b"printed\nby a child\n"

    check(tmp_path, scenario, env={"MINE": "1"})


def test_chance_differs_and_hooks_run_in_each(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channels = [await forked(runtime, task, code) for _ in range(4)]
        numbers = {value(await call(channel, function="chance")) for channel in channels}
        assert len(numbers) == 4
        for channel in channels:
            hooks, pid = value(await call(channel, function="hooked"))
            assert (hooks, pid) == ([channel.pid], channel.pid)

    check(tmp_path, scenario)


def test_the_chance_of_numpy_differs_too(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        (code / "numpy").mkdir()
        (code / "numpy" / "__init__.py").write_text("")
        (code / "numpy" / "random.py").write_text(
            "seeds = 0\ndef seed():\n global seeds; seeds += 1"
        )
        assert value(await call(await forked(runtime, task, code))) == 1

    check(tmp_path, scenario, "import numpy.random\ndef main(): return numpy.random.seeds\n")


def test_an_import_that_takes_its_time_is_made_once_more_and_then_spared(tmp_path: Path) -> None:
    source = (
        f"{SOURCE}\ntime.sleep(0.1); imported_by = os.getpid()\ndef importer(): return imported_by"
    )

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channels = [await forked(runtime, task, code) for _ in range(5)]
        importers = {value(await call(channel, function="importer")) for channel in channels}
        assert importers == {zygote.pid for zygote in runtime.reserve._all()}

    settings = {"zygote": {"min_import_ms": 90}}
    check(tmp_path, scenario, source, settings)


def test_a_quick_import_gets_none(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await works(runtime, task, code)
        assert runtime.reserve.state(task) == ""

    check(tmp_path, scenario, settings={"zygote": {"min_import_ms": 20_000}})


def test_the_same_on_uvloop(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(process_runtime(ALWAYS)) as runtime:
            assert isinstance(runtime, ProcessRuntime)
            task, code = task_of(tmp_path, SOURCE)
            channel = await forked(runtime, task, code)
            outcome = await call(channel, function="exits")
            assert isinstance(outcome.error, InstanceCrashed)
            assert "exited with code 3" in outcome.error.message
            os.kill(its_zygote(runtime), signal.SIGKILL)
            await until(lambda: "SIGKILL" in runtime.reserve.state(task))
            await works(runtime, task, code, "blank")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# --- artifacts that are not fit for it ---


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", "threads"),
        ("helper = subprocess.Popen(['sleep', '1000'])", "processes"),
        ("kept = open('/dev/null')", "files or connections"),
        ("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)", ""),
    ],
)
def test_what_can_not_be_shared_comes_from_blanks_and_it_is_said(
    tmp_path: Path, line: str, why: str
) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        if why:
            await not_used(runtime, task, code, why)
            return
        channel = await forked(runtime, task, code)
        assert isinstance((await call(channel, function="exits")).error, AtlatlError)
        await works(runtime, task, code)

    check(tmp_path, scenario, f"{SOURCE}\n{line}\n")


SECOND_TIME = """
import os, sys, time
frame = sys._getframe()
while "assignment" not in frame.f_locals: frame = frame.f_back
if frame.f_locals["assignment"].forks:
    {does}
"""


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("os._exit(0)", "ended while it imported"),
        ("1 / 0", "could not be imported"),
        ("time.sleep(1000)", "not ready within"),
        ("os.closerange(3, 100)", "ended while it imported"),
        ("os.kill(os.getpid(), 9)", "ended while it imported"),
        ("os.write(3, b'garbage' * 100)", "broke off"),
    ],
)
def test_an_import_that_fails_the_second_time(tmp_path: Path, does: str, why: str) -> None:
    source = SECOND_TIME.format(does=does) + SOURCE

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await works(runtime, task, code)
        await until(lambda: why in runtime.reserve.state(task), f"{why!r} said")
        await works(runtime, task, code)

    limits = {"limits": {"instance_creation_timeout_ms": 1500}}
    check(tmp_path, scenario, source, limits)


@pytest.mark.parametrize("does", ["os._exit(0)", "os.closerange(3, 100)", "time.sleep(1000)"])
def test_an_import_that_never_works_makes_none(tmp_path: Path, does: str) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        for _ in range(2):
            with pytest.raises((ArtifactInvalid, StartFailed)):
                await runtime.start(task, code, None)
        assert runtime.reserve.state(task) == ""

    limits = {"limits": {"instance_creation_timeout_ms": 500}}
    check(tmp_path, scenario, f"import os, time\n{does}\n{SOURCE}", limits)


PATCHED = """
import os, signal, time
from atlatl_worker import forking
Forker = forking.Forker
tell = Forker.tell
"""


@pytest.mark.parametrize(
    "patch",
    [
        "Forker.serve = lambda self: os._exit(0)",
        "Forker.serve = lambda self: os.kill(os.getpid(), signal.SIGSTOP)",
        "Forker._spawn = lambda self, *_: None",
        "Forker._spawn = lambda self, *_: self._control.send(b'garbage')",
        'Forker._spawn = lambda self, *_: self._control.send(b\'{"op":"ready","id":1}\')',
        "Forker._spawn = lambda self, n, *_: tell(self, {'op': 'spawned', 'id': n, 'pid': 1})",
        "Forker._spawn = lambda self, n, *_: tell(self, {'op': 'spawned', 'id': n, 'pid': 0})",
        "Forker._spawn = lambda self, n, *_: tell(self, {'op': 'spawned', 'id': n, 'pid': VICTIM})",
        "Forker._spawn = lambda self, n, *_: tell(self, {'op': 'spawned', 'id': n + 7, 'pid': 1})",
        "Forker._spawn = lambda self, n, *_: tell(self, {'op': 'exited', 'pid': VICTIM})",
        "Forker._spawn = lambda self, n, *_: tell(self, {'op': 'failed', 'id': n})",
        "Forker._spawn = lambda self, *_: [self._control.send(b'x') for _ in iter(int, 1)]",
        "os.fork = lambda: 1 / 0",
        "os.fork = lambda: -1",
        "os.fork = os.getpid",
        "os.fork = lambda: os._exit(9)",
    ],
)
def test_one_that_lies_or_refuses_harms_nobody(tmp_path: Path, patch: str) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        other, other_code = task_of(tmp_path, SOURCE, env={"OTHER": "1"})
        victim = await runtime.start(other, other_code, None)
        runtime.reserve.forget(other)
        running = begin(victim, function="waits")
        (code / "app.py").write_text(f"VICTIM = {victim.pid}\n{PATCHED}{SOURCE}\n{patch}\n")
        await works(runtime, task, code)
        await until(lambda: runtime.reserve.state(task) not in ("", "starting"))
        for _ in range(4):
            await works(runtime, task, code)
            await until(lambda: runtime.reserve.state(task) not in ("", "starting"))
        assert alive(victim.pid)
        assert not running.outcome.done()
        assert alive(runtime.pids()[0])

    check(tmp_path, scenario)


def test_a_silent_one_does_not_keep_an_end_secret(tmp_path: Path) -> None:
    source = PATCHED + SOURCE + "\nForker._tell_end = lambda *_: None\n"

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channel = await forked(runtime, task, code)
        outcome = await call(channel, function="exits")
        assert isinstance(outcome.error, InstanceLost)
        await works(runtime, task, code)

    check(tmp_path, scenario, source)


def test_it_kills_what_it_forks_by_itself(tmp_path: Path) -> None:
    source = f"""{PATCHED}{SOURCE}
serve = Forker.serve
def forks_first(self):
    if os.fork() == 0:
        Path("/tmp/pid").write_text(str(os.getpid()))
        time.sleep(1000)
    serve(self)
Forker.serve = forks_first
"""

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channel = await forked(runtime, task, code)
        path = Path(f"/proc/{channel.pid}/root/tmp/pid")
        if path.exists():  # noqa: ASYNC240 # else it was gone before its first breath
            await all_end([int(path.read_text())])  # noqa: ASYNC240

    check(tmp_path, scenario, source)


# --- forked ahead ---


def test_one_is_forked_ahead_and_ends_with_its_zygote(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channel = await forked(runtime, task, code)
        (zygote,) = runtime.reserve._all()

        async def spare() -> Channel:
            await until(lambda: zygote.spare is not None and zygote.spare.accepting)
            assert zygote.spare is not None
            return zygote.spare

        one = await spare()
        assert (await works(runtime, task, code, "task_zygote")).id == one.id
        dead = await spare()
        os.kill(dead.pid, signal.SIGKILL)
        await until(lambda: not dead.accepting)
        assert (await works(runtime, task, code, "task_zygote")).id != dead.id
        last = await spare()
        runtime.reserve.forget(task)
        await all_end([last.pid])
        assert value(await call(channel, {"x": 1})) == 1

    check(tmp_path, scenario)


def test_one_forked_ahead_that_gets_no_limits_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        apply = runtime._limits.apply

        async def refuse_forks(group: Group | None, pid: int, limits: ConfinementSettings) -> None:
            if parent_of(pid) in runtime.reserve.pids():
                raise StartFailed("there are no limits")
            await apply(group, pid, limits)

        monkeypatch.setattr(runtime._limits, "apply", refuse_forks)
        await works(runtime, task, code)
        await until(lambda: "there are no limits" in runtime.reserve.state(task))
        await until(lambda: runtime.reserve.pids() == [], "the end of the zygote and its fork")

    check(tmp_path, scenario)


def test_its_forks_do_not_take_each_others_processes(tmp_path: Path) -> None:
    """Without a cgroup the kernel counts those of all of them as one user's."""

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        if not runtime.kept.processes:
            pytest.skip("this kernel cannot count the processes of one instance without cgroups")
        channels = [await forked(runtime, task, code) for _ in range(6)]
        assert [value(await call(each, {"x": 5})) for each in channels] == [5] * 6
        assert runtime.reserve.state(task) == "ready"

    check(tmp_path, scenario, confinement={"processes": 4}, pool={"max_size": 6})


# --- the end of one ---


def test_its_death_takes_its_own_instances_alone(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        mine = await forked(runtime, task, code)
        from_blank = await runtime._from_blank(task, code, None)
        pids = value(await call(mine, function="child"))
        lost = begin(mine, function="waits")
        stays = begin(from_blank, function="waits")
        os.kill(its_zygote(runtime), signal.SIGKILL)
        error = (await lost.end()).error
        assert isinstance(error, InstanceLost)
        await all_end([mine.pid, *pids])
        assert not stays.outcome.done()
        await works(runtime, task, code)

    check(tmp_path, scenario)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20, 100])
def test_killed_at_any_moment_of_a_start(tmp_path: Path, turns: int) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await forked(runtime, task, code)
        pid = its_zygote(runtime)
        starts = [asyncio.ensure_future(runtime.start(task, code, None)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        for channel in await asyncio.gather(*starts):
            outcome = await call(channel, {"x": 1})
            assert outcome.error is None or isinstance(outcome.error, InstanceLost)
        await works(runtime, task, code)

    check(tmp_path, scenario)


def test_one_that_dies_while_it_is_asked_is_given_up_for_its_death(tmp_path: Path) -> None:
    """Not for the answer that did not come, which says nothing."""

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await works(runtime, task, code)
        await until(lambda: runtime.reserve.state(task) == "ready")
        (zygote,) = runtime.reserve._all()
        await until(lambda: zygote.spare is not None)
        os.kill(zygote.pid, signal.SIGSTOP)
        await works(runtime, task, code)  # by the spare; another one is asked for then
        await until(lambda: bool(zygote._orders))
        os.kill(zygote.pid, signal.SIGKILL)
        await until(lambda: runtime.reserve.state(task) != "ready")
        assert "SIGKILL" in runtime.reserve.state(task)

    check(tmp_path, scenario)


def test_one_that_died_unheard_is_gone_when_it_is_asked(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await forked(runtime, task, code)
        (zygote,) = runtime.reserve._all()
        assert zygote._process is not None
        os.kill(zygote.pid, signal.SIGKILL)
        # Without a turn of the event loop, which would read of it.
        select.select([zygote._process.pidfd], [], [])
        with pytest.raises(StartFailed, match="is gone"):
            await zygote.spawn(lambda how: None, in_stock=False)
        await until(lambda: runtime.reserve.state(task) != "ready")
        assert "SIGKILL" in runtime.reserve.state(task)

    check(tmp_path, scenario)


def test_one_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        for _ in range(3):
            await works(runtime, task, code)
            await until(lambda: runtime.reserve.state(task) == "ready")
            os.kill(its_zygote(runtime), signal.SIGKILL)
            await until(lambda: runtime.reserve.state(task) != "ready")
        await works(runtime, task, code)
        assert "SIGKILL" in runtime.reserve.state(task)
        assert runtime.reserve.pids() == []

    check(tmp_path, scenario)


def test_a_stopped_one_delays_no_start_for_long(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await forked(runtime, task, code)
        os.kill(its_zygote(runtime), signal.SIGSTOP)
        async with asyncio.timeout(LONG_S):
            # The first one may have been forked before.
            origins = [(await works(runtime, task, code)).origin for _ in range(2)]
            assert origins[1] != "task_zygote"
        await until(lambda: runtime.reserve.state(task) == "ready", "another one")

    check(tmp_path, scenario)


def test_the_base_zygote_takes_all_with_it(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channel = await forked(runtime, task, code)
        pids = [*runtime.pids(), *value(await call(channel, function="child"))]
        running = begin(channel, function="waits")
        os.kill(runtime.pids()[0], signal.SIGKILL)
        assert isinstance((await running.end()).error, InstanceLost)
        await all_end(pids)
        await forked(runtime, task, code)

    check(tmp_path, scenario)


def versions(task: Task, code: Path, number: int) -> list[tuple[Task, Path]]:
    import msgspec

    return [
        (msgspec.structs.replace(task, version=n, task_id=f"task-{n}"), code)
        for n in range(1, number + 1)
    ]


def test_the_least_recently_used_goes_and_its_instances_stay(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        first, second, third = versions(task, code, 3)
        channel = await forked(runtime, *first)
        running = begin(channel, function="waits")
        await forked(runtime, *second)
        zygotes = runtime.reserve.pids()
        await (await forked(runtime, *first)).stop(0)
        await (await forked(runtime, *second)).stop(0)
        await forked(runtime, *third)
        states = [runtime.reserve.state(each) for each, _ in (first, second, third)]
        assert states == ["", "ready", "ready"]
        assert alive(zygotes[0])
        assert not running.outcome.done()
        await channel.stop(0)
        await all_end(zygotes[:1])

    check(tmp_path, scenario, settings={"zygote": {"min_import_ms": 0, "max_task_zygotes": 2}})


def test_one_that_is_idle_goes(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        channel = await runtime.start(task, code, None)
        await until(lambda: runtime.reserve.state(task) == "ready")
        pid = its_zygote(runtime)
        await until(lambda: runtime.reserve.state(task) == "")
        await all_end([pid])
        assert alive(channel.pid)

    check(tmp_path, scenario, settings={"zygote": {"min_import_ms": 0, "idle_timeout_s": 0.2}})


def test_memory_that_is_short_ends_them_for_a_while(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await (await forked(runtime, task, code)).stop(0)
        assert await asyncio.to_thread(runtime.reserve.memory_bytes) > 0
        pid = its_zygote(runtime)
        runtime.reserve.give_way()
        await all_end([pid])
        await works(runtime, task, code)
        assert runtime.reserve.state(task) == ""

    check(tmp_path, scenario)


def test_a_task_that_is_forgotten_has_none(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        (await works(runtime, task, code)).kill()
        runtime.reserve.forget(task)  # while it is being made
        await until(lambda: runtime.reserve.pids() == [])
        channel = await forked(runtime, task, code)
        runtime.reserve.forget(task)
        assert value(await call(channel, {"x": 1})) == 1
        pid = its_zygote(runtime)
        await channel.stop(0)
        await all_end([pid])

    check(tmp_path, scenario)


def test_one_of_other_code_is_never_used(tmp_path: Path) -> None:
    """A deploy that fails leaves no version behind: the next one has the same number."""

    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await forked(runtime, task, code)
        again, other = task_of(tmp_path, "def main(): return 'other'.split()\n")
        channel = await runtime.start(again, other, None)
        assert value(await call(channel)) == ["other"]

    check(tmp_path, scenario)


def test_many_starts_and_ends_leave_nothing(tmp_path: Path) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await forked(runtime, task, code)
        # Two zygotes, a blank, the instance and one that was forked ahead.
        await until(lambda: len(runtime.pids()) == 5, "all to be there")
        before = open_descriptors()
        zygote = its_zygote(runtime)
        for number in range(200):
            channel = await forked(runtime, task, code)
            if number % 4 == 0:
                assert (await call(channel, function="exits")).error is not None
            elif number % 4 == 1:
                channel.kill()
            await channel.stop(0)
        await until(lambda: len(runtime.pids()) == 5, "all others to be gone")
        await until(lambda: open_descriptors() <= before, "descriptors are given back")
        children = Path(f"/proc/{zygote}/task/{zygote}/children")
        await until(lambda: len(children.read_text().split()) == 2, "no zombie is left")
        # Those of every instance, the socket to the service, and one for each child.
        await until(lambda: len(descriptors_of(zygote)) == FIRST_FREE_FD + 1 + 2, "its descriptors")

    check(tmp_path, scenario)


# --- in the service ---


def test_the_pools_view_says_where_instances_come_from(tmp_path: Path) -> None:
    """And each version has its own, which ends with it."""
    settings = parse(Settings, {"data_dir": str(tmp_path / "data"), **ALWAYS})
    threaded = f"{SOURCE}\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"

    async def run() -> None:
        async with FunctionService(settings) as service:

            def zygote() -> str:
                return str(pool_row(service.pools()[0])["zygote"])

            async def deploy(source: str) -> None:
                await service.deploy("f", source.encode(), filename="f.py")
                assert await service.invoke("f", {"x": 1}) == 1

            def pids() -> list[int]:
                runtime = service._parts.runtimes._runtimes["process"]
                assert isinstance(runtime, ProcessRuntime)
                return runtime.reserve.pids()

            async def shows(text: str, n_zygotes: int) -> None:
                try:
                    await until(lambda: zygote().startswith(text) and len(pids()) == n_zygotes)
                except AssertionError:
                    raise AssertionError(f"{zygote()!r} with {pids()}, not {text!r}") from None

            await deploy(SOURCE)
            await shows("ready", 1)
            first = pids()
            await deploy(f"{SOURCE}\n# another version")
            await shows("ready", 1)
            assert pids() != first
            await all_end(first)
            await service.prewarm("f", 3)
            assert "task_zygote" in {view.origin for view in service.instances()}
            await deploy(threaded)
            await shows("unused: the artifact starts threads", 0)
            await deploy(SOURCE)
            await shows("ready", 1)
            last = pids()
            await service.delete_task("f", force=True)
            await all_end(last)

    asyncio.run(run())


OWNER = """
import asyncio, sys
from pathlib import Path
from tests.running import ALWAYS, begin, call, forked, process_runtime, task_of, value
from tests.fault.test_task_zygotes import SOURCE

async def main(folder):
    runtime = process_runtime(ALWAYS)
    await runtime.open()
    task, code = task_of(folder, SOURCE)
    channel = await forked(runtime, task, code)
    pids = value(await call(channel, function="child"))
    begin(channel, function="waits")
    print(*runtime.pids(), *pids, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_nothing_outlives_a_killed_service(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) >= 4
        owner.send_signal(signal.SIGKILL)
        owner.wait(LONG_S)
    asyncio.run(all_end(pids))


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 30, 100, 300])
def test_close_while_one_is_being_made(tmp_path: Path, turns: int) -> None:
    async def scenario(runtime: ProcessRuntime, task: Task, code: Path) -> None:
        await works(runtime, task, code)
        for _ in range(turns):
            await asyncio.sleep(0)

    check(tmp_path, scenario)
