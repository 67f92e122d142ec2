"""Every route and every RPC, with every kind of caller: who is let in, and how others are refused.

What is served is read from the code; what may be done is written down here. A new route or RPC
has no row, and fails.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from atlatl.front.access import Gate
from atlatl.front.asgi import endpoints
from atlatl.front.auth import Authorizer
from atlatl.front.grpc import UNARY
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.reach import Reach
from tests.unit import test_grpc_front as rpc
from tests.unit.front_fakes import TOKEN, FakeService, bearing, hello, make_token, run, speaking_to

OPEN, LOOPBACK, INVOKE, DEPLOY, ADMIN = "open", "loopback", "invoke", "deploy", "admin"

NONE, NAMED, EXECUTION, SHOWN, ALL = Reach


class Row(NamedTuple):
    """Who may, and which tasks a token needs to be good for."""

    needs: str
    reach: Reach


ROUTES = {
    ("", "/functions/{task}"): Row(LOOPBACK, NAMED),
    ("", "/functions/{task}/{path:path}"): Row(LOOPBACK, NAMED),
    ("GET", "/api/v1/tasks"): Row(DEPLOY, SHOWN),
    ("PUT", "/api/v1/tasks/{name}"): Row(DEPLOY, NAMED),
    ("GET", "/api/v1/tasks/{name}"): Row(DEPLOY, NAMED),
    ("DELETE", "/api/v1/tasks/{name}"): Row(ADMIN, NAMED),
    ("GET", "/api/v1/executions"): Row(DEPLOY, SHOWN),
    ("GET", "/api/v1/executions/{id:path}"): Row(LOOPBACK, EXECUTION),
    ("GET", "/api/v1/executions/{id:path}/status"): Row(LOOPBACK, EXECUTION),
    ("GET", "/api/v1/executions/{id:path}/result"): Row(LOOPBACK, EXECUTION),
    ("GET", "/api/v1/executions/{id:path}/logs"): Row(INVOKE, EXECUTION),
    ("GET", "/api/v1/executions/{id:path}/explain"): Row(INVOKE, EXECUTION),
    ("POST", "/api/v1/executions/{id:path}/cancel"): Row(INVOKE, EXECUTION),
    ("GET", "/api/v1/dead-letters"): Row(ADMIN, SHOWN),
    ("POST", "/api/v1/dead-letters/{id:path}/redrive"): Row(ADMIN, EXECUTION),
    ("DELETE", "/api/v1/dead-letters/{id:path}"): Row(ADMIN, EXECUTION),
    ("POST", "/api/v1/invocations"): Row(LOOPBACK, SHOWN),
    ("GET", "/api/v1/instances"): Row(ADMIN, SHOWN),
    ("GET", "/api/v1/pools"): Row(ADMIN, SHOWN),
    ("POST", "/api/v1/pools/{task}/prewarm"): Row(ADMIN, NAMED),
    ("GET", "/api/v1/breakers"): Row(ADMIN, SHOWN),
    ("POST", "/api/v1/breakers/{task}/reset"): Row(ADMIN, NAMED),
    ("POST", "/api/v1/breakers/{task}/open"): Row(ADMIN, NAMED),
    ("POST", "/api/v1/breakers/{task}/disable"): Row(ADMIN, NAMED),
    ("GET", "/healthz"): Row(OPEN, NONE),
    ("GET", "/readyz"): Row(OPEN, NONE),
    ("GET", "/metrics"): Row(LOOPBACK, ALL),
    ("GET", "/api/v1/health"): Row(LOOPBACK, NONE),
    ("GET", "/api/v1/stats"): Row(LOOPBACK, ALL),
    ("GET", "/api/serverless/metrics"): Row(LOOPBACK, SHOWN),
    ("GET", "/api/serverless/health"): Row(LOOPBACK, NONE),
    ("GET", "/api/serverless/functions"): Row(DEPLOY, SHOWN),
    ("GET", "/api/v1/events"): Row(ADMIN, ALL),
    ("GET", "/"): Row(OPEN, NONE),
    ("GET", "/static/{path:path}"): Row(OPEN, NONE),
    ("POST", "/api/v1/dashboard/session"): Row(OPEN, NONE),
    ("DELETE", "/api/v1/dashboard/session"): Row(ADMIN, ALL),
    ("POST", "/api/v1/dashboard/codes"): Row(ADMIN, ALL),
    ("GET", "/openapi.json"): Row(OPEN, NONE),
}

OURS = "/spearlet.FunctionService/"
CREATING = pb.InvokeFunctionRequest(
    invocation_type=pb.INVOCATION_TYPE_NEW_TASK,
    execution_mode=pb.EXECUTION_MODE_SYNC,
    artifact_spec=pb.ArtifactSpec(artifact_id="billing-x"),
)
CALLING = pb.InvokeFunctionRequest(task_id="t-1", execution_mode=pb.EXECUTION_MODE_SYNC)
LIST_SERVICES = reflection_pb2.ServerReflectionRequest(list_services="")


class Asked(NamedTuple):
    """An RPC, with a message that gets past the door when the caller may."""

    needs: str
    message: Any
    kind: str = "unary_unary"


RPCS = {
    OURS + "InvokeFunction": Asked(LOOPBACK, CALLING),
    OURS + "StreamFunction": Asked(LOOPBACK, CALLING, "unary_stream"),
    OURS + "GetExecutionStatus": Asked(LOOPBACK, pb.GetExecutionStatusRequest()),
    OURS + "CancelExecution": Asked(INVOKE, pb.CancelExecutionRequest()),
    OURS + "ListTasks": Asked(DEPLOY, pb.ListTasksRequest()),
    OURS + "GetTask": Asked(DEPLOY, pb.GetTaskRequest()),
    OURS + "DeleteTask": Asked(ADMIN, pb.DeleteTaskRequest()),
    OURS + "ListExecutions": Asked(DEPLOY, pb.ListExecutionsRequest()),
    OURS + "GetHealth": Asked(LOOPBACK, pb.GetHealthRequest()),
    OURS + "GetStats": Asked(LOOPBACK, pb.GetStatsRequest()),
    "/grpc.health.v1.Health/Check": Asked(LOOPBACK, health_pb2.HealthCheckRequest()),
    "/grpc.health.v1.Health/List": Asked(LOOPBACK, health_pb2.HealthListRequest()),
    "/grpc.health.v1.Health/Watch": Asked(
        LOOPBACK, health_pb2.HealthCheckRequest(), "unary_stream"
    ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Asked(
        LOOPBACK, LIST_SERVICES, "stream_stream"
    ),
}
MORE_ASKED = {
    "a call that creates": (OURS + "InvokeFunction", Asked(DEPLOY, CREATING)),
    "a stream that creates": (OURS + "StreamFunction", Asked(DEPLOY, CREATING, "unary_stream")),
}

SECRETS = {INVOKE: "the-invoke-token", DEPLOY: "the-deploy-token", ADMIN: "another-admin-token"}
TOKENS = [make_token(secret, scope) for scope, secret in SECRETS.items()]
EXPIRED = make_token("the-old-token", "admin", name="old")

CALLERS: dict[str, dict[str, str]] = {
    "nobody": {},
    "wrong": bearing("wrong"),
    **{scope: bearing(secret) for scope, secret in SECRETS.items()},
    "first": bearing(TOKEN),
    "page": {"Origin": "https://evil.example"},
    "page with a wrong token": {"Origin": "https://evil.example", **bearing("wrong")},
    "page with a token": {"Origin": "https://evil.example", **bearing(TOKEN)},
    "image": {"Sec-Fetch-Site": "cross-site"},
    "proxy": {"X-Forwarded-For": "10.0.0.7"},
    "another proxy": {"Via": "1.1 proxy"},
}
HTTP_CALLERS = {
    **CALLERS,
    "rebound": {"Host": "evil.example"},
    "rebound with a token": {"Host": "evil.example", **bearing(TOKEN)},
}
RANKS = [INVOKE, DEPLOY, ADMIN]


def refusal(needs: str, caller: str, *, loopback: bool) -> int | None:
    """The status that the rules ask for; None lets the caller in."""
    rank = {**{s: RANKS.index(s) for s in RANKS}, "first": 2}.get(caller, -1)
    if caller.endswith("with a token"):
        rank = 2
    if rank >= 0:
        least = RANKS.index(needs) if needs in RANKS else 0
        return None if rank >= least else 403
    foreign = caller.startswith(("page", "image", "rebound"))
    if loopback and foreign:
        return 403
    if needs == OPEN or (needs == LOOPBACK and loopback and "proxy" not in caller):
        return None
    return 401


# --- HTTP ---


def served() -> dict[tuple[str, str], Row]:
    gate = Gate(Authorizer(TOKEN), "127.0.0.1")
    table = endpoints(FakeService(), gate)  # type: ignore[arg-type]
    words = {"probe": OPEN, "call": LOOPBACK, "watch": LOOPBACK}
    return {(e.method, e.path): Row(words.get(e.scope, e.scope), e.reach) for e in table}


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert served() == ROUTES


@pytest.mark.parametrize(
    ("host", "peer", "loopback"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("127.0.0.1", "10.0.0.7", False),
        ("10.0.0.1", "10.0.0.7", False),
    ],
)
@pytest.mark.parametrize("caller", HTTP_CALLERS)
def test_every_route_lets_in_whom_its_row_says(
    caller: str, host: str, peer: str, loopback: bool
) -> None:
    async def statuses() -> dict[tuple[str, str], tuple[int, str]]:
        service = FakeService(http={"host": host})
        asked = {}
        async with speaking_to(service, peer=peer, tokens=TOKENS) as client:
            for method, path in ROUTES:
                answer = await client.request(method or "POST", path, headers=HTTP_CALLERS[caller])
                asked[method, path] = answer.status_code, answer.text
        return asked

    codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
    for route, (status, text) in run(statuses()).items():
        expected = refusal(ROUTES[route].needs, caller, loopback=loopback)
        if expected is None:
            assert status not in codes, (route, text)
        else:
            assert (status, codes[expected] in text) == (expected, True), (route, text)
            if expected == 403 and caller in RANKS:
                assert f"scope `{ROUTES[route].needs}`" in text, text
            assert not any(secret in text for secret in SECRETS.values())


def test_an_expired_token_is_told_so() -> None:
    async def ask() -> Any:
        authorizer = Authorizer(TOKEN)
        authorizer.hold([], [EXPIRED])
        return authorizer.without("Bearer the-old-token", loopback=True)

    with pytest.raises(Exception, match="expired"):
        run(ask()).require("admin")


def test_a_call_over_http_that_creates_a_task_needs_deploy() -> None:
    body = {
        "invocationType": "INVOCATION_TYPE_NEW_TASK",
        "executionMode": "EXECUTION_MODE_SYNC",
        "artifactSpec": {"artifactId": "billing-x"},
    }

    async def statuses() -> dict[str, int]:
        async with speaking_to(hello(), tokens=TOKENS) as client:
            return {
                caller: (
                    await client.post("/api/v1/invocations", json=body, headers=headers)
                ).status_code
                for caller, headers in HTTP_CALLERS.items()
            }

    for caller, status in run(statuses()).items():
        expected = refusal(DEPLOY, caller, loopback=True)
        assert status == expected if expected else status == 200, caller


@pytest.mark.parametrize("caller", [INVOKE, DEPLOY, ADMIN, "first"])
def test_code_that_nothing_confines_is_deployed_by_admins_only(caller: str) -> None:
    async def ask(level: str) -> tuple[int, str]:
        async with speaking_to(hello(), tokens=TOKENS) as client:
            answer = await client.put(
                "/api/v1/tasks/hello",
                headers=CALLERS[caller],
                files={"artifact": ("main.py", b"def main(): ...")},
                data={"settings": json.dumps({"confinement": {"level": level}})},
            )
            return answer.status_code, answer.text

    status, text = run(ask("none"))
    if caller in (INVOKE, DEPLOY):
        assert status == 403
        assert "scope `admin`" in text or caller == INVOKE
        assert "confinement.level" in text or caller == INVOKE
    else:
        assert status not in (401, 403), text
    status, _ = run(ask("standard"))
    assert (status == 403) == (caller == INVOKE)


# --- gRPC ---


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    ours = pb.DESCRIPTOR.services_by_name["FunctionService"].methods_by_name
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name
    reflection = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods_by_name
    offered = {
        *(f"/spearlet.FunctionService/{name}" for name in ours),
        *(f"/grpc.health.v1.Health/{name}" for name in health),
        *(f"/grpc.reflection.v1alpha.ServerReflection/{name}" for name in reflection),
    }
    assert offered == set(RPCS)
    assert {*UNARY, "StreamFunction"} == set(ours)


def test_no_other_service_is_served() -> None:
    async def test(front: rpc.Front) -> None:
        assert {name.split("/")[1] for name in RPCS} == set(await rpc._reflected_services(front))

    rpc.run(test)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_every_rpc_lets_in_whom_its_row_says(host: str, loopback: bool) -> None:
    async def main() -> None:
        rows = [(name, name, asked) for name, asked in RPCS.items()]
        rows += [(label, name, asked) for label, (name, asked) in MORE_ASKED.items()]
        async with (
            rpc.served(rpc.FakeService(), host=host, tokens=TOKENS) as front,
            grpc.aio.insecure_channel(front.address) as channel,
        ):
            for label, name, asked in rows:
                for caller, headers in CALLERS.items():
                    expected = refusal(asked.needs, caller, loopback=loopback)
                    admitted = expected is None
                    code, told = await outcome(channel, name, asked, headers, admitted=admitted)
                    wanted = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}.get(
                        expected or 0, "OK"
                    )
                    got = code if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") else "OK"
                    assert got == wanted, (label, caller, code, told)
                    assert code != "INTERNAL", (label, caller, told)
                    assert not any(secret in told for secret in SECRETS.values())

    asyncio.run(asyncio.wait_for(main(), 100))


async def outcome(
    channel: grpc.aio.Channel, name: str, asked: Asked, headers: dict[str, str], *, admitted: bool
) -> tuple[str, str]:
    """The status and what is said with it; OK as soon as there is an answer.

    Who is refused is so before the first message of a stream: a client of `grpc.aio` that still
    writes while the answer comes makes INTERNAL of any status.
    """
    metadata = tuple((key.lower(), value) for key, value in headers.items())
    method: Any = getattr(channel, asked.kind)(name)
    content = asked.message.SerializeToString()
    if asked.kind == "stream_stream":
        call = method(metadata=metadata, timeout=20)
    else:
        call = method(content, metadata=metadata, timeout=20)
    try:
        if asked.kind == "unary_unary":
            await call
        else:
            if asked.kind == "stream_stream" and admitted:
                await call.write(content)
            await call.read()
            call.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""
