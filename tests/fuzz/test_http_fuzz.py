"""Whatever arrives over HTTP, the answer is one that is documented, and nothing stays behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from atlatl.errors import TaskNotFound
from tests.fuzz import requests
from tests.fuzz.field import LONG_S, Field, examples, opened
from tests.fuzz.requests import DEEP, Asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BUGS = {"RUNTIME_ERROR", "SYNC_EXECUTION_FAILED", "IO_ERROR"}
PROBLEM = "application/problem+json"
PROMISES = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
]
MEMBERS = {"type", "title", "status", "detail", "code", "execution_id", "retryable"}


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with opened(tmp_path_factory.mktemp("http") / "data") as field:
        yield field


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """As it is by default: on loopback a few things need no token."""
    with opened(tmp_path_factory.mktemp("guarded") / "data", required="auto") as field:
        yield field


@pytest.fixture(autouse=True)
def good_afterwards(field: Field) -> Iterator[None]:
    yield
    field.run(field.restore())
    field.run(field.check())


async def ask(field: Field, asked: Asked) -> tuple[int, dict[str, str], bytes]:
    """The checked answer of the ASGI application, without a client that tidies the request."""
    status, headers, body = await field.asgi(asked)
    check(asked, status, headers, body)
    return status, headers, body


def check(asked: Asked, status: int, headers: dict[str, str], body: bytes) -> None:
    shown = f"{asked!r} -> {status} {headers} {body[:1000]!r}"
    assert 200 <= status < 600, shown
    if status == 499:
        return
    if status < 400:
        if body:
            assert "content-type" in headers, shown
        if headers.get("content-type", "").startswith("application/json") and body:
            json.loads(body, parse_constant=_no_constant)
        return
    if asked.path.startswith("/readyz") and status == 503:
        return
    assert headers["content-type"] == PROBLEM, shown
    if asked.method == "HEAD":
        return
    problem = json.loads(body, parse_constant=_no_constant)
    assert set(problem) >= MEMBERS, shown
    assert problem["status"] == status, shown
    assert problem["code"] not in BUGS, shown
    assert "Traceback" not in problem["detail"], shown
    assert "its log says why" not in problem["detail"], shown
    if status == 405:
        assert headers["allow"], shown
    assert int(headers.get("content-length", len(body))) == len(body), shown


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


async def exchange(field: Field, asked: Asked) -> tuple[int, dict[str, str], bytes]:
    answer = await ask(field, asked)
    await field.at_rest()
    return answer


@examples(400)
@given(requests.asked)
def test_any_request(field: Field, asked: Asked) -> None:
    field.run(exchange(field, asked))
    field.run(field.restore())


@examples(250)
@given(requests.asked)
def test_any_request_without_a_token(guarded: Field, asked: Asked) -> None:
    guarded.run(exchange(guarded, asked))
    names = {task.name for task in guarded.service.tasks().items}
    assert names == guarded.deployed


@examples(150)
@given(requests.deploys)
def test_any_form_to_deploy(field: Field, asked: Asked) -> None:
    before = field.service.tasks().items
    status, _, _ = field.run(exchange(field, asked))
    if status >= 400:
        assert field.service.tasks().items == before
    field.run(field.restore())


@examples(200)
@given(requests.invocations)
def test_any_invocation(field: Field, asked: Asked) -> None:
    field.run(exchange(field, asked))


@examples(200)
@given(requests.submissions)
def test_any_async_call(field: Field, asked: Asked) -> None:
    """What is accepted can be looked up from then on, and ends."""
    status, headers, _ = field.run(ask(field, asked))
    assert status == 202 or status >= 400
    if status == 202:
        where = Asked("GET", headers["location"], [], b"")
        assert field.run(ask(field, where))[0] == 200
    field.run(field.at_rest())


# --- one by one ---


ASYNC = (b"prefer", b"respond-async")


def test_a_breaker_that_was_forced_open_holds_up_no_later_test(field: Field) -> None:
    field.run(exchange(field, Asked("POST", "/api/v1/breakers/main/open", [], b"")))
    assert field.run(ask(field, Asked("POST", "/functions/main", [], b"{}")))[0] == 503
    field.run(field.restore())
    assert field.run(exchange(field, Asked("POST", "/functions/main", [ASYNC], b"{}")))[0] == 202


def test_a_host_whose_punycode_is_none_is_no_crash(field: Field) -> None:
    headers = [ASYNC, (b"atlatl-callback-url", b"http://xn--a.invalid/")]
    answered, _, _ = field.run(exchange(field, Asked("POST", "/functions/main", headers, b"{}")))
    assert answered in (202, 400)


@pytest.mark.parametrize("headers", [[], [ASYNC]])
@pytest.mark.parametrize("body", [b"100", b'{"s": 1e9}'])
def test_no_call_that_a_strategy_makes_takes_long(
    field: Field, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Else a property would fail now and then, and take minutes to find the smallest example."""
    asked = Asked(
        "POST", "/functions/nap", [(b"content-type", b"application/json"), *headers], body
    )
    began = field.loop.time()
    assert field.run(exchange(field, asked))[0] in (200, 202)
    assert field.loop.time() - began < LONG_S / 2


def refused(field: Field, asked: Asked, status: int = 400) -> dict[str, Any]:
    """The problem document that a request is answered with."""
    answered, _, body = field.run(exchange(field, asked))
    assert answered == status, body[:1000]
    problem = json.loads(body)
    assert isinstance(problem, dict)
    return problem


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"parameters":[{"value":', b'{"reason":'])
@pytest.mark.parametrize(
    "path",
    ["/functions/main", "/functions/add", "/api/v1/invocations", "/api/v1/executions/e/cancel"],
)
def test_json_nested_deep(field: Field, path: str, opening: bytes) -> None:
    depth = min(DEEP, 60_000 // len(opening))
    headers = [(b"content-type", b"application/json")]
    refused(field, Asked("POST", path, headers, opening * depth))


def test_settings_nested_deep(field: Field) -> None:
    settings = b'{"labels":' * DEEP + b"1" + b"}" * DEEP
    head = b'Content-Disposition: form-data; name="artifact"; filename="app.py"'
    other = b'Content-Disposition: form-data; name="settings"'
    body = requests.form([(head, b"def main(): pass"), (other, settings)])
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    refused(field, Asked("PUT", "/api/v1/tasks/made", headers, body))


@pytest.mark.parametrize("name", ["limit", "timeout_ms", "time_range_hours", "count"])
@pytest.mark.parametrize("value", ["-1", "9" * 400, "9" * 5000, "²", "٣", "1e3", "0x10", "NaN"])
def test_counts_that_are_none(field: Field, name: str, value: str) -> None:
    paths = {
        "limit": ("GET", "/api/v1/tasks"),
        "timeout_ms": ("PUT", "/api/v1/tasks/made"),
        "time_range_hours": ("GET", "/api/v1/stats"),
        "count": ("POST", "/api/v1/pools/main/prewarm"),
    }
    method, path = paths[name]
    problem = refused(
        field, Asked(method, f"{path}?{name}={quote(value)}", [], b"def main(): pass")
    )
    assert name in problem["detail"]
    assert len(problem["detail"]) < 400


@pytest.mark.parametrize("host", [b"[", b"[::1", b"a b", b"\xff", b"127.0.0.1:99999999"])
def test_a_malformed_host_is_no_crash(field: Field, guarded: Field, host: bytes) -> None:
    answered, _, _ = field.run(
        exchange(field, Asked("GET", "/nothing/here", [(b"host", host)], b""))
    )
    assert answered == 404
    answered, _, _ = guarded.run(exchange(guarded, Asked("GET", "/", [(b"host", host)], b"")))
    assert answered in (200, 403)


def test_a_malformed_origin_is_a_foreign_one(guarded: Field) -> None:
    for origin in (b"http://[", b"//[", b"http://[::1"):
        asked = Asked("POST", "/functions/main", [(b"origin", origin)], b"{}")
        assert refused(guarded, asked, 403)["code"] == "PERMISSION_DENIED"


def test_a_form_that_breaks_off_changes_nothing(field: Field) -> None:
    """What is missing may be the settings: without them another task would be deployed."""
    head = b'Content-Disposition: form-data; name="artifact"; filename="app.py"'
    other = b'Content-Disposition: form-data; name="settings"'
    whole = requests.form([(head, b"def main(): pass"), (other, b'{"timeout_ms": 5}')])
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    for cut in (whole.index(b"timeout"), whole.index(other), len(whole) - 6):
        problem = refused(field, Asked("PUT", "/api/v1/tasks/made", headers, whole[:cut]))
        assert "closing boundary" in problem["detail"]
    with pytest.raises(TaskNotFound):
        field.service.task("made")
    answered, _, _ = field.run(ask(field, Asked("PUT", "/api/v1/tasks/made", headers, whole)))
    assert answered == 201
    assert field.service.task("made").settings.timeout_ms == 5


@pytest.mark.parametrize("charset", ["idna", "punycode", "hex", "rot13", "bogus", "utf-16"])
def test_the_charset_of_a_form_is_no_crash(field: Field, charset: str) -> None:
    head = b'Content-Disposition: form-data; name="' + b"a" * 100 + b'"; filename="\xff\xfe"'
    media_type = f"multipart/form-data; boundary=b; charset={charset}".encode()
    body = requests.form([(head, b"x")])
    refused(field, Asked("PUT", "/api/v1/tasks/made", [(b"content-type", media_type)], body))


@pytest.mark.parametrize(
    "value",
    [
        {"@type": 5},
        {"@type": None, "value": 1},
        {"@type": "type.googleapis.com/google.protobuf.StringValue"},
        {"@type": "type.googleapis.com/google.protobuf.Struct"},
        {"@type": "type.googleapis.com/google.protobuf.ListValue", "value": {}},
        {"@type": "type.googleapis.com/spearlet.ExecutionData", "value": "é"},
        {"@type": "type.googleapis.com/spearlet.ExecutionData", "value": "====="},
        {"value": "no type"},
        [],
        "text",
    ],
)
def test_values_that_are_no_any(field: Field, value: Any) -> None:
    tree = {"task_id": "main", "execution_mode": 1, "parameters": [{"name": "a", "value": value}]}
    refused(field, Asked("POST", "/api/v1/invocations", [], json.dumps(tree).encode()))


# --- from the description of the API ---


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Everything but the probes needs a token."""
    with opened(tmp_path_factory.mktemp("closed") / "data", required=True) as field:
        yield field


def _cases(operation: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(schemathesis.GenerationMode)).flatmap(
        lambda mode: operation.as_strategy(generation_mode=mode)
    )


def test_what_the_description_promises(closed: Field) -> None:
    """Schemathesis reads `/openapi.json` and asks for everything that stands there."""
    url = f"http://127.0.0.1:{closed.listener.port}"
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    every = [result.ok() for result in described.get_all_operations()]
    # The stream of events has no end that one could wait for; tests of its own read it.
    operations = [each for each in every if each.path != "/api/v1/events"]
    assert len(operations) > 30

    @examples(400)
    @given(st.sampled_from(operations).flatmap(_cases))
    def promised(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {closed.token}"}
        answer = case.call(headers=headers, timeout=LONG_S)
        case.validate_response(answer, checks=PROMISES)
        assert answer.headers.get("content-type") != PROBLEM or answer.json()["code"] not in BUGS
        closed.run(closed.at_rest())

    promised()
    closed.run(closed.restore())


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic eA==", "Bearer", "Bearer \xff", ""])
def test_what_the_description_says_about_tokens(closed: Field, token: str | None) -> None:
    document = json.loads(closed.run(ask(closed, Asked("GET", "/openapi.json", [], b"")))[2])
    headers = [] if token is None else [(b"authorization", token.encode("latin-1"))]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            asked = Asked(method.upper(), re.sub(r"{\w+}", "main", path), headers, b"")
            answered, _, _ = closed.run(ask(closed, asked))
            assert (answered == 401) == bool(operation["security"]), (method, path, answered)
