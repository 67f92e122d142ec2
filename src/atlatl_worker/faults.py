"""What went wrong beside a function, told in a form that the service can pass on."""

from __future__ import annotations

import json
import os
import traceback
import types
from collections.abc import Callable
from typing import Final, NamedTuple

from atlatl_worker.results import ResultError

MESSAGE_CHARS: Final = 4_000
DETAIL_CHARS: Final = 60_000

_OURS: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120


class Fault(NamedTuple):
    kind: str
    """`raised`, `result`, `memory`, `cancelled`, `invalid`, `import` or `start`."""
    message: str
    detail: str = ""
    """The traceback, from the user's first line on."""

    def encode(self) -> bytes:
        return json.dumps(
            {
                "kind": self.kind,
                "message": _printable(self.message)[:MESSAGE_CHARS],
                "detail": _middle_cut(_printable(self.detail)),
            }
        ).encode()


def describe(function: str, error: BaseException) -> Fault:
    """The fault that an exception out of a function stands for."""
    try:
        return _described(function, error)
    except BaseException:
        # An exception is an object of the function's: all that we ask it may fail.
        return Fault("raised", f"{function}() raised an exception that cannot be put into words")


def _described(function: str, error: BaseException) -> Fault:
    if isinstance(error, ResultError):
        return Fault("result", str(error))
    detail = _traceback(error)
    if isinstance(error, MemoryError):
        return Fault("memory", f"{function}() ran out of memory (MemoryError)", detail)
    if isinstance(error, SystemExit):
        said = f"SystemExit: {function}() called sys.exit({_words(repr, error.code)})"
        return Fault("raised", said, detail)
    return Fault("raised", _named(error), detail)


def describe_import(error: BaseException, code: str, file: str) -> Fault:
    """Why an artifact does not import, with the file and line that say so."""
    try:
        return _described_import(error, code, file)
    except BaseException:
        return Fault("import", f"{file}: it raised an exception that cannot be put into words")


def _described_import(error: BaseException, code: str, file: str) -> Fault:
    place, hint = _place(error, code) or file, ""
    if isinstance(error, ModuleNotFoundError):
        hint = "; add it to the requirements.txt beside the handler, or to the artifact"
    if isinstance(error, SystemExit):
        named = f"it called sys.exit({_words(repr, error.code)}) while being imported"
    elif isinstance(error, SyntaxError):
        named = f"{type(error).__name__}: {error.msg}"
    else:
        named = _named(error)
    return Fault("import", f"{place}: {named}{hint}", _traceback(error))


def cancelled(function: str) -> Fault:
    return Fault("cancelled", f"{function}() was cancelled")


def _named(error: BaseException) -> str:
    text = _words(str, error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _words(say: Callable[[object], str], thing: object) -> str:
    """What `str` or `repr` make of an object whose own code may fail."""
    try:
        return say(thing)
    except BaseException:
        return "(its text cannot be had)"


def _place(error: BaseException, code: str) -> str:
    """`file.py, line 3` of the innermost frame within the artifact; may be empty."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative(error.filename, code)}, line {error.lineno}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        filename = frame.f_code.co_filename
        if filename.startswith(code + os.sep):
            place = f"{_relative(filename, code)}, line {line}"
    return place


def _relative(filename: str, code: str) -> str:
    return filename.removeprefix(code + os.sep)


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
    except BaseException:
        return _named(error)
    return "".join(lines)


def _users_part(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback from the first frame that is neither ours nor the import system's."""
    while trace is not None and (
        trace.tb_frame.f_code.co_filename.startswith((_OURS, "<frozen importlib"))
        or "/importlib/" in trace.tb_frame.f_code.co_filename
    ):
        trace = trace.tb_next
    return trace


def _middle_cut(text: str) -> str:
    if len(text) <= DETAIL_CHARS:
        return text
    half = DETAIL_CHARS // 2
    return f"{text[:half]}\n... {len(text) - DETAIL_CHARS} characters left out ...\n{text[-half:]}"


def _printable(text: str) -> str:
    """Lone surrogates would make the frame no JSON for the service."""
    return str.encode(text, "utf-8", "backslashreplace").decode()
