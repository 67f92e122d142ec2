"""Installing what a function requires."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atlatl.engine import dependencies, installing, inventory
from atlatl.engine.artifacts import ArtifactShelf
from atlatl.errors import (
    ArtifactInvalid,
)
from atlatl.stores.memory import MemoryStore
from tests.shelf_samples import CODE, on_shelf, shelved, zipped

pytestmark = pytest.mark.slow  # real processes, sockets or packages: `make test`


def wheel(name: str, content: str) -> dict[str, bytes]:
    """A project whose requirements are a wheel inside it."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": content.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    hashes = "".join(f"{path},{record_hash(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{hashes}{info}/RECORD,,\n".encode()
    return {f"wheels/{name}-1.0-py3-none-any.whl": zipped(files)}


def record_hash(data: bytes) -> str:
    digest = hashlib.sha256(data).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


OFFLINE = b"--no-index\n--find-links wheels\n"


async def project_on_shelf(
    shelf: ArtifactShelf, store: MemoryStore, files: dict[str, bytes]
) -> Path:
    return await shelved(shelf, store, await shelf.read_source(zipped(files), "app.zip"))


def test_without_requirements_nothing_is_installed(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        code = await project_on_shelf(shelf, store, {"app.py": CODE})
        assert await shelf.dependencies(code) == (None, "")
        comments = {"app.py": CODE, "requirements.txt": b"# none yet\n\n"}
        code = await project_on_shelf(shelf, store, comments)
        assert await shelf.dependencies(code) == (None, "")
        assert list((tmp_path / "deps").iterdir()) == []

    on_shelf(tmp_path, work)


def test_requirements_are_installed_once_for_all_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"app.py": CODE, "requirements.txt": OFFLINE + b"friendly\n"}
    files |= {"pip.py": b"raise SystemExit('not the pip that was meant')"}
    files |= wheel("friendly", "VALUE = 42\n")
    runs: list[Path] = []
    command = installing._command

    def counted(site: Path) -> list[str]:
        runs.append(site)
        return command(site)

    monkeypatch.setattr(installing, "_command", counted)

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        code = await project_on_shelf(shelf, store, files)
        answers = await asyncio.gather(*(shelf.dependencies(code) for _ in range(5)))
        deps, log = answers[0]
        assert answers == [(deps, log)] * 5
        assert len(runs) == 1
        assert "Successfully installed friendly-1.0" in log
        assert deps is not None
        assert deps.parent == tmp_path / "deps"
        assert (deps / "friendly.py").read_text() == "VALUE = 42\n"
        assert (deps / "friendly.py").stat().st_mode & 0o222 == 0
        assert (await shelf.dependencies(code))[0] == deps
        assert len(runs) == 1
        assert not list((tmp_path / "deps").glob(".new-*"))
        await shelf.forget(code.name)
        assert list((tmp_path / "deps").iterdir()) == []

    on_shelf(tmp_path, work)


def test_equal_requirements_are_shared_until_the_last_user_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, content in wheel("friendly", "VALUE = 42\n").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip's own configuration applies
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        codes = [
            await project_on_shelf(shelf, store, {name: CODE, "requirements.txt": b"friendly==1.0"})
            for name in ("a.py", "b.py")
        ]
        (first, _), (second, _) = [await shelf.dependencies(code) for code in codes]
        assert first == second
        assert first is not None
        await shelf.forget(codes[0].name)
        assert (first / "friendly.py").exists()
        await shelf.forget(codes[1].name)
        assert not first.exists()

    on_shelf(tmp_path / "data", work)


def test_a_start_asks_no_disk_for_what_is_known_until_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"app.py": CODE, "requirements.txt": OFFLINE + b"tiny", **wheel("tiny", "")}
    asked: list[Path] = []
    read = dependencies._requirements

    def counted(code: Path) -> str:
        asked.append(code)
        return read(code)

    monkeypatch.setattr(dependencies, "_requirements", counted)

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        source = await shelf.read_source(zipped(files), "app.zip")
        code = await shelved(shelf, store, source)
        first, _ = await shelf.dependencies(code)
        for _ in range(3):
            assert (await shelf.dependencies(code))[0] == first
        assert asked == [code]
        await shelf.forget(source.checksum)
        assert first is not None
        assert not first.exists()
        code = await shelved(shelf, store, source)
        again, _ = await shelf.dependencies(code)
        assert again == first
        assert (first / "tiny.py").exists()
        assert asked == [code, code]

    on_shelf(tmp_path, work)


def test_requirements_that_name_files_are_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        found = []
        for value in ("1", "2"):
            files = {"app.py": CODE, "requirements.txt": OFFLINE + b"friendly"}
            code = await project_on_shelf(
                shelf, store, files | wheel("friendly", f"VALUE = {value}")
            )
            deps, _ = await shelf.dependencies(code)
            assert deps is not None
            found.append((deps / "friendly.py").read_text())
        assert found == ["VALUE = 1", "VALUE = 2"]

    on_shelf(Path("relative"), work)


def test_a_failed_installation_shows_the_end_of_the_log(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        files = {"app.py": CODE, "requirements.txt": b"--no-index\nno-such-thing==9\n"}
        code = await project_on_shelf(shelf, store, files)
        with pytest.raises(ArtifactInvalid, match=r"status 1\n(.*\n)*.*no-such-thing==9") as caught:
            await shelf.dependencies(code)
        assert "no-such-thing" in caught.value.detail
        assert not list((tmp_path / "deps").glob(".new-*"))

    on_shelf(tmp_path, work)


def test_an_installation_that_takes_too_long_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        'setsid sleep 600 & sleep 600 & echo $! $$ > "$HOME/new"; mv "$HOME/new" "$HOME/pids"; '
        'echo "still busy"; wait'
    )
    monkeypatch.setattr(installing, "_command", lambda _: ["sh", "-c", script])
    pids: list[int] = []

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        files = {"app.py": CODE, "requirements.txt": b"friendly"}
        code = await project_on_shelf(shelf, store, files)
        installing = asyncio.ensure_future(shelf.dependencies(code))
        pids.extend(await told_pids(tmp_path))
        with pytest.raises(ArtifactInvalid, match=r"more than 4 s.*install_timeout_s") as caught:
            await installing
        assert "still busy" in caught.value.message
        assert not list((tmp_path / "deps").glob(".new-*"))

    on_shelf(tmp_path, work, install_timeout_s=4.0)
    assert not any(map(running, pids))


async def told_pids(tmp_path: Path) -> list[int]:
    for _ in range(3000):
        if files := list((tmp_path / "deps").glob(".new-*/home/pids")):
            return [int(pid) for pid in files[0].read_text().split()]
        await asyncio.sleep(0.01)
    raise AssertionError("it did not begin")


def running(pid: int) -> bool:
    """Whether the process can still do anything; nobody may have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_closing_ends_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'echo $$ > "$HOME/new"; mv "$HOME/new" "$HOME/pids"; sleep 600'
    monkeypatch.setattr(installing, "_command", lambda _: ["sh", "-c", script])
    pids: list[int] = []

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        files = {"app.py": CODE, "requirements.txt": b"friendly"}
        code = await project_on_shelf(shelf, store, files)
        installing = asyncio.ensure_future(shelf.dependencies(code))
        pids.extend(await told_pids(tmp_path))
        await shelf.close()
        with pytest.raises(asyncio.CancelledError):
            await installing

    on_shelf(tmp_path, work)
    assert not any(map(running, pids))


def test_an_installation_ends_with_the_service(tmp_path: Path) -> None:
    """Also when that is killed: nobody is left to end it, but the one who watches it."""
    place = tmp_path / "code"
    place.mkdir()
    script = (
        "import asyncio, sys; from pathlib import Path; from atlatl.engine import installing;"
        "from atlatl.settings import ArtifactSettings as Limits;"
        "installing._command = lambda _: ['sh', '-c', sys.argv[2]];"
        "work = Path(sys.argv[1]) / 'deps' / '.new-1'; work.mkdir(parents=True);"
        "asyncio.run(installing.install(Path(sys.argv[1]) / 'code', work, Limits()))"
    )
    shell = (
        '(setsid sleep 600 & echo $! > "$HOME/new"); echo $$ >> "$HOME/new"; '
        'mv "$HOME/new" "$HOME/pids"; sleep 600'
    )
    service = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), shell])
    try:
        pids = asyncio.run(told_pids(tmp_path))
        assert len(pids) == 2
        assert all(map(running, pids))
    finally:
        service.kill()
        service.wait()
    ends = time.monotonic() + 20.0
    while any(map(running, pids)):
        assert time.monotonic() < ends
        time.sleep(0.01)


HASHED = b"friendly==1.0 --hash=sha256:%b\n"


def test_hashes_are_held_to_where_they_are_given(tmp_path: Path) -> None:
    packed = wheel("friendly", "VALUE = 42\n")
    digest = hashlib.sha256(next(iter(packed.values()))).hexdigest().encode()

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        for given in (digest, b"0" * 64):
            files = {"app.py": CODE, "requirements.txt": OFFLINE + HASHED % given, **packed}
            code = await project_on_shelf(shelf, store, files)
            if given == digest:
                assert "Successfully installed friendly-1.0" in (await shelf.dependencies(code))[1]
                continue
            with pytest.raises(ArtifactInvalid) as caught:
                await shelf.dependencies(code)
            assert "DO NOT MATCH THE HASHES" in caught.value.detail
        # One hash asks for all of them.
        both = OFFLINE + HASHED % digest + b"other\n"
        files = {"app.py": CODE, "requirements.txt": both, **packed, **wheel("other", "")}
        with pytest.raises(ArtifactInvalid) as caught:
            await shelf.dependencies(await project_on_shelf(shelf, store, files))
        assert "hash" in caught.value.detail

    on_shelf(tmp_path, work)


def change(installed: Path) -> None:
    (installed / "friendly.py").chmod(0o644)
    (installed / "friendly.py").write_text("VALUE = 13\n")


def test_packages_that_were_changed_are_named_and_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"app.py": CODE, "requirements.txt": OFFLINE + b"friendly"}
    files |= wheel("friendly", "VALUE = 42\n")
    monkeypatch.setattr(inventory, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(inventory, "LOOK_SHARE", 1e9)
    monkeypatch.setattr(inventory, "LOOK_WAIT_S", 30.0)

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> Path:
        code = await shelved(shelf, store, source)
        installed, _ = await shelf.dependencies(code)
        assert installed is not None
        assert (installed / "friendly.py").read_text() == "VALUE = 42\n"
        return installed

    async def twice(shelf: ArtifactShelf, store: MemoryStore) -> None:
        change(await work(shelf, store))
        await work(shelf, store)

    source = on_shelf(tmp_path, lambda shelf, _: shelf.read_source(zipped(files), "app.zip"))
    installed = on_shelf(tmp_path, work)
    on_shelf(tmp_path, work)
    assert caplog.messages == []
    for lives in (work, twice):
        change(installed)
        on_shelf(tmp_path, lives)  # type: ignore[arg-type]
        assert "friendly.py was changed; it is installed again" in caplog.messages[-1]
        assert str(installed) in caplog.messages[-1]
    (tmp_path / "deps" / (installed.name + ".files")).unlink()
    on_shelf(tmp_path, work)
    assert "listing of its files can't be read" in caplog.messages[-1]


def test_a_missing_pip_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> None:
        files = {"app.py": CODE, "requirements.txt": b"friendly"}
        with pytest.raises(ArtifactInvalid, match="apt install python3-pip"):
            await shelf.dependencies(await project_on_shelf(shelf, store, files))

    on_shelf(tmp_path, work)
