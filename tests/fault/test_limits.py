"""Functions that use too much: each limit is kept, its outcome named, others go on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from atlatl import FunctionService, Settings
from atlatl.errors import (
    CpuTimeExceeded,
    InstanceCrashed,
    InstanceLost,
    KilledOutOfMemory,
    OutOfMemory,
    SettingInvalid,
    StartFailed,
)
from atlatl.front.rows import pool_row
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.groups import Group, Groups
from atlatl.runtimes.machine import tree
from atlatl.runtimes.process import ProcessRuntime
from atlatl.settings import parse
from tests.ordinary import NOBODY, as_user, python
from tests.running import (
    ALWAYS,
    alive,
    all_end,
    begin,
    call,
    forked,
    opened,
    process_runtime,
    task_of,
    until,
    value,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

MIB = 2**20

SOURCE = """
import mmap, os, resource, signal, subprocess, sys, threading, time

def main(x: int = 0):
    return x

def touches(mib: int):
    block = bytearray(mib << 20)
    block[::4096] = b"x" * len(block[::4096])
    return len(block)

def shares(mib: int):
    memory = mmap.mmap(-1, mib << 20)
    for place in range(0, mib << 20, 4096):
        memory[place] = 1
    time.sleep(60)

def in_a_child(mib: int):
    block = bytes(4096)
    script = f"b = bytearray({mib} << 20); b[::4096] = b'x' * len(b[::4096]); print(len(b))"
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True)
    return [done.returncode, done.stdout]

def in_children(mib: int, count: int):
    script = (
        f"import mmap, time; m = mmap.mmap(-1, {mib} << 20)\\n"
        f"for p in range(0, {mib} << 20, 4096): m[p] = 1\\n"
        "time.sleep(60)"
    )
    for _ in range(count):
        subprocess.Popen([sys.executable, "-S", "-c", script])
    time.sleep(60)

def bomb():
    pids = []
    try:
        while len(pids) < 1000:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            pids.append(pid)
    except BlockingIOError as error:
        return [len(pids), type(error).__name__]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

def forks_for_ever():
    while True:
        try:
            os.fork()
        except OSError:
            pass

def spins(seconds: float = 60):
    ends = time.process_time() + seconds
    while time.process_time() < ends: pass
    return 1

def ignores():
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2)
    while True: pass

def spins_in_threads():
    for _ in range(3):
        threading.Thread(target=spins, daemon=True).start()
    time.sleep(60)

def spins_in_a_child():
    subprocess.run([sys.executable, "-S", "-c", "while True: pass"])

def sleeps(seconds: float):
    time.sleep(seconds)
    return 2

def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)
"""

ASYNC_SOURCE = """
import asyncio, time
async def main(): return 1
async def spins():
    while True: pass
async def waits():
    await asyncio.sleep(60)
"""

needs_groups = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs a user who may make cgroups: run it as root"
)


async def started(
    runtime: ProcessRuntime, tmp_path: Path, source: str = SOURCE, **confinement: float | str
) -> Channel:
    more = {"pool": {"max_concurrent_requests": 4}} if source is ASYNC_SOURCE else {}
    task, code = task_of(tmp_path, source, confinement=confinement, **more)
    return await runtime.start(task, code, None)


Scenario = Callable[[ProcessRuntime, Path], Coroutine[Any, Any, None]]


def grouped(scenario: Scenario) -> Callable[[Path], None]:
    """A test with a runtime whose instances the kernel limits."""

    async def run(folder: Path) -> None:
        async with opened(process_runtime(groups=Groups())) as runtime:
            if not (runtime.kept.memory_groups and runtime.kept.process_groups):
                pytest.skip("no cgroups can be made here")
            await scenario(runtime, folder)

    @needs_groups
    def test(tmp_path: Path) -> None:
        asyncio.run(run(tmp_path))

    return test


def ran(scenario: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """A test that makes its own runtime."""

    def test(tmp_path: Path) -> None:
        asyncio.run(scenario(tmp_path))

    return test


def plain(scenario: Scenario) -> Callable[[Path], None]:
    """A test with a runtime that makes no groups."""

    async def run(folder: Path) -> None:
        async with opened(process_runtime()) as runtime:
            assert not runtime.kept.memory_groups
            await scenario(runtime, folder)

    def test(tmp_path: Path) -> None:
        asyncio.run(run(tmp_path))

    return test


# --- memory ---


@grouped
async def test_a_memory_bomb_is_named_out_of_memory(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, memory_bytes=64 * MIB)
    assert value(await call(channel, {"mib": 16}, function="touches")) == 16 * MIB
    outcome = await call(channel, {"mib": 256}, function="touches")
    assert isinstance(outcome.error, KilledOutOfMemory), outcome.error
    assert "out of memory: limit 64 MiB (`confinement.memory_bytes`)" in outcome.error.message
    assert outcome.kind.value == "crashed"
    other = await started(runtime, tmp_path)
    assert value(await call(other, {"x": 5})) == 5


@grouped
async def test_the_limit_is_that_of_the_instance_and_all_that_it_starts(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, memory_bytes=96 * MIB)
    code, printed = value(await call(channel, {"mib": 512}, function="in_a_child"))
    assert (code, printed) == (-9, "")
    code, printed = value(await call(channel, {"mib": 16}, function="in_a_child"))
    assert (code, printed) == (0, f"{16 * MIB}\n")


@needs_groups
@ran
async def test_a_task_zygote_and_its_forks_have_the_limits_too(tmp_path: Path) -> None:
    async with opened(process_runtime(ALWAYS, groups=Groups())) as runtime:
        task, code = task_of(tmp_path, SOURCE, confinement={"memory_bytes": 64 * MIB})
        for _ in range(2):  # one that nobody had forked ahead, one that somebody had
            channel = await forked(runtime, task, code)
            outcome = await call(channel, {"mib": 256}, function="touches")
            assert isinstance(outcome.error, KilledOutOfMemory), outcome.error
        greedy, code = task_of(
            tmp_path,
            "block = bytearray(256 << 20)\n" + SOURCE,
            confinement={"memory_bytes": 64 * MIB},
        )
        with pytest.raises(Exception, match="out of memory: limit 64 MiB"):
            await runtime.start(greedy, code, None)


@plain
async def test_without_groups_what_is_measured_ends_it(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, memory_bytes=64 * MIB)
    assert value(await call(channel, {"mib": 4}, function="touches")) == 4 * MIB
    outcome = await call(channel, {"mib": 256}, function="shares")
    assert isinstance(outcome.error, KilledOutOfMemory), outcome.error
    assert "when measured, limit 64 MiB (`confinement.memory_bytes`)" in outcome.error.message
    channel = await started(runtime, tmp_path, memory_bytes=64 * MIB)
    outcome = await call(channel, {"mib": 24, "count": 4}, function="in_children")
    assert isinstance(outcome.error, KilledOutOfMemory), outcome.error


@plain
async def test_without_groups_a_process_that_asks_for_too_much_is_refused(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, memory_bytes=64 * MIB)
    outcome = await call(channel, {"mib": 256}, function="touches")
    assert type(outcome.error) is OutOfMemory
    assert "MemoryError" in outcome.error.message
    assert outcome.kind.value == "error"
    assert value(await call(channel, {"x": 4})) == 4  # the instance lives


@plain
async def test_a_kill_that_nobody_here_sent_is_told_with_size_and_limit(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, memory_bytes=64 * MIB)
    await asyncio.to_thread(channel.memory_bytes)
    outcome = await call(channel, function="kills_itself")
    assert type(outcome.error) is InstanceCrashed
    assert "was killed by signal 9 (SIGKILL)" in outcome.error.message
    assert "MiB of memory when last measured, its limit is 64 MiB" in outcome.error.message


@plain
async def test_level_none_has_no_limits(runtime: ProcessRuntime, tmp_path: Path) -> None:
    channel = await started(runtime, tmp_path, level="none", memory_bytes=16 * MIB, cpu_s=0.05)
    assert channel.usage.memory_limit_bytes == 0
    assert value(await call(channel, {"mib": 64}, function="touches")) == 64 * MIB
    assert value(await call(channel, {"seconds": 0.3}, function="spins")) == 1


# --- CPU time ---


@plain
async def test_a_call_that_uses_too_much_cpu_time_is_ended(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    for function in ("spins", "ignores", "spins_in_threads"):
        channel = await started(runtime, tmp_path, cpu_s=0.3)
        outcome = await call(channel, function=function)
        assert isinstance(outcome.error, CpuTimeExceeded), outcome.error
        assert "more than 0.3 s of CPU time (`confinement.cpu_s`)" in outcome.error.message
        assert outcome.kind.value == "crashed"
        assert outcome.error.code == "RESOURCE_LIMIT_EXCEEDED"


@grouped
async def test_cpu_time_of_children_counts(runtime: ProcessRuntime, tmp_path: Path) -> None:
    assert runtime.kept.cpu_groups
    channel = await started(runtime, tmp_path, cpu_s=0.3)
    outcome = await call(channel, function="spins_in_a_child")
    assert isinstance(outcome.error, CpuTimeExceeded), outcome.error


@plain
async def test_each_call_has_its_own_cpu_time(runtime: ProcessRuntime, tmp_path: Path) -> None:
    channel = await started(runtime, tmp_path, cpu_s=0.5)
    running = [
        begin(channel, {"seconds": 0.2}, function="spins"),
        *[begin(channel, {"seconds": 0.2}, function="spins") for _ in range(4)],
    ]
    assert [value(await each.end()) for each in running] == [1] * 5
    assert value(await call(channel, {"seconds": 0.7}, function="sleeps")) == 2


@plain
async def test_of_several_calls_at_once_none_is_blamed(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, ASYNC_SOURCE, cpu_s=0.2)
    calls = [begin(channel, function="waits"), begin(channel, function="spins")]
    for each in calls:
        outcome = await each.end()
        assert isinstance(outcome.error, InstanceLost)
        assert "CPU time (`confinement.cpu_s`)" in outcome.error.message


# --- processes ---


@grouped
async def test_a_fork_bomb_is_refused_and_leaves_nothing(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    channel = await started(runtime, tmp_path, processes=20)
    other = await started(runtime, tmp_path)
    forked, error = value(await call(channel, function="bomb"))
    assert (forked, error) == (19, "BlockingIOError")
    running = begin(channel, function="forks_for_ever")
    group = channel.usage.group
    assert group is not None
    [procs] = [path / "cgroup.procs" for path in group.directories if "pids" in str(path)]
    await until(lambda: len(procs.read_text().split()) == 20, "a full group")
    members = [int(pid) for pid in procs.read_text().split()]
    for x in range(100):
        assert value(await call(other, {"x": x})) == x
    channel.cancel(running.execution_id)
    assert (await running.end()).error is not None
    await all_end(members)
    await until(lambda: not procs.exists(), "the end of the group")


@plain
async def test_without_groups_a_fork_bomb_is_refused_all_the_same(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    if not runtime.kept.processes:
        pytest.skip("this kernel cannot count the processes of one instance without cgroups")
    channel = await started(runtime, tmp_path, processes=20)
    other = await started(runtime, tmp_path, processes=20)
    for each in (channel, other):
        forked, error = value(await call(each, function="bomb"))
        assert (10 <= forked < 20, error) == (True, "BlockingIOError")
    running = begin(channel, function="forks_for_ever")
    await until(lambda: len(list(tree(channel.pid))) > 10, "the bomb")
    assert value(await call(other, function="bomb"))
    channel.cancel(running.execution_id)
    assert (await running.end()).error is not None


# --- groups come and go ---


@needs_groups
@ran
async def test_groups_go_with_their_processes_and_the_runtime(tmp_path: Path) -> None:
    runtime = process_runtime(groups=Groups())
    await runtime.open()
    try:
        channel = await started(runtime, tmp_path)
        assert channel.usage.group is not None
        paths = channel.usage.group.directories
        assert paths
        assert all(str(channel.pid) in (each / "cgroup.procs").read_text() for each in paths)
        homes = {each.parent for each in paths}
        await channel.stop(0)
        await until(lambda: not any(each.exists() for each in paths), "the end of the group")
    finally:
        await runtime.close()
    assert not any(each.exists() for each in homes)


KILLED = """
import os, signal, subprocess
from atlatl.runtimes.groups import Groups
groups = Groups()
groups.open()
child = subprocess.Popen(["sleep", "100"], stdout=subprocess.DEVNULL)
group = groups.enter(child.pid)
print(child.pid, *group.directories, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_groups
def test_what_a_service_that_was_killed_has_left_is_removed() -> None:
    living = Groups()
    living.open()
    try:
        if not living.memory:
            pytest.skip("no cgroups can be made here")
        done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
        pid, *paths = done.stdout.split()
        assert alive(int(pid))
        assert all(Path(each).exists() for each in paths)
        asyncio.run(until(lambda: swept(paths), "the end of its groups"))
        assert not alive(int(pid))
        with subprocess.Popen(["sleep", "100"]) as child:  # the living one's are not touched
            group = living.enter(child.pid)
            child.kill()
        asyncio.run(until(group.remove, "the end of the group"))
    finally:
        living.close()


def swept(paths: list[str]) -> bool:
    """Has another service start, and looks whether the groups are gone."""
    another = Groups()
    another.open()
    another.close()
    return not any(Path(each).parent.exists() for each in paths)


@ran
async def test_a_machine_on_which_no_process_can_be_moved_goes_on_without_groups(
    tmp_path: Path,
) -> None:
    class Immovable(Groups):
        def enter(self, pid: int) -> Group:
            raise PermissionError(13, "Permission denied")

    groups = Immovable()
    async with opened(process_runtime(groups=groups)) as runtime:
        assert not runtime.kept.memory_groups
        channel = await started(runtime, tmp_path)
        assert value(await call(channel, {"x": 3})) == 3
        homes = [each.directory for each in groups.homes]
    assert not any(each.exists() for each in homes)


@plain
async def test_strict_is_refused_where_a_limit_cannot_be_kept(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    with pytest.raises(StartFailed, match=r"`strict`.*memory: `memory_bytes`"):
        await started(runtime, tmp_path, level="strict", network=False)


# --- what the service says of it ---


def test_strict_is_refused_at_deploy_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlatl.assembly.Groups", lambda: Groups(tmp_path / "nowhere"))
    strict = {"confinement": {"level": "strict", "network": False}}

    async def run() -> None:
        settings = parse(Settings, {"data_dir": str(tmp_path / "data")})
        async with FunctionService(settings) as service:
            with pytest.raises(SettingInvalid, match=r"`strict`.*cannot keep: .*memory: ") as said:
                await service.deploy("f", SOURCE.encode(), filename="f.py", settings=strict)
            assert said.value.http_status == 422
            assert service.tasks(limit=10).items == []
            for level in ("standard", "none"):
                own = {"confinement": {"level": level}}
                await service.deploy(level, SOURCE.encode(), filename="f.py", settings=own)
                assert await service.invoke(level, {"x": 1}) == 1
            rows = {view.task_name: pool_row(view)["confinement"] for view in service.pools()}
            assert rows["none"] == {"level": "none", "not_kept": []}
            assert rows["standard"]["level"] == "standard"
            assert any(each.startswith("memory: ") for each in rows["standard"]["not_kept"])

    asyncio.run(run())


def test_what_is_not_kept_is_told_in_one_line_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with opened(process_runtime(groups=Groups(tmp_path / "nowhere"))):
            pass

    asyncio.run(run())
    [line] = [each for each in caplog.records if each.getMessage().startswith("confinement: ")]
    assert line.levelname == "WARNING"
    assert "memory: `memory_bytes` bounds each process" in line.getMessage()
    assert "there is no cgroup controller 'memory'" in line.getMessage()


# --- as an ordinary user ---


@needs_groups
@pytest.mark.timeout(300)
def test_an_ordinary_user_has_all_that_needs_no_group() -> None:
    """This very file once more; what needs groups is left out there."""
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, NOBODY, NOBODY)
        ran_by_nobody(home)


def ran_by_nobody(home: str) -> None:
    root = Path(__file__).parents[2]
    command = [python(), "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={home}/t"]
    done = subprocess.run(
        [*command, __file__], **as_user(), cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert " skipped" in done.stdout
