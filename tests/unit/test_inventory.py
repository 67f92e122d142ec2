"""What is stored stays as it is: a file that somebody changed is named, and made again."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path

import pytest

from atlatl.engine import inventory
from atlatl.engine.artifacts import ArtifactShelf
from atlatl.engine.dependencies import Dependencies
from atlatl.engine.inventory import Watched, difference, digests, stamps
from atlatl.settings import ArtifactSettings
from atlatl.stores.memory import MemoryStore
from tests.shelf_samples import CODE, artifact_of, on_shelf, shelved, zipped

FILES = {"app.py": CODE, "pkg/__init__.py": b"", "pkg/data.txt": b"data"}


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(inventory, "LOOK_SHARE", 1e9)
    monkeypatch.setattr(inventory, "LOOK_WAIT_S", 30.0)


def overwrite(path: Path) -> None:
    """As somebody does who may write; and the size and the times of writing stay as they were."""
    facts = path.stat()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    path.chmod(facts.st_mode)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def remove(path: Path) -> None:
    path.parent.chmod(0o755)
    path.unlink()
    path.parent.chmod(0o555)


def replace_by_link(path: Path) -> None:
    remove(path)
    path.parent.chmod(0o755)
    path.symlink_to("/etc/hostname")
    path.parent.chmod(0o555)


def add(path: Path) -> None:
    path.parent.chmod(0o755)
    path.with_name("added.py").write_bytes(b"evil")
    path.parent.chmod(0o555)


CHANGES = [
    (overwrite, "pkg/data.txt was changed"),
    (remove, "pkg/data.txt is gone"),
    (replace_by_link, "pkg/data.txt was changed"),
    (add, "pkg/added.py was added"),
]


async def on_it(shelf: ArtifactShelf, store: MemoryStore) -> Path:
    return await shelved(shelf, store, await shelf.read_source(zipped(FILES), "app.zip"))


def as_stored(code: Path) -> bool:
    found = {
        path.relative_to(code).as_posix(): path.read_bytes()
        for path in code.rglob("*")
        if path.is_file()
    }
    return found == FILES


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_code_that_was_changed_while_it_is_used_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: object, said: str
) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        code = await on_it(shelf, store)
        artifact = artifact_of(await shelf.read_source(zipped(FILES), "app.zip"))
        for _ in range(3):
            assert await shelf.unpack(artifact) == code
        assert caplog.messages == []
        change(code / "pkg" / "data.txt")  # type: ignore[operator]
        assert await shelf.unpack(artifact) == code
        assert said in caplog.messages[0]
        assert str(code) in caplog.messages[0]
        assert as_stored(code)
        caplog.clear()
        assert await shelf.unpack(artifact) == code
        assert caplog.messages == []

    with caplog.at_level(logging.WARNING):
        on_shelf(tmp_path, work)


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_code_that_was_changed_between_two_lives_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: object, said: str
) -> None:
    with caplog.at_level(logging.WARNING):
        code = on_shelf(tmp_path, on_it)
        assert on_shelf(tmp_path, on_it) == code
        assert caplog.messages == []
        change(code / "pkg" / "data.txt")  # type: ignore[operator]
        assert on_shelf(tmp_path, on_it) == code
    assert [said in message for message in caplog.messages] == [True]
    assert as_stored(code)


def test_what_python_caches_is_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        code = await on_it(shelf, store)
        (code / "pkg").chmod(0o755)
        (code / "pkg" / "__pycache__").mkdir()
        (code / "pkg" / "__pycache__" / "data.cpython.pyc").write_bytes(b"x")
        (code / "pkg").chmod(0o555)
        await on_it(shelf, store)
        assert caplog.messages == []

    on_shelf(tmp_path, work)


def test_a_look_goes_by_more_than_times_and_sizes(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    before, contents = stamps(tmp_path), digests(tmp_path)
    assert difference(before, stamps(tmp_path)) == ""
    overwrite(tmp_path / "app.py")
    now = stamps(tmp_path)
    assert before["app.py"].size_bytes == now["app.py"].size_bytes
    assert difference(before, now) == "app.py was changed"
    assert difference(contents, digests(tmp_path)) == "app.py was changed"


def test_a_start_does_not_wait_for_a_slow_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds counts from then on; and there is one at a time, as often as is asked."""
    (tmp_path / "a.py").write_bytes(CODE)
    look, go_on, looks = inventory.stamps, threading.Event(), []

    def slow(tree: Path) -> inventory.Stamps:
        looks.append(tree)
        assert go_on.wait(30.0)
        return look(tree)

    async def run() -> None:
        watched = Watched()
        watched.add(tmp_path, look(tmp_path))
        monkeypatch.setattr(inventory, "stamps", slow)
        monkeypatch.setattr(inventory, "LOOK_WAIT_S", 0.0)
        (tmp_path / "a.py").write_bytes(b"changed")
        for _ in range(5):
            assert await watched.changed(tmp_path) == ""
        assert looks == [tmp_path]
        monkeypatch.setattr(inventory, "LOOK_WAIT_S", 30.0)
        asking = [asyncio.ensure_future(watched.changed(tmp_path)) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        answers = await asyncio.gather(*asking)
        assert sorted(answers) == ["", "", "a.py was changed"]
        await watched.close()

    asyncio.run(run())


@pytest.mark.parametrize("in_time", [True, False])
def test_a_look_at_what_has_been_made_again_since_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    """Whether the look is over before that, or goes on."""
    look, go_on = inventory.stamps, threading.Event()

    def slow(tree: Path) -> inventory.Stamps:
        assert go_on.wait(30.0)
        return look(tree)

    async def run() -> None:
        watched = Watched()
        watched.add(tmp_path, {})
        (tmp_path / "a.py").write_bytes(CODE)
        monkeypatch.setattr(inventory, "stamps", slow)
        monkeypatch.setattr(inventory, "LOOK_WAIT_S", 0.0)
        assert await watched.changed(tmp_path) == ""
        if in_time:
            go_on.set()
            await watched.close()
        watched.drop(tmp_path)
        assert await watched.changed(tmp_path) == ""
        watched.add(tmp_path, look(tmp_path))
        go_on.set()
        monkeypatch.setattr(inventory, "LOOK_WAIT_S", 30.0)
        assert await watched.changed(tmp_path) == ""
        (tmp_path / "b.py").write_bytes(CODE)
        assert await watched.changed(tmp_path) == "b.py was added"
        await watched.close()

    asyncio.run(run())


def test_what_nobody_uses_any_more_is_not_watched(tmp_path: Path) -> None:
    async def run() -> None:
        watched = Watched()
        dependencies = Dependencies(tmp_path, ArtifactSettings(), watched)
        for name, users in (("one", ["a", "b"]), ("other", ["b"])):
            (tmp_path / name).mkdir()
            (tmp_path / name / "module.py").write_bytes(CODE)
            watched.add(tmp_path / name, stamps(tmp_path / name))
            for user in users:
                dependencies._add_user(tmp_path / name, user)
        await dependencies.forget("b")
        assert not (tmp_path / "other").exists()
        assert await watched.changed(tmp_path / "other") == ""
        (tmp_path / "one" / "module.py").unlink()
        assert await watched.changed(tmp_path / "one") == "module.py is gone"
        await watched.close()

    asyncio.run(run())


def test_looks_are_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "LOOK_EVERY_S", 1000.0)

    async def run() -> None:
        watched = Watched()
        watched.add(tmp_path, {})
        (tmp_path / "a.py").write_bytes(CODE)
        assert await watched.changed(tmp_path) == "a.py was added"
        assert [await watched.changed(tmp_path) for _ in range(5)] == [""] * 5
        watched.add(tmp_path, {})
        assert await watched.changed(tmp_path) == "a.py was added"
        watched.drop(tmp_path)
        assert await watched.changed(tmp_path) == ""

    asyncio.run(run())
