"""Archives whose bytes lie: each is refused by name, as 422, and leaves nothing behind."""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest

from atlatl.core.archives import RATIO_FREE_BYTES
from atlatl.engine.artifacts import ArtifactShelf
from atlatl.engine.sources import Source
from atlatl.errors import ArtifactInvalid
from atlatl.stores.memory import MemoryStore
from tests.raw_zip import Entry, raw_zip
from tests.shelf_samples import CODE, on_shelf, shelved
from tests.store_samples import sha256

APP = Entry(b"app.py", CODE)
MEGABYTE = 1_000_000


def deployed(tmp_path: Path, content: bytes) -> dict[str, bytes]:
    """What the archive is unpacked to."""

    async def work(shelf: ArtifactShelf, store: MemoryStore) -> dict[str, bytes]:
        code = await shelved(shelf, store, await shelf.read_source(content, "app.zip"))
        files = [path for path in code.rglob("*") if path.is_file()]
        return {path.relative_to(code).as_posix(): path.read_bytes() for path in files}

    return on_shelf(tmp_path / "data", work)


def refused(tmp_path: Path, content: bytes) -> str:
    """Why; not even bytes that got past the first look are unpacked."""

    async def unpacked(shelf: ArtifactShelf, store: MemoryStore) -> None:
        source = Source(content=content, filename="app.zip", checksum=sha256(content))
        await shelved(shelf, store, source)

    with pytest.raises(ArtifactInvalid) as caught:
        deployed(tmp_path, content)
    with pytest.raises(ArtifactInvalid):
        on_shelf(tmp_path / "data", unpacked)
    assert list((tmp_path / "data" / "code").iterdir()) == []
    assert caught.value.http_status == 422
    return caught.value.message


def test_the_builder_makes_archives_that_are_unpacked(tmp_path: Path) -> None:
    plain = raw_zip(APP, Entry(b"pkg/"), Entry(b"pkg/a.py", b"A = 1", method=0))
    assert deployed(tmp_path, plain) == {"app.py": CODE, "pkg/a.py": b"A = 1"}
    # As zipapp makes them, for one.
    assert deployed(tmp_path, raw_zip(APP, comment=b"a comment")) == {"app.py": CODE}


def test_one_member_cannot_be_unpacked_a_thousand_times(tmp_path: Path) -> None:
    """The table of contents points to one large member again and again."""
    names = [b"%04d.bin" % n for n in range(200)]
    first = Entry(names[0], bytes(MEGABYTE))
    others = [Entry(name, first.content, at=0, local_name=names[0]) for name in names[1:]]
    message = refused(tmp_path, raw_zip(first, *others, APP))
    assert "unpack to" in message
    few = [Entry(name, CODE, at=0, local_name=b"a.py") for name in (b"b.py", b"c.py")]
    assert "'b.py' is refused: it overlaps 'a.py'" in refused(
        tmp_path, raw_zip(Entry(b"a.py", CODE), *few)
    )


def test_a_member_inside_another_is_refused(tmp_path: Path) -> None:
    """Deflate has blocks of plain bytes: in one of them stands the header of the next member."""
    inner = Entry(b"inner.py", CODE)
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", *inner.fields(inner.name, b"")) + inner.name
    outer = Entry(b"outer.py", header + inner.packed, method=0)
    inner.at = 30 + len(outer.name)
    assert "'inner.py' is refused: it overlaps 'outer.py'" in refused(
        tmp_path, raw_zip(outer, inner)
    )


def test_a_member_that_reaches_into_the_table_of_contents_is_refused(tmp_path: Path) -> None:
    assert "overlaps the table of contents" in refused(
        tmp_path, raw_zip(APP, Entry(b"b.py", CODE, packed_size=1000, size=1000))
    )


@pytest.mark.parametrize("at", [1, 10_000, 2**32 - 1])
def test_a_header_that_is_elsewhere_is_refused(tmp_path: Path, at: int) -> None:
    assert "not where the table of contents says" in refused(
        tmp_path, raw_zip(APP, Entry(b"b.py", CODE, at=at))
    )


@pytest.mark.parametrize("size", [0, 1, len(CODE) - 1, len(CODE) + 1, RATIO_FREE_BYTES])
@pytest.mark.parametrize("method", [0, 8])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: int, method: int) -> None:
    message = refused(tmp_path, raw_zip(Entry(b"app.py", CODE, size=size, method=method)))
    assert "'app.py'" in message


def test_a_member_that_says_it_is_small_is_never_large(tmp_path: Path) -> None:
    """Ten bytes are stated, with their checksum, and a hundred megabytes are packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(100)) + packer.flush()
    bomb = Entry(b"app.py", written=packed, size=10, crc=zlib.crc32(bytes(10)))
    tracemalloc.start()
    try:
        assert deployed(tmp_path, raw_zip(bomb)) == {"app.py": bytes(10)}
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("method", "packed"),
    [(12, bz2.compress(bytes(50 * MEGABYTE))), (14, lzma.compress(bytes(50 * MEGABYTE)))],
)
def test_what_could_only_be_unpacked_whole_is_not_unpacked(
    tmp_path: Path, method: int, packed: bytes
) -> None:
    tracemalloc.start()
    try:
        bomb = Entry(b"app.py", written=packed, method=method, size=10)
        assert f"packed with method {method}" in refused(tmp_path, raw_zip(bomb))
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flag", [0x1, 0x40 | 0x1, 0x2000])
def test_what_is_encrypted_is_refused(tmp_path: Path, flag: int) -> None:
    assert "'app.py' is refused: it is encrypted" in refused(
        tmp_path, raw_zip(Entry(b"app.py", CODE, flags=flag))
    )


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (stat.S_IFLNK, "a link"),
        (stat.S_IFBLK, "a device"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFIFO, "a pipe"),
        (stat.S_IFSOCK, "a socket"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: int, named: str) -> None:
    odd = Entry(b"odd", b"/etc/shadow", mode=kind | 0o777)
    assert f"'odd' is refused: it is {named}" in refused(tmp_path, raw_zip(APP, odd))


def test_no_mode_makes_a_program_that_changes_its_user(tmp_path: Path) -> None:
    async def work(shelf: ArtifactShelf, store: MemoryStore) -> int:
        modes = stat.S_IFREG | 0o6777
        content = raw_zip(Entry(b"app.py", CODE, mode=modes))
        code = await shelved(shelf, store, await shelf.read_source(content, "app.zip"))
        return stat.S_IMODE((code / "app.py").stat().st_mode)

    assert on_shelf(tmp_path, work) == 0o555


@pytest.mark.parametrize(
    "name",
    [
        b"/etc/cron.d/x",
        b"../x.py",
        b"a/../../x.py",
        b"..\\x.py",
        b"C:\\x.py",
        b"a\0b.py",
        b"x" * 300,
        b"/".join([b"d"] * 80),
        b"",
        b"//",
        b".",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: bytes) -> None:
    message = refused(tmp_path, raw_zip(APP, Entry(name, CODE)))
    assert "is refused" in message or "can't be unpacked" in message


def test_a_second_name_in_an_extra_field_leads_nowhere(tmp_path: Path) -> None:
    """Newer readers take the name from there (0x7075), and so a file may become a directory."""
    other = b"../../evil/"
    extra = struct.pack("<HHBL", 0x7075, 5 + len(other), 1, zlib.crc32(b"b.py")) + other
    content = raw_zip(APP, Entry(b"b.py", CODE, extra=extra))
    assert deployed(tmp_path, content) == {"app.py": CODE, "b.py": CODE}


def test_the_two_names_of_a_member_are_one(tmp_path: Path) -> None:
    message = refused(tmp_path, raw_zip(APP, Entry(b"b.py", CODE, local_name=b"c.py")))
    assert "'b.py' can't be unpacked" in message


def test_a_million_directories_are_not_made(tmp_path: Path) -> None:
    """Each name is short enough; the directories above them are more than a disk has room for."""
    deep = b"/".join([b"%d"] + [b"d"] * 62)
    content = raw_zip(*(Entry(deep % n, b"x") for n in range(400)))
    assert "`artifacts.max_files`" in refused(tmp_path, content)


def test_an_archive_in_itself_is_only_a_file(tmp_path: Path) -> None:
    """One that unpacks to itself is unpacked once."""
    inner = raw_zip(APP, Entry(b"r.zip", b"PK\x03\x04"))
    assert deployed(tmp_path, raw_zip(APP, Entry(b"r.zip", inner)))["r.zip"] == inner


def test_what_stands_before_an_archive_is_no_member(tmp_path: Path) -> None:
    program = raw_zip(APP, before=b"#!/usr/bin/env python3\n")
    assert deployed(tmp_path, program) == {"app.py": CODE}
