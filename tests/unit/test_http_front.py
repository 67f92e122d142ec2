"""Managing over HTTP, against a service without processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.routing import Mount

from atlatl import errors
from atlatl.model import Call, Event, Mode, Outcome, OutcomeKind, Result, failed
from tests.unit.front_fakes import (
    BEARER,
    FakeService,
    ask,
    body,
    front,
    hangs,
    hello,
    make_execution,
    post,
    returns,
    run,
)

HELLO = "/functions/hello"
BROKEN = failed(errors.FunctionRaised("ValueError: no", detail="Traceback"))


# --- deploying and tasks ---


TASK = "/api/v1/tasks/hello"


def test_deploy_by_form() -> None:
    service = FakeService()
    files = {"artifact": ("dir/app.py", b"def main(): ...")}
    data = {"settings": '{"timeout_ms": 5000, "pool": {"max_size": 4}}'}
    answer = ask(service, "PUT", TASK, files=files, data=data)
    assert answer.status_code == 201
    assert answer.headers["Location"] == TASK
    assert (answer.json()["created"], answer.json()["changed"]) == (True, True)
    assert answer.json()["log"] == "installed\n"
    assert service.deployed[0] == {
        "name": "hello",
        "source": b"def main(): ...",
        "filename": "app.py",
        "settings": {"timeout_ms": 5000, "pool": {"max_size": 4}},
    }
    assert ask(service, "PUT", TASK, files=files, data=data).status_code == 200
    assert ask(service, "PUT", TASK, files=files).status_code == 201


def test_settings_may_come_as_a_file() -> None:
    service = FakeService()
    files = {"artifact": ("a.py", b"x"), "settings": ("settings.json", b'{"timeout_ms": 7}')}
    assert ask(service, "PUT", TASK, files=files).status_code == 201
    assert service.deployed[0]["settings"] == {"timeout_ms": 7}


@pytest.mark.parametrize(
    ("content", "filename"),
    [(b"x = 1", "main.py"), (b"PK\x03\x04..", "main.zip"), (b"\0asm", "main.wasm")],
)
def test_deploy_by_bare_body(content: bytes, filename: str) -> None:
    service = FakeService()
    answer = ask(service, "PUT", TASK + "?handler=main.py:go&timeout_ms=70", content=content)
    assert answer.status_code == 201
    assert service.deployed[0]["filename"] == filename
    assert service.deployed[0]["settings"] == {"handler": "main.py:go", "timeout_ms": 70}
    ask(service, "PUT", TASK + "?filename=../../b.py", content=content)
    assert service.deployed[1]["filename"] == "b.py"


def test_faults_of_a_deploy() -> None:
    service = FakeService(artifacts={"max_bytes": 10})
    assert ask(service, "PUT", TASK, content=b"").status_code == 400
    assert ask(service, "PUT", TASK, files={"other": ("a.py", b"x")}).status_code == 400
    files = {"artifact": ("a.py", b"x")}
    assert ask(service, "PUT", TASK, files=files, data={"settings": "[1]"}).status_code == 400
    assert ask(service, "PUT", TASK + "?timeout_ms=soon", content=b"x").status_code == 400
    too_large = b"x" * (11 + 1024 * 1024)
    assert ask(service, "PUT", TASK, content=too_large).status_code == 413
    bad_form = {"Content-Type": "multipart/form-data; boundary=x", **BEARER}
    assert ask(service, "PUT", TASK, content=b"no form", headers=bad_form).status_code == 400
    for charset in ("utf-7", "unicode_escape"):
        head = b'Content-Disposition: form-data; name="%b"\r\n\r\n'
        half = {"utf-7": b"+2AA-", "unicode_escape": b"\\ud800"}[charset]
        parts = (head % b"artifact" + b"x", head % b"settings" + half)
        body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
        odd = {**bad_form, "Content-Type": bad_form["Content-Type"] + f"; charset={charset}"}
        answer = ask(service, "PUT", TASK, content=body, headers=odd)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    service.deploy_error = errors.ArtifactInvalid("main.py does not import", detail="Traceback ...")
    answer = ask(service, "PUT", TASK, content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (422, "CONFIGURATION_ERROR")
    assert answer.json()["log"] == "Traceback ..."
    assert service.deployed == []


def test_tasks_are_listed_shown_and_deleted() -> None:
    service = hello()
    service.add("busy", returns("json", b"1"), overrides={"env": {"KEY": "secret"}})
    listed = ask(service, "GET", "/api/v1/tasks?prefix=h&limit=5&start_after=c")
    assert [row["task_name"] for row in listed.json()["tasks"]] == ["hello", "busy"]
    assert listed.json()["next_start_after"] == "cursor"
    assert service.asked[0] == {"prefix": "h", "limit": 5, "start_after": "c"}
    shown = ask(service, "GET", "/api/v1/tasks/busy")
    assert shown.json()["state"] == "READY"
    assert shown.json()["settings"] == {"env": {"KEY": "***"}}
    assert "secret" not in shown.text
    assert ask(service, "GET", "/api/v1/tasks/nobody").status_code == 404
    assert ask(service, "DELETE", "/api/v1/tasks/busy").status_code == 409
    assert ask(service, "DELETE", "/api/v1/tasks/busy?force=maybe").status_code == 400
    assert ask(service, "DELETE", "/api/v1/tasks/busy?force=true").json()["deleted"] is True
    assert ask(service, "DELETE", "/api/v1/tasks/busy").status_code == 404


def test_limits_of_lists() -> None:
    service = FakeService()
    ask(service, "GET", "/api/v1/executions?limit=0")
    ask(service, "GET", "/api/v1/executions?limit=5000&status=failed&task=hello")
    assert [asked["limit"] for asked in service.asked] == [100, 1000]
    assert service.asked[1]["status"].value == "FAILED"
    assert ask(service, "GET", "/api/v1/executions?limit=-1").status_code == 400
    assert ask(service, "GET", "/api/v1/executions?status=odd").status_code == 400


# --- executions ---


def called(service: FakeService) -> Call:
    return service.tickets[-1].call


def known(outcome: Outcome | None) -> FakeService:
    service = FakeService()
    call = Call(execution_id="e-1", task_name="hello", payload=Event(value=None))
    service.known["e-1"] = make_execution(call, outcome)
    return service


ONE = "/api/v1/executions/e-1"
DONE = Outcome(
    kind=OutcomeKind.SUCCESS, result=Result("text", b"hi"), output=b"one\ntwo\n", run_s=0.5
)


def test_the_record_of_an_execution() -> None:
    row = ask(known(DONE), "GET", ONE).json()
    assert set(row) == {
        *("execution_id", "task_id", "task_name", "function_name", "mode", "status", "outcome"),
        *("attempt", "error_code", "error_message", "queued_at", "started_at", "completed_at"),
        *("execution_time_ms", "queue_time_ms", "memory_used_bytes", "instance_id", "version"),
        *("cold_start", "trace_id", "metadata"),
    }
    assert (row["status"], row["outcome"], row["execution_time_ms"]) == (
        "COMPLETED",
        "success",
        500,
    )
    assert row["queued_at"] == "2023-11-14T22:13:20.250000Z"
    failed_row = ask(known(BROKEN), "GET", ONE).json()
    assert (failed_row["error_code"], failed_row["error_message"]) == (
        "EXECUTION_ERROR",
        "ValueError: no",
    )
    assert ask(known(DONE), "GET", "/api/v1/executions").json()["executions"][0] == row


def test_the_status_path_that_answers_name_is_served() -> None:
    """D100: exactly the path that is sent, in proto3 JSON."""
    tree = ask(known(DONE), "GET", ONE + "/status").json()
    assert tree["found"] is True
    assert tree["result"]["status"] == "EXECUTION_STATUS_COMPLETED"
    assert ask(known(DONE), "GET", "/api/v1/executions/other/status").status_code == 404


def test_a_result_that_had_to_go_is_not_taken_for_an_empty_one() -> None:
    service = known(Outcome(kind=OutcomeKind.SUCCESS))
    answer = ask(service, "GET", ONE + "/result")
    assert (answer.status_code, answer.json()["code"]) == (404, "EXECUTION_NOT_FOUND")
    assert "not kept any more" in answer.json()["detail"]
    service.known["e-1"] = replace(service.known["e-1"], mode=Mode.STREAM)
    assert ask(service, "GET", ONE + "/result").status_code == 200


def test_an_id_with_slashes_in_it_is_found() -> None:
    service = known(DONE)
    service.known["a/b?c"] = service.known["e-1"]
    for path in ("", "/status", "/result", "/logs"):
        assert ask(service, "GET", "/api/v1/executions/a%2Fb%3Fc" + path).status_code == 200
    assert ask(service, "POST", "/api/v1/executions/a%2Fb%3Fc/cancel").status_code == 200


def test_result_and_logs() -> None:
    result = ask(known(DONE), "GET", ONE + "/result")
    assert (result.text, result.headers["Content-Type"]) == ("hi", "text/plain; charset=utf-8")
    assert ask(known(None), "GET", ONE + "/result").status_code == 202
    assert ask(known(BROKEN), "GET", ONE + "/result").status_code == 500
    assert ask(known(DONE), "GET", ONE + "/logs").json()["lines"] == ["one", "two"]
    assert ask(known(BROKEN), "GET", ONE + "/logs").json()["traceback"] == "Traceback"
    assert ask(known(None), "GET", ONE + "/logs").json()["lines"] == []


def test_cancel() -> None:
    service = known(None)
    answer = ask(service, "POST", ONE + "/cancel", json={"reason": "enough", "force": True})
    assert answer.json()["cancelled"] is True
    assert answer.json()["status"] == "CANCELLED"
    assert ask(service, "POST", ONE + "/cancel").status_code == 200
    assert service.asked == [("e-1", "enough", True), ("e-1", "", False)]
    assert ask(service, "POST", ONE + "/cancel", json={"odd": 1}).status_code == 400
    assert ask(service, "POST", "/api/v1/executions/other/cancel").status_code == 404


# --- invocations ---


def test_an_invocation_in_proto3_json() -> None:
    service = hello()
    request = {
        "task_id": "id-hello",
        "executionMode": "EXECUTION_MODE_SYNC",
        "parameters": [
            {
                "name": "raw",
                "value": {"@type": "type.googleapis.com/spearlet.ExecutionData", "value": "aGk="},
            },
        ],
    }
    tree = ask(service, "POST", "/api/v1/invocations", json=request, headers={}).json()
    assert (tree["success"], tree["task_id"]) == (True, "id-hello")
    assert tree["result"]["status"] == "EXECUTION_STATUS_COMPLETED"
    assert called(service).task_name == "hello"


def test_an_invocation_that_would_create_a_task_needs_a_token() -> None:
    service = FakeService()
    request = {"task_id": "unknown", "execution_mode": 1}
    path = "/api/v1/invocations"
    assert ask(service, "POST", path, json=request, headers={}).status_code == 401
    answer = ask(service, "POST", path, json=request)
    assert answer.json()["result"]["error_code"] == "TASK_NOT_FOUND"


TOO_LARGE_A_NUMBER = (
    b'{"parameters": [{"value": {"@type": "google.protobuf.Struct", "value": {"": [1%s]}}}]}'
    % (b"0" * 400)
)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"odd": 1}', b'{"parameters": [{"value": 1}]}', TOO_LARGE_A_NUMBER],
    ids=["empty", "list", "cut", "unknown", "value", "number"],
)
def test_an_invocation_that_is_no_message_is_400(content: bytes) -> None:
    answer = ask(FakeService(), "POST", "/api/v1/invocations", content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


def test_an_invocation_ends_with_its_caller() -> None:
    service = FakeService()
    service.add("hello", hangs)
    content = b'{"task_id": "id-hello", "execution_mode": 1}'
    run(post(service, "/api/v1/invocations", [body(content), {"type": "http.disconnect"}]))
    assert service.tickets[0].cancelled == ["the caller went away"]


# --- what is alive, and figures ---


def test_live_views() -> None:
    service = hello()
    assert ask(service, "GET", "/api/v1/instances").json()["instances"][0]["state"] == "READY"
    assert ask(service, "GET", "/api/v1/pools").json()["pools"][0]["available"] == 2
    assert ask(service, "POST", "/api/v1/pools/hello/prewarm?count=3").json()["instances"] == 3
    assert ask(service, "POST", "/api/v1/pools/nobody/prewarm").status_code == 404
    assert ask(service, "GET", "/api/v1/breakers").json()["breakers"][0]["state"] == "closed"


@pytest.mark.parametrize(
    ("verb", "mode"), [("open", "forced_open"), ("disable", "disabled"), ("reset", "auto")]
)
def test_breakers_obey(verb: str, mode: str) -> None:
    service = hello()
    assert ask(service, "POST", f"/api/v1/breakers/hello/{verb}").json()["mode"] == mode
    assert ask(service, "POST", f"/api/v1/breakers/nobody/{verb}").status_code == 404


def test_probes() -> None:
    service = FakeService()
    assert ask(service, "GET", "/healthz").status_code == 200
    assert ask(service, "HEAD", "/readyz").status_code == 200
    service.is_ready = (False, "it is shutting down")
    answer = ask(service, "GET", "/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "it is shutting down")


def test_health_and_stats_are_the_grpc_answers() -> None:
    service = FakeService()
    health = ask(service, "GET", "/api/v1/health").json()
    assert (health["status"], health["healthy"], health["uptime_seconds"]) == (
        "healthy",
        True,
        "12",
    )
    stats = ask(service, "GET", "/api/v1/stats?time_range_hours=3").json()
    assert stats["service_stats"]["total_executions"] == 7
    assert service.asked == [3]


@pytest.mark.parametrize(("text", "seconds"), [("", 60), ("30s", 30), ("5m", 300), ("1.5", 1.5)])
def test_window(text: str, seconds: float) -> None:
    answer = ask(hello(), "GET", f"/api/serverless/metrics?task=hello&window={text}")
    assert answer.json()["window"]["duration_seconds"] == seconds
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("text", ["0", "-1", "301", "6m", "soon", "1h", "nan", "9" * 400])
def test_a_bad_window_is_400(text: str) -> None:
    answer = ask(FakeService(), "GET", f"/api/serverless/metrics?window={text}")
    assert answer.status_code == 400


def test_serverless_orientation() -> None:
    service = hello()
    pool = ask(service, "GET", "/api/serverless/health").json()
    assert pool == {"status": "ok", "pool": {"total": 2, "inUse": 0, "available": 2}}
    routes = ask(service, "GET", "/api/serverless/functions").json()["routes"]
    assert routes == [{"path": "/functions/hello", "task_name": "hello"}]


def test_prometheus_or_openmetrics() -> None:
    plain = ask(FakeService(), "GET", "/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    asked = ask(FakeService(), "GET", "/metrics", headers=accept)
    assert asked.headers["Content-Type"].startswith("application/openmetrics-text")
    assert asked.text == "# EOF\n"


def test_the_description_has_every_route() -> None:
    service = FakeService()
    described = ask(service, "GET", "/openapi.json").json()
    paths = {route.path.replace(":path", "") for route in front(service).routes}
    assert set(described["paths"]) == paths
    deploy = described["paths"]["/api/v1/tasks/{name}"]["put"]
    assert deploy["summary"].startswith("Deploys a task")
    assert {p["name"] for p in deploy["parameters"]} == {
        "name",
        "filename",
        "handler",
        "timeout_ms",
    }
    operations = [op for path in described["paths"].values() for op in path.values()]
    assert all(operation["summary"] for operation in operations)
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))


# --- mounting ---


def test_below_a_prefix_every_address_honours_it() -> None:
    service = hello()

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with service:
            yield

    outer = Starlette(routes=[Mount("/fn", front(service))], lifespan=lifespan)

    async def go() -> None:
        import httpx

        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            accepted = await client.post("/fn" + HELLO, headers={"Prefer": "respond-async"})
            assert accepted.headers["Location"] == "/fn/api/v1/executions/new-1"
            content = {"task_id": "id-hello", "execution_mode": 2}
            tree = (await client.post("/fn/api/v1/invocations", json=content)).json()
            assert tree["status_endpoint"] == "/fn/api/v1/executions/new-2/status"
            described = (await client.get("/fn/openapi.json")).json()
            assert described["servers"] == [{"url": "/fn"}]
            put = await client.put("/fn/api/v1/tasks/new", content=b"x", headers=BEARER)
            assert put.headers["Location"] == "/fn/api/v1/tasks/new"
            assert (await client.get("/fn/nowhere")).json()["code"] == "NOT_FOUND"

    run(go())


def test_at_the_top_it_opens_the_service_unless_it_is_open() -> None:
    service = FakeService()

    async def lives(app: Any) -> None:
        async with app.router.lifespan_context(app):
            assert service.is_open

    run(lives(front(service)))
    assert (service.opened, service.is_open) == (0, True)
    service.is_open = False
    run(lives(front(service)))
    assert (service.opened, service.is_open) == (1, False)
