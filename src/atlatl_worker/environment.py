"""The environment of an instance, and what a caller adds to it for the time of one call.

`os.environ` hands each change to the C library, which looks through all variables for it: the
time for a thousand of them grows with their square. Here the C library gets a new list at once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

_environ: Final = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
_variables: Final[dict[bytes, bytes]] = os.environ._data  # type: ignore[attr-defined]
"""What `os.environ` shows."""

_keeps: Any = None
"""The list that the C library reads at present; it must not be freed."""


def current() -> dict[str, str]:
    """The variables of this process."""
    return {os.fsdecode(name): os.fsdecode(text) for name, text in _variables.items()}


def replace(wanted: Mapping[str, str]) -> None:
    """Makes these the variables of this process.

    What is right already is left alone, and `os.environ` is not asked: the classes behind it would
    copy 200 KiB into every instance.
    """
    fresh = {os.fsencode(name): os.fsencode(text) for name, text in wanted.items()}
    for name in [name for name in _variables if name not in fresh]:
        os.unsetenv(name)
        del _variables[name]
    for name, text in fresh.items():
        if _variables.get(name) != text:
            os.putenv(name, text)
            _variables[name] = text


@contextmanager
def added_environment(added: Mapping[str, str]) -> Iterator[None]:
    """The caller's additions to the environment, also for children and for C code."""
    fresh = {os.fsencode(name): os.fsencode(text) for name, text in added.items()}
    hidden = {name: _variables[name] for name in fresh.keys() & _variables.keys()}
    lines = [ctypes.create_string_buffer(b"%b=%b" % variable) for variable in fresh.items()]
    before = _exchange(fresh, [ctypes.addressof(line) for line in lines])
    _variables.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            _variables.pop(name, None)
        _variables.update(hidden)
        _exchange(fresh, before)


def _exchange(names: Mapping[bytes, bytes], lines: list[int]) -> list[int]:
    """Puts lines in the place of those with these names; returns the ones that it took out.

    The others keep their addresses: C code may hold on to what `getenv` gave it.
    """
    global _keeps
    stay: list[int] = []
    go: list[int] = []
    for line in _lines():
        name = ctypes.string_at(line).partition(b"=")[0]
        (go if name in names else stay).append(line)
    every = [*stay, *lines, None]
    array = (ctypes.c_void_p * len(every))(*every)
    _environ.value = ctypes.addressof(array)
    _keeps = array  # frees the one before, which nobody reads any more
    return go


def _lines() -> Iterator[int]:
    """Addresses of the lines `NAME=text`."""
    if not _environ.value:
        return
    array = ctypes.cast(_environ.value, ctypes.POINTER(ctypes.c_void_p))
    at = 0
    while line := array[at]:
        yield line
        at += 1
