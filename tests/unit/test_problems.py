"""Failures over HTTP."""

from __future__ import annotations

import msgspec
import pytest

from atlatl import errors
from atlatl.front.problems import problem_headers
from atlatl.problem import problem
from tests.unit.front_fakes import BEARER, FakeService, ask, fails, returns

MEMBERS = {"type", "title", "status", "detail", "code", "execution_id", "retryable"}


def leaves(kind: type[errors.AtlatlError]) -> list[type[errors.AtlatlError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    own = [kind] if "code" in vars(kind) else []
    return own + below


@pytest.mark.parametrize("leaf", leaves(errors.AtlatlError))
def test_every_error_has_its_document(leaf: type[errors.AtlatlError]) -> None:
    error = leaf.__new__(leaf)
    errors.AtlatlError.__init__(error, "what happened", detail="secret traceback")
    document = problem(error, execution_id="e-1")
    assert set(document) == MEMBERS
    assert document["status"] == leaf.http_status
    assert document["code"] == leaf.code
    assert document["retryable"] is leaf.retryable
    assert "secret" not in msgspec.json.encode(document).decode()


@pytest.mark.parametrize(
    ("hint", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30.0, "30")]
)
def test_the_hint_is_rounded_up_to_whole_seconds(hint: float, header: str) -> None:
    error = errors.QueueFull("full", retry_after_s=hint)
    assert problem_headers(error)["Retry-After"] == header


def test_no_hint_no_header() -> None:
    assert "Retry-After" not in problem_headers(errors.QueueFull("full"))
    assert "Retry-After" not in problem_headers(
        errors.QueueFull("full", retry_after_s=float("inf"))
    )


def test_an_open_breaker_is_503_with_a_hint() -> None:
    """D16: a refusal carries a hint."""
    service = FakeService()
    service.add("hello", fails(errors.CircuitOpenError("hello", retry_after_s=12.3)))
    answer = ask(service, "POST", "/functions/hello")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "13"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "CIRCUIT_OPEN"
    assert answer.json()["retryable"] is True
    assert answer.json()["execution_id"] == answer.headers["Atlatl-Execution-Id"] == "new-1"


def test_a_strangers_answer_has_no_traceback() -> None:
    service = FakeService()
    service.add("hello", fails(errors.FunctionRaised("ValueError: no", detail="Traceback: x.py")))
    answer = ask(service, "POST", "/functions/hello")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "ValueError: no"
    assert "Traceback" not in answer.text


def test_unknown_addresses_and_methods() -> None:
    service = FakeService()
    unknown = ask(service, "GET", "/nowhere")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "NOT_FOUND")
    assert "/nowhere" in unknown.json()["detail"]
    wrong = ask(service, "POST", "/api/v1/tasks/x")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.headers["Allow"] == "DELETE, GET, HEAD, PUT"
    assert set(unknown.json()) == set(wrong.json()) == MEMBERS


def test_a_bug_is_500_and_its_traceback_is_in_the_log_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = FakeService()
    service.health = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    answer = ask(service, "GET", "/api/v1/health", headers=BEARER)
    assert answer.status_code == 500
    assert set(answer.json()) == MEMBERS
    assert "ZeroDivision" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_a_service_that_is_not_open_answers_503_and_says_what_to_do() -> None:
    service = FakeService()
    service.add("hello", returns("json", b"1"))
    service.is_open = False
    answer = ask(service, "POST", "/functions/hello")
    assert (answer.status_code, answer.json()["code"]) == (503, "DRAINING")
    assert "lifespan" in answer.json()["detail"]
    assert ask(service, "GET", "/healthz").status_code == 200
