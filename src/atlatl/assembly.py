"""Names the concrete classes and joins them: what `atlatl.FunctionService(settings)` embeds.

Real clocks, real chance and real ids are named here and in `app.py`, and nowhere else.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version as package_version
from pathlib import Path

import platformdirs
from msgspec.structs import replace

from atlatl import service
from atlatl.core.admission import ByteBudget, Gate
from atlatl.core.breaker import CircuitState
from atlatl.engine.acceptance import Acceptance
from atlatl.engine.artifacts import ArtifactShelf
from atlatl.engine.autoscaler import Autoscaler
from atlatl.engine.breaker import Breakers
from atlatl.engine.call_tasks import CallTasks
from atlatl.engine.callbacks import Callbacks
from atlatl.engine.catalogue import Catalogue
from atlatl.engine.dead_letters import DeadLetters
from atlatl.engine.deployer import Deployer
from atlatl.engine.dispatcher import Dispatcher
from atlatl.engine.executions import Executions
from atlatl.engine.manager import TaskExecutionManager
from atlatl.engine.messenger import Messenger
from atlatl.engine.pool import InstancePool
from atlatl.engine.registry import Registry
from atlatl.events import BreakerChanged
from atlatl.live_reports import LiveReports
from atlatl.model import Task
from atlatl.ports import InstanceChannel, Telemetry
from atlatl.reports import Reports
from atlatl.runtimes.groups import Groups
from atlatl.runtimes.machine import memory_budget_bytes
from atlatl.runtimes.manager import RuntimeManager
from atlatl.runtimes.process import ProcessRuntime
from atlatl.scrape import Scrape
from atlatl.settings import Settings
from atlatl.stores.sqlite import SqliteStore
from atlatl.telemetry.fanout import Fanout
from atlatl.telemetry.feed import Feed
from atlatl.telemetry.journal import Journal
from atlatl.telemetry.lag import LoopLag
from atlatl.telemetry.metrics import Metrics
from atlatl.telemetry.otlp import otlp_exporter
from atlatl.telemetry.traces import Traces

IDS_AT_ONCE = 128


def wall_clock() -> float:
    """Unix seconds."""
    return time.time()


class FunctionService(service.FunctionService):
    """A function service to embed, or to put fronts on.

    ```python
    async with FunctionService(Settings(data_dir="data")) as service:
        await service.deploy("hello", "hello.py")
        value = await service.invoke("hello", {"name": "Ada"})
    ```

    Args:
        settings: an empty `data_dir` is the platform's directory for user data.
        listeners: told of everything that happens, besides the metrics.
    """

    def __init__(
        self, settings: Settings | None = None, *, listeners: Sequence[Telemetry] = ()
    ) -> None:
        super().__init__(build(settings or Settings(), listeners))


def build(settings: Settings, listeners: Sequence[Telemetry] = ()) -> service.Parts:
    """All parts of a service, joined and not yet started."""
    settings = _with_data_dir(settings)
    new_id = RandomIds()
    clock, wall, dice = time.monotonic, time.time, random.Random()  # nosec: B311 # jitter, no secret
    began, began_at = clock(), wall()

    def steady() -> float:
        return began_at + clock() - began

    data_dir = Path(settings.data_dir)
    budget = settings.limits.memory_budget_bytes or memory_budget_bytes()
    metrics = Metrics(clock, max_names=settings.telemetry.max_task_names)
    lag = LoopLag(clock)
    traces = _traces(settings, dice)
    journal = Journal()
    heard = [metrics, *(() if traces is None else (traces,)), *listeners]
    telemetry = Fanout(heard, rarities=[journal])

    def breaker_changed(name: str, old: CircuitState, new: CircuitState) -> None:
        telemetry.emit(BreakerChanged(at=wall(), task_name=name, old=str(old), new=str(new)))

    breakers = Breakers(clock=clock, chance=dice.random, on_change=breaker_changed)
    registry, catalogue = Registry(), Catalogue()
    gate = Gate(settings.limits.max_concurrent_executions, settings.limits.max_queued_executions)
    store = SqliteStore(data_dir, settings)
    executions = Executions(settings, store, clock=clock, wall=wall)
    shelf = ArtifactShelf(data_dir, settings, store)
    runtimes = RuntimeManager()
    runtimes.register("process", ProcessRuntime(settings, clock, new_id, Groups()))
    autoscaler = Autoscaler(clock=clock, memory_budget_bytes=budget, reserve=runtimes.reserve)
    inflight = ByteBudget(settings.limits.max_inflight_bytes)
    manager = TaskExecutionManager(
        registry,
        inflight,
        executions,
        telemetry,
        clock=clock,
        wall=wall,
        chance=dice.random,
        tracing=traces,
    )

    callbacks = Callbacks(
        store.queue,
        executions.find,
        Messenger(settings.callbacks),
        telemetry,
        steady=steady,
        chance=dice.random,
        max_tries=settings.callbacks.max_tries,
    )
    dispatcher = Dispatcher(
        store.queue,
        registry,
        manager,
        executions,
        telemetry,
        clock=clock,
        steady=steady,
        chance=dice.random,
        dead_letter_retention_s=settings.records.dead_letter_retention_s,
        settled=callbacks.notify,
    )
    acceptance = Acceptance(
        settings,
        manager,
        executions,
        dispatcher,
        telemetry,
        clock=clock,
        wall=wall,
        steady=steady,
        tracing=traces,
    )

    def make_pool(task: Task, start: Callable[[], Awaitable[InstanceChannel]]) -> InstancePool:
        return InstancePool(
            task.name,
            start,
            pool=task.settings.pool,
            scaling=task.settings.scaling,
            scheduler=task.settings.scheduler,
            version=task.version,
            gate=gate,
            weight=task.settings.weight,
            may_start=autoscaler.may_start,
            clock=clock,
            wall_clock=wall,
            on_event=telemetry.emit,
            chance=dice.randrange,
            spread=len(os.sched_getaffinity(0)),
        )

    deployer = Deployer(
        settings,
        registry,
        catalogue,
        shelf,
        store,
        runtimes,
        manager,
        breakers,
        autoscaler,
        telemetry,
        make_pool=make_pool,
        clock=clock,
        wall=wall,
        new_id=new_id,
    )
    reports = Reports(
        settings,
        registry,
        catalogue,
        manager,
        gate,
        breakers,
        metrics,
        runtimes,
        clock=clock,
        wall=wall,
        cpu_clock=time.process_time,
        memory_budget_bytes=budget,
        reserve_bytes=lambda: autoscaler.reserve_bytes,
        queue_depths=dispatcher.depths,
        queue_clock=steady,
    )
    live = LiveReports(
        registry, manager, journal, reports, depths=dispatcher.depths, wall=wall, steady=steady
    )
    scrape = Scrape(
        settings,
        registry,
        executions,
        gate,
        inflight,
        metrics,
        lag,
        memory_limit_bytes=budget,
        queue_depths=dispatcher.depths,
        queue_clock=steady,
        trace_records=dict if traces is None else traces.counts,
    )
    call_tasks = CallTasks(
        settings.limits, registry, catalogue, shelf, deployer, dispatcher.pending_of, clock=clock
    )
    return service.Parts(
        settings=settings,
        registry=registry,
        executions=executions,
        manager=manager,
        deployer=deployer,
        acceptance=acceptance,
        dispatcher=dispatcher,
        dead_letters=DeadLetters(store.queue, dispatcher.count_again),
        callbacks=callbacks,
        call_tasks=call_tasks,
        shelf=shelf,
        store=store,
        runtimes=runtimes,
        autoscaler=autoscaler,
        reports=reports,
        live=live,
        feed=Feed(telemetry, live.figures, clock=clock, wall=wall),
        scrape=scrape,
        lag=lag,
        traces=traces,
        new_id=new_id,
    )


def _traces(settings: Settings, dice: random.Random) -> Traces | None:
    """None costs nothing: then no call is asked whether it is traced."""
    wanted = settings.telemetry
    if not wanted.traces_endpoint:
        return None
    return Traces(
        otlp_exporter(wanted.traces_endpoint, package_version("atlatl")),
        sample_ratio=wanted.traces_sample_ratio,
        chance=dice.random,
        bits=dice.getrandbits,
    )


class RandomIds:
    """Random UUIDs (version 4): ids that nobody has used and nobody can guess.

    The system is asked for many at once: each question costs as much as a tenth of a call.
    """

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def __call__(self) -> str:
        if self._at >= len(self._digits):
            self._digits, self._at = secrets.token_hex(16 * IDS_AT_ONCE), 0
        at = self._at
        self._at = at + 32
        some = self._digits[at : at + 32]
        variant = _VARIANTS[some[16]]
        return f"{some[:8]}-{some[8:12]}-4{some[13:16]}-{variant}{some[17:20]}-{some[20:]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""RFC 9562, 4.1: the two high bits are 1 and 0."""


def _with_data_dir(settings: Settings) -> Settings:
    chosen = settings.data_dir or platformdirs.user_data_dir("atlatl", appauthor=False)
    return replace(settings, data_dir=str(Path(chosen).expanduser().absolute()))
