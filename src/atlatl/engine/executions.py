"""The executions that the service knows: those under way, the newest, and the stored ones.

A call is entered and ended in memory; the store is asked only for what memory does not
have, and before a call with an id of its caller starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from atlatl.engine.listing import Listing, Sees
from atlatl.engine.recent import RecentExecutions
from atlatl.engine.records import RecordWriter
from atlatl.engine.views import Page
from atlatl.errors import (
    AtlatlError,
    Conflict,
    ExecutionNotFound,
    InstanceLost,
    InternalFailure,
    InvalidRequest,
    StoreUnavailable,
)
from atlatl.model import (
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    check_execution_id,
    failed,
)
from atlatl.settings import MIN_RETENTION_S

if TYPE_CHECKING:
    from atlatl.ports import Store
    from atlatl.settings import Settings

log = logging.getLogger(__name__)

PRUNE_S = 30.0
"""How often what is stored is held against its bounds."""

Claimed = Callable[[ExecutionRecord | AtlatlError | None], None]


Told = Callable[[Execution], None]


class LiveExecution(Protocol):
    """An execution under way."""

    def view(self) -> Execution: ...


class Executions:
    """Index of executions by id.

    Args:
        settings: what is kept, and for how long.
        store: what survives a restart.
        clock: monotonic seconds.
        wall: Unix seconds, for records only.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._wall = wall
        self._live: dict[str, LiveExecution] = {}
        self._watchers: dict[str, list[Told]] = {}
        self._waits: set[asyncio.Future[Execution]] = set()
        self._recent = RecentExecutions(settings.records.recent_executions)
        self._writer = RecordWriter(store, settings.records.record_writes_per_s, clock=clock)
        self._listing = Listing(store, self.find, self._in_memory, self._in_memory_is)
        self._background: list[asyncio.Task[None]] = []
        self._asking: set[asyncio.Task[None]] = set()

    # --- life ---

    async def open(self) -> None:
        """Ends what a former life of the service left under way; raises StoreUnavailable."""
        lost = InstanceLost("the service ended while the call was under way")
        count = await self._store.end_unfinished(failed(lost), self._wall())
        if count:
            log.warning("%d calls were under way when the service ended; they are lost", count)
        self._background = [
            asyncio.create_task(self._writer.run(), name="record-writer"),
            asyncio.create_task(self._prune_on_and_on(), name="record-pruner"),
        ]

    async def close(self) -> None:
        """Writes every record that still waits to be written."""
        await asyncio.gather(*self._asking)
        background, self._background = self._background, []
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._writer.close()

    async def _prune_on_and_on(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S)
            try:
                await self.prune()
            except StoreUnavailable as error:
                log.warning("old records of executions could not be removed: %s", error)

    async def prune(self) -> int:
        """Removes stored records beyond age, number and bytes; returns how many."""
        now, limits = self._wall(), self._settings.limits
        return await self._store.prune_executions(
            ended_before=now - limits.execution_retention_s,
            spare_since=now - MIN_RETENTION_S,
            keep=limits.execution_retention_count,
            keep_bytes=self._settings.records.execution_retention_bytes,
        )

    @property
    def dropped(self) -> Mapping[str, int]:
        """Records that were not stored and never will be, by the reason: `rate` or `store`."""
        return self._writer.dropped

    # --- the path of a call ---

    def live(self, execution_id: str) -> LiveExecution | None:
        return self._live.get(execution_id)

    def begin(self, execution_id: str, execution: LiveExecution, *, given: bool = False) -> None:
        """Enters an execution.

        Args:
            execution_id: its id.
            execution: the handle on it.
            given: its caller chose the id and looked for an earlier execution.

        Raises:
            Conflict: the id is taken.
        """
        if execution_id in self._live or (not given and execution_id in self._recent):
            raise Conflict(f"execution id {execution_id!r} is taken")
        self._live[execution_id] = execution

    def hold(self, execution_id: str, execution: LiveExecution) -> None:
        """Enters a durable execution, which has its id already."""
        # A call under the same id may be asking the store for it right now.
        self._live.setdefault(execution_id, execution)

    def end(self, execution: Execution, fingerprint: bytes = b"") -> None:
        """Moves an execution from those under way to those that ended."""
        self._live.pop(execution.execution_id, None)
        kept = self._recent.add(execution, fingerprint)
        self.tell(execution)
        if fingerprint or execution.status is not ExecutionStatus.COMPLETED:
            self._writer.keep(ExecutionRecord(execution=execution, fingerprint=fingerprint))
        else:
            self._writer.offer(kept)

    def leave(self, execution_id: str, execution: LiveExecution) -> None:
        """Takes out an execution that was none, or that the store alone knows from now on."""
        if self._live.get(execution_id) is execution:
            del self._live[execution_id]

    # --- waiting for an end ---

    def watch(self, execution_id: str, told: Told) -> None:
        """Has `told` called once with the final record of an execution that has not ended.

        Whoever watches looks at the record afterwards: it may have ended before.
        """
        self._watchers.setdefault(execution_id, []).append(told)

    def unwatch(self, execution_id: str, told: Told) -> None:
        """Nothing happens when it was called already."""
        watchers = self._watchers.get(execution_id, [])
        if told in watchers:
            watchers.remove(told)
        if not watchers:
            self._watchers.pop(execution_id, None)

    def tell(self, execution: Execution) -> None:
        """An execution has ended, and its record can be read."""
        for told in self._watchers.pop(execution.execution_id, ()):
            try:
                told(execution)
            except Exception:  # it must not keep the others from theirs
                log.exception("a watcher of execution %s failed", execution.execution_id)

    async def ended(self, execution_id: str, timeout_s: float) -> Execution:
        """The record once it has ended, or as it stands when the time is over.

        Raises:
            ExecutionNotFound, StoreUnavailable.
        """
        end: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()

        def told(execution: Execution) -> None:
            if not end.done():
                end.set_result(execution)

        self.watch(execution_id, told)
        self._waits.add(end)
        try:
            record = await self.get(execution_id)
            if record.status.terminal or timeout_s <= 0:
                return record
            async with asyncio.timeout(timeout_s):
                return await end
        except TimeoutError:
            return await self.get(execution_id)
        finally:
            self._waits.discard(end)
            self.unwatch(execution_id, told)

    def stop_waiting(self) -> None:
        """Answers all who wait in `ended` with the record as it stands."""
        for end in self._waits:
            if not end.done():
                end.set_exception(TimeoutError())

    def add_output(self, execution_id: str, output: bytes) -> None:
        """Adds what an ended execution printed, when it is known only after its end.

        That is so for a call whose deadline passed: its caller is answered at once, its output
        is collected when the process is gone.
        """
        if not output or execution_id in self._live:
            return
        record = self._recent.with_output(execution_id, output)
        if record is not None:
            self._writer.keep(record)

    # --- calls with an id ---

    def first_of(self, execution_id: str) -> ExecutionRecord | None:
        """An earlier execution under this id with all its bytes, if memory has that."""
        return self._recent.whole(execution_id) or self._writer.waiting(execution_id)

    def claim(self, record: ExecutionRecord, claimed: Claimed) -> None:
        """Asks the store for an id.

        Args:
            record: the call, not yet begun.
            claimed: gets, later, None when the id is the call's and durably so; what is
                recorded under it; or why nobody knows.
        """
        self._ask(self._writer.claim(record), claimed)

    def recall(self, execution_id: str, recalled: Claimed) -> None:
        """Reads what is stored under an id; `recalled` gets it, None, or an error."""
        self._ask(self._store.execution(execution_id), recalled)

    def note(self, record: ExecutionRecord, noted: Claimed) -> None:
        """Stores which attempt of a claimed call begins; `noted` gets None or an error."""
        self._ask(self._writer.put(record), noted)

    def _ask(
        self, question: Coroutine[None, None, ExecutionRecord | None], answered: Claimed
    ) -> None:
        async def ask() -> None:
            answer: ExecutionRecord | AtlatlError | None
            try:
                answer = await question
            except AtlatlError as error:
                answer = error
            except Exception:
                log.exception("the store failed")
                answer = InternalFailure("the store failed in a way it should not; see the log")
            answered(answer)

        task = asyncio.get_running_loop().create_task(ask())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    # --- reading ---

    async def get(self, execution_id: str) -> Execution:
        """The record as it stands now; raises ExecutionNotFound, StoreUnavailable."""
        found = await self.find(execution_id)
        if found is None:
            raise ExecutionNotFound(
                f"no execution {execution_id[:140]!r} is known; it never was, or it is too long ago"
            )
        return found

    async def find(self, execution_id: str) -> Execution | None:
        """As `get`, but None when there is none."""
        live = self._live.get(execution_id)
        if live is not None:
            return live.view()
        record = self.first_of(execution_id)
        if record is not None:
            return record.execution
        recent = self._recent.get(execution_id)
        stored = await self._stored(execution_id, recent)
        return recent if stored is None else stored

    async def _stored(self, execution_id: str, recent: Execution | None) -> Execution | None:
        """What the store has, unless memory knows better."""
        try:
            check_execution_id(execution_id)
            record = await self._store.execution(execution_id)
        except InvalidRequest:
            return None  # nothing can have this id
        except StoreUnavailable:
            if recent is None:
                raise
            return None
        if record is None or (recent is not None and not record.execution.status.terminal):
            return None
        return record.execution

    async def page(
        self,
        *,
        task: str,
        status: ExecutionStatus | None,
        limit: int,
        start_after: str,
        sees: Sees | None = None,
    ) -> Page[Execution]:
        """Newest first; see `Listing.page`."""
        return await self._listing.page(
            task=task, status=status, limit=limit, start_after=start_after, sees=sees
        )

    def _in_memory(self) -> Iterator[Execution]:
        """The latest that is known of each: under way before ended before not yet stored."""
        for live in self._live.values():
            yield live.view()
        for execution in self._recent.all():
            if execution.execution_id not in self._live:
                yield execution
        for record in self._writer.all_waiting():
            execution_id = record.execution.execution_id
            if execution_id not in self._live and execution_id not in self._recent:
                yield record.execution

    def _in_memory_is(self, execution_id: str) -> bool:
        return (
            execution_id in self._live
            or execution_id in self._recent
            or self._writer.waiting(execution_id) is not None
        )

    async def forget_task(self, task_id: str) -> int:
        """Removes the ended executions of a task; returns how many; raises StoreUnavailable."""
        ids = set(self._recent.forget_task(task_id))
        ids.update(await self._writer.forget_task(task_id))
        return len(ids)
