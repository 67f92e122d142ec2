"""From what an instance sends to what the service knows about a call.

An instance runs foreign code: everything here is checked, and what does not fit raises
`WireError`, upon which the instance is killed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from atlatl.errors import (
    ArtifactInvalid,
    AtlatlError,
    Cancelled,
    FunctionRaised,
    InvalidRequest,
    OutOfMemory,
    ResultInvalid,
    StartFailed,
)
from atlatl.model import Outcome, OutcomeKind, Result, Shape, failed
from atlatl.runtimes.output import OutputFile, cut
from atlatl_worker import wire
from atlatl_worker.results import ResultError, check_response

KINDS = {wire.JSON: "json", wire.TEXT: "text", wire.BYTES: "bytes"}

LARGEST_MEMORY_BYTES = 2**53
"""More than any machine has, and still exact in JSON."""

MESSAGE_CHARS = 8_000
DETAIL_CHARS = 120_000
"""Twice what our own code sends: records keep both, and there is no need for a book."""

_ERRORS: dict[str, type[AtlatlError]] = {
    "raised": FunctionRaised,
    "result": ResultInvalid,
    "memory": OutOfMemory,
    "cancelled": Cancelled,
    "invalid": InvalidRequest,
    "import": ArtifactInvalid,
}
_START_ERRORS = {**_ERRORS, "start": StartFailed}
"""What else may be wrong before there is a function to call."""


class Told(msgspec.Struct):
    """Metadata of a REPLY or END."""

    run_s: float = 0.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_MEMORY_BYTES)] = 0
    printed: tuple[int, int] | None = None
    """Where in the output file the call's output stands."""
    output: str = ""
    """The output itself, of a call that shared its instance with others."""
    written: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_MEMORY_BYTES)] = 0
    status: int = 200
    headers: list[tuple[str, str]] = []


class FaultTold(msgspec.Struct):
    kind: str
    message: str
    detail: str = ""


_told = msgspec.json.Decoder(Told).decode
_fault = msgspec.json.Decoder(FaultTold).decode
_shapes = msgspec.json.Decoder(dict[str, Shape]).decode


def told(frame: wire.Frame) -> Told:
    """The metadata of a REPLY or END."""
    if not frame.meta:
        return Told()
    try:
        return _told(frame.meta)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise wire.WireError(f"metadata that cannot be read: {error}") from None


def fault(frame: wire.Frame, errors: Mapping[str, type[AtlatlError]] = _ERRORS) -> AtlatlError:
    """The error that a frame with the content ERROR stands for."""
    try:
        known = _fault(frame.body)
        message, detail = known.message[:MESSAGE_CHARS], known.detail[:DETAIL_CHARS]
        return errors[known.kind](message, detail=detail)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise wire.WireError(f"a fault that cannot be read: {error}") from None


def shapes(frame: wire.Frame) -> dict[str, Shape]:
    """What the artifact can be called with, or why it can't be.

    Raises:
        ArtifactInvalid: it does not import.
        StartFailed: its instance could not be confined.
    """
    if frame.content == wire.ERROR:
        raise fault(frame, _START_ERRORS)
    try:
        return _shapes(frame.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise wire.WireError(f"shapes that cannot be read: {error}") from None


def item(frame: wire.Frame) -> Result:
    """The value in a CHUNK, or in a REPLY that is no response."""
    if frame.content not in KINDS:
        raise wire.WireError("an item of a stream that is no value")
    if frame.content == wire.TEXT:
        try:
            frame.body.decode()
        except UnicodeDecodeError as error:
            raise wire.WireError(f"text that is no UTF-8: {error}") from None
    return Result(kind=KINDS[frame.content], body=frame.body)


def result(frame: wire.Frame, about: Told) -> Result:
    """The value in a REPLY."""
    if frame.content != wire.RESPONSE:
        return item(frame)
    try:
        check_response(about.status, about.headers)
    except ResultError as error:
        raise wire.WireError(str(error)) from None
    return Result(
        kind="response", body=frame.body, status=about.status, headers=tuple(about.headers)
    )


def outcome(
    frame: wire.Frame, about: Told, value: Result | None, output: bytes, instance_id: str
) -> Outcome:
    """How a call ended, by its REPLY or END."""
    run_s = max(0.0, about.run_s)
    if frame.content == wire.ERROR:
        error = fault(frame)
        return failed(
            error,
            output=output,
            instance_id=instance_id,
            run_s=run_s,
            memory_bytes=about.memory_bytes,
        )
    return Outcome(
        kind=OutcomeKind.SUCCESS,
        result=value,
        output=output,
        instance_id=instance_id,
        run_s=run_s,
        memory_bytes=about.memory_bytes,
    )


def output(about: Told, file: OutputFile, limit: int) -> bytes:
    """What the call printed and logged, cut at `limit` bytes."""
    if about.printed is not None:
        try:
            return file.take(*about.printed, limit)
        except ValueError as error:
            raise wire.WireError(str(error)) from None
    if about.output:
        return cut(about.output.encode(), about.written, limit)
    return b""


KEPT_BYTES = 9
"""About each item of a joined stream, beside its body."""


class Joined:
    """The items of a stream whose caller wants one result; close to no memory beyond them."""

    __slots__ = ("_bodies", "_ends", "_kinds", "n_bytes")

    def __init__(self) -> None:
        self._bodies = bytearray()
        self._ends = array("Q")
        self._kinds = bytearray()
        self.n_bytes = 0
        """What the items count towards a limit, the smallest as much as is kept about each."""

    def add(self, item: Result) -> None:
        self._bodies += item.body
        self._ends.append(len(self._bodies))
        self._kinds.append(_CODES[item.kind])
        self.n_bytes += max(len(item.body), KEPT_BYTES)

    def result(self) -> Result:
        """Text and bytes end to end; a JSON list as soon as one item is JSON.

        Raises:
            ResultInvalid: JSON and bytes stand side by side, which no list can hold.
        """
        with_bytes = wire.BYTES in self._kinds
        if self._kinds and wire.JSON not in self._kinds:
            return Result(kind="bytes" if with_bytes else "text", body=bytes(self._bodies))
        if with_bytes:
            raise ResultInvalid(
                "the function yielded both bytes and JSON values, which cannot be joined; "
                "yield one kind, or call it as a stream"
            )
        return Result(kind="json", body=b"[%b]" % b",".join(self._listed()))

    def _listed(self) -> Iterator[bytes]:
        """Each item as JSON."""
        start = 0
        for kind, end in zip(self._kinds, self._ends, strict=True):
            body = bytes(self._bodies[start:end])
            yield body if kind == wire.JSON else msgspec.json.encode(body.decode())
            start = end


_CODES = {kind: code for code, kind in KINDS.items()}
