"""The way to one instance: calls out, outcomes back, and what happens when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from atlatl.errors import (
    ArtifactInvalid,
    AtlatlError,
    Cancelled,
    InstanceCrashed,
    InstanceLost,
    InvalidRequest,
    ResultInvalid,
    StartFailed,
)
from atlatl.model import Call, Encoded, Result, Shape, Task, failed
from atlatl.ports import Done, OnChunk
from atlatl.runtimes import answers
from atlatl.runtimes.bodies import KEPT_S
from atlatl.runtimes.flight import Flight, Flights
from atlatl.runtimes.link import Link
from atlatl.runtimes.pings import Pings
from atlatl.runtimes.requests import call_frame
from atlatl.runtimes.usage import Usage
from atlatl.runtimes.zygote import Exit, Spawned
from atlatl_worker import wire

log = logging.getLogger(__name__)

OVERHEAD_BYTES = 1024 * 1024
"""What a frame may have beyond the largest result: traceback, headers, shapes."""

ESCAPED = 6
"""Characters that JSON may need for one byte of output."""

KEPT_OUTPUT_BYTES = 1024 * 1024
"""The file of an instance that is never without a call may grow to about this size."""

LOOP_GRACE_S = 0.25
"""Least time that an event loop gets to answer a ping before its instance is given up."""


class Channel:
    """An instance, from blank to grave; see `ports.InstanceChannel`.

    Args:
        instance_id: its id.
        spawned: the forked process.
        clock: monotonic seconds.
    """

    origin = "blank"
    process_s = 0.0

    def __init__(self, instance_id: str, spawned: Spawned, clock: Callable[[], float]) -> None:
        self.id = instance_id
        self.pid = spawned.pid
        self.shapes: dict[str, Shape] = {}
        self.takes_ahead = False
        self._in_turn = False
        """It runs and answers one call after the other, whatever is sent to it."""
        self.on_lost: Callable[[AtlatlError], None] | None = None
        self._link = Link(spawned, OVERHEAD_BYTES, self._take, self._ended)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._task: Task | None = None
        self._assigned: asyncio.Future[tuple[wire.Frame, bytes]] | None = None
        """The answer to the assignment, and what was printed until then."""
        self._flights = Flights()
        self._pings = Pings()
        self._last_id = 0
        self._expected = False
        """Its end is our doing."""
        self._ending: set[int] = set()
        """Calls whose work is being ended."""
        self.usage = Usage(self._link)
        self._clearing: asyncio.TimerHandle | None = None

    # --- beginning ---

    async def connect(self) -> None:
        """Has to be called once before anything else."""
        await self._link.connect()

    async def assign(self, task: Task, assignment: dict[str, Any]) -> None:
        """Makes the blank an instance of the task.

        Raises:
            ArtifactInvalid: the code does not import, or has no such function.
            StartFailed: the instance was ended before or meanwhile, and not by its code.
        """
        if not self._link.open:
            raise StartFailed(f"the blank instance {self._link.how_it_ended()} before it was used")
        self._task = task
        limits = task.settings.confinement
        self._link.decoder.limit = (
            limits.response_bytes + ESCAPED * limits.output_bytes + OVERHEAD_BYTES
        )
        self.usage.begin(task)
        self._assigned = self._loop.create_future()
        self._link.write(wire.encode(wire.CALL, 0, msgspec.json.encode(assignment)))
        frame, printed = await self._assigned
        try:
            self.shapes = answers.shapes(frame)
        except ArtifactInvalid as error:
            error.detail += f"\n{printed.decode(errors='replace')}" if printed else ""
            raise
        except wire.WireError as error:
            raise ArtifactInvalid(f"{task.handler}: its instance sent {error}") from None
        self.takes_ahead = self._in_turn = (
            task.settings.pool.max_concurrent_requests == 1
            and not any(shape.is_async for shape in self.shapes.values())
        )

    # --- calls ---

    def send(
        self,
        call: Call,
        encoded: Encoded,
        done: Done,
        *,
        deadline: float,
        attempt: int = 1,
        on_chunk: OnChunk | None = None,
    ) -> None:
        """Hands the call over; see `ports.InstanceChannel.send`."""
        flight = Flight(self._new_id(), call.execution_id, done, on_chunk, self._clock())
        if not self._link.open or self._task is None:
            lost = failed(InstanceLost("the instance ended before it got the call"))
            self._loop.call_soon(flight.tell, lost)
            return
        if self._in_turn:
            flight.ahead = len(self._flights) > 0
            flight.clears = not self.takes_ahead
        alone = self._task.settings.pool.max_concurrent_requests == 1
        flags = wire.AHEAD if flight.ahead else 0
        if alone and not self._flights and self._link.bodies.put(encoded.body):
            encoded = replace(encoded, body=wire.AMOUNT.pack(len(encoded.body)))
            flags |= wire.SHARED
        try:
            frame = call_frame(
                flight.request_id, call, encoded, self._task, self.shapes, deadline, attempt, flags
            )
        except InvalidRequest as error:
            self._loop.call_soon(flight.tell, failed(error))
            return
        if not alone and not self._flights:
            self._link.output.skip()
        if not flight.ahead:
            self.usage.call_begins(alone=not self._flights)
        self._flights.add(flight)
        if flight.ahead:
            self._link.write_ahead(frame)
        else:
            self._link.write_soon(frame)

    def take_back(self) -> None:
        """Takes back what was sent ahead; see `ports.InstanceChannel.take_back`."""
        self._take_back()
        if len(self._flights) > 1:
            self._demand_answers()

    def _take_back(self) -> None:
        ahead = self._flights.ahead()
        taken = self._link.take_back(len(ahead)) if ahead else 0
        if not taken:
            return
        self.takes_ahead = False
        back = ahead[-taken:]
        for flight in back:
            self._flights.remove(flight)
        for flight in back:  # not sooner: whoever is told may want to end what is left
            flight.tell(None)

    def _demand_answers(self) -> None:
        """All but the last have been answered, or it lies about which it has begun.

        What it passes over it never answers, but the ping behind all of them it does.
        """
        begun = self._flights.last()
        if begun is None or begun.pong is not None:
            return

        def answered(pong: asyncio.Future[None]) -> None:
            if pong.exception() is None and self._flights.by_request(begun.request_id) is begun:
                self._link.kill("it passed over calls that it was to run")

        begun.pong = self._send_ping()
        begun.pong.add_done_callback(answered)

    def credit(self, execution_id: str, n_bytes: int) -> None:
        """Says that an item of `n_bytes` was consumed; once for each item."""
        flight = self._flights.by_execution(execution_id)
        if flight is not None:
            self._credit(flight, n_bytes)

    def _credit(self, flight: Flight, n_bytes: int) -> None:
        cost = wire.cost(n_bytes)
        flight.outstanding = max(0, flight.outstanding - cost)
        if not flight.taken:
            self._loop.call_soon(self._tell_taken, flight)
        flight.taken += cost

    def _tell_taken(self, flight: Flight) -> None:
        """Once in a turn of the loop: an item may be as small as its frame."""
        if self._flights.by_request(flight.request_id) is flight:
            self._link.write_credit(wire.encode_credit(flight.request_id, flight.taken))
        flight.taken = 0

    def cancel(self, execution_id: str, *, grace_s: float | None = None) -> None:
        """Ends the work of one call; see `ports.InstanceChannel.cancel`.

        One of several gets no grace with 0, and their event loop just long enough to show that
        it turns: what the other calls in the instance depend on.
        """
        flight = self._flights.by_execution(execution_id)
        if flight is not None:
            self._end_work(flight, Cancelled("the call was cancelled"), grace_s)

    def _end_work(self, flight: Flight, verdict: AtlatlError, grace_s: float | None) -> None:
        if self._in_turn:
            self._take_back()
            if self._flights.by_request(flight.request_id) is not flight:
                return  # it had not begun
        flight.verdict = flight.verdict or verdict
        if self._in_turn and self._flights.last() is not flight:
            # Another has begun, so the answer to this one is on its way.
            self._loop.call_later(LOOP_GRACE_S, self._kill_if_unanswered, flight)
            return
        self._ending.add(flight.request_id)
        if len(self._flights) > 1 and not self._in_turn:
            self._end_one_of_several(flight, grace_s)
        elif grace_s:
            self._ask_to_end(flight)
            self._loop.call_later(grace_s, self._grace_over, flight)
        else:
            self._kill_for_cancelled("a call was cancelled")

    def _kill_if_unanswered(self, flight: Flight) -> None:
        if self._flights.by_request(flight.request_id) is flight:
            self._link.kill("it began a call before it had answered the one before it")

    def _end_one_of_several(self, flight: Flight, grace_s: float | None) -> None:
        assert self._task is not None
        if grace_s is None:
            grace_s = self._task.settings.cancel_grace_s
        flight.overdue = flight.overdue or grace_s == 0
        self._ask_to_end(flight)
        if flight.pong is None:
            flight.pong = self._send_ping()
        self._loop.call_later(max(grace_s, LOOP_GRACE_S), self._grace_over, flight)
        self._kill_if_all_overdue()

    def _ask_to_end(self, flight: Flight) -> None:
        if not flight.asked_to_end:
            flight.asked_to_end = True
            self._link.write(wire.encode(wire.CANCEL, flight.request_id))

    def _grace_over(self, flight: Flight) -> None:
        """A coroutine that ignores its cancellation stays until the others have finished."""
        if self._flights.by_request(flight.request_id) is not flight:
            return
        flight.overdue = True
        if flight.pong is not None and not flight.pong.done():
            self._kill_for_cancelled("its event loop does not answer; a call was cancelled")
        else:
            self._kill_if_all_overdue()

    def _kill_if_all_overdue(self) -> None:
        if self._flights and all(flight.overdue for flight in self._flights):
            self._kill_for_cancelled("the cancelled calls did not end")

    def _kill_for_cancelled(self, why: str) -> None:
        """Nobody is told of a loss: who gets the calls back sees that it accepts none."""
        self._expected = True
        self._link.kill(why)

    @property
    def accepting(self) -> bool:
        """False once the instance must not be given new calls."""
        return self._link.open and not self._ending

    # --- health and end ---

    @property
    def rests(self) -> bool:
        """Whether it has nothing to do: it is assigned, and no call is in it."""
        return not self._flights and self._assigned is not None and self._assigned.done()

    @property
    def gone(self) -> bool:
        """Whether the process has ended and all its calls have been answered."""
        return self._link.gone.is_set()

    def memory_bytes(self) -> int:
        """PSS of the instance, 0 when it is gone. Reads /proc: call it from a thread."""
        return self.usage.measure()

    async def ping(self) -> None:
        """Returns when the instance answered; raises InstanceLost."""
        if not self._link.open:
            raise InstanceLost("the instance has ended")
        await self._send_ping()

    def _send_ping(self) -> asyncio.Future[None]:
        number = self._new_id()
        pong = self._pings.add(number)
        self._link.write(wire.encode(wire.PING, number))
        return pong

    def kill(self) -> None:
        """Ends the process now; calls in flight get InstanceLost."""
        self._expected = True
        self._link.kill("it was ended by the service")

    async def stop(self, grace_s: float) -> None:
        """Ends an instance that is no longer wanted; returns when the process is gone."""
        self._expected = True
        self._link.leave()
        try:
            async with asyncio.timeout(grace_s):
                await self._link.gone.wait()
        except TimeoutError:
            self.kill()
            await self._link.gone.wait()

    def process_exited(self, how: Exit) -> None:
        """Told by the zygote."""
        self.usage.exited(how)
        self._link.process_exited(how)

    def _ended(self) -> None:
        """The process is gone and its last frame has been taken."""
        self._take_back()
        outcomes = [
            (flight, failed(self._last_words(flight), **self._facts(flight)))
            for flight in self._flights
        ]
        for flight, outcome in outcomes:
            self._flights.finish(flight, outcome)
        lost = InstanceLost(f"the instance {self._link.how_it_ended()}")
        self._pings.fail(lost)
        if self._assigned is not None:
            _fail(self._assigned, self._not_born())
        if not self._expected and self.on_lost is not None:
            try:
                self.on_lost(lost)
            except Exception:
                log.exception("the callback for the end of instance %s failed", self.id)

    def _last_words(self, flight: Flight) -> AtlatlError:
        if flight.verdict is not None:
            return flight.verdict
        how = self._link.how_it_ended()
        if self._expected or (self._link.exit is not None and self._link.exit.of_zygote):
            return InstanceLost(f"the instance {how}")
        if len(self._flights) > 1:
            return InstanceLost(f"the instance {how} while it ran this call and others")
        broken = self.usage.broken_limit()
        if broken is not None:
            return broken
        size = self.usage.last_size()
        return InstanceCrashed(f"the instance {how} while it ran this call{size}")

    def _not_born(self) -> AtlatlError:
        how = self._link.how_it_ended()
        handler = self._task.handler if self._task else ""
        if self._expected or (self._link.exit is not None and self._link.exit.of_zygote):
            return StartFailed(f"the instance {how} while it imported {handler}")
        printed = self._take_rest().decode(errors="replace")
        return ArtifactInvalid(f"the process {how} while it imported {handler}", detail=printed)

    def _facts(self, flight: Flight) -> dict[str, Any]:
        """What is known about a call whose instance died."""
        return {
            "output": self._take_rest() if self._is_alone(flight) else b"",
            "instance_id": self.id,
            "run_s": max(0.0, self._clock() - flight.sent_at),
            "memory_bytes": self.usage.told_bytes,
        }

    def _is_alone(self, flight: Flight) -> bool:
        """Whether what was printed last can be of no other call."""
        return self._in_turn or self._flights.undisturbed(flight)

    def _take_rest(self) -> bytes:
        if self._task is None:
            return b""
        return self._link.output.take_rest(self._task.settings.confinement.output_bytes)

    def _new_id(self) -> int:
        self._last_id = self._last_id % wire.MAX_REQUEST_ID + 1
        return self._last_id

    # --- frames in ---

    def _take(self, frame: wire.Frame) -> None:
        if frame.kind == wire.PONG:
            self._pings.answered(frame.request_id)
            return
        if self._assigned is not None and not self._assigned.done():
            if (frame.kind, frame.request_id) != (wire.REPLY, 0):
                raise wire.WireError("an answer to no call")
            # Now: by the time that somebody reads this, the process may be gone with its file.
            self._assigned.set_result((frame, self._take_rest()))
            return
        flight = self._flights.by_request(frame.request_id)
        if flight is None:
            raise wire.WireError("an answer to no call")
        if self._in_turn and flight is not self._flights.first():
            raise wire.WireError("an answer out of turn")
        if frame.kind == wire.CHUNK:
            self._take_chunk(flight, frame)
        elif frame.kind in (wire.REPLY, wire.END):
            self._take_answer(flight, frame)
        else:
            raise wire.WireError(f"a frame of kind {frame.kind}, which only the service sends")

    def _take_chunk(self, flight: Flight, frame: wire.Frame) -> None:
        item = answers.item(frame)
        cost = wire.cost(len(item.body))
        if not wire.may_send(flight.outstanding, cost):
            raise wire.WireError("an item of a stream that it had no credit for")
        flight.outstanding += cost
        if flight.verdict is not None:
            self._credit(flight, len(item.body))
        elif flight.on_chunk is not None:
            self._hand_over(flight, flight.on_chunk, item)
        else:
            self._join(flight, item)

    def _hand_over(self, flight: Flight, on_chunk: OnChunk, item: Result) -> None:
        try:
            on_chunk(item)
        except Exception:
            log.exception("the reader of execution %s failed", flight.execution_id)
            self._end_work(flight, Cancelled("the reader of the stream failed"), 0.0)

    def _join(self, flight: Flight, item: Result) -> None:
        flight.joined.add(item)
        assert self._task is not None
        limit = self._task.settings.confinement.response_bytes
        if flight.joined.n_bytes > limit:
            error = ResultInvalid(
                f"the items of the stream together are over the limit of {limit} bytes "
                "(`confinement.response_bytes`); call it as a stream"
            )
            self._end_work(flight, error, 0.0)
        else:
            self._credit(flight, len(item.body))

    def _take_answer(self, flight: Flight, frame: wire.Frame) -> None:
        assert self._task is not None
        frame = self._link.bodies.take(frame, self._link.decoder.limit)
        about = answers.told(frame)
        about.run_s = min(about.run_s, self._clock() - flight.sent_at)
        self.usage.told_bytes = about.memory_bytes
        limit = self._task.settings.confinement.output_bytes
        output = answers.output(about, self._link.output, limit)
        value: Result | None = None
        if frame.kind == wire.REPLY and frame.content != wire.ERROR:
            value = answers.result(frame, about)
        elif frame.content != wire.ERROR and flight.on_chunk is None:
            try:
                value = flight.joined.result()
            except ResultInvalid as error:
                flight.verdict = error
        outcome = answers.outcome(frame, about, value, output, self.id)
        if flight.verdict is not None:
            outcome = failed(
                flight.verdict,
                output=output,
                instance_id=self.id,
                run_s=outcome.run_s,
                memory_bytes=outcome.memory_bytes,
            )
        if about.printed is not None or flight.clears:
            self._make_room(about)
        if flight.clears:
            self.takes_ahead = True
        if self._link.bodies.clearable and self._clearing is None:
            self._clearing = self._loop.call_later(KEPT_S, self._clear_bodies)
        if self._ending:
            self._ending.discard(flight.request_id)
        self.usage.call_ended(len(self._flights) - 1, in_turn=self._in_turn)
        self._flights.finish(flight, outcome)
        if self._ending:
            self._kill_if_all_overdue()

    def _clear_bodies(self) -> None:
        """Gives the memory of large bodies back once none has come for a while."""
        self._clearing = None
        if not self._link.gone.is_set() and (self._flights or not self._link.bodies.clear()):
            self._clearing = self._loop.call_later(KEPT_S, self._clear_bodies)

    def _make_room(self, about: answers.Told) -> None:
        """Keeps the output of an instance that is never without a call from growing."""
        if len(self._flights) == 1:
            self._link.output.rewind()
        elif about.printed is not None and about.printed[1] > KEPT_OUTPUT_BYTES:
            self._take_back()
            self.takes_ahead = False  # so that it has nothing to do for a moment


def _fail(waiting: asyncio.Future[Any], error: AtlatlError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        # Whoever waited may have been cancelled; then nobody retrieves it.
        waiting.exception()
