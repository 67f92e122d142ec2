"""The shelf of code: reading, unpacking, installing, fetching."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from atlatl.engine.artifacts import ArtifactShelf
from atlatl.engine.single_flight import SingleFlight
from atlatl.engine.sources import Source
from atlatl.errors import (
    ArtifactInvalid,
    ArtifactNotFound,
    AtlatlError,
    StoreUnavailable,
    UnsupportedOperation,
)
from atlatl.settings import Settings
from atlatl.stores.memory import MemoryStore
from tests.shelf_samples import CODE, artifact_of, on_shelf, shelved, zipped
from tests.store_samples import sha256, task


def read(
    source: Path | str | bytes, tmp_path: Path, filename: str = "", **limits: object
) -> Source:
    return on_shelf(
        tmp_path / "data", lambda shelf, _: shelf.read_source(source, filename), **limits
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("app.py", "pkg/__init__.py", "pkg/data.bin", "run.sh"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (root / "run.sh").chmod(0o700)
    for name in ("__pycache__/app.pyc", ".git/config", ".venv/bin/python", "pkg/old.pyc"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left out")
    return root


def test_a_file_is_read_with_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_bytes(CODE)
    for source in (tmp_path / "hello.py", str(tmp_path / "hello.py")):
        found = read(source, tmp_path)
        assert found == Source(content=CODE, filename="hello.py", checksum=sha256(CODE))


def test_bytes_are_told_by_name_or_by_content(tmp_path: Path) -> None:
    assert read(CODE, tmp_path, "../up/hello.py").filename == "hello.py"
    assert read(CODE, tmp_path).filename == "main.py"
    assert read(zipped({"app.py": CODE}), tmp_path).filename == "main.zip"


def test_packing_a_directory_is_reproducible(tmp_path: Path, project: Path) -> None:
    first = read(project, tmp_path)
    for path in project.rglob("*"):
        os.utime(path, (1, 1))
    assert read(project, tmp_path) == first
    assert first.filename == "project.zip"
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        names = archive.namelist()
        assert names == ["app.py", "pkg/__init__.py", "pkg/data.bin", "run.sh"]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    (project / "app.py").write_bytes(b"changed")
    assert read(project, tmp_path).checksum != first.checksum


def test_a_packed_directory_unpacks_to_the_same_files(tmp_path: Path, project: Path) -> None:
    (project / "zeros.bin").write_bytes(bytes(3_000_000))

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        code = await shelved(shelf, store, await shelf.read_source(project))
        assert code == tmp_path / "data" / "code" / code.name
        found = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
        assert found == {"app.py", "pkg/__init__.py", "pkg/data.bin", "run.sh", "zeros.bin"}
        for name in found:
            assert (code / name).read_bytes() == (project / name).read_bytes()
        assert stat.S_IMODE((code / "app.py").stat().st_mode) == 0o444
        assert stat.S_IMODE((code / "run.sh").stat().st_mode) == 0o555
        assert stat.S_IMODE((code / "pkg").stat().st_mode) == 0o555

    on_shelf(tmp_path / "data", work)


def test_links_out_of_a_directory_are_not_packed(tmp_path: Path, project: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (project / "inside").symlink_to("app.py")
    assert read(project, tmp_path)
    (project / "outside").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactInvalid, match=r"outside is a link that leads out"):
        read(project, tmp_path)
    (project / "outside").unlink()
    (project / "linked").symlink_to(project / "pkg")
    with pytest.raises(ArtifactInvalid, match="linked is a link to a directory"):
        read(project, tmp_path)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path, project: Path) -> None:
    os.mkfifo(project / "pipe.py")
    for source in (project, project / "pipe.py"):
        with pytest.raises(ArtifactInvalid, match=r"pipe\.py is no regular file"):
            read(source, tmp_path)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"nowhere\.py"):
        read(tmp_path / "nowhere.py", tmp_path)


@pytest.mark.parametrize(
    ("content", "name", "error"),
    [
        (b"\0asm", "module.wasm", UnsupportedOperation),
        (CODE, "notes.txt", UnsupportedOperation),
        (CODE, "a\nb.py", ArtifactInvalid),
        (CODE, "..\\x.py", ArtifactInvalid),
        (CODE, "app.zip", ArtifactInvalid),
        (zipped({}), "app.zip", ArtifactInvalid),
        (zipped({"only/": b""}), "app.zip", ArtifactInvalid),
    ],
)
def test_other_kinds_are_refused(
    tmp_path: Path, content: bytes, name: str, error: type[AtlatlError]
) -> None:
    with pytest.raises(error):
        read(content, tmp_path, name)


def test_sizes_are_bounded(tmp_path: Path, project: Path) -> None:
    (tmp_path / "big.py").write_bytes(b"#" * 101)
    for source in (tmp_path / "big.py", b"#" * 101):
        with pytest.raises(ArtifactInvalid, match=r"artifacts\.max_bytes"):
            read(source, tmp_path, max_bytes=100)
    with pytest.raises(ArtifactInvalid, match=r"artifacts\.max_bytes"):
        read(project, tmp_path, max_bytes=20)
    with pytest.raises(ArtifactInvalid, match=r"artifacts\.max_files"):
        read(project, tmp_path, max_files=3)


def damaged(content: bytes) -> bytes:
    middle = content.index(b"app.py") + 10
    return content[:middle] + b"\xff\xff\xff" + content[middle + 3 :]


def with_link(name: str, target: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
        archive.writestr("app.py", CODE)
    return buffer.getvalue()


def renamed(old: bytes, new: bytes) -> bytes:
    """An archive whose writer was careful, changed afterwards."""
    assert len(old) == len(new)
    return zipped({"app.py": CODE, old.decode(): b"x"}).replace(old, new)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (zipped({"../evil.py": b"x"}), "'../evil.py'"),
        (zipped({"/tmp/evil.py": b"x"}), "'/tmp/evil.py'"),
        (with_link("link.py", "/etc/passwd"), "'link.py'"),
        (renamed(b"evil-name.py", b"evil\0name.py"), "evil.x00name.py"),
        (zipped({"bomb.bin": bytes(20_000_000), "app.py": CODE}), "'bomb.bin'"),
        (renamed(b"app2py", b"app.py"), "'app.py'"),
    ],
)
def test_hostile_archives_are_refused_by_name(tmp_path: Path, content: bytes, named: str) -> None:
    with pytest.raises(ArtifactInvalid, match=named):
        read(content, tmp_path, "app.zip")
    hostile = Source(content=content, filename="app.zip", checksum=sha256(content))
    with pytest.raises(ArtifactInvalid, match=named):
        on_shelf(tmp_path / "data", lambda shelf, store: shelved(shelf, store, hostile))
    assert list((tmp_path / "data" / "code").iterdir()) == []


def test_a_damaged_member_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    content = damaged(zipped({"app.py": CODE * 100}))
    source = Source(content=content, filename="app.zip", checksum=sha256(content))
    with pytest.raises(ArtifactInvalid, match=r"'app\.py' can't be unpacked"):
        on_shelf(tmp_path / "data", lambda shelf, store: shelved(shelf, store, source))
    assert list((tmp_path / "data" / "code").iterdir()) == []


def test_the_same_bytes_under_two_names_have_two_directories(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        places = [
            await shelved(shelf, store, await shelf.read_source(CODE, name))
            for name in ("a.py", "b.py")
        ]
        assert [[path.name for path in place.iterdir()] for place in places] == [["a.py"], ["b.py"]]

    on_shelf(tmp_path, work)


def test_bytes_are_taken_from_the_store_once_for_all_callers(tmp_path: Path) -> None:
    class CountingStore(MemoryStore):
        reads = 0

        async def blob(self, checksum: str) -> bytes:
            self.reads += 1
            await asyncio.sleep(0)
            return await super().blob(checksum)

    async def run() -> None:
        store = CountingStore()
        await store.open()
        shelf = ArtifactShelf(tmp_path, Settings(), store)
        await shelf.open()
        source = await shelf.read_source(CODE, "app.py")
        await store.put_blob(CODE)
        places = await asyncio.gather(*(shelf.unpack(artifact_of(source)) for _ in range(20)))
        places.append(await shelf.unpack(artifact_of(source)))
        assert len(set(places)) == store.reads == 1
        await shelf.close()

    asyncio.run(run())


def test_a_directory_of_an_earlier_life_is_not_trusted_d62_d97(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> Path:
        return await shelved(shelf, store, await shelf.read_source(CODE, "app.py"))

    code = on_shelf(tmp_path, work)
    code.chmod(0o755)
    (code / "app.py").chmod(0o644)
    (code / "app.py").write_bytes(b"evil")
    (code / "more.py").write_bytes(b"evil")
    assert on_shelf(tmp_path, work) == code
    assert [(path.name, path.read_bytes()) for path in code.iterdir()] == [("app.py", CODE)]


def test_left_overs_of_a_crash_are_removed(tmp_path: Path) -> None:
    for name in ("code", "deps"):
        left = tmp_path / name / ".new-abc" / "sealed"
        left.mkdir(parents=True)
        left.chmod(0o555)

    async def nothing(shelf: ArtifactShelf, _: MemoryStore) -> None: ...

    on_shelf(tmp_path, nothing)
    assert [list((tmp_path / name).iterdir()) for name in ("code", "deps")] == [[], []]


def test_unpacking_what_the_store_lacks_is_not_found(tmp_path: Path) -> None:
    missing = Source(content=CODE, filename="app.py", checksum=sha256(CODE))
    with pytest.raises(ArtifactNotFound):
        on_shelf(tmp_path, lambda shelf, _: shelf.unpack(artifact_of(missing)))


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        (tmp_path / "code").rmdir()
        (tmp_path / "code").write_text("in the way")
        await shelved(shelf, store, await shelf.read_source(CODE, "app.py"))

    with pytest.raises(StoreUnavailable, match=r"/code.*check the room"):
        on_shelf(tmp_path, work)


def test_forgetting_removes_bytes_and_code_unless_a_task_names_them_d78(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        source = await shelf.read_source(CODE, "app.py")
        code = await shelved(shelf, store, source)
        await store.put_task(task(artifact=artifact_of(source)))
        await shelf.forget(source.checksum)
        assert code.is_dir()
        await store.delete_task("t-1")
        await shelf.forget(source.checksum)
        assert not code.exists()
        assert list(await store.load_artifacts()) == []
        with pytest.raises(ArtifactNotFound):
            await shelf.unpack(artifact_of(source))
        assert await shelved(shelf, store, source) == code
        assert (code / "app.py").read_bytes() == CODE

    on_shelf(tmp_path, work)


def test_a_caller_who_leaves_does_not_end_shared_work() -> None:
    async def run() -> None:
        gate, flights, runs = asyncio.Event(), SingleFlight[int](), 0

        async def work() -> int:
            nonlocal runs
            runs += 1
            await gate.wait()
            return 7

        leaving, staying = (asyncio.ensure_future(flights.run("k", work)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await staying == 7
        assert runs == 1
        assert await flights.run("k", work) == 7
        assert runs == 2

    asyncio.run(run())
