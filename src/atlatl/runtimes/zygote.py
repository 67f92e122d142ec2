"""The service's end of the zygote: has instances forked, learns how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import atlatl_worker
from atlatl.core.confinement import Kept
from atlatl.errors import StartFailed
from atlatl.runtimes.bodies import BodyFile
from atlatl.runtimes.marked import MARK, kill_marked
from atlatl.runtimes.output import OutputFile
from atlatl.runtimes.tokens import Tokens

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
END_TIMEOUT_S = 5.0
MESSAGES_AT_ONCE = 32
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    # With more, numpy starts threads when it is imported, which no fork could share; and with
    # as many instances as calls, each core has its work already.
    "OPENBLAS_NUM_THREADS": "1",
}
"""What every instance has. The zygote has it already: a change would cost each of them memory."""


class Exit(NamedTuple):
    """How a process ended."""

    code: int
    signal: int
    """0 when it exited by itself."""
    of_zygote: bool = False
    """It ended because its zygote did."""

    def __str__(self) -> str:
        if self.of_zygote:
            return "ended with the process that had started it"
        if not self.signal:
            return f"exited with code {self.code}"
        try:
            return f"was killed by signal {self.signal} ({signal.Signals(self.signal).name})"
        except ValueError:
            return f"was killed by signal {self.signal}"


OnExit = Callable[[Exit], None]


class Spawned(NamedTuple):
    """A forked instance; its descriptors belong to whoever gets this."""

    pid: int
    pidfd: int
    sock: socket.socket
    output: OutputFile
    tokens: Tokens
    bodies: BodyFile

    def close(self) -> None:
        """Closes what is the service's."""
        os.close(self.pidfd)
        self.bodies.close()
        self.tokens.close()
        self.output.close()
        self.sock.close()


class Order(NamedTuple):
    """A spawn that was asked for: process id and pidfd come to `answer`."""

    answer: asyncio.Future[tuple[int, int]]
    on_exit: OnExit


class Message(msgspec.Struct):
    op: str
    id: int = 0
    pid: int = 0
    code: int = 0
    signal: int = 0
    message: str = ""
    kept: Kept | None = None


decode = msgspec.json.Decoder(Message).decode


class Forks:
    """The service's end of a socket to a process that forks instances.

    Who derives from it says what a message means and what follows from the process' end.
    """

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._orders: dict[int, Order] = {}
        self._last_id = 0

    def _listen(self, control: socket.socket) -> asyncio.Future[tuple[int, int]]:
        """Begins to speak through that socket; what is returned is done when it can fork."""
        loop = asyncio.get_running_loop()
        control.setblocking(False)
        self._control = control
        loop.add_reader(control, self._readable)
        ready: asyncio.Future[tuple[int, int]] = loop.create_future()
        self._orders[0] = Order(ready, lambda how: None)
        return ready

    async def spawn(self, on_exit: OnExit, *, in_stock: bool) -> Spawned:
        """Forks an instance.

        Args:
            on_exit: told once how it ended.
            in_stock: no task waits for it, so it may take its time to get ready.

        Raises:
            StartFailed: the fork failed, or the process that forks is gone.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            output = OutputFile()
            on_failure.callback(output.close)
            tokens = Tokens()
            on_failure.callback(tokens.close)
            bodies = BodyFile()
            on_failure.callback(bodies.close)
            with theirs, tokens.theirs:
                ends = (theirs.fileno(), output.descriptor, tokens.theirs.fileno())
                answer = self._ask(on_exit, in_stock, *ends, bodies.descriptor)
            on_failure.callback(_discard, answer)
            pid, pidfd = await answer
            on_failure.pop_all()
        return Spawned(pid, pidfd, ours, output, tokens, bodies)

    def _ask(
        self, on_exit: OnExit, in_stock: bool, *descriptors: int
    ) -> asyncio.Future[tuple[int, int]]:
        if self._control is None:
            raise StartFailed("the process that starts instances is gone")
        self._last_id += 1
        order = {"op": "spawn", "id": self._last_id, "in_stock": in_stock}
        message = msgspec.json.encode(order)
        try:
            socket.send_fds(self._control, [message], descriptors)
        except BlockingIOError as error:
            raise StartFailed(f"the process that starts instances is stuck: {error}") from None
        except OSError:
            self._lost()  # which is not read from the socket yet
            raise StartFailed("the process that starts instances is gone") from None
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._orders[self._last_id] = Order(answer, on_exit)
        return answer

    def _readable(self) -> None:
        # A bound: one that never stops talking must not keep the loop from its other work.
        for _ in range(MESSAGES_AT_ONCE):
            if self._control is None:
                return
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._lost()
                return
            self._take(data, descriptors)

    def _take(self, data: bytes, descriptors: list[int]) -> None:
        """Owns the descriptors."""
        raise NotImplementedError

    def _lost(self) -> None:
        """The other end hung up."""
        raise NotImplementedError

    def _hang_up(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            asyncio.get_running_loop().remove_reader(control)
            control.close()
        for answer, _ in self._orders.values():
            fail(answer, StartFailed("the process that starts instances is gone"))
        self._orders.clear()


class Zygote(Forks):
    """The base zygote: the one process that the service executes.

    Args:
        on_lost: called once when it ends after `start` and without having been closed; all its
            instances have been reported as ended by then. `close` waits for what they have left.
        places: directories in which the code of instances lies.
    """

    def __init__(self, on_lost: Callable[[], None], places: Sequence[str] = ()) -> None:
        super().__init__()
        self._on_lost = on_lost
        self._places = places
        self._mark = os.urandom(8).hex()
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: dict[int, OnExit] = {}
        self._up = False
        self._burial: asyncio.Task[None] | None = None
        self.kept = Kept()
        """What its instances are kept from; known once it has started."""
        self.descendants: set[int] = set()
        """Instances that task zygotes have forked: sessions that end with this process, too."""

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def mark(self) -> dict[str, str]:
        """The environment variable that marks what descends from this zygote."""
        return {MARK: self._mark}

    async def start(self) -> None:
        """Executes the process and waits until it can fork; raises StartFailed."""
        try:
            ready = self._listen(self._execute())
            async with asyncio.timeout(READY_TIMEOUT_S):
                await ready
            self._up = True
        except (OSError, TimeoutError) as error:
            await self.close()
            raise StartFailed(
                f"the process that starts instances did not come up: {error}"
            ) from None
        except BaseException:
            await self.close()
            raise

    def _execute(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(atlatl_worker.__file__).with_name("__main__.py")
        flags = ["-I", "-S", "-X", "utf8"]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *flags, str(script), str(theirs.fileno()), *self._places],
                pass_fds=[theirs.fileno()],
                env={**ENVIRONMENT, **self.mark},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        return ours

    async def close(self) -> None:
        """Hangs up; returns when the zygote and all that it started are gone."""
        self._hang_up()
        if self._burial is not None:
            await asyncio.wait([self._burial])
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        if process.returncode != 0:
            # It did not end by itself, so it may not have ended what it had started.
            left = {*self._watched, *self.descendants}
            await asyncio.to_thread(kill_marked, self._mark, left)
        self._end_all(Exit(0, signal.SIGKILL))

    # --- what it tells us ---

    def _take(self, data: bytes, descriptors: list[int]) -> None:
        message = decode(data)
        if message.op == "exited":
            told = self._watched.pop(message.pid, None)
            if told is not None:
                told(Exit(message.code, message.signal))
            return
        order = self._orders.pop(message.id, None)
        if order is None or order.answer.done():
            # Whoever asked has given up: nobody will use this process.
            for pidfd in descriptors:
                kill(pidfd)
                os.close(pidfd)
            return
        answer, on_exit = order
        if message.op == "failed":
            answer.set_exception(StartFailed(f"no process could be had: {message.message}"))
        elif message.op == "spawned" and not descriptors:
            # The instance finds its socket closed and leaves.
            answer.set_exception(StartFailed("the service has too many open files"))
        elif message.op == "spawned":
            # At once: the news of its end may be in the very next message.
            self._watched[message.pid] = on_exit
            answer.set_result((message.pid, descriptors[0]))
        else:
            self.kept = message.kept or self.kept
            answer.set_result((0, -1))

    def _lost(self) -> None:
        """It died: its instances die with it, and nobody is left to say so but us."""
        log.error("the process that starts instances died; its instances are lost")
        self._hang_up()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            left = {*self._watched, *self.descendants}
            # All processes of the machine are looked at, and some take their time to end.
            bury = asyncio.to_thread(self._bury, process, left)
            self._burial = asyncio.get_running_loop().create_task(bury)
        self._end_all(Exit(0, signal.SIGKILL, of_zygote=True))
        if self._up:
            self._on_lost()

    def _bury(self, process: subprocess.Popen[bytes], left: Collection[int]) -> None:
        process.wait()
        kill_marked(self._mark, left)

    def _end_all(self, how: Exit) -> None:
        watched, self._watched = self._watched, {}
        for on_exit in watched.values():
            on_exit(how)


def fail(answer: asyncio.Future[Any], error: StartFailed) -> None:
    if not answer.done():
        answer.set_exception(error)
        # Its asker may have been cancelled meanwhile; then nobody retrieves this.
        answer.exception()


def _discard(answer: asyncio.Future[tuple[int, int]]) -> None:
    """Ends a process that came just as its asker was cancelled."""
    if answer.done() and not answer.cancelled() and answer.exception() is None:
        _, pidfd = answer.result()
        kill(pidfd)
        os.close(pidfd)


def kill(pidfd: int) -> None:
    """Kills exactly that process, however old its number is."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
