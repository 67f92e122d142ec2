"""A service without processes, and a client that speaks to its HTTP front in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
from msgspec.structs import replace

from atlatl.core.admission import ByteBudget
from atlatl.core.explaining import explain
from atlatl.core.timeline import Explanation, Facts
from atlatl.engine.views import (
    BreakerView,
    CancelAnswer,
    Deletion,
    Deployment,
    Figures,
    Health,
    InstanceView,
    Page,
    PoolView,
    TaskView,
)
from atlatl.errors import AtlatlError, ExecutionNotFound, TaskNotFound
from atlatl.events import Event as HappenedEvent
from atlatl.front.asgi import asgi
from atlatl.front.auth import Authorizer, Token, sha256
from atlatl.model import (
    Artifact,
    Call,
    DeadLetter,
    Execution,
    ExecutionStatus,
    InstanceState,
    Outcome,
    OutcomeKind,
    Result,
    Shape,
    Task,
    TaskState,
    failed,
)
from atlatl.settings import Settings, parse, task_settings
from atlatl.telemetry.fanout import Fanout
from atlatl.telemetry.feed import Feed, Listener

TOKEN = "the-admin-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOCAL = "http://127.0.0.1:8081"

Behaviour = Callable[["FakeTicket"], None]


def make_task(name: str, *, kind: str = "parameters", streams: bool = False, **more: Any) -> Task:
    overrides = more.pop("overrides", {})
    return Task(
        task_id=f"id-{name}",
        name=name,
        version=1,
        artifact=Artifact(
            artifact_id=name, version="", checksum="00" * 32, filename="main.py", size_bytes=3
        ),
        handler="main.py:main",
        overrides=overrides,
        settings=task_settings(Settings(), overrides),
        shapes={"main": Shape(function="main", kind=kind, streams=streams)},
        **more,
    )


class FakeTicket:
    def __init__(self, call: Call, done: Callable[[Execution], None], on_chunk: Any) -> None:
        self.call = call
        self.on_chunk = on_chunk
        self.done = done
        self.cancelled: list[str] = []
        self.graces: list[float | None] = []
        self.credits: list[int] = []
        self.ended = False

    def cancel(self, reason: str = "", *, grace_s: float | None = None) -> bool:
        self.cancelled.append(reason)
        self.graces.append(grace_s)
        if not self.ended:
            self.finish(Outcome(kind=OutcomeKind.CANCELLED))
        return True

    def credit(self, n_bytes: int) -> None:
        self.credits.append(n_bytes)

    def view(self) -> Execution:
        return make_execution(self.call, None)

    def finish(self, outcome: Outcome) -> None:
        self.ended = True
        self.done(make_execution(self.call, outcome))


def make_execution(call: Call, outcome: Outcome | None) -> Execution:
    return Execution(
        execution_id=call.execution_id,
        task_id=f"id-{call.task_name}",
        task_name=call.task_name,
        function_name="main",
        mode=call.mode,
        status=outcome.status if outcome else ExecutionStatus.RUNNING,
        queued_at=1_700_000_000.25,
        started_at=1_700_000_000.5,
        completed_at=1_700_000_001.0 if outcome else None,
        outcome=outcome,
        instance_id="i-1",
        version=1,
        cold_start=True,
    )


def make_pending(call: Call) -> Execution:
    return Execution(
        execution_id=call.execution_id,
        task_id=f"id-{call.task_name}",
        task_name=call.task_name,
        function_name="main",
        mode=call.mode,
        status=ExecutionStatus.PENDING,
        queued_at=1_700_000_000.25,
    )


def returns(kind: str, body: bytes, **more: Any) -> Behaviour:
    def behave(ticket: FakeTicket) -> None:
        result = Result(kind=kind, body=body, **more)
        ticket.finish(Outcome(kind=OutcomeKind.SUCCESS, result=result, run_s=0.0125))

    return behave


def fails(error: AtlatlError) -> Behaviour:
    return lambda ticket: ticket.finish(failed(error))


def hangs(ticket: FakeTicket) -> None:
    """Ends only when it is cancelled."""


def _breaker(view: BreakerView, state: Any, mode: str) -> BreakerView:
    return replace(view, state=state, mode=mode)


class FakeBreaker:
    def __init__(self, view: BreakerView, store: Callable[[BreakerView], None]) -> None:
        self.reset = lambda: store(_breaker(view, "closed", "auto"))
        self.force_open = lambda: store(_breaker(view, "open", "forced_open"))
        self.disable = lambda: store(_breaker(view, "closed", "disabled"))


class FakeService:
    """Does what its `behaviour` of each task says; records what it was asked."""

    def __init__(self, **settings: Any) -> None:
        self.settings = parse(Settings, settings)
        self.is_open = True
        self.opened = 0
        self.tasks_by_name: dict[str, Task] = {}
        self.behaviour: dict[str, Behaviour] = {}
        self.tickets: list[FakeTicket] = []
        self.started = asyncio.Event()
        self.known: dict[str, Execution] = {}
        self.deployed: list[dict[str, Any]] = []
        self.deploy_error: AtlatlError | None = None
        self.breaker_view = BreakerView(task_name="hello", state="closed", mode="auto")
        self.is_ready = (True, "")
        self.asked: list[Any] = []
        self.accept_error: AtlatlError | None = None
        self.ended = asyncio.Event()
        self.waiting = 0
        self.happened: list[HappenedEvent] = []
        self.figures: dict[str, Any] | None = None
        self.dead: dict[str, DeadLetter] = {}
        self.bytes = ByteBudget(Settings().limits.max_inflight_bytes)
        self.hold_answer = self.bytes.hold
        self._ids = itertools.count(1)

    def give_up(self, execution_id: str) -> None:
        """Makes a dead letter of an execution that is known."""
        dead = replace(self.known[execution_id], attempt=3)
        self.dead[execution_id] = DeadLetter(execution=dead, died_at=1_700_000_002.0)

    def add(self, name: str, behaviour: Behaviour, **task: Any) -> None:
        self.tasks_by_name[name] = make_task(name, **task)
        self.behaviour[name] = behaviour

    async def __aenter__(self) -> FakeService:
        self.opened += 1
        self.is_open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_open = False

    # --- calls ---

    def new_execution_id(self) -> str:
        return f"new-{next(self._ids)}"

    def start(self, call: Call, done: Any, on_chunk: Any = None) -> FakeTicket:
        ticket = FakeTicket(call, done, on_chunk)
        self.tickets.append(ticket)
        self.started.set()
        unknown = fails(TaskNotFound(f"there is no task {call.task_name!r}"))
        self.behaviour.get(call.task_name, unknown)(ticket)
        return ticket

    async def call(self, call: Call) -> Execution:
        ended: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        ticket = self.start(call, ended.set_result)
        try:
            return await ended
        except asyncio.CancelledError:
            ticket.cancel("the caller went away")
            raise

    async def accept(self, call: Call) -> Execution:
        """Accepts durably, or answers with what is `known` under the id; nothing runs it."""
        self.asked.append(call)
        self.task(call.task_name)
        if self.accept_error is not None:
            raise self.accept_error
        return self.known.setdefault(call.execution_id, make_pending(call))

    async def wait(self, execution_id: str, timeout_s: float) -> Execution:
        """Ends when a test sets `ended`."""
        self.asked.append((execution_id, timeout_s))
        await self.execution(execution_id)
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended.wait()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1
        return self.known[execution_id]

    async def dead_letters(self, **asked: Any) -> Page[DeadLetter]:
        self.asked.append(asked)
        return Page(items=list(self.dead.values()), next_start_after="cursor")

    async def redrive(self, execution_id: str) -> Execution:
        await self.delete_dead_letter(execution_id)
        pending = replace(self.known[execution_id], status=ExecutionStatus.PENDING, outcome=None)
        self.known[execution_id] = pending
        return pending

    async def delete_dead_letter(self, execution_id: str) -> None:
        if self.dead.pop(execution_id, None) is None:
            raise ExecutionNotFound(f"execution {execution_id!r} is no dead letter")

    def estimated_completion_ms(self, task_name: str) -> int:
        return 250

    def would_create(self, target: Any) -> bool:
        return bool(target.task_id not in {t.task_id for t in self.tasks_by_name.values()})

    async def task_for_invocation(self, target: Any) -> Task:
        return self.task(target.task_id)

    async def execution(self, execution_id: str) -> Execution:
        if execution_id not in self.known:
            raise ExecutionNotFound(f"there is no execution {execution_id!r}")
        return self.known[execution_id]

    async def explain(self, execution_id: str) -> Explanation:
        return explain(await self.execution(execution_id), Facts())

    def events(self, kinds: Iterable[str] = (), task: str = "") -> Listener:
        """Tells what `happened`, and ends."""
        feed = Feed(Fanout([]), lambda *_: {"tasks": []}, clock=lambda: 0.0, wall=lambda: 0.0)
        listener = feed.listen(kinds, task)
        for event in self.happened:
            feed.emit(event)
        if self.figures is not None and listener.wants("figures"):
            listener.push(feed.encoded("figures", self.figures))
        feed.close()
        return listener

    async def executions(self, **asked: Any) -> Page[Execution]:
        self.asked.append(asked)
        return Page(items=list(self.known.values()), next_start_after=None)

    async def cancel(
        self, execution_id: str, *, reason: str = "", force: bool = False
    ) -> CancelAnswer:
        self.asked.append((execution_id, reason, force))
        if execution_id not in self.known:
            return CancelAnswer(success=False, message="unknown")
        status = ExecutionStatus.CANCELLED
        return CancelAnswer(success=True, message="cancelled", final_status=status)

    # --- tasks ---

    async def deploy(self, name: str, source: bytes, **more: Any) -> Deployment:
        if self.deploy_error is not None:
            raise self.deploy_error
        self.deployed.append({"name": name, "source": source, **more})
        created = name not in self.tasks_by_name
        changed = created or self.tasks_by_name[name].overrides != more["settings"]
        self.add(name, returns("json", b"null"), overrides=more["settings"])
        task = self.tasks_by_name[name]
        return Deployment(task=task, created=created, changed=changed, log="installed\n")

    def task(self, ref: str) -> Task:
        for task in self.tasks_by_name.values():
            if ref in (task.name, task.task_id):
                return task
        raise TaskNotFound(f"there is no task {ref!r}")

    def tasks(self, **asked: Any) -> Page[Task]:
        self.asked.append(asked)
        return Page(items=list(self.tasks_by_name.values()), next_start_after="cursor")

    def task_view(self, task: Task) -> TaskView:
        return TaskView(task=task, state=TaskState.READY, execution_count=2, instances=1)

    async def delete_task(self, ref: str, **asked: Any) -> Deletion:
        self.asked.append(asked)
        if ref not in self.tasks_by_name:
            return Deletion(found=False, deleted=False)
        if ref == "busy" and not asked["force"]:
            return Deletion(found=True, deleted=False, running=3)
        del self.tasks_by_name[ref]
        return Deletion(found=True, deleted=True)

    # --- views ---

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    def health(self) -> Health:
        return Health(status="healthy", message="all is well", uptime_s=12.5, version="0.1.0")

    def stats(self, *, hours: int = 0) -> Figures:
        self.asked.append(hours)
        return Figures(uptime_s=12.5, total_executions=7)

    def metrics_answer(self, window_s: float, task: str | None) -> dict[str, Any]:
        if task is not None:
            self.task(task)
        return {"total": {}, "window": {"duration_seconds": window_s}, "circuit_breaker": {}}

    async def scrape(self, *, openmetrics: bool = False) -> bytes:
        return b"# EOF\n" if openmetrics else b"up 1\n"

    def instances(self) -> list[InstanceView]:
        view = InstanceView(
            instance_id="i-1",
            task_name="hello",
            version=1,
            state=InstanceState.READY,
            pid=42,
            age_s=1.5,
            uses=2,
            in_flight=0,
            memory_bytes=4096,
            origin="blank",
        )
        return [view]

    def pools(self) -> list[PoolView]:
        return [PoolView(task_name="hello", version=1, policy="round_robin", total=2, available=2)]

    async def prewarm(self, ref: str, count: int) -> int:
        self.task(ref)
        return count

    def breakers(self) -> list[BreakerView]:
        return [self.breaker_view]

    def breaker(self, ref: str) -> FakeBreaker:
        self.task(ref)
        return FakeBreaker(self.breaker_view, lambda view: setattr(self, "breaker_view", view))


def hello(kind: str = "json", body: bytes = b'{"a": 1}', **more: Any) -> FakeService:
    service = FakeService()
    service.add("hello", returns(kind, body, **more))
    return service


def front(service: FakeService, *, required: Any = "auto", tokens: Sequence[Token] = ()) -> Any:
    authorizer = Authorizer(TOKEN, required)
    authorizer.hold(tokens)
    return asgi(service, authorizer=authorizer)  # type: ignore[arg-type]


def make_token(secret: str, scope: Any = "invoke", **more: Any) -> Token:
    """What is kept of a token; by default it is called like its scope."""
    created_at = datetime.fromtimestamp(1_700_000_000, UTC)
    named = {"name": scope, "created_at": created_at, **more}
    return Token(scope=scope, sha256=sha256(secret), **named)


def bearing(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@asynccontextmanager
async def speaking_to(
    service: FakeService,
    *,
    required: Any = "auto",
    peer: str = "127.0.0.1",
    base_url: str = LOCAL,
    tokens: Sequence[Token] = (),
) -> Any:
    """A client of the front, in memory; exceptions of the front are answered, not raised."""
    transport = httpx.ASGITransport(
        front(service, required=required, tokens=tokens),
        raise_app_exceptions=False,
        client=(peer, 50000),
    )
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        yield client


def ask(service: FakeService, method: str, path: str, **more: Any) -> httpx.Response:
    """One request with the admin token, unless `headers` say otherwise."""
    options = {
        key: more.pop(key) for key in ("required", "peer", "base_url", "tokens") if key in more
    }
    more.setdefault("headers", BEARER)

    async def once() -> httpx.Response:
        async with speaking_to(service, **options) as client:
            return await client.request(method, path, **more)  # type: ignore[no-any-return]

    return run(once())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def post(
    service: FakeService, path: str, messages: list[dict[str, Any]], **headers: str
) -> tuple[list[dict[str, Any]], int]:
    """One POST at the level of ASGI: what was sent back, and how many messages were read."""
    sent: list[dict[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read < len(messages):
            read += 1
            return messages[read - 1]
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": "localhost:8081", **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8081),
        "scheme": "http",
    }
    async with asyncio.timeout(5):
        await front(service)(scope, receive, send)
    return sent, read


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


class FrontTransport(httpx.BaseTransport):
    """Lets a client that waits speak to a front in memory."""

    def __init__(self, service: FakeService) -> None:
        self.app = front(service)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return run(self._ask(request))  # type: ignore[no-any-return]

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers
        again = httpx.Request(request.method, request.url, headers=headers, content=request.content)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        answer = await transport.handle_async_request(again)
        body = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)
