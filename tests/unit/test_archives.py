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
    STORED,
    Member,
    check_directory_size,
    check_members,
    check_name,
    packs,
)
from atlatl.errors import ArtifactInvalid
from atlatl.settings import ArtifactSettings

LIMITS = ArtifactSettings(max_files=6, max_bytes=30 * RATIO_FREE_BYTES)
LARGE = 2**40


def member(name: str, size: int = 10, packed: int = 10, **facts: Any) -> Member:
    return Member(name=name, size_bytes=size, packed_bytes=packed, **facts)


def check(*members: Member, content_bytes: int = LARGE) -> None:
    check_members(members, LIMITS, content_bytes)


def refused(*members: Member, content_bytes: int = LARGE) -> str:
    with pytest.raises(ArtifactInvalid) as caught:
        check(*members, content_bytes=content_bytes)
    assert caught.value.http_status == 422
    return caught.value.message


def test_an_ordinary_archive_passes() -> None:
    check(
        member("app.py", mode=stat.S_IFREG | 0o644),
        member("pkg/", mode=stat.S_IFDIR | 0o755),
        member("pkg/__init__.py"),
        member("pkg/données…/a b.txt"),
        member("pkg/run.sh", mode=0o755),
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
        ("/".join(["x"] * 65), "more than 64 parts"),
    ],
)
def test_odd_names_are_refused(name: str, reason: str) -> None:
    message = refused(member(name))
    assert reason in message
    assert repr(name)[:500] in message


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
    check(member("a/b.py"), member("a/"), member("a/"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.py", "A.py"),
        ("straße.py", "STRASSE.py"),
        ("caf\u00e9.py", "cafe\u0301.py"),
        ("\u212b.py", "\u00e5.py"),  # Angstrom sign, a with a ring
        ("Pkg/a.py", "pkg/b.py"),
        ("pkg", "Pkg/b.py"),
    ],
)
def test_names_that_differ_in_case_or_composition_only_are_refused(first: str, second: str) -> None:
    for names in ((first, second), (second, first)):
        message = refused(*map(member, names))
        assert "differ only in case or in how letters are composed" in message
        assert all(repr(name.partition("/")[0])[:-1] in message for name in names)


def test_the_number_of_files_and_directories_is_bounded() -> None:
    check(*(member(str(n)) for n in range(6)))
    assert "`artifacts.max_files`" in refused(*(member(str(n)) for n in range(7)))
    check(member("a/b/c/d/e/f"))
    assert "files and directories" in refused(member("a/b/c/d/e/f/g"))


def test_a_name_of_any_length_makes_a_message_of_some() -> None:
    assert len(refused(member("../" + "x" * 60_000))) < 2000


@pytest.mark.parametrize("method", [1, 6, 9, 12, 14, 93, 99])
def test_other_methods_than_deflate_are_refused(method: int) -> None:
    assert f"method {method}; use `deflate`" in refused(member("x.py", method=method))


def test_what_is_stored_as_it_is_has_its_own_size() -> None:
    check(member("x.py", 10, 10, method=STORED))
    assert "10 bytes are to be 11" in refused(member("x.py", 11, 10, method=STORED))


def test_members_may_share_no_bytes() -> None:
    apart = [member("a", start=0, end=50), member("b", start=50, end=90)]
    check(*apart, content_bytes=90)
    for overlapping in (
        [*apart, member("c", start=89, end=120)],
        [member("c", start=0, end=90), *apart],
        [*apart, apart[0].__class__(name="c", size_bytes=1, packed_bytes=1, start=50, end=90)],
    ):
        assert "overlaps" in refused(*overlapping)
    assert "'b' is refused: it overlaps the table" in refused(*apart, content_bytes=89)


def test_many_small_bombs_are_one_large_one() -> None:
    each = RATIO_FREE_BYTES
    small = [member(str(n), each, 10) for n in range(4)] + [member("5", each, 10, start=1)]
    check(*small, content_bytes=50)
    many = [member(str(n), 4 * each, 4 * each // MAX_RATIO + 1) for n in range(5)]
    check(*many, content_bytes=5 * 4 * each // MAX_RATIO + 1)
    assert "the archive is refused: its 50 bytes" in refused(*many, content_bytes=50)


def test_the_unpacked_size_is_bounded_and_the_member_named() -> None:
    third = LIMITS.max_bytes // 3
    check(*(member(str(n), third, third) for n in range(3)))
    message = refused(*(member(str(n), third, third) for n in range(4)))
    assert "'3'" in message
    assert "`artifacts.max_bytes`" in message


def test_bombs_are_refused_and_small_zeros_are_not() -> None:
    check(member("zeros", RATIO_FREE_BYTES, 1))
    packed = 2 * RATIO_FREE_BYTES // MAX_RATIO + 1
    check(member("fair", packed * MAX_RATIO, packed))
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
        end_of_archive(3073),
        b"x" * 100 + end_of_archive(3073, b"a comment"),
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
        end_of_archive(3072),
        b"x" * 100 + end_of_archive(3072, b"a comment"),
        b"x" * 100 + end_of_large_archive(3072),
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
