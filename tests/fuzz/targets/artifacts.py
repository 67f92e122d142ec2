"""Archives, and where they come from."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atlatl.core.archives import check_name
from atlatl.core.handlers import resolve_handler
from atlatl.core.hosts import as_address, check_callback_host, check_host, is_public
from atlatl.engine import dependencies, fetching
from atlatl.engine.outgoing import parsed, place_of, shown
from atlatl.engine.sources import from_bytes, from_location
from atlatl.engine.zips import remove_tree, seal, unpack
from atlatl.errors import AtlatlError
from atlatl.model import check_execution_id, check_task_name
from atlatl.settings import ArtifactSettings, split_host
from tests.fuzz.fuzzing import Target
from tests.raw_zip import Entry, raw_zip
from tests.shelf_samples import CODE, zipped

LIMITS = ArtifactSettings(max_bytes=3_000_000, max_files=50)
RECIPE = 1
MOST_COOKED = 4_000_000
"""Bytes of all members: more than may be, but not so many that the cook needs the memory."""


@contextmanager
def archives() -> Iterator[Callable[[bytes], None]]:
    """The first byte says whether the rest is an archive, or what one is made of."""
    with tempfile.TemporaryDirectory(dir=_fast_directory()) as folder:
        yield lambda data: _archive(Path(folder), data)


def _fast_directory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _archive(folder: Path, data: bytes) -> None:
    content = _cooked(data[1:]) if data[:1] and data[0] & RECIPE else data[1:]
    code = folder / "code"
    code.mkdir()
    try:
        from_bytes(content, "app.zip", LIMITS)
        unpack(content, code, LIMITS)
        seal(code)
        files = [_checked(code, path) for path in code.rglob("*")]
        assert len(files) <= LIMITS.max_files
        assert sum(files) <= LIMITS.max_bytes
        names = sorted(p.relative_to(code).as_posix() for p in code.rglob("*") if p.is_file())
        resolve_handler(names)
        dependencies._requirements(code)
    except AtlatlError as error:
        error.message.encode()
    finally:
        remove_tree(code)
    assert not list(folder.iterdir())


def _checked(code: Path, path: Path) -> int:
    assert not path.is_symlink()
    assert path.is_file() or path.is_dir()
    assert path.resolve().is_relative_to(code.resolve())
    assert path.stat().st_mode & 0o7222 == 0
    return path.stat().st_size if path.is_file() else 0


def _cooked(recipe: bytes) -> bytes:
    """An archive whose checksums are right: eight bytes for each member, its name and content."""
    entries, left = [], MOST_COOKED
    while len(recipe) >= 8 and len(entries) < 60:
        n_name, n_content, times, method, flags, lies, mode, at = recipe[:8]
        name, recipe = recipe[8 : 8 + n_name], recipe[8 + n_name :]
        content, recipe = recipe[:n_content], recipe[n_content:]
        times = min(times**2, left // max(1, len(content)))
        left -= times * len(content)
        entry = Entry(name, content * times, flags=flags, mode=mode << 8)
        entry.method = (0, 8, 8, 8, 12, 14, 99)[method % 7]
        if lies & 1:
            entry.size = len(entry.content) + (lies >> 3) - 8
        if lies & 2:
            entry.packed_size = max(0, len(entry.packed) + (lies >> 3) - 8)
        if lies & 4:
            entry.local_name = b"x" + name[1:]
        if at and entries:
            entry.at = at
        entry.extra = content[:20] if method & 8 else b""
        if entry.size is not None and entry.size < 0:
            entry.size = 0
        entries.append(entry)
    return raw_zip(*entries)


def _zip_seeds() -> list[bytes]:
    whole = [
        zipped({"app.py": CODE, "pkg/a.py": b"x"}),
        zipped({"app.py": CODE * 1000}),
        raw_zip(Entry(b"app.py", CODE, method=0), before=b"#!python\n", comment=b"c"),
        raw_zip(*(Entry(b"%d" % n, b"x") for n in range(60))),
        raw_zip(Entry(b"/".join([b"d"] * 100), b"x")),
        raw_zip(Entry(b"bomb", bytes(2_900_000))),
        raw_zip(Entry(b"b.py", CODE, extra=struct.pack("<HHQQ", 1, 16, 2**63, 2**63))),
        raw_zip(Entry(b"b.py", CODE, extra=struct.pack("<HHBL", 0x7075, 9, 1, 0) + b"x/y/")),
        zipped({}),
        b"PK\x05\x06" + bytes(18),
    ]
    recipes = [
        bytes([6, len(CODE), 1, 1, 0, 0, 0, 0]) + b"app.py" + CODE,
        (bytes([4, 1, 1, 0, 0, 0, 0x81, 0]) + b"a.pyx") * 3,
        bytes([4, 100, 255, 1, 0, 1, 0x81, 0]) + b"a.py" + bytes(100),
        bytes([4, 5, 1, 8 | 1, 0, 4, 0x41, 0]) + b"a.py12345" + bytes([4, 2, 1, 0, 0, 0, 0, 1])
        + b"b.pyxy",
    ]  # fmt: skip
    return [b"\0" + data for data in whole] + [b"\1" + data for data in recipes]


# --- places, names and hosts ---


@contextmanager
def locations() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory(dir=_fast_directory()) as folder:
        (Path(folder) / "app.py").write_bytes(CODE)
        (Path(folder) / "circle").symlink_to("circle")
        limits = ArtifactSettings(max_bytes=100_000, max_files=20, allowed_dirs=(folder,))
        yield lambda data: _location(limits, folder, data)


def _location(limits: ArtifactSettings, folder: str, data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape").replace("DIR", folder)
    for read in (
        lambda: from_location(text, limits),
        lambda: _followed(text),
        lambda: check_name(text),
        lambda: check_task_name(text),
        lambda: check_execution_id(text),
        lambda: resolve_handler(["app.py", "pkg/a.py"], text),
    ):
        with contextlib.suppress(AtlatlError):
            read()
    with contextlib.suppress(ValueError):
        split_host(text)
    address = as_address(text)
    assert address is None or isinstance(is_public(address), bool)
    json.dumps(dependencies._lines(text))
    if text.isprintable():
        dependencies._key(text, owner="o")


def _followed(text: str) -> None:
    """A URL, and a redirect to another."""
    first, _, second = text.partition(" ")
    url = parsed(first, "location")
    host, port = place_of(url)
    shown(url).encode()
    fetching._filename(url)
    for check in (
        lambda: check_host(host, port, ("example.org",)),
        lambda: check_callback_host(host, port, ()),
        lambda: fetching._redirected(url, second),
    ):
        with contextlib.suppress(AtlatlError):
            check()


def _location_seeds() -> list[bytes]:
    texts = [
        "data:text/x-python;base64,ZGVmIG1haW4oKTogcmV0dXJuIDE=", "data:,def main(): return 1",
        'data:text/plain;charset=utf-8;name="a.py",x', "data:application/zip;base64,UEsDBA==",
        "file:///etc/passwd", "DIR/app.py", "DIR/../x", "DIR/circle", "file://localhostDIR/app.py",
        "http://example.org/a.py https://other.invalid:8443/b.zip?x", "http://[::1]:80/ http://[::1",
        "https://xn--a.invalid/ //b", "http://user:secret@example.org/",
        "http://0x7f.1.invalid/ ../..",
        "app.py:main", "pkg/a.py:x", "*.example.org:443", "[fe80::1%25eth0]:1", "a\0b", "~root/x",
        "http://127.0.0.1:99999/ http:", "\udced\udca0\udc80",
        "-r other.txt\n./local\nname==1 --hash=sha256:0 # c",
    ]  # fmt: skip
    return [text.encode("utf-8", "surrogateescape") for text in texts]


TARGETS = [
    Target(
        name="archives",
        opened=archives,
        traced=("/atlatl/core/archives.py", "/atlatl/engine/", "/zipfile"),
        seeds=_zip_seeds,
    ),
    Target(
        name="locations",
        opened=locations,
        traced=("/atlatl/core/", "/atlatl/engine/", "/atlatl/model.py", "/atlatl/settings.py"),
        seeds=_location_seeds,
    ),
]
