"""What is mounted where in the room of instances; the mounts themselves are written down only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atlatl_worker import kernel, rooms


class Plan:
    """A host and a room, each in a directory, and the mounts between them."""

    def __init__(self, folder: Path) -> None:
        self.host, self.room, self.private = folder / "host", folder / "room", folder / "tmp"
        for each in (self.host, self.room, self.private):
            each.mkdir()
        self.binds: list[tuple[str, str]] = []
        self.sealed: list[str] = []
        self.mounts: list[tuple[str, int, str]] = []

    def bind(self, source: str, target: str) -> None:
        self.binds.append((source.removeprefix(str(self.host)), target))

    def mount(self, source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        self.mounts.append((target, flags, options))

    def has(self, path: str, content: str | None = None) -> str:
        """A directory of the host, or a file with this content."""
        place = Path(f"{self.host}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        else:
            place.write_text(content)
        return path

    def links(self, path: str, target: str) -> None:
        place = Path(f"{self.host}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    plan = Plan(tmp_path)
    monkeypatch.setattr(rooms, "HOST", str(plan.host))
    monkeypatch.setattr(rooms, "_WRITABLE", str(plan.room))
    monkeypatch.setattr(rooms, "TMP", str(plan.private))
    monkeypatch.setattr(rooms, "_bound", [])
    monkeypatch.setattr(rooms, "_below_tmp", [])
    monkeypatch.setattr(rooms, "_copied", {})
    monkeypatch.setattr(rooms, "_own_tmp", False)
    monkeypatch.setattr(rooms, "_tmp_bytes", 0)
    monkeypatch.setattr(kernel, "bind", plan.bind)
    monkeypatch.setattr(kernel, "seal", plan.sealed.append)
    monkeypatch.setattr(kernel, "mount", plan.mount)
    yield plan


# --- what is in it ---


def test_a_directory_lies_at_its_own_path_and_is_read_only(plan: Plan) -> None:
    rooms.provide(plan.has("/opt/python"))
    assert plan.binds == [("/opt/python", "/opt/python")]
    assert plan.sealed == ["/opt/python"]
    assert (plan.room / "opt/python").is_dir()


def test_a_file_is_mounted_on_an_empty_one(plan: Plan) -> None:
    rooms.provide(plan.has("/dev/null", "x"))
    assert plan.binds == [("/dev/null", "/dev/null")]
    assert (plan.room / "dev/null").read_bytes() == b""


def test_what_lies_in_something_that_is_there_is_not_mounted_again(plan: Plan) -> None:
    rooms.provide(plan.has("/usr/lib"))
    rooms.provide(plan.has("/usr/lib/python"))
    rooms.provide(plan.has("/usr/libexec"))  # not below it, though it begins like it
    assert [target for _, target in plan.binds] == ["/usr/lib", "/usr/libexec"]


def test_what_may_be_written_is_mounted_and_not_sealed(plan: Plan) -> None:
    rooms.provide(plan.has("/srv"))
    rooms.provide(plan.has("/srv/work"), writable=True)
    assert [target for _, target in plan.binds] == ["/srv", "/srv/work"]
    assert plan.sealed == ["/srv"]


@pytest.mark.parametrize(
    "target", ["/usr/bin", "usr/bin", "../usr/bin", "./usr//lib/../bin"], ids=str
)
def test_links_of_the_host_lead_within_the_host_and_are_there_too(plan: Plan, target: str) -> None:
    plan.has("/usr/lib")
    plan.has("/usr/bin/tool", "")
    plan.links("/bin", target)
    rooms.provide("/bin/tool")
    assert plan.binds == [("/usr/bin/tool", "/usr/bin/tool")]
    assert (plan.room / "bin").readlink() == Path(target)


def test_a_circle_of_links_has_an_end(plan: Plan) -> None:
    plan.links("/a", "b")
    plan.links("/b", "/a")
    with pytest.raises(OSError, match="too many symbolic links in /a"):
        rooms.provide("/a")
    with pytest.raises(FileNotFoundError):
        rooms.provide("/missing/file")
    assert plan.binds == []


# --- an instance's own /tmp ---


def test_what_a_temporary_directory_of_its_own_hides_is_mounted_again(plan: Plan) -> None:
    data = plan.has(f"{plan.private}/data")
    rooms.provide(data)
    rooms.provide(plan.has("/opt/python"))
    plan.binds.clear()
    rooms.enter(1_000_000)
    [(target, flags, options)] = plan.mounts
    assert target == str(plan.private)
    assert flags == kernel.MS_NOSUID | kernel.MS_NODEV
    assert options == "mode=1777,size=1000000,nr_inodes=1024"
    assert plan.binds == [(data, data)]
    assert Path(data).is_dir()  # in it, and no more in what all share
    later = plan.has(f"{plan.private}/later")
    rooms.provide(later)
    assert Path(later).is_dir()
    assert not Path(f"{plan.room}{later}").exists()


def test_a_temporary_directory_is_resized_only_when_it_has_another_size(plan: Plan) -> None:
    rooms.enter(2**30)
    plan.mounts.clear()
    rooms.resize(2**30)
    assert plan.mounts == []
    rooms.resize(2**20)
    [(_, flags, options)] = plan.mounts
    assert flags == kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV
    assert options == "size=1048576,nr_inodes=1024"


# --- files of /etc ---


def in_room(plan: Plan, name: str) -> Path:
    return plan.room / "etc" / name


def test_files_of_etc_are_copied_and_copied_again_when_they_change(plan: Plan) -> None:
    plan.has("/etc/hosts", "one")
    plan.has("/run/resolv.conf", "name server")
    plan.links("/etc/resolv.conf", "../run/resolv.conf")
    rooms.refresh()
    assert in_room(plan, "hosts").read_text() == "one"
    assert in_room(plan, "resolv.conf").read_text() == "name server"
    assert not in_room(plan, "resolv.conf").is_symlink()
    plan.has("/run/resolv.conf", "another server")
    in_room(plan, "hosts").unlink()  # what did not change is left alone
    rooms.refresh()
    assert in_room(plan, "resolv.conf").read_text() == "another server"
    assert not in_room(plan, "hosts").exists()


def test_what_others_may_not_read_is_not_copied(plan: Plan) -> None:
    plan.has("/etc/passwd", "secret")
    (plan.host / "etc/passwd").chmod(0o600)
    plan.has("/etc/shadow", "secret")
    plan.has("/etc/hosts")
    rooms.refresh()
    assert not list(plan.room.rglob("*"))


def test_the_time_zone_is_a_link_and_follows_the_hosts(plan: Plan) -> None:
    """Its name says something too."""
    for zone in ("UTC", "Europe/Berlin"):
        plan.has(f"/usr/share/zoneinfo/{zone}", zone)
    plan.links("/etc/localtime", "/usr/share/zoneinfo/UTC")
    rooms.refresh()
    assert in_room(plan, "localtime").readlink() == Path("/usr/share/zoneinfo/UTC")
    plan.links("/etc/localtime", "../usr/share/zoneinfo/Europe/Berlin")
    rooms.refresh()
    assert in_room(plan, "localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Berlin")
    (plan.host / "etc/localtime").unlink()
    plan.has("/etc/localtime", "of this machine")
    rooms.refresh()
    assert in_room(plan, "localtime").read_text() == "of this machine"
