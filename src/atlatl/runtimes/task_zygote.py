"""The service's end of one task's zygote, which is trusted no more than an instance.

It may say what it likes: a process is taken for its fork only when the kernel says so, and has
ended when the kernel says so. Whatever makes no sense ends it, and its instances with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from atlatl.errors import StartFailed
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.groups import Group
from atlatl.runtimes.limits import Limits
from atlatl.runtimes.machine import parent_of, pss_bytes
from atlatl.runtimes.zygote import (
    Exit,
    Forks,
    Message,
    OnExit,
    Order,
    Spawned,
    Zygote,
    decode,
    fail,
    kill,
)
from atlatl.settings import ConfinementSettings
from atlatl_worker import wire

log = logging.getLogger(__name__)

REPLY_BYTES = 1024 * 1024
"""What it may say about the artifact's functions."""

EXIT_NEWS_S = 0.1
"""How long after the end of an instance its zygote may take to say how it ended."""

LARGEST_PID = 2**22
"""The kernel gives none beyond it (`PID_MAX_LIMIT`)."""

REASON_CHARS = 200
LOST = Exit(0, signal.SIGKILL, of_zygote=True)


class Watch:
    """An instance that was forked here."""

    __slots__ = ("how", "on_exit", "pidfd")

    def __init__(self, on_exit: OnExit, pidfd: int) -> None:
        self.on_exit = on_exit
        self.pidfd = pidfd
        """Ours, and readable when the process has ended; -1 afterwards."""
        self.how: Exit | None = None
        """What the zygote said."""


class TaskZygote(Forks):
    """One task's own zygote.

    Args:
        base: forks the process, an instance until it has imported the artifact.
        gone: called once after `start` when it can't be used any more, with the reason; instances
            that it forked may still be there then.
        limits: keep it within what the task may use.
        task_limits: what that is.
    """

    def __init__(
        self,
        base: Zygote,
        gone: Callable[[str], None],
        limits: Limits,
        task_limits: ConfinementSettings,
    ) -> None:
        super().__init__()
        self._limits = limits
        self._task_limits = task_limits
        self._group: Group | None = None
        self._base = base
        self._gone = gone
        self._process: Spawned | None = None
        self._starting = True
        self._ended = False
        self._retired = False
        self._told = False
        self._watched: dict[int, Watch] = {}
        self._clear = asyncio.Event()
        self.spare: Channel | None = None
        """Forked ahead, for the next start."""

    @property
    def pid(self) -> int:
        """0 when there is no process."""
        return self._process.pid if self._process is not None else 0

    def memory_bytes(self) -> int:
        """PSS of the process and its spare. Reads /proc: call it from a thread."""
        process, spare = self._process, self.spare
        return (pss_bytes(process.pid) if process else 0) + (spare.memory_bytes() if spare else 0)

    @property
    def retired(self) -> bool:
        """Whether it forks no more."""
        return self._retired or self._told

    @property
    def hung_up(self) -> bool:
        """Whether its connection is over, though it is not known yet how the process ended."""
        return self._control is None and not self._starting and not self._told

    # --- beginning ---

    async def start(self, assignment: dict[str, Any]) -> None:
        """Returns when it can fork; raises StartFailed, and leaves no process then."""
        try:
            process = self._process = await self._base.spawn(self._exited, in_stock=False)
            if not self._ended:
                self._group = await self._limits.enter(process.pid)
                await self._limits.apply(self._group, process.pid, self._task_limits)
                await self._import(process.sock, assignment)
                await self._take_over(process.sock)
        except BaseException:
            self._told = True  # by what is raised
            self.end("")
            raise
        finally:
            self._starting = False
            self._release()
        if self._ended:
            raise StartFailed("it ended as soon as it had started")

    async def spawn(self, on_exit: OnExit, *, in_stock: bool) -> Spawned:
        """As of every zygote; one that is not needed any more ends with the last that waits."""
        try:
            return await super().spawn(on_exit, in_stock=in_stock)
        finally:
            self._end_if_idle()

    async def clear(self) -> None:
        """Returns when the process and all instances that it forked have ended."""
        await self._clear.wait()

    async def _import(self, sock: socket.socket, assignment: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        told = msgspec.json.encode({**assignment, "forks": True})
        decoder = wire.Decoder(REPLY_BYTES)
        try:
            await loop.sock_sendall(sock, wire.encode(wire.CALL, 0, told))
            while data := await loop.sock_recv(sock, wire.RECEIVE_BYTES):
                for frame in decoder.feed(data):
                    if (frame.kind, frame.request_id) != (wire.REPLY, 0):
                        raise StartFailed("it sent an answer to no call")
                    if frame.content == wire.ERROR:
                        raise StartFailed("the artifact could not be imported a second time")
                    return
        except (OSError, wire.WireError) as error:
            raise StartFailed(f"it broke off its connection: {error}") from None
        raise StartFailed("it ended while it imported the artifact")

    async def _take_over(self, sock: socket.socket) -> None:
        """Gives it the socket through which it is to be spoken to from now on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ready = self._listen(ours)
            try:
                socket.send_fds(sock, [b"f"], [theirs.fileno()])
            except OSError as error:
                raise StartFailed(f"it does not take a descriptor: {error}") from None
        await ready

    # --- what it tells us ---

    def _take(self, data: bytes, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            message = decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.end("it sent what is no message")
            return
        if message.op == "exited":
            self._note_exit(message)
            return
        order = self._orders.pop(message.id, None)
        if order is None:
            self.end("it sent an answer to no question")
        elif message.op == "failed":
            fail(order.answer, StartFailed(_printable(message.message)))
            self._end_if_idle()
        elif message.op == "ready" and message.id == 0 and not order.answer.done():
            order.answer.set_result((0, -1))
        elif message.op == "spawned" and message.id != 0:
            self._adopt(message.pid, order)
        else:
            self.end("it sent what is no answer")

    def _adopt(self, pid: int, order: Order) -> None:
        try:
            pidfd = self._pidfd_of_child(pid)
        except OSError as error:
            fail(order.answer, StartFailed(f"it has not forked the process that it names: {error}"))
            self.end("it named a process that it has not forked")
            return
        if order.answer.done():
            # Whoever asked has given up: nobody will use this process.
            kill(pidfd)
        self._watch(pid, pidfd, order.on_exit)
        if order.answer.done():
            os.close(pidfd)
        else:
            order.answer.set_result((pid, pidfd))

    def _pidfd_of_child(self, pid: int) -> int:
        if not 0 < pid <= LARGEST_PID or pid in self._watched:
            raise ProcessLookupError(f"process {pid}")
        pidfd = os.pidfd_open(pid)
        try:
            # Asked now: as long as the descriptor is open the number can't belong to another one.
            if parent_of(pid) != self.pid:
                raise ProcessLookupError(f"process {pid}")
        except BaseException:
            os.close(pidfd)
            raise
        return pidfd

    # --- its instances ---

    def _watch(self, pid: int, pidfd: int, on_exit: OnExit) -> None:
        watch = self._watched[pid] = Watch(on_exit, os.dup(pidfd))
        self._base.descendants.add(pid)
        asyncio.get_running_loop().add_reader(watch.pidfd, self._instance_ended, pid)

    def _note_exit(self, message: Message) -> None:
        watch = self._watched.get(message.pid)
        if watch is None or watch.how is not None:
            self.end("it told of the end of a process that it has not forked")
            return
        watch.how = Exit(message.code, message.signal)
        if watch.pidfd < 0:
            self._finish(message.pid)

    def _instance_ended(self, pid: int) -> None:
        watch = self._watched[pid]
        loop = asyncio.get_running_loop()
        loop.remove_reader(watch.pidfd)
        os.close(watch.pidfd)
        watch.pidfd = -1
        if watch.how is not None or self._ended:
            self._finish(pid)
        else:
            loop.call_later(EXIT_NEWS_S, self._finish, pid)

    def _finish(self, pid: int) -> None:
        watch = self._watched.pop(pid, None)
        if watch is None:
            return
        self._base.descendants.discard(pid)
        watch.on_exit(watch.how or LOST)
        if watch.how is None and not self._ended:
            self.end("it did not tell of the end of an instance")
        self._end_if_idle()
        self._release()

    # --- the end ---

    def retire(self) -> None:
        """Forks no more; the process ends with the last instance that it forked."""
        self._retired = True
        if self.spare is not None:
            self.spare.kill()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        waiting = any(not order.answer.done() for order in self._orders.values())
        if self._retired and not self._watched and not waiting:
            self.end("it is not needed any more")

    def end(self, why: str) -> None:
        """Kills the process, and so all instances that it forked."""
        self._hang_up()
        if self._process is not None and not self._ended:
            kill(self._process.pidfd)
        self._tell_gone(why)

    def _lost(self) -> None:
        self._hang_up()
        # The socket of a process that dies closes a moment before it is known how it ended.
        asyncio.get_running_loop().call_later(EXIT_NEWS_S, self.end, "it hung up")

    def _tell_gone(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._gone(why)

    def _exited(self, how: Exit) -> None:
        """Told by the base zygote; the instances get the kernel's signal, and ours to be sure."""
        self._ended = True
        self._hang_up()
        for pid, watch in list(self._watched.items()):
            if watch.pidfd < 0:
                self._finish(pid)
            else:
                kill(watch.pidfd)
        if self._process is not None:
            with contextlib.suppress(OSError):
                # Whoever waits for its answer learns that none will come.
                self._process.sock.shutdown(socket.SHUT_RDWR)
        self._release()
        self._tell_gone(f"its process {how}")

    def _release(self) -> None:
        """Gives the descriptors back when nothing of it is left."""
        if self._starting or (self._process is not None and not self._ended):
            return
        process, self._process = self._process, None
        if process is not None:
            process.close()
        group, self._group = self._group, None
        self._limits.leave(group)
        if not self._watched:
            self._clear.set()


def _printable(text: str) -> str:
    return "".join(c for c in text[:REASON_CHARS] if c.isprintable()) or "it did not say why"
