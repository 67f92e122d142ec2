"""Frames between the service and an instance: a fixed header, metadata, a raw body. Pure.

A frame is 16 bytes of header, little-endian, then the metadata (JSON, may be empty), then the
body as it is:

    u32 bytes after the header, u32 request id, u32 bytes of metadata, u8 kind, u8 flags, u16 zero

Both ends decode what the other sends; nothing here trusts it. The assignment of a blank is a
CALL with request id 0; its REPLY says what the artifact can be called with.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("<IIIBBH")
AMOUNT: Final = struct.Struct("<Q")
MAX_FRAME_BYTES: Final = 0xFFFFFFFF
MAX_REQUEST_ID: Final = 0xFFFFFFFF
RECEIVE_BYTES: Final = 65_536
"""Buffers from 128 KiB up are mapped and unmapped for every receive: 2.5 times slower."""
WINDOW_BYTES: Final = 262_144
"""What a stream may send beyond what its reader took; a single larger item may go alone."""
ITEM_BYTES: Final = 256
"""Least that an item counts: even an empty one occupies whoever keeps it for a slow reader."""

CALL, REPLY, CHUNK, END, CREDIT, CANCEL, PING, PONG = range(1, 9)

JSON, TEXT, BYTES, RESPONSE, ERROR = range(5)
"""What the body of a REPLY or CHUNK is: the low three bits of the flags."""
CONTENT_MASK: Final = 0b111

SHARED: Final = 0b10000
"""Flag of a CALL or REPLY whose body lies in the file that both ends share, from its start; the
frame has its length. Only for a call that has the instance to itself."""
SHARED_FROM_BYTES: Final = 65_536
"""Up to here a body goes through the socket."""

AHEAD: Final = 0b1000
"""Flag of a CALL that was sent while others were before it: whoever takes a token from the pipe
between the two ends has it, the instance to begin it or the service to take it back."""


class WireError(ValueError):
    """The bytes are no frame: whoever sent them is broken or hostile."""


class Frame(NamedTuple):
    kind: int
    request_id: int
    flags: int
    meta: bytes
    body: bytes

    @property
    def content(self) -> int:
        """One of JSON, TEXT, BYTES, RESPONSE, ERROR."""
        return self.flags & CONTENT_MASK


def encode(
    kind: int, request_id: int, meta: bytes = b"", body: bytes = b"", flags: int = 0
) -> bytes:
    """The frame as bytes; raises WireError when it is over 4 GiB."""
    length = len(meta) + len(body)
    if length > MAX_FRAME_BYTES:
        raise WireError(f"a frame holds at most {MAX_FRAME_BYTES} bytes, this one has {length}")
    header = HEADER.pack(length, request_id, len(meta), kind, flags, 0)
    return b"".join((header, meta, body)) if length else header


def encode_credit(request_id: int, n_bytes: int) -> bytes:
    """The frame that says how much of a stream was taken."""
    return encode(CREDIT, request_id, body=AMOUNT.pack(n_bytes))


def amount_of(frame: Frame) -> int:
    """The amount in a CREDIT frame, or of a shared body; raises WireError when it has none."""
    if len(frame.body) != AMOUNT.size:
        raise WireError("a frame without the amount that it stands for")
    amount: int = AMOUNT.unpack(frame.body)[0]
    return amount


def cost(n_bytes: int) -> int:
    """What an item with a body of that size takes from its stream's window."""
    return max(n_bytes, ITEM_BYTES)


def may_send(outstanding: int, cost: int) -> bool:
    """Whether a stream of which `outstanding` is not yet taken may send an item of that cost."""
    return outstanding == 0 or outstanding + cost <= WINDOW_BYTES


class Decoder:
    """Turns received bytes into frames, however they were cut.

    Args:
        limit: bytes that a frame may have after its header.
    """

    __slots__ = ("_buffer", "limit")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that are complete now, in order.

        Raises:
            WireError: what came is no frame, or larger than the limit; the decoder is done for.
                What stood whole before it was returned: then `check` raises.
        """
        if self._buffer:
            self._buffer += data
            if not self._complete():
                return []
            frames, used = self._parse(self._buffer)
            del self._buffer[:used]
            return frames
        frames, used = self._parse(data)
        if used < len(data):
            self._buffer += data[used:]
        return frames

    def check(self) -> None:
        """Raises WireError when what comes next is already known to be no frame."""
        if self._buffer:
            self._complete()

    def _complete(self) -> bool:
        """Whether at least one frame is whole: a large one then costs no copy per piece."""
        if len(self._buffer) < HEADER.size:
            return False
        length, _, meta_length, kind, flags, zero = HEADER.unpack_from(self._buffer)
        self._check(length, meta_length, kind, flags, zero)
        whole: int = HEADER.size + length
        return len(self._buffer) >= whole

    def _parse(self, data: bytes | bytearray | memoryview) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        at, size = 0, len(data)
        with memoryview(data) as view:
            while size - at >= HEADER.size:
                length, request_id, meta_length, kind, flags, zero = HEADER.unpack_from(view, at)
                try:
                    self._check(length, meta_length, kind, flags, zero)
                except WireError:
                    if frames:
                        break
                    raise
                start = at + HEADER.size
                end = start + length
                if end > size:
                    break
                middle = start + meta_length
                meta, body = bytes(view[start:middle]), bytes(view[middle:end])
                frames.append(Frame(kind, request_id, flags, meta, body))
                at = end
        return frames, at

    def _check(self, length: int, meta_length: int, kind: int, flags: int, zero: int) -> None:
        if not CALL <= kind <= PONG or zero or flags & CONTENT_MASK > ERROR:
            raise WireError("bytes that are no frame")
        if meta_length > length:
            raise WireError("a frame whose metadata is longer than the frame")
        if length > self.limit:
            raise WireError(f"a frame of {length} bytes, over the limit of {self.limit}")
