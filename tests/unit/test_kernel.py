"""System calls by hand: what is refused is told, and a rehearsal has no effect."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from atlatl_worker import kernel

DUMPABLE = 3
"""`PR_GET_DUMPABLE`: what tells whether a call had an effect."""


def test_a_refused_call_is_named() -> None:
    with pytest.raises(OSError, match="bind /missing/target") as caught:
        kernel.bind("/missing/source", "/missing/target")
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    with pytest.raises(OSError, match="seal /missing"):
        kernel.seal("/missing")
    with pytest.raises(OSError, match=r"prctl\(-1\)"):
        kernel.prctl(-1, 0)


def test_a_rehearsal_has_no_effect() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    dumpable = kernel._libc.prctl(DUMPABLE, 0, 0, 0, 0)
    namespaces = [Path(f"/proc/self/ns/{name}").readlink() for name in ("mnt", "user")]
    with kernel.idle():
        kernel.limit(resource.RLIMIT_NOFILE, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1 - dumpable)
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUSER)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
        kernel.bind("/missing/source", "/missing/target")
        kernel.seal("/missing")
        kernel.drop_capabilities()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    assert kernel._libc.prctl(DUMPABLE, 0, 0, 0, 0) == dumpable
    assert [Path(f"/proc/self/ns/{name}").readlink() for name in ("mnt", "user")] == namespaces


def test_capabilities_can_be_dropped_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only where there is a filter of system calls."""
    monkeypatch.setattr(kernel, "MACHINE", "riscv64")
    with kernel.idle():
        kernel.drop_capabilities()
    with pytest.raises(OSError, match="pivot_root"):
        kernel.pivot_root("/missing", "/missing/old")


@pytest.mark.parametrize(
    ("hard", "asked", "set_to"), [(1000, 5000, 1000), (1000, 50, 50), (-1, 9, 9)]
)
def test_a_limit_is_never_above_the_one_that_is_there(
    monkeypatch: pytest.MonkeyPatch, hard: int, asked: int, set_to: int
) -> None:
    set_: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    monkeypatch.setattr(kernel, "_setrlimit", lambda *values: set_.append(values))
    kernel.limit(resource.RLIMIT_NOFILE, asked)
    assert set_ == [(resource.RLIMIT_NOFILE, (set_to, set_to))]
