"""A forked process and the socket to it: frames both ways, and one end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from atlatl.runtimes.bodies import BodyFile
from atlatl.runtimes.output import OutputFile
from atlatl.runtimes.zygote import Exit, Spawned, kill
from atlatl_worker import wire

CLOSE_TIMEOUT_S = 1.0
"""Longest wait for the last bytes of a process that has ended."""

REST_READS = 64
"""More than a socket holds, so that a child of the process that goes on writing has an end."""

HUNG_UP = "it closed its connection to the service"
"""Why a process is killed that may have been about to end by itself."""

EXIT_NEWS_S = 0.1
"""How long after the end of its connection a process may take to end."""

MAX_UNREAD_BYTES = 1024 * 1024
"""Of credits that wait to be sent. A process that streams and reads none of them asks for more
without an end."""


class Link(asyncio.BufferedProtocol):
    """Works the same on asyncio and on uvloop.

    Args:
        spawned: the process; its descriptors are closed here when it is gone.
        limit: bytes that a frame may have.
        take: gets each frame; raises WireError for one that makes no sense, upon which the
            process is killed.
        ended: called once, when the process has ended and its last bytes have been taken.
    """

    def __init__(
        self,
        spawned: Spawned,
        limit: int,
        take: Callable[[wire.Frame], None],
        ended: Callable[[], None],
    ) -> None:
        self.pid = spawned.pid
        self.open = True
        """Until the process is known to end, or is told to."""
        self.fault = ""
        """Why we killed it."""
        self.exit: Exit | None = None
        self.gone = asyncio.Event()
        self.decoder = wire.Decoder(limit)
        self._spawned = spawned
        self._take = take
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(wire.RECEIVE_BYTES)
        self._out: list[bytes] = []
        self._out_ahead = 0
        self._unread_bytes = 0
        """Of credits, since all that was sent had been read."""
        self._leaving = False
        self._hung_up = False
        self._broken = False
        """What it sends makes no sense."""

    @property
    def output(self) -> OutputFile:
        """What the process prints into; closed once it is gone."""
        return self._spawned.output

    @property
    def bodies(self) -> BodyFile:
        """What large bodies go through; closed once the process is gone."""
        return self._spawned.bodies

    async def connect(self) -> None:
        # A transport closes its socket with what was not read yet when it fails to write.
        sock = self._spawned.sock.dup()
        try:
            await self._loop.create_unix_connection(lambda: self, sock=sock)
        except BaseException:
            # uvloop does not tell of the end of a connection whose making was cancelled.
            self._hung_up = True
            sock.close()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    # --- out ---

    def write(self, frame: bytes) -> None:
        if self._out:
            self._out.append(frame)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def write_credit(self, frame: bytes) -> None:
        """Says that something was taken; a process that does not listen is killed."""
        if self._transport is None or not self._transport.get_write_buffer_size():
            self._unread_bytes = 0
        self._unread_bytes += len(frame)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self.kill("it reads nothing of what it is sent")
        else:
            self.write(frame)

    def write_soon(self, frame: bytes) -> None:
        """Frames of one turn of the loop go out in one write."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def write_ahead(self, frame: bytes) -> None:
        """A call that has to wait for its turn, and can be taken back until then."""
        self.write_soon(frame)
        self._out_ahead += 1

    def take_back(self, most: int) -> int:
        """Takes back as many of the calls that were sent ahead as have not begun.

        Args:
            most: how many there can be; a hostile instance may say that there are more.
        """
        self._flush()
        return self._spawned.tokens.take(most)

    def _flush(self) -> None:
        if not self._out:
            return
        out, self._out = b"".join(self._out), []
        if self._out_ahead:
            # First, or the instance would find a call without its token.
            try:
                self._spawned.tokens.put(self._out_ahead)
            except BlockingIOError:
                self.kill("it put tokens where only the service does")
            self._out_ahead = 0
        self.write(out)

    # --- in ---

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._feed(memoryview(self._buffer)[:nbytes])

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            for frame in self.decoder.feed(data):
                self._take(frame)
            self.decoder.check()
        except wire.WireError as error:
            self._broken = True
            self.kill(f"it sent {error}")
            if self._transport is not None:
                self._transport.abort()

    def _take_rest(self) -> None:
        """Takes what a process that is gone had sent, and the transport has not read."""
        for _ in range(REST_READS):
            try:
                data = self._spawned.sock.recv(wire.RECEIVE_BYTES)
            except OSError:
                return
            if not data or self._broken:
                return
            self._feed(data)

    # --- the end ---

    def leave(self) -> None:
        """Tells the process that it is not needed any more."""
        self.open = False
        self._leaving = True
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(RuntimeError):  # its other end may be gone just now
                self._transport.write_eof()

    def kill(self, why: str) -> None:
        """Kills the process; the first reason is the one that counts."""
        self.open = False
        if self.exit is None:
            self.fault = self.fault or why
            kill(self._spawned.pidfd)

    def process_exited(self, how: Exit) -> None:
        """Told by the zygote."""
        self.open = False
        if how.of_zygote:
            kill(self._spawned.pidfd)
        self.exit = how
        if self._transport is None:
            self._hung_up = True
        elif not self._hung_up:
            # A child with a copy of the socket would keep the connection open.
            self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)
        self._check_gone()

    def eof_received(self) -> None:
        self.open = False
        if not self._leaving:
            # The socket of a process that dies closes a moment before its status is known.
            self._loop.call_later(EXIT_NEWS_S, self.kill, HUNG_UP)

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()
        self._hung_up = True
        self._check_gone()

    def _check_gone(self) -> None:
        if self.exit is None or not self._hung_up or self.gone.is_set():
            return
        self.gone.set()
        try:
            self._take_rest()
            self._ended()
        finally:
            self._spawned.close()

    def how_it_ended(self) -> str:
        """`exited with code 3`, `was killed by signal 11 (SIGSEGV)`, or why we killed it."""
        if self.fault and (self.exit is None or self.exit.signal == signal.SIGKILL):
            # Not when it had ended by itself before the signal came.
            return f"was killed: {self.fault}"
        return str(self.exit) if self.exit is not None else "ended"
