"""FunctionService: the use cases that every front calls.

Fronts translate; this decides nothing either, it names what can be asked of a
service and hands each request to the part that owns the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from atlatl.core.explaining import explain
from atlatl.core.timeline import Explanation
from atlatl.engine.sources import Source, check_checksum
from atlatl.engine.views import (
    BreakerView,
    CancelAnswer,
    Deletion,
    Deployment,
    Figures,
    Health,
    InstanceView,
    InvocationTarget,
    Page,
    PoolView,
    TaskView,
)
from atlatl.errors import Draining, ExecutionNotFound, InvalidRequest, ResultInvalid
from atlatl.model import (
    Arguments,
    Call,
    DeadLetter,
    Event,
    Execution,
    ExecutionStatus,
    Mode,
    QueueDepth,
    Result,
    Task,
)

if TYPE_CHECKING:
    from atlatl.core.admission import HeldBytes
    from atlatl.engine.acceptance import Acceptance
    from atlatl.engine.artifacts import ArtifactShelf
    from atlatl.engine.autoscaler import Autoscaler
    from atlatl.engine.breaker import CircuitBreaker
    from atlatl.engine.call_tasks import CallTasks
    from atlatl.engine.callbacks import Callbacks
    from atlatl.engine.dead_letters import DeadLetters
    from atlatl.engine.deployer import Deployer
    from atlatl.engine.dispatcher import Dispatcher
    from atlatl.engine.executions import Executions
    from atlatl.engine.listing import Sees
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Registry
    from atlatl.engine.ticket import Finished, Ticket
    from atlatl.live_reports import LiveReports
    from atlatl.ports import OnChunk, Store
    from atlatl.reports import Reports
    from atlatl.runtimes.manager import RuntimeManager
    from atlatl.scrape import Scrape
    from atlatl.settings import Settings
    from atlatl.telemetry.feed import Feed, Listener
    from atlatl.telemetry.lag import LoopLag
    from atlatl.telemetry.traces import Traces

MAX_PAGE = 1000
DEFAULT_ESTIMATE_MS = 5000
HANG_UP_GRACE_S = 5.0
"""Time that the work of a caller who hung up has to end by itself."""
IDLE_PASS_S = 5.0
"""How often what calls created is looked through for what nobody uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is made of, already joined."""

    settings: Settings
    registry: Registry
    executions: Executions
    manager: TaskExecutionManager
    acceptance: Acceptance
    dispatcher: Dispatcher
    callbacks: Callbacks
    dead_letters: DeadLetters
    deployer: Deployer
    call_tasks: CallTasks
    shelf: ArtifactShelf
    store: Store
    runtimes: RuntimeManager
    autoscaler: Autoscaler
    reports: Reports
    live: LiveReports
    feed: Feed
    scrape: Scrape
    lag: LoopLag
    traces: Traces | None
    new_id: Callable[[], str]


class FunctionService:
    """A function service, complete but for its fronts.

    Args:
        parts: everything it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.settings = parts.settings
        self._manager = parts.manager
        self._deployer = parts.deployer
        self._registry = parts.registry
        self._executions = parts.executions
        self._reports = parts.reports
        self._new_id = parts.new_id
        self._opened = False
        self.busy_with = ""
        """What whoever owns the service still prepares; it is not ready until that is done."""
        self._background: list[asyncio.Task[None]] = []

    # --- life ---

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        return self._opened

    async def open(self) -> None:
        """Starts everything; what was deployed before is served again.

        Raises:
            StoreUnavailable: the data directory cannot be used, or another service uses it.
            StartFailed: no process can be started.
        """
        if self._opened:
            return
        parts = self._parts
        # The zygote comes first: it must exist before any thread does.
        await parts.runtimes.open()
        try:
            await parts.store.open()
            await parts.shelf.open()
            await self._deployer.load()
            parts.scrape.enroll()
            await parts.executions.open()
            await parts.dispatcher.open()
        except BaseException:
            await parts.store.close()
            await parts.runtimes.close()
            raise
        self._background = [
            asyncio.create_task(parts.autoscaler.run(), name="autoscaler"),
            asyncio.create_task(parts.callbacks.run(), name="callbacks"),
            asyncio.create_task(self._tidy(), name="tidy"),
            asyncio.create_task(parts.lag.run(), name="lag"),
        ]
        self._opened = True

    async def drain(self) -> None:
        """Refuses new calls and waits, at most `drain.timeout_s`, for those that have started."""
        self._manager.begin_drain(self.settings.drain.timeout_s)
        self._parts.dispatcher.begin_drain()
        self._parts.feed.close()
        await self._manager.drained(self.settings.drain.timeout_s)
        self._executions.stop_waiting()

    async def close(self) -> None:
        """Ends everything: calls that still run are ended too. Can be called again."""
        if not self._opened:
            return
        self._opened = False
        self._manager.begin_drain(0)
        self._parts.dispatcher.begin_drain()
        self._parts.feed.close()
        await self._manager.drained(0)
        await self._parts.dispatcher.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._deployer.close()
        self._manager.close()
        await self._executions.close()
        await self._parts.shelf.close()
        await self._parts.runtimes.close()
        await self._parts.store.close()
        if self._parts.traces is not None:
            await asyncio.to_thread(self._parts.traces.close)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(IDLE_PASS_S)
            self._reports.sample()
            await self._parts.call_tasks.forget_idle()

    def ready(self) -> tuple[bool, str]:
        """Whether calls can be served, and if not, why."""
        if self.busy_with:
            return False, self.busy_with
        return self._reports.ready(opened=self._opened)

    # --- tasks ---

    async def deploy(
        self,
        name: str,
        source: Path | str | bytes,
        *,
        filename: str = "",
        settings: Mapping[str, Any] | None = None,
        artifact_id: str = "",
        artifact_version: str = "",
        checksum: str = "",
    ) -> Deployment:
        """Deploys a function under a name, or replaces what is deployed there.

        Args:
            name: of the task.
            source: path of a `.py` file, a `.zip` or a directory; or the bytes of one of the
                first two.
            filename: names the kind when `source` is bytes: `x.py` or `x.zip`.
            settings: the task's own settings, for example `{"timeout_ms": 5000}`.
            artifact_id: empty takes the name.
            artifact_version: free text.
            checksum: hex SHA-256 that the bytes must have; empty is unchecked.

        Raises:
            InvalidRequest, ArtifactInvalid, ChecksumMismatch, SettingInvalid,
            UnsupportedOperation, NoCapacity, StartFailed, StoreUnavailable, Draining: nothing
                was changed.
        """
        if self._manager.draining:
            raise Draining("the service is shutting down; deploy when it is back")

        async def read() -> Source:
            brought = await self._parts.shelf.read_source(source, filename)
            check_checksum(brought, checksum)
            return brought

        return await self._deployer.deploy(
            name,
            read,
            settings or {},
            artifact_id=artifact_id,
            artifact_version=artifact_version,
        )

    async def delete_task(
        self, ref: str, *, force: bool = False, cleanup_executions: bool = False
    ) -> Deletion:
        """Removes a task; see `Deletion`.

        Args:
            ref: name or id.
            force: also when executions are in progress or wait in the queue; they are cancelled.
            cleanup_executions: forget its executions too.
        """
        found = self._registry.find(ref)
        pending = 0 if found is None else self._parts.dispatcher.pending_of(found.task.name)
        if pending and not force:
            return Deletion(found=True, deleted=False, running=pending)
        deletion = await self._deployer.delete(ref, force=force)
        if found is None or not deletion.deleted:
            return deletion
        if pending:
            await self._parts.dispatcher.cancel_all(found.task.name, "the task was deleted")
            deletion = msgspec.structs.replace(deletion, running=max(pending, deletion.running))
        if not cleanup_executions:
            return deletion
        cleaned = await self._executions.forget_task(found.task.task_id)
        return msgspec.structs.replace(deletion, cleaned_executions=cleaned)

    def task(self, ref: str) -> Task:
        """By name or id; raises TaskNotFound."""
        return self._registry.get(ref).task

    def tasks(
        self,
        *,
        prefix: str = "",
        limit: int = 100,
        start_after: str = "",
        sees: Sees | None = None,
    ) -> Page[Task]:
        """Tasks whose name begins with `prefix`, ordered by id; the cursor is an id.

        With `sees`, only those for whose name it is true.
        """
        limit = _page_limit(limit)
        rows = sorted(
            (
                deployed.task
                for deployed in self._registry
                if deployed.task.name.startswith(prefix)
                and deployed.task.task_id > start_after
                and (sees is None or sees(deployed.task.name))
            ),
            key=lambda task: task.task_id,
        )
        more = len(rows) > limit
        return Page(items=rows[:limit], next_start_after=rows[limit - 1].task_id if more else None)

    def task_view(self, task: Task) -> TaskView:
        """The task as it stands now."""
        return self._reports.task_view(task)

    async def prewarm(self, ref: str, count: int) -> int:
        """Has `count` instances of a task ready; returns how many live instances it has then.

        Raises:
            TaskNotFound, InvalidRequest, StartFailed.
        """
        deployed = self._registry.get(ref)
        most = deployed.task.settings.pool.max_size
        if not 1 <= count <= most:
            raise InvalidRequest(
                f"`count` must be from 1 to `pool.max_size` ({most}), it is {count}"
            )
        await deployed.pool.ensure(count)
        return deployed.pool.stats().total

    async def task_for_invocation(self, target: InvocationTarget) -> Task:
        """The task that an invocation is for, created from its artifact when it asks for that.

        Raises:
            InvalidRequest, TaskNotFound, Conflict, ArtifactNotFound, ArtifactInvalid,
            ChecksumMismatch, UnsupportedOperation, NoCapacity, StartFailed, StoreUnavailable.
        """
        return await self._parts.call_tasks.for_invocation(target)

    def would_create(self, target: InvocationTarget) -> bool:
        """Whether `task_for_invocation` would create a task, which takes another permission."""
        return self._parts.call_tasks.existing_for(target) is None

    # --- calls ---

    def new_execution_id(self) -> str:
        return self._new_id()

    def start(self, call: Call, done: Finished, on_chunk: OnChunk | None = None) -> Ticket:
        """Hands a call in; never raises and never waits.

        Args:
            call: what to do.
            done: gets the final record exactly once, perhaps before this returns.
            on_chunk: gets the items of a generator handler; answer each by `Ticket.credit`.
        """
        return self._manager.start(call, done, on_chunk)

    async def call(self, call: Call) -> Execution:
        """The final record of a call, whatever its outcome.

        Cancelling the awaiting task cancels the execution, unless the caller gave an id: then
        the answer may be fetched later under it.
        """
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        ticket = self.start(call, lambda record: _resolve(future, record))
        try:
            return await future
        except asyncio.CancelledError:
            if not call.id_given:
                ticket.cancel("the caller went away", grace_s=HANG_UP_GRACE_S)
            raise

    def hold_answer(self, n_bytes: int = 0) -> HeldBytes:
        """Counts an answer in `limits.max_inflight_bytes` until the `with` block ends.

        Whoever sends answers does this: one that its caller is slow to read fills memory as a
        large request does. More bytes may come and go inside the block.
        """
        return self._manager.hold_answer(n_bytes)

    async def invoke(
        self,
        name: str,
        value: Any = None,
        *,
        function: str = "",
        timeout_ms: int = 0,
        execution_id: str = "",
        max_retries: int | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Calls a function and returns its value.

        Args:
            name: of the task.
            value: a dict is bound to the handler's parameters; None is no arguments; anything
                else is what an `event` handler, or one with a single parameter, gets.
            function: another function of the artifact; empty is the handler.
            timeout_ms: 0 is the task's own limit.
            execution_id: makes the call idempotent: the same id again gives the first answer.
            max_retries: None is the task's own setting.
            priority: 0 (most urgent) to 7; None is the task's own.
            headers: reach the function through its context.

        Returns:
            The decoded JSON value, text, bytes, or for a handler that answers with a
            `Response` the `Result` with its status and headers.

        Raises:
            ExecutionError: one of its leaves says what happened.
        """
        payload = Arguments(values={}) if value is None else _payload(value)
        execution = await self.call(
            Call(
                execution_id=execution_id or self._new_id(),
                id_given=bool(execution_id),
                task_name=name,
                payload=payload,
                function=function,
                timeout_ms=timeout_ms,
                max_retries=max_retries,
                priority=priority,
                headers=dict(headers or {}),
            )
        )
        outcome = execution.outcome
        assert outcome is not None
        if outcome.error is not None:
            raise outcome.error
        return None if outcome.result is None else _value(outcome.result)

    async def accept(self, call: Call) -> Execution:
        """Stores a durable execution: once this returns, it will be done, at least once.

        Returns:
            Its record; that of the first execution when the same call came under its id before.

        Raises:
            InvalidRequest, TaskNotFound, Conflict, QueueFull, RateLimited, Draining,
            StoreUnavailable.
        """
        return await self._parts.acceptance.accept(call)

    async def submit(
        self,
        name: str,
        value: Any = None,
        *,
        function: str = "",
        timeout_ms: int = 0,
        execution_id: str = "",
        max_retries: int | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
        not_before: float | None = None,
        callback_url: str = "",
    ) -> str:
        """Has a function called in the background, durably; see `invoke` for what is the same.

        Args:
            name: of the task.
            value: as for `invoke`.
            function: as for `invoke`.
            timeout_ms: of each attempt.
            execution_id: the same id again is the same execution.
            max_retries: as for `invoke`.
            priority: as for `invoke`.
            headers: as for `invoke`.
            not_before: Unix seconds; it does not begin before.
            callback_url: told of the end by a POST.

        Returns:
            The execution's id, for `execution`, `wait` and `cancel`.
        """
        record = await self.accept(
            Call(
                execution_id=execution_id or self._new_id(),
                id_given=bool(execution_id),
                task_name=name,
                payload=Arguments(values={}) if value is None else _payload(value),
                function=function,
                mode=Mode.ASYNC,
                timeout_ms=timeout_ms,
                max_retries=max_retries,
                priority=priority,
                headers=dict(headers or {}),
                not_before=not_before,
                callback_url=callback_url,
            )
        )
        return record.execution_id

    async def wait(self, execution_id: str, timeout_s: float) -> Execution:
        """The record once it has ended, or as it stands when the time is over.

        Raises:
            ExecutionNotFound, StoreUnavailable.
        """
        return await self._executions.ended(execution_id, timeout_s)

    def estimated_completion_ms(self, task_name: str) -> int:
        """Mean duration of the task's calls so far; 5000 without any."""
        return self._reports.mean_ms(task_name) or DEFAULT_ESTIMATE_MS

    def queues(self) -> list[QueueDepth]:
        """What there is of each task; what is leased and has not begun is `ready`.

        The counts of delayed ones and dead letters are at most a second old, the others are of now.
        """
        return self._parts.dispatcher.depths()

    async def dead_letters(
        self, *, limit: int = 100, start_after: str = "", sees: Sees | None = None
    ) -> Page[DeadLetter]:
        """Executions that failed for good and may be redriven, the latest to die first.

        With `sees`, only those of tasks for whose name it is true.

        Raises:
            InvalidRequest: the cursor is unknown, or the limit negative.
            StoreUnavailable.
        """
        return await self._parts.dead_letters.page(_page_limit(limit), start_after, sees)

    async def redrive(self, execution_id: str) -> Execution:
        """Has a dead letter tried again, by the task's present version.

        Raises:
            ExecutionNotFound: it is no dead letter.
            Draining, StoreUnavailable.
        """
        if self._manager.draining:
            raise Draining("the service is shutting down; redrive when it is back")
        redriven = await self._parts.dispatcher.redrive(execution_id)
        if redriven is None:
            raise _no_dead_letter(execution_id)
        return redriven

    async def delete_dead_letter(self, execution_id: str) -> None:
        """Forgets that it may be redriven; the record stays as long as others do.

        Raises:
            ExecutionNotFound: it is no dead letter.
            StoreUnavailable.
        """
        if not await self._parts.dead_letters.delete(execution_id):
            raise _no_dead_letter(execution_id)

    async def execution(self, execution_id: str) -> Execution:
        """The record as it stands now; raises ExecutionNotFound, StoreUnavailable."""
        return await self._executions.get(execution_id)

    async def explain(self, execution_id: str) -> Explanation:
        """The life of an execution as a timeline; raises ExecutionNotFound, StoreUnavailable."""
        execution = await self._executions.get(execution_id)
        return explain(execution, self._parts.live.facts(execution))

    def events(self, kinds: Iterable[str] = (), task: str = "") -> Listener:
        """What happens from now on; whoever takes it has to `leave` in the end.

        Args:
            kinds: of events; none is all.
            task: only of the task with this name; empty is all.

        Raises:
            InvalidRequest, NoCapacity, Draining.
        """
        return self._parts.feed.listen(kinds, task)

    async def executions(
        self,
        *,
        task: str = "",
        status: ExecutionStatus | None = None,
        limit: int = 100,
        start_after: str = "",
        sees: Sees | None = None,
    ) -> Page[Execution]:
        """Newest first, without results and output as far as they come from the store.

        Args:
            task: only of the task with this name or id; empty is all.
            status: only with this status; None is all.
            limit: at most so many; 0 is 100.
            start_after: id of the last execution of the page before.
            sees: only of tasks for whose name it is true; None is all.

        Raises:
            InvalidRequest: the cursor is unknown, or the limit negative.
            StoreUnavailable.
        """
        return await self._executions.page(
            task=task, status=status, limit=_page_limit(limit), start_after=start_after, sees=sees
        )

    async def cancel(
        self, execution_id: str, *, reason: str = "", force: bool = False
    ) -> CancelAnswer:
        """Stops an execution; one that has ended keeps its status; raises StoreUnavailable."""
        ticket = self._manager.ticket(execution_id)
        if ticket is not None and ticket.cancel(reason, grace_s=0.0 if force else None):
            return CancelAnswer(
                success=True, message="cancelled", final_status=ExecutionStatus.CANCELLED
            )
        if await self._parts.dispatcher.cancel(
            execution_id, reason, grace_s=0.0 if force else None
        ):
            ended = await self._executions.find(execution_id)
            if ended is not None and ended.status is ExecutionStatus.CANCELLED:
                return CancelAnswer(
                    success=True, message="cancelled", final_status=ExecutionStatus.CANCELLED
                )
        ended = await self._executions.find(execution_id)
        if ended is None:
            return CancelAnswer(success=False, message=f"no execution {execution_id[:140]!r}")
        return CancelAnswer(
            success=False,
            message=f"the execution had ended: {ended.status.value}",
            final_status=ended.status,
        )

    # --- figures ---

    def health(self) -> Health:
        return self._reports.health(opened=self._opened)

    def stats(self, *, hours: int = 0) -> Figures:
        """Figures of the last `hours` hours; 0 is since the start."""
        return self._reports.stats(hours)

    def metrics_answer(self, window_s: float = 60.0, task: str | None = None) -> dict[str, Any]:
        """The answer of `GET /api/serverless/metrics`; raises TaskNotFound."""
        return self._reports.metrics_answer(window_s, task)

    async def scrape(self, *, openmetrics: bool = False) -> bytes:
        """The text for Prometheus, put together a few tasks at a time: calls go on meanwhile."""
        return await self._parts.scrape.text(openmetrics=openmetrics)

    def prometheus(self, *, openmetrics: bool = False) -> str:
        """The text for Prometheus in one go."""
        return self._parts.scrape.text_at_once(openmetrics=openmetrics).decode()

    def instances(self) -> list[InstanceView]:
        return self._reports.instances()

    def pools(self) -> list[PoolView]:
        return self._reports.pools()

    def breakers(self) -> list[BreakerView]:
        return self._reports.breakers()

    def breaker(self, ref: str) -> CircuitBreaker:
        """The breaker of a task, for its manual modes; raises TaskNotFound."""
        return self._registry.get(ref).breaker


def _page_limit(limit: int) -> int:
    if limit < 0:
        raise InvalidRequest(f"`limit` must be from 0 to {MAX_PAGE}, it is {limit}")
    return min(limit or 100, MAX_PAGE)


def _no_dead_letter(execution_id: str) -> ExecutionNotFound:
    return ExecutionNotFound(
        f"{execution_id[:140]!r} is no dead letter: it never was one, was redriven or removed"
    )


def _payload(value: Any) -> Arguments | Event:
    return Arguments(values=value) if isinstance(value, dict) else Event(value=value)


def _value(result: Result) -> Any:
    if result.kind == "json":
        try:
            return msgspec.json.decode(result.body)
        except msgspec.DecodeError as error:  # the instance's word for it is not to be trusted
            raise ResultInvalid(f"the result is not the JSON it is said to be: {error}") from None
    if result.kind == "text":
        return result.body.decode()
    return result if result.kind == "response" else result.body


def _resolve(future: asyncio.Future[Execution], record: Execution) -> None:
    if not future.done():
        future.set_result(record)
