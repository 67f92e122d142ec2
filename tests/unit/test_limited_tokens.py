"""Tokens that are good for certain tasks, and tokens with a rate, on the fronts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from atlatl.errors import AtlatlError, PermissionDenied
from atlatl.front.access import Gate
from atlatl.front.asgi import asgi
from atlatl.front.auth import OF_TOKENS, RECENT, Authorizer, Grant, Scope
from atlatl.front.fast import FastPath
from atlatl.model import Arguments, Call
from tests.connections import Connection
from tests.unit import test_grpc_front as rpc
from tests.unit.fast_fakes import asks, served
from tests.unit.front_fakes import (
    LOCAL,
    TOKEN,
    FakeService,
    ask,
    bearing,
    hello,
    make_execution,
    make_token,
    returns,
)
from tests.virtual_time import virtual

SECRET = "the-limited-token"
HEADERS = bearing(SECRET)


def limited(*patterns: str, scope: Any = "admin", **more: Any) -> Any:
    return make_token(SECRET, scope, tasks=patterns, **more)


@pytest.mark.parametrize(
    ("patterns", "name", "good"),
    [
        (["billing-*"], "billing-a", True),
        (["billing-*"], "billing-", True),
        (["billing-*"], "billing", False),
        (["billing-*"], "x-billing-a", False),
        (["billing-*"], "Billing-a", False),
        (["a", "b?"], "bc", True),
        (["a", "b?"], "b", False),
        (["a.c"], "abc", False),
        (["[ab]"], "b", True),
        (["caf\u00e9"], "cafe\u0301", True),
        (["a*"], "a\nb", True),
        ([], "anything", True),
        (["*"], "", True),
        (["?*"], "", False),
    ],
)
def test_patterns(patterns: list[str], name: str, good: bool) -> None:
    grant = Grant(OF_TOKENS[Scope.ADMIN], token=limited(*patterns))
    try:
        grant.touch(name)
    except PermissionDenied as error:
        assert not good
        assert all(pattern in error.message for pattern in patterns)
    else:
        assert good


def service() -> FakeService:
    """Tasks `mine` and `other`, each with an execution that is called like it."""
    made = FakeService()
    for name in ("mine", "other"):
        made.add(name, returns("json", b"1"))
        call = Call(execution_id=f"e-{name}", task_name=name, payload=Arguments(values={}))
        made.known[f"e-{name}"] = make_execution(call, None)
        made.give_up(f"e-{name}")
    return made


NAMED = [
    ("POST", "/functions/{}"),
    ("GET", "/functions/{}"),
    ("GET", "/api/v1/tasks/{}"),
    ("DELETE", "/api/v1/tasks/{}"),
    ("PUT", "/api/v1/tasks/{}"),
    ("POST", "/api/v1/pools/{}/prewarm"),
    ("POST", "/api/v1/breakers/{}/reset"),
    ("POST", "/api/v1/breakers/{}/open"),
    ("POST", "/api/v1/breakers/{}/disable"),
    ("GET", "/api/serverless/metrics?task={}"),
    ("GET", "/api/v1/executions?task={}"),
]


@pytest.mark.parametrize(("method", "path"), NAMED)
def test_a_task_is_refused_by_its_name_whether_it_is_there_or_not(method: str, path: str) -> None:
    for name, status in (("other", 403), ("missing", 403), ("id-other", 403)):
        answer = ask(
            service(), method, path.format(name), headers=HEADERS, tokens=[limited("mine")]
        )
        assert (answer.status_code, answer.json()["code"]) == (status, "PERMISSION_DENIED"), name
        assert "'limited'" in answer.text or "'admin'" in answer.text
    answer = ask(service(), method, path.format("mine"), headers=HEADERS, tokens=[limited("mine")])
    assert answer.status_code not in (401, 403), answer.text


def test_no_task_is_made_under_the_id_of_an_own_one() -> None:
    answer = ask(
        service(),
        "PUT",
        "/api/v1/tasks/id-mine?filename=main.py",
        headers=HEADERS,
        tokens=[limited("mine")],
        content=b"def main(): ...",
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


def test_an_id_that_matches_the_pattern_is_no_way_to_another_task() -> None:
    for name in ("id-other", "other"):
        answer = ask(
            service(), "GET", f"/api/v1/tasks/{name}", headers=HEADERS, tokens=[limited("id-*")]
        )
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/executions/{}"),
        ("GET", "/api/v1/executions/{}?wait=1"),
        ("GET", "/api/v1/executions/{}/status"),
        ("GET", "/api/v1/executions/{}/result"),
        ("GET", "/api/v1/executions/{}/logs"),
        ("POST", "/api/v1/executions/{}/cancel"),
        ("POST", "/api/v1/dead-letters/{}/redrive"),
        ("DELETE", "/api/v1/dead-letters/{}"),
    ],
)
def test_an_execution_of_another_task_is_not_there(method: str, path: str) -> None:
    for execution_id in ("e-other", "e-missing"):
        made = service()
        answer = ask(
            made, method, path.format(execution_id), headers=HEADERS, tokens=[limited("mine")]
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "EXECUTION_NOT_FOUND")
        assert answer.json()["detail"] == f"there is no execution {execution_id!r}"
        assert "e-other" in made.dead
        assert made.asked == []
    made = service()
    made.ended.set()
    answer = ask(made, method, path.format("e-mine"), headers=HEADERS, tokens=[limited("mine")])
    assert answer.status_code in (200, 202, 204), answer.text


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/stats", "/api/serverless/metrics"])
def test_figures_of_all_tasks_are_not_for_a_limited_token(path: str) -> None:
    answer = ask(service(), "GET", path, headers=HEADERS, tokens=[limited("mine")])
    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")
    assert ask(service(), "GET", path, headers=HEADERS, tokens=[limited()]).status_code == 200


def test_live_lists_leave_other_tasks_out() -> None:
    """Those of the fake are of task `hello`."""
    for path in ("instances", "pools", "breakers"):
        for pattern, count in (("hello", 1), ("other", 0)):
            answer = ask(
                hello(), "GET", f"/api/v1/{path}", headers=HEADERS, tokens=[limited(pattern)]
            )
            assert len(answer.json()[path]) == count


# --- gRPC, and the same over HTTP ---


def test_rpcs_keep_to_the_tasks_of_a_token() -> None:
    async def test(front: rpc.Front) -> None:
        async def code(name: str, **fields: Any) -> str:
            return (await front.refusal(name, token=SECRET, **fields))[0].name

        denied = "PERMISSION_DENIED"
        assert await code("InvokeFunction", task_id="t-1", execution_mode=1) == denied
        assert await code("InvokeFunction", task_id="nobody", execution_mode=1) == denied
        assert await code("StreamFunction", task_id="greeter") == denied
        assert await code("GetTask", task_id="t-1") == denied
        assert await code("GetTask", task_id="nobody") == denied
        assert await code("DeleteTask", task_id="t-1") == denied
        assert await code("ListExecutions", task_id="greeter") == denied
        assert await code("GetStats") == denied
        creating = {"invocation_type": rpc.NEW_TASK, "execution_mode": 1}
        for task, artifact in (("other", "mine-a"), ("mine-t", "other"), ("", "other")):
            spec = {"artifact_id": artifact}
            assert (
                await code("InvokeFunction", task_name=task, artifact_spec=spec, **creating)
                == denied
            )
        assert front.service.calls == front.service.targets == []
        status = await front.ask("GetExecutionStatus", token=SECRET, execution_id="known")
        missing = await front.ask("GetExecutionStatus", token=SECRET, execution_id="missing")
        assert (status.found, missing.found) == (False, False)
        cancelled = await front.ask("CancelExecution", token=SECRET, execution_id="known")
        assert not cancelled.success
        await front.ask("ListTasks", token=SECRET)
        assert front.service.query["sees"]("mine-x")
        assert not front.service.query["sees"]("greeter")
        await front.ask("ListExecutions", token=SECRET)
        assert not front.service.query["sees"]("greeter")
        assert (await front.ask("GetHealth", token=SECRET)).healthy

    rpc.run(test, tokens=[limited("mine-*")])


def test_rpcs_let_a_token_have_its_own_tasks() -> None:
    async def test(front: rpc.Front) -> None:
        answer = await front.ask("InvokeFunction", token=SECRET, task_id="t-1", execution_mode=1)
        assert answer.success
        assert (await front.ask("GetTask", token=SECRET, task_id="greeter")).found
        assert (await front.ask("GetExecutionStatus", token=SECRET, execution_id="known")).found
        assert (await front.ask("CancelExecution", token=SECRET, execution_id="known")).success

    rpc.run(test, tokens=[limited("greet*")])


# --- rates ---


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def paced(clock: Clock, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    authorizer = Authorizer(TOKEN, clock=clock)
    authorizer.hold([make_token(SECRET, "admin", rate_limit_per_s=2, **more)])
    app = asgi(hello(), authorizer=authorizer)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url=LOCAL, headers=HEADERS) as client:
        yield client


@virtual
async def test_a_token_has_its_rate_over_all_routes() -> None:
    clock = Clock()
    async with paced(clock) as client:
        assert (await client.post("/functions/hello")).status_code == 200
        assert (await client.get("/api/v1/tasks")).status_code == 200
        refused = await client.get("/api/v1/pools")
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["retryable"] is True
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/api/v1/tasks", headers=bearing(TOKEN))).status_code == 200
        clock.now += 0.5
        assert (await client.get("/api/v1/pools")).status_code == 200
        assert (await client.get("/api/v1/pools")).status_code == 429


def test_a_token_has_its_rate_over_grpc() -> None:
    async def test(front: rpc.Front) -> None:
        call = {"task_id": "t-1", "execution_mode": 1}
        assert (await front.ask("InvokeFunction", token=SECRET, **call)).success
        code, _, trailers = await front.refusal("InvokeFunction", token=SECRET, **call)
        assert code.name == "RESOURCE_EXHAUSTED"
        assert trailers["error-code"] == "RATE_LIMITED"
        assert int(trailers["retry-after-ms"]) > 1000

    rpc.run(test, tokens=[make_token(SECRET, "invoke", rate_limit_per_s=0.01)])


# --- the short way ---


def short_way(authorizer: Authorizer) -> Connection:
    made: Any = served()
    fast = FastPath(made, Gate(authorizer, "127.0.0.1"))
    return Connection(asgi(made, authorizer=authorizer), fast=fast)


BEARING = f"Authorization: Bearer {SECRET}".encode()


@virtual
async def test_the_short_way_keeps_to_the_tasks_and_the_rate_of_a_token() -> None:
    clock = Clock()
    authorizer = Authorizer(TOKEN, clock=clock)
    authorizer.hold([limited("echo", rate_limit_per_s=2)])
    connection = short_way(authorizer)
    await connection.sends(asks("echo", b"1", BEARING) * 2)
    assert connection.long_way == []
    await connection.sends(asks("echo", b"1", BEARING), every_s=0.1)
    clock.now += 1
    await connection.sends(asks("fails", b"1", BEARING), every_s=0.1)
    assert connection.long_way == ["/functions/echo", "/functions/fails"]
    assert [answer.status for answer in connection.answers()] == [200, 200, 429, 403]


@virtual
async def test_a_connection_that_stays_open_learns_that_its_token_was_revoked() -> None:
    authorizer = Authorizer(TOKEN, True)
    authorizer.hold([limited(scope="invoke")])
    connection = short_way(authorizer)
    await connection.sends(asks("echo", b"1", BEARING) * 3)
    assert connection.long_way == []
    authorizer.hold([])
    await connection.sends(asks("echo", b"1", BEARING), every_s=0.1)
    authorizer.hold([limited(scope="invoke")])
    await connection.sends(asks("echo", b"1", BEARING), every_s=0.1)
    assert [answer.status for answer in connection.answers()] == [200, 200, 200, 401, 200]


@virtual
async def test_a_token_that_becomes_ours_is_kept_from_functions_from_then_on() -> None:
    """On loopback a call needs none, so that before it was the function's own."""
    authorizer = Authorizer(TOKEN)
    made: Any = served()
    fast = FastPath(made, Gate(authorizer, "127.0.0.1"))
    connection = Connection(asgi(made, authorizer=authorizer), fast=fast)
    await connection.sends(asks("echo", b"1", BEARING))
    authorizer.hold([limited()])
    await connection.sends(asks("echo", b"1", BEARING))
    before, after = (ticket.call.headers for ticket in made.tickets)
    assert before["authorization"] == f"Bearer {SECRET}"
    assert "authorization" not in after
    assert connection.long_way == []


def test_a_token_is_found_among_several() -> None:
    authorizer = Authorizer(TOKEN)
    authorizer.hold([limited()])
    for header in (f"Bearer x, Bearer {SECRET}", f"bearer   {SECRET}", f"Basic a, Bearer {SECRET}"):
        assert authorizer.known(header) is not None
    for header in ("", "Bearer", f"Basic {SECRET}", SECRET, f"Bearer {SECRET[:-1]}"):
        assert authorizer.known(header) is None
    with pytest.raises(AtlatlError):
        authorizer.without("Bearer", loopback=False).require(Scope.CALL)


def test_what_is_remembered_of_tokens_is_bounded_and_ends_with_them() -> None:
    authorizer = Authorizer(TOKEN)
    authorizer.hold([limited()])
    for number in range(2 * RECENT):
        assert authorizer.known(f"Basic {number}, Bearer {SECRET}") is not None
    assert len(authorizer._recent) <= RECENT
    many = ", ".join(["Bearer x"] * 10_000)
    assert authorizer.known(f"Bearer {SECRET}, {many}") is not None
    assert authorizer.known(f"{many}, Bearer {SECRET}") is None
    assert max(map(len, authorizer._recent)) < 300
    authorizer.hold([])
    assert authorizer.known(f"Bearer {SECRET}") is None
    assert authorizer.known(f"Bearer {SECRET}") is None
