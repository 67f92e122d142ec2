"""A lean gRPC client for unary calls: many at once on one HTTP/2 connection (RFC 9113).

A client of grpc.aio costs as much as the servers that it is to measure. This one writes the same
header block in front of every call, tells the server to keep no table of headers, and so sees
the same blocks come back: each is decoded once.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import Protocol, cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65535
REFILL_BYTES = 2**29
KEPT_BLOCKS = 1000

Done = Callable[[int, bytes, str], None]
"""Takes the number of a call, its message and its fault, which is empty when all went well."""


class Decoder(Protocol):
    """As that of hpack is."""

    header_table_size: int

    def decode(self, data: bytes) -> Iterable[tuple[bytes, bytes] | tuple[str, str]]:
        """The names and values in a block."""


class Broken(Exception):
    """The connection can't go on."""


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def header_block(headers: list[tuple[str, str]]) -> bytes:
    """Literals that are put into no table and not compressed; each shorter than 127 bytes."""
    block = bytearray()
    for name, value in headers:
        block += b"\x00"
        for text in (name, value):
            block += bytes([len(text)]) + text.encode()
    return bytes(block)


def settings(values: dict[int, int]) -> bytes:
    content = b"".join(struct.pack(">HI", name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, content)


def fault(headers: dict[str, str]) -> str:
    """Why the headers and trailers of a call are not those of a success; else empty."""
    if headers.get(":status") != "200":
        return f"HTTP status {headers.get(':status')}"
    if headers.get("grpc-status") != "0":
        return f"grpc-status {headers.get('grpc-status')}: {headers.get('grpc-message', '')}"
    return ""


class Stream:
    """A call that is under way."""

    __slots__ = ("body", "headers", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.headers: dict[str, str] = {}
        self.body = b""


class Client(asyncio.Protocol):
    """Calls one method; `ask` may be used once `ready` is done.

    Args:
        path: of the method, `/package.Service/Method`.
        decoder: of header blocks.
        done: told of each end.
        broken: told once when the connection ends by itself.
    """

    def __init__(
        self, path: str, decoder: Decoder, done: Done, broken: Callable[[str], None]
    ) -> None:
        self._done, self._broken = done, broken
        self._headers = header_block(
            [
                (":method", "POST"), (":scheme", "http"), (":path", path),
                (":authority", "127.0.0.1"), ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
        )  # fmt: skip
        self._decoder = decoder
        self._decoded: dict[bytes, dict[str, str]] = {}
        self._streams: dict[int, Stream] = {}
        self._next_stream = 1
        self._window, self._consumed = FIRST_WINDOW, 0
        self._held: list[tuple[int, bytes]] = []
        self._out: list[bytes] = []
        self._got = b""
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- asking ---

    def ask(self, number: int, message: bytes) -> None:
        """Calls with this message; it leaves at the next `flush`."""
        content = b"\x00" + struct.pack(">I", len(message)) + message
        if self._held or len(content) > self._window:
            self._held.append((number, content))
            return
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._window -= len(content)
        self._streams[stream] = Stream(number)
        self._out += (
            frame(HEADERS, END_HEADERS, stream, self._headers),
            frame(DATA, END_STREAM, stream, content),
        )

    def flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    # --- being answered ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        wanted = {HEADER_TABLE_SIZE: 0, INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
        self._out += [PREFACE, settings(wanted), self._more_window(LARGEST_WINDOW - FIRST_WINDOW)]
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed:
            self._broken(f"the connection ended: {exc!r}")

    def data_received(self, data: bytes) -> None:
        got, place = self._got + data, 0
        try:
            while len(got) - place >= 9:
                end = place + 9 + int.from_bytes(got[place : place + 3], "big")
                if len(got) < end:
                    break
                stream = int.from_bytes(got[place + 5 : place + 9], "big") & LARGEST_WINDOW
                self._frame(got[place + 3], got[place + 4], stream, got[place + 9 : end])
                place = end
        except Broken as error:
            self._broken(str(error))
            self.close()
            return
        self._got = got[place:]
        self.flush()

    def _frame(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if kind == DATA:
            self._data(flags, stream, content)
        elif kind == HEADERS:
            self._header_block(flags, stream, content)
        elif kind == SETTINGS:
            self._settings(flags, content)
        elif kind == WINDOW_UPDATE:
            if stream == 0:
                self._window += int.from_bytes(content, "big")
                self._ask_held()
        elif kind == PING:
            if not flags & ACK:
                self._out.append(frame(PING, ACK, 0, content))
        elif kind == RST_STREAM:
            self._end(stream, f"reset with code {int.from_bytes(content, 'big')}")
        elif kind == GOAWAY:
            raise Broken(f"the server goes away: {content[4:]!r}")
        elif kind == CONTINUATION:
            raise Broken("a header block in more than one frame")

    def _data(self, flags: int, stream: int, content: bytes) -> None:
        self._consumed += len(content)
        if self._consumed > REFILL_BYTES:
            self._out.append(self._more_window(self._consumed))
            self._consumed = 0
        if stream in self._streams:
            self._streams[stream].body += unpadded(flags, content)
        if flags & END_STREAM:
            self._end(stream, "no trailers")

    def _more_window(self, count: int) -> bytes:
        return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", count))

    def _header_block(self, flags: int, stream: int, content: bytes) -> None:
        if not flags & END_HEADERS:
            raise Broken("a header block in more than one frame")
        block = unpadded(flags, content)
        if flags & PRIORITY:
            block = block[5:]
        if (under_way := self._streams.get(stream)) is None:
            return
        under_way.headers.update(self._decoded.get(block) or self._decode(block))
        if flags & END_STREAM:
            self._end(stream, fault(under_way.headers))

    def _decode(self, block: bytes) -> dict[str, str]:
        found = {text(name): text(value) for name, value in self._decoder.decode(block)}
        if self._decoder.header_table_size:
            raise Broken("the server keeps a table of headers, though it was told not to")
        if len(self._decoded) < KEPT_BLOCKS:
            self._decoded[block] = found
        return found

    def _end(self, stream: int, fault: str) -> None:
        under_way = self._streams.pop(stream, None)
        if under_way is not None:
            self._done(under_way.number, under_way.body[5:], fault)

    def _settings(self, flags: int, content: bytes) -> None:
        if flags & ACK:
            return
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        if not self.ready.done():
            self.ready.set_result(None)

    def _ask_held(self) -> None:
        held, self._held = self._held, []
        for number, message in held:
            self.ask(number, message[5:])


def unpadded(flags: int, content: bytes) -> bytes:
    """Without the padding of a DATA or HEADERS frame."""
    return content[1 : len(content) - content[0]] if flags & PADDED else content


def text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
