"""Groups in trees that behave like the kernel's, without a kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlatl.runtimes import groups as module
from atlatl.runtimes.groups import Groups
from atlatl.runtimes.hierarchies import Hierarchy, hierarchies
from atlatl.runtimes.machine import memory_budget_bytes

ME = os.getpid()
NOBODY = 2**22 + 4711
"""No process can have that number."""
V1_FILES = {
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    },
    "pids": {"pids.max": "max"},
    "cpuacct": {"cpuacct.usage": "0"},
}
V2_FILES = {
    "memory": {
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
    "pids": {"pids.max": "max"},
}


class Tree:
    """One hierarchy in a directory.

    Args:
        point: where it is mounted.
        version: of its interface.
        controllers: of all that can be had in it.
    """

    def __init__(self, point: Path, version: int, *controllers: str) -> None:
        self.point, self.version, self.controllers = point, version, controllers
        point.mkdir(parents=True)
        self.furnish(point)

    def furnish(self, group: Path) -> None:
        files = {"cgroup.procs": ""}
        if self.version == 1:
            for name in self.controllers:
                files |= V1_FILES[name]
        else:
            root = group == self.point
            available = self.controllers if root else self.enabled(group.parent)
            files |= {"cgroup.controllers": " ".join(available), "cgroup.subtree_control": ""}
            files |= {"cgroup.kill": "", "cpu.stat": "usage_usec 0\nuser_usec 0\n"}
            for name in () if root else available:
                files |= V2_FILES[name]
        for name, text in files.items():
            (group / name).write_text(text)

    def enabled(self, group: Path) -> list[str]:
        return (group / "cgroup.subtree_control").read_text().split()

    def write(self, path: Path, text: str) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
        if path.name == "cgroup.procs":
            if self.version == 2 and self.enabled(path.parent) and path.parent != self.point:
                raise OSError(errno.EBUSY, "it has groups below it that are limited")
            for procs in self.point.rglob("cgroup.procs"):
                procs.write_text("\n".join(p for p in procs.read_text().split() if p != text))
            text = "\n".join([*path.read_text().split(), text])
        elif path.name == "cgroup.subtree_control":
            if path.parent != self.point and (path.parent / "cgroup.procs").read_text().split():
                raise OSError(errno.EBUSY, "it holds processes")
            now = dict.fromkeys(self.enabled(path.parent))
            for order in text.split():
                if order[0] == "+":
                    now[order[1:]] = None
                else:
                    now.pop(order[1:], None)
            text = " ".join(now)
        elif path.name == "cgroup.kill":
            (path.parent / "cgroup.procs").write_text("")
        elif path.name == "memory.limit_in_bytes":
            self.check(int(text), path.parent, "memory.memsw.limit_in_bytes", above=False)
        elif path.name == "memory.memsw.limit_in_bytes":
            self.check(int(text), path.parent, "memory.limit_in_bytes", above=True)
        path.write_text(text)

    def check(self, value: int, group: Path, other: str, *, above: bool) -> None:
        """The sum with swap is never below the limit of memory."""
        highest = 2**63
        mine, theirs = (n if n >= 0 else highest for n in (value, int((group / other).read_text())))
        if (mine < theirs) if above else (mine > theirs):
            raise OSError(errno.EINVAL, "memory and swap would contradict each other")

    def remove(self, group: Path) -> None:
        if (group / "cgroup.procs").read_text().split():
            raise OSError(errno.EBUSY, "it holds processes")
        if any(each.is_dir() for each in group.iterdir()):
            raise OSError(errno.EBUSY, "there are groups below it")
        for each in group.iterdir():
            each.unlink()


class Kernel:
    """All hierarchies of a machine, and where this process is in them."""

    def __init__(self, root: Path) -> None:
        self.root, self.trees, self.proc = root, list[Tree](), root / "proc"
        self.proc.mkdir()
        self.memberships: list[str] = []
        self.mounts: list[str] = ["22 1 0:21 / /proc rw shared:5 - proc proc rw"]

    def mount(self, name: str, version: int, controllers: str, path: str) -> Path:
        """A hierarchy, and this process in it; gives its group."""
        tree = Tree(self.root / name, version, *controllers.split(","))
        self.trees.append(tree)
        options = f"cgroup cgroup rw,{controllers}" if version == 1 else "cgroup2 cgroup2 rw"
        place = str(tree.point).replace(" ", "\\040")
        number = len(self.trees) if version == 1 else 0
        self.mounts.append(f"{30 + len(self.trees)} 22 0:3 / {place} rw - {options}")
        self.memberships.append(f"{number}:{controllers if version == 1 else ''}:{path}")
        own = tree.point
        for part in path.strip("/").split("/"):
            if part:
                if version == 2:
                    tree.write(own / "cgroup.subtree_control", "+memory +pids")
                own = own / part
                own.mkdir()
        tree.write(own / "cgroup.procs", str(ME))
        (self.proc / "cgroup").write_text("\n".join(self.memberships) + "\n")
        (self.proc / "mountinfo").write_text("\n".join(self.mounts) + "\n")
        return own

    def of(self, path: Path) -> Tree | None:
        return next((tree for tree in self.trees if tree.point in path.parents), None)


def empty(file: Path) -> None:
    file.write_text("")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    machine = Kernel(tmp_path)
    mkdir, rmdir = Path.mkdir, Path.rmdir

    def make(path: Path, *args: object, **named: object) -> None:
        mkdir(path, *args, **named)  # type: ignore[arg-type]
        if (tree := machine.of(path)) is not None:
            tree.furnish(path)

    def remove(path: Path) -> None:
        if (tree := machine.of(path)) is not None and path.exists():
            tree.remove(path)
        rmdir(path)

    def write(path: Path, text: str) -> None:
        tree = machine.of(path)
        assert tree is not None
        tree.write(path, text)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", remove)
    monkeypatch.setattr(module, "_write", write)
    monkeypatch.setattr(module, "_kill_members", lambda group: empty(group / "cgroup.procs"))
    yield machine


@pytest.fixture
def v1(kernel: Kernel) -> Kernel:
    kernel.mount("memory tree", 1, "memory", "/a/b")
    kernel.mount("pids", 1, "pids", "/")
    kernel.mount("cpuacct", 1, "cpuacct", "/")
    return kernel


@pytest.fixture
def v2(kernel: Kernel) -> Kernel:
    kernel.mount("unified", 2, "cpu,memory,pids", "/system.slice/atlatl.service")
    return kernel


def found_by(kernel: Kernel) -> Groups:
    groups = Groups(kernel.proc)
    groups.open()
    return groups


def read(groups: Groups, group: module.Group, name: str) -> str:
    return next(
        (each / name).read_text() for each in group.directories if (each / name).exists()
    ).strip()


# --- where they are ---


def test_version_1_is_found_by_what_each_mount_controls(v1: Kernel) -> None:
    assert hierarchies(v1.proc) == [
        Hierarchy(1, frozenset({"memory"}), v1.root / "memory tree/a/b"),
        Hierarchy(1, frozenset({"pids"}), v1.root / "pids"),
        Hierarchy(1, frozenset({"cpuacct"}), v1.root / "cpuacct"),
    ]


def test_version_2_counts_cpu_time_anyway(v2: Kernel) -> None:
    [found] = hierarchies(v2.proc)
    assert found.version == 2
    assert found.controllers == {"memory", "pids", "cpuacct"}
    assert found.own == v2.root / "unified/system.slice/atlatl.service"


def test_a_part_of_a_tree_that_is_mounted_begins_there(kernel: Kernel) -> None:
    own = kernel.mount("part", 1, "memory", "/")
    (kernel.proc / "cgroup").write_text("4:memory:/docker/abc/x\n3:memory:/elsewhere\n")
    place = f"31 22 0:3 /docker/abc {own} rw - cgroup cgroup rw,memory\n"
    (kernel.proc / "mountinfo").write_text(place)
    assert [each.own for each in hierarchies(kernel.proc)] == [own / "x"]


NAMES = [
    b"/mnt rw - tmpfs  rw,size=4k",
    b"/caf\xe9 rw - ext4 /dev/b rw",
    "/a\u2028b rw - ext4 c rw".encode(),
]


@pytest.mark.parametrize("mount", NAMES, ids=["none", "no text", "many lines"])
def test_mounts_of_any_name_are_passed_over(v2: Kernel, mount: bytes) -> None:
    mounts = (v2.proc / "mountinfo").read_bytes()
    (v2.proc / "mountinfo").write_bytes(b"29 22 0:9 / " + mount + b"\n" + mounts)
    [found] = hierarchies(v2.proc)
    assert found.own == v2.root / "unified/system.slice/atlatl.service"


def test_a_process_outside_of_what_it_can_see_has_no_groups(v2: Kernel) -> None:
    """As one that was moved into a container from outside."""
    (v2.proc / "cgroup").write_text("0::/../elsewhere\n")
    groups = found_by(v2)
    assert not (groups.memory or groups.processes or groups.cpu)
    assert groups.problems["memory"] == "there is no cgroup controller 'memory'"


def test_without_any_there_is_a_reason(kernel: Kernel) -> None:
    groups = found_by(kernel)
    assert not (groups.memory or groups.processes or groups.cpu)
    assert groups.problems["memory"] == "there is no cgroup controller 'memory'"
    groups.close()


# --- version 1 and 2 alike ---


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_process_gets_a_group_and_limits(version: str, request: pytest.FixtureRequest) -> None:
    kernel: Kernel = request.getfixturevalue(version)
    groups = found_by(kernel)
    assert (groups.memory, groups.processes, groups.cpu) == (True, True, True), groups.problems
    group = groups.enter(NOBODY)
    assert all((each / "cgroup.procs").read_text() == str(NOBODY) for each in group.directories)
    memory = "memory.limit_in_bytes" if version == "v1" else "memory.max"
    none = "-1" if version == "v1" else "max"
    for n_bytes, processes in ((1000, 5), (4000, 50), (500, 2), (0, 0), (700, 3)):
        group.limit(n_bytes, processes)
        assert read(groups, group, memory) == (str(n_bytes) if n_bytes else none)
        assert read(groups, group, "pids.max") == (str(processes) if processes else "max")
        assert group.limits == (n_bytes, processes)
        assert group.memory_bytes == n_bytes
    swap = "memory.memsw.limit_in_bytes" if version == "v1" else "memory.swap.max"
    assert read(groups, group, swap) == ("700" if version == "v1" else "0")
    groups.close()
    assert not any(each.exists() for each in group.directories)
    assert not list(kernel.root.rglob("atlatl-*"))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_only_the_kernels_count_says_out_of_memory(
    version: str, request: pytest.FixtureRequest
) -> None:
    groups = found_by(request.getfixturevalue(version))
    group = groups.enter(NOBODY)
    assert group.killed_for_memory() == 0
    name = "memory.oom_control" if version == "v1" else "memory.events"
    [events] = [each / name for each in group.directories if (each / name).exists()]
    events.write_text(events.read_text().replace("oom_kill 0", "oom_kill 2"))
    assert group.killed_for_memory() == 2
    groups.close()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_cpu_time_is_counted_where_that_is_wanted(
    version: str, request: pytest.FixtureRequest
) -> None:
    groups = found_by(request.getfixturevalue(version))
    group = groups.enter(NOBODY)
    assert group.cpu_s() is None
    group.count_cpu(NOBODY)
    group.count_cpu(NOBODY)
    assert group.counts_cpu
    name, text = ("cpuacct.usage", "2500000000") if version == "v1" else ("cpu.stat", "")
    [usage] = [each / name for each in group.directories if (each / name).exists()]
    assert str(NOBODY) in (usage.parent / "cgroup.procs").read_text()
    usage.write_text(text or "usage_usec 2500000\nuser_usec 1\n")
    assert group.cpu_s() == 2.5
    group.forget_cpu()
    assert group.cpu_s() is None
    groups.close()
    assert not any(each.exists() for each in group.directories)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_process_that_cannot_be_moved_leaves_no_group(
    version: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel: Kernel = request.getfixturevalue(version)
    groups = found_by(kernel)
    write = module._write

    def refuse(path: Path, text: str) -> None:
        if path.name == "cgroup.procs" and (path.parent / "pids.max").exists():
            raise PermissionError(errno.EACCES, "no")
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", refuse)
        with pytest.raises(PermissionError):
            groups.enter(NOBODY)
    left = [each for home in kernel.root.rglob("atlatl-*") for each in home.iterdir()]
    # In version 1 it was in the group of the memory already, which goes with the process.
    assert [each.name for each in left if each.is_dir() and each.name != "service"] in ([], ["1"])
    groups.close()
    assert not list(kernel.root.rglob("atlatl-*"))


# --- version 2: who may hold processes ---


def test_the_service_makes_room_for_its_groups_and_comes_back(
    v2: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = v2.root / "unified/system.slice/atlatl.service"
    (own / "cgroup.procs").write_text(f"{ME}\n{NOBODY}")
    monkeypatch.setattr(module, "tree", lambda pid: [pid, NOBODY])
    groups = found_by(v2)
    assert groups.memory, groups.problems
    [home] = own.glob("atlatl-*")
    assert (home / "service/cgroup.procs").read_text().split() == [str(ME), str(NOBODY)]
    assert (own / "cgroup.subtree_control").read_text() == "memory pids"
    group = groups.enter(NOBODY + 1)
    assert group.remove() is False  # it still ends
    groups.close()
    assert (own / "cgroup.procs").read_text().split() == [str(ME), str(NOBODY)]
    assert (own / "cgroup.subtree_control").read_text() == ""
    assert not home.exists()


def test_a_service_that_cannot_leave_its_group_is_not_killed_there(
    v2: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = found_by(v2)
    write = module._write

    def refuse(path: Path, text: str) -> None:
        if text.startswith("-"):
            raise OSError(errno.EBUSY, "it still holds processes")
        write(path, text)

    monkeypatch.setattr(module, "_write", refuse)
    [home] = groups.homes
    groups.close()
    another = found_by(v2)
    assert (home.directory / "service/cgroup.procs").read_text() == str(ME)
    another.close()
    os.close(home._lock)


def test_it_moves_nobody_elses_processes(v2: Kernel) -> None:
    own = v2.root / "unified/system.slice/atlatl.service"
    (own / "cgroup.procs").write_text(f"{ME}\n1")
    groups = found_by(v2)
    assert not groups.memory
    assert "1 processes that are not the service's" in groups.problems["memory"]
    assert "Delegate=yes" in groups.problems["memory"]
    assert not list(own.glob("atlatl-*"))
    assert (own / "cgroup.procs").read_text() == f"{ME}\n1"
    groups.close()


def test_a_group_that_may_not_be_written_is_a_reason(
    v2: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    groups = found_by(v2)
    assert not groups.memory
    assert "Permission denied" in groups.problems["memory"]
    groups.close()


# --- several services ---


def test_a_living_services_groups_stay_and_a_dead_ones_go(v1: Kernel) -> None:
    living, dead = found_by(v1), found_by(v1)
    kept, left = living.enter(NOBODY), dead.enter(NOBODY + 1)
    for home in dead.homes:
        os.close(home._lock)  # as its death does
    another = found_by(v1)
    assert all(each.exists() for each in kept.directories)
    assert not any(each.exists() for each in left.directories)
    assert not any(home.directory.exists() for home in dead.homes)
    another.close()
    living.close()


def test_what_is_given_up_is_removed_all_the_same(v1: Kernel) -> None:
    groups = found_by(v1)
    groups.give_up("it did not work")
    assert not groups.memory
    assert groups.problems["memory"] == "it did not work"
    groups.give_up("another process could not be moved either")
    assert groups.problems["memory"] == "it did not work"
    groups.close()
    assert not list(v1.root.rglob("atlatl-*"))


# --- the memory of a machine ---


def with_memory(kernel: Kernel, n_bytes: int) -> Path:
    meminfo = kernel.root / "meminfo"
    meminfo.write_text(f"MemTotal:       {n_bytes // 1024} kB\nMemFree:        1 kB\n")
    return meminfo


@pytest.mark.parametrize("level", ["unified/system.slice/atlatl.service", "unified/system.slice"])
def test_the_budget_is_half_of_what_the_unit_or_its_slice_may_use(v2: Kernel, level: str) -> None:
    meminfo = with_memory(v2, 8 << 30)
    assert memory_budget_bytes(meminfo, v2.proc) == 4 << 30
    (v2.root / level / "memory.max").write_text(f"{1 << 30}\n")
    assert memory_budget_bytes(meminfo, v2.proc) == 512 << 20


def test_the_budget_is_the_same_from_below_where_the_service_moves_itself(v2: Kernel) -> None:
    own = v2.root / "unified/system.slice/atlatl.service"
    (own / "memory.max").write_text(f"{1 << 30}\n")
    groups = found_by(v2)
    [home] = own.glob("atlatl-*")
    below = f"0::/system.slice/atlatl.service/{home.name}/service\n"
    (v2.proc / "cgroup").write_text(below)
    assert memory_budget_bytes(with_memory(v2, 8 << 30), v2.proc) == 512 << 20
    groups.close()


def test_the_budget_knows_version_1(v1: Kernel) -> None:
    meminfo = with_memory(v1, 8 << 30)
    limit = v1.root / "memory tree/a/memory.limit_in_bytes"
    limit.write_text(f"{2**63 - 4096}\n")
    assert memory_budget_bytes(meminfo, v1.proc) == 4 << 30
    limit.write_text(f"{2 << 30}\n")
    assert memory_budget_bytes(meminfo, v1.proc) == 1 << 30


def test_a_group_that_cannot_be_seen_from_here_is_none(v2: Kernel) -> None:
    """Of a process that was moved out of what its cgroup namespace shows."""
    (v2.proc / "cgroup").write_text("0::/../elsewhere\n")
    assert hierarchies(v2.proc) == []
    groups = found_by(v2)
    assert not groups.memory
    assert memory_budget_bytes(with_memory(v2, 8 << 30), v2.proc) == 4 << 30
    groups.close()
