"""Taking durable executions in: what is checked before 202 is said, and what is then promised."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from atlatl.engine.held import pending
from atlatl.engine.messenger import check_callback_url
from atlatl.engine.ticket import Ticket
from atlatl.errors import AtlatlError, Conflict, InvalidRequest, QueueFull
from atlatl.events import CallRefused, ExecutionAccepted
from atlatl.model import AGEING_S, Call, Execution, ExecutionRecord, Queued

if TYPE_CHECKING:
    from atlatl.engine.dispatcher import Dispatcher
    from atlatl.engine.executions import Executions
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Deployed
    from atlatl.ports import Telemetry, Tracing
    from atlatl.settings import Settings

FULL_HINT_S = 5.0


class Acceptance:
    """Accepts durable executions.

    Args:
        settings: `limits.max_durable_pending` and `callbacks.allowed_hosts` count.
        manager: checks calls against their task.
        executions: knows the calls that are under way.
        dispatcher: stores what is accepted, and works through it.
        telemetry: told of what is accepted and what is refused.
        clock: monotonic seconds.
        wall: Unix seconds, by which `not_before` is judged.
        steady: Unix seconds that no change of the machine's clock moves.
        tracing: None when no call is traced.
    """

    def __init__(
        self,
        settings: Settings,
        manager: TaskExecutionManager,
        executions: Executions,
        dispatcher: Dispatcher,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        steady: Callable[[], float],
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._manager = manager
        self._executions = executions
        self._dispatcher = dispatcher
        self._telemetry = telemetry
        self._clock = clock
        self._wall = wall
        self._steady = steady
        self._storing: set[asyncio.Task[ExecutionRecord | None]] = set()

    async def accept(self, call: Call) -> Execution:
        """Stores an execution; it will be done, whatever becomes of this service.

        Returns:
            Its record; that of the first execution when the same call came under its id before.

        Raises:
            InvalidRequest, TaskNotFound, Conflict: the call is wrong.
            QueueFull, RateLimited, Draining, StoreUnavailable: not now.
        """
        known = False
        if self._tracing is not None:
            call = self._tracing.begin(call)
        try:
            deployed, fingerprint = self._manager.check(call)
            known = True
            self._check_options(call)
            live = self._executions.live(call.execution_id)
            if isinstance(live, Ticket):
                _check_same(call, live.fingerprint, fingerprint)
                return live.view()
            await self._check_room(call)
            if deployed.bucket is not None:
                deployed.bucket.take(self._clock())
            queued = self._queued(call, deployed)
            function = call.function or deployed.task.function
            record = ExecutionRecord(
                execution=pending(queued, function),
                fingerprint=fingerprint,
            )
            first = await self._stored(record, queued)
            if first is not None:
                _check_same(call, first.fingerprint, fingerprint)
                return first.execution
        except AtlatlError as error:
            self._emit_refusal(call, error, known=known)
            raise
        self._telemetry.emit(
            ExecutionAccepted(
                at=queued.queued_at, task_name=call.task_name, execution_id=call.execution_id
            )
        )
        return record.execution

    async def _stored(self, record: ExecutionRecord, queued: Queued) -> ExecutionRecord | None:
        """Goes on to its end even when its caller does not: the row may be in the store."""
        task = asyncio.get_running_loop().create_task(self._dispatcher.enter(record, queued))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)
        return await asyncio.shield(task)

    def _check_options(self, call: Call) -> None:
        if call.not_before is not None and not math.isfinite(call.not_before):
            raise InvalidRequest(f"`not_before` is a moment in Unix seconds, got {call.not_before}")
        if call.max_retries is not None and call.max_retries < 0:
            raise InvalidRequest(f"`max_retries` must be 0 or more, it is {call.max_retries}")
        if call.callback_url:
            check_callback_url(call.callback_url, self._settings.callbacks.allowed_hosts)

    async def _check_room(self, call: Call) -> None:
        most = self._settings.limits.max_durable_pending
        if self._dispatcher.pending < most:
            return
        if call.id_given and await self._executions.find(call.execution_id) is not None:
            return  # it takes no room: it is answered with the first one
        raise QueueFull(
            f"{most} async executions wait or run (`limits.max_durable_pending`); try again later",
            retry_after_s=FULL_HINT_S,
        )

    def _queued(self, call: Call, deployed: Deployed) -> Queued:
        now, settings = self._steady(), deployed.task.settings
        delay_s = 0.0 if call.not_before is None else max(0.0, call.not_before - self._wall())
        priority = settings.priority if call.priority is None else call.priority
        expires_s = settings.expires_after_s
        return Queued(
            call=call,
            task_id=deployed.task.task_id,
            queued_at=now,
            ready_at=now + delay_s,
            turn=now + delay_s + AGEING_S * priority,
            expires_at=now + expires_s if expires_s else None,
        )

    def _emit_refusal(self, call: Call, error: AtlatlError, *, known: bool) -> None:
        self._telemetry.emit(
            CallRefused(
                at=self._wall(),
                task_name=call.task_name if known else "",
                execution_id=call.execution_id,
                outcome=error.outcome,
                code=error.code,
                traceparent=call.traceparent,
            )
        )


def _check_same(call: Call, first: bytes, fingerprint: bytes) -> None:
    if first != fingerprint:
        raise Conflict(
            f"execution id {call.execution_id!r} was given to another call (task, function or "
            "arguments differ); choose a new id"
        )
