"""What may be in an archive."""

from __future__ import annotations

import stat
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlatl.core.archives import (
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Member,
    check_directory_size,
    check_members,
    check_name,
    packs,
)
from atlatl.errors import ArtifactInvalid
from atlatl.settings import ArtifactSettings

LIMITS = ArtifactSettings(max_files=5, max_bytes=10 * RATIO_FREE_BYTES)


def member(name: str, size: int = 10, packed: int = 10, **facts: Any) -> Member:
    return Member(name=name, size_bytes=size, packed_bytes=packed, **facts)


def refused(*members: Member) -> str:
    with pytest.raises(ArtifactInvalid) as caught:
        check_members(members, LIMITS)
    return caught.value.message


def test_an_ordinary_archive_passes() -> None:
    check_members(
        [
            member("app.py", mode=stat.S_IFREG | 0o644),
            member("pkg/", mode=stat.S_IFDIR | 0o755),
            member("pkg/__init__.py"),
            member("pkg/données…/a b.txt"),
            member("pkg/run.sh", mode=0o755),
        ],
        LIMITS,
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("//server/share", "absolute"),
        ("../up.py", "leads out"),
        ("a/../../up.py", "leads out"),
        ("a/..", "leads out"),
        ("..", "leads out"),
        ("..\\up.py", "not a path"),
        ("C:/windows/app.py", "not a path"),
        ("a\0.py", "unprintable"),
        ("a\n.py", "unprintable"),
        ("a\x1b[31m.py", "unprintable"),
        ("a\u202egpj.py", "unprintable"),
        ("a\udc80.py", "unprintable"),
        ("", "empty part"),
        ("a//b.py", "empty part"),
        ("./a.py", "empty part"),
        ("a/./b.py", "empty part"),
        ("x" * 256, "too long"),
        ("é" * 128, "too long"),
        ("/".join(["x" * 200] * 6), "too long"),
    ],
)
def test_odd_names_are_refused(name: str, reason: str) -> None:
    message = refused(member(name))
    assert reason in message
    assert repr(name) in message


@given(st.text())
def test_a_name_that_passes_stays_below_the_root(name: str) -> None:
    try:
        check_name(name)
    except ArtifactInvalid:
        return
    parts = name.split("/")
    assert name and not name.startswith("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\0" not in name


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (stat.S_IFLNK, "a link"),
        (stat.S_IFBLK, "a device"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFIFO, "a pipe"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFDIR, "contradicts"),
    ],
)
def test_only_files_and_directories_pass(kind: int, reason: str) -> None:
    message = refused(member("x.py", mode=kind | 0o777))
    assert "'x.py'" in message
    assert reason in message


def test_a_directory_that_is_a_file_is_refused() -> None:
    assert "'x/'" in refused(member("x/", mode=stat.S_IFREG | 0o644))


def test_encrypted_members_are_refused() -> None:
    assert "'x.py' is refused: it is encrypted" in refused(member("x.py", encrypted=True))


@pytest.mark.parametrize(
    "names",
    [
        ("a.py", "a.py"),
        ("a", "a/"),
        ("a/", "a"),
        ("a", "a/b.py"),
        ("a/b.py", "a"),
        ("a/b/c.py", "a/b"),
        ("a/b", "a/b/c/d.py"),
    ],
)
def test_two_members_cannot_have_one_place(names: tuple[str, ...]) -> None:
    assert repr(names[1]) in refused(*map(member, names))


def test_a_directory_may_be_named_twice() -> None:
    check_members([member("a/b.py"), member("a/"), member("a/")], LIMITS)


def test_the_number_of_members_is_bounded() -> None:
    check_members([member(str(n)) for n in range(5)], LIMITS)
    assert "`artifacts.max_files`" in refused(*(member(str(n)) for n in range(6)))


def test_the_unpacked_size_is_bounded_and_the_member_named() -> None:
    third = LIMITS.max_bytes // 3
    check_members([member(str(n), third, third) for n in range(3)], LIMITS)
    message = refused(*(member(str(n), third, third) for n in range(4)))
    assert "'3'" in message
    assert "`artifacts.max_bytes`" in message


def test_bombs_are_refused_and_small_zeros_are_not() -> None:
    check_members([member("zeros", RATIO_FREE_BYTES, 1)], LIMITS)
    packed = 2 * RATIO_FREE_BYTES // MAX_RATIO + 1
    check_members([member("fair", packed * MAX_RATIO, packed)], LIMITS)
    assert "'bomb'" in refused(member("bomb", packed * MAX_RATIO + 1, packed))


def end_of_archive(directory_bytes: int, comment: bytes = b"") -> bytes:
    return (
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, directory_bytes, 0, len(comment))
        + comment
    )


def end_of_large_archive(directory_bytes: int) -> bytes:
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, directory_bytes, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    return record + locator + end_of_archive(100)


@pytest.mark.parametrize(
    "tail",
    [
        end_of_archive(2561),
        b"x" * 100 + end_of_archive(2561, b"a comment"),
        b"x" * 100 + end_of_large_archive(2**40),
        end_of_archive(int.from_bytes(b"PK\x05\x06", "little")),  # found twice
    ],
)
def test_a_huge_table_of_contents_is_refused_before_it_is_read(tail: bytes) -> None:
    with pytest.raises(ArtifactInvalid, match=r"table of contents .*max_files"):
        check_directory_size(tail, LIMITS)


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"PK",
        b"PK\x05\x06",
        b"no archive at all, but long enough to be one",
        end_of_archive(2560),
        b"x" * 100 + end_of_archive(2560, b"a comment"),
        b"x" * 100 + end_of_large_archive(2560),
    ],
)
def test_a_fair_table_of_contents_passes(tail: bytes) -> None:
    check_directory_size(tail, LIMITS)


@pytest.mark.parametrize("name", ["__pycache__", ".git", ".venv"])
def test_what_is_no_code_is_not_packed(name: str) -> None:
    assert not packs(name, directory=True)
    assert packs(name, directory=False)


def test_compiled_files_are_not_packed() -> None:
    assert not packs("a.pyc", directory=False)
    assert packs("a.py", directory=False)
    assert packs("pkg", directory=True)
