"""Which calls are traced, which spans they make, and that a collector holds nobody up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from atlatl import events
from atlatl.core.tracing import is_root, root, sampled
from atlatl.errors import FunctionRaised, SettingInvalid
from atlatl.model import (
    Arguments,
    Call,
    Encoded,
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    failed,
)
from atlatl.settings import Settings, parse
from atlatl.telemetry import otlp, traces
from atlatl.telemetry.spans import CLIENT, CONSUMER, SERVER, Span, spans_of
from atlatl.telemetry.traces import Traces

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
CALL = Call(execution_id="e-1", task_name="hello", payload=Arguments(values={}))
DONE = Outcome(kind=OutcomeKind.SUCCESS, run_s=0.25)
STARTED = events.InstanceStarted(
    at=100.3, task_name="hello", instance_id="i-1", pid=1, origin="blank", init_s=0.2
)


class Sink:
    """Takes spans at once, or when it is told to."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.held = threading.Event()
        self.free = threading.Event()
        self.answer: Callable[[], bool] = lambda: True
        self.closed = False

    def export(self, spans: Sequence[Span]) -> bool:
        if self.held.is_set():
            self.free.wait(30)
        self.spans += spans
        return self.answer()

    def close(self) -> None:
        self.closed = True
        self.free.set()


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    monkeypatch.setattr(traces, "PAUSE_S", 0.001)
    sink = Sink()
    yield sink
    sink.free.set()


def tracing(sink: Sink, ratio: float = 1.0, chance: float = 0.5) -> Traces:
    return Traces(sink, sample_ratio=ratio, chance=lambda: chance, bits=lambda _: 0xABC)


def ended(traceparent: str = SAMPLED, **facts: Any) -> events.ExecutionFinished:
    execution = Execution(
        execution_id="e-1",
        task_id="t-1",
        task_name="hello",
        function_name="main",
        mode=facts.pop("mode", Mode.SYNC),
        status=ExecutionStatus.COMPLETED,
        queued_at=100.0,
        started_at=facts.pop("started_at", 100.5),
        completed_at=101.0,
        outcome=facts.pop("outcome", DONE),
        instance_id=facts.pop("instance_id", "i-1"),
        attempt=facts.pop("attempt", 1),
        version=2,
        cold_start=facts.pop("cold", False),
    )
    return events.ExecutionFinished(
        101.0, "hello", execution=execution, latency_s=1.0, traceparent=traceparent, **facts
    )


def by_name(spans: Sequence[Span]) -> dict[str, Span]:
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


# --- which calls ---


def test_a_callers_decision_holds(sink: Sink) -> None:
    always, never = tracing(sink, ratio=1.0), tracing(sink, ratio=0.0)
    for traceparent in (SAMPLED, UNSAMPLED):
        call = replace(CALL, traceparent=traceparent)
        assert always.begin(call) is never.begin(call) is call
    assert spans_of(ended(SAMPLED))
    assert spans_of(ended(UNSAMPLED)) == spans_of(ended("")) == []


@pytest.mark.parametrize(("ratio", "chance", "traced"), [(0.3, 0.29, True), (0.3, 0.3, False)])
def test_calls_without_a_trace_get_one_by_chance(
    sink: Sink, ratio: float, chance: float, traced: bool
) -> None:
    call = tracing(sink, ratio, chance).begin(CALL)
    assert (sampled(call.traceparent) is not None) == traced
    if traced:
        assert call.traceparent.startswith(f"00-{0xABC:032x}-")
        whole = by_name(spans_of(ended(call.traceparent)))["hello"]
        assert whole.parent_id == ""
    else:
        assert call is CALL


def test_only_our_own_traces_begin_with_us() -> None:
    own, callers = sampled(root(TRACE)), sampled(SAMPLED)
    assert own is not None
    assert callers is not None
    assert is_root(own)
    assert not is_root(callers)


# --- what the function is told ---


def test_the_function_goes_on_with_the_trace_in_its_run(sink: Sink) -> None:
    call = replace(CALL, traceparent=SAMPLED, headers={"traceparent": SAMPLED, "a": "b"})
    traced, encoded = tracing(sink).entering(call, Encoded(kind="arguments", body=b"{}"), 1)
    run = by_name(spans_of(ended()))["run"]
    assert traced.traceparent == f"00-{TRACE}-{run.span_id}-01"
    assert traced.headers == {"traceparent": traced.traceparent, "a": "b"}
    assert encoded.meta == {}
    second, _ = tracing(sink).entering(call, Encoded(kind="arguments", body=b"{}"), 2)
    assert second.traceparent != traced.traceparent


def test_a_function_that_takes_the_request_sees_the_header_changed(sink: Sink) -> None:
    meta = {"method": "GET", "headers": {"traceparent": SAMPLED, "a": "b"}}
    encoded = Encoded(kind="request", body=b"", meta=meta)
    call = replace(CALL, traceparent=SAMPLED)
    traced, told = tracing(sink).entering(call, encoded, 1)
    assert told.meta["headers"] == {"traceparent": traced.traceparent, "a": "b"}
    assert meta["headers"]["traceparent"] == SAMPLED  # a retry begins with it again


def test_a_call_that_is_not_traced_goes_in_as_it_came(sink: Sink) -> None:
    encoded = Encoded(kind="arguments", body=b"{}")
    for traceparent in ("", UNSAMPLED):
        call = replace(CALL, traceparent=traceparent)
        assert tracing(sink).entering(call, encoded, 1) == (call, encoded)


# --- which spans ---


def test_an_execution_has_a_queue_and_a_run() -> None:
    spans = by_name(spans_of(ended()))
    assert set(spans) == {"hello", "queue", "run"}
    whole = spans["hello"]
    assert (whole.parent_id, whole.kind, whole.error) == (PARENT, SERVER, "")
    assert (whole.began, whole.ended) == (100.0, 101.0)
    assert whole.attributes["faas.invocation_id"] == "e-1"
    assert whole.attributes["faas.version"] == "2"
    assert whole.attributes["faas.coldstart"] is False
    assert (spans["queue"].began, spans["queue"].ended) == (100.0, 100.5)
    assert (spans["run"].began, spans["run"].ended) == (100.5, 100.75)
    assert {spans["queue"].parent_id, spans["run"].parent_id} == {whole.span_id}
    assert len({span.span_id for span in spans.values()}) == 3


def test_a_cold_start_has_the_part_of_the_start_that_was_waited_for() -> None:
    spans = by_name(spans_of(ended(cold=True), STARTED))
    start = spans["start"]
    assert (start.began, start.ended) == (pytest.approx(100.1), 100.3)
    assert start.attributes["atlatl.origin"] == "blank"
    early = replace(STARTED, at=100.1, init_s=5.0)
    start = by_name(spans_of(ended(cold=True), early))["start"]
    assert (start.began, start.ended) == (100.0, 100.1)
    assert start.attributes["atlatl.init_ms"] == 5000
    before = replace(STARTED, at=99.0)
    assert "start" not in by_name(spans_of(ended(cold=True), before))


def test_a_failure_is_named_in_the_execution_and_in_its_run() -> None:
    spans = by_name(spans_of(ended(outcome=failed(FunctionRaised("ValueError: no")))))
    assert spans["hello"].error == spans["run"].error == "ValueError: no"
    assert spans["hello"].attributes["error.type"] == "EXECUTION_ERROR"
    assert spans["queue"].error == ""


def test_what_never_began_has_waited_to_its_end() -> None:
    spans = by_name(spans_of(ended(started_at=None, instance_id="", outcome=None)))
    assert set(spans) == {"hello", "queue"}
    assert spans["queue"].ended == 101.0
    # The times of an attempt before are not those of one that got no instance.
    assert "run" not in by_name(spans_of(ended(instance_id="", attempt=2)))


def test_attempts_are_runs_of_one_execution() -> None:
    first = events.AttemptFailed(
        at=100.4,
        task_name="hello",
        execution_id="e-1",
        attempt=1,
        code="INSTANCE_LOST",
        retry_in_s=0.1,
        queued_at=100.0,
        started_at=100.2,
        traceparent=SAMPLED,
    )
    before, last = spans_of(first), spans_of(ended(mode=Mode.ASYNC, attempt=2))
    assert [span.name for span in before] == ["queue", "run"]
    assert [span.name for span in last] == ["hello", "run"]
    assert last[0].kind == CONSUMER
    assert {span.parent_id for span in (*before, last[1])} == {last[0].span_id}
    assert before[1].error == "INSTANCE_LOST"
    assert before[1].span_id != last[1].span_id
    assert spans_of(replace(first, started_at=None)) == []
    again = spans_of(ended(mode=Mode.ASYNC, attempt=3, redriven=True))
    assert again[0].span_id != last[0].span_id


def test_a_refusal_and_a_callback_are_spans() -> None:
    refused = events.CallRefused(
        at=5.0, task_name="", execution_id="e-2", outcome="invalid", code="TASK_NOT_FOUND",
        traceparent=SAMPLED,
    )  # fmt: skip
    [span] = spans_of(refused)
    assert (span.parent_id, span.error, span.began) == (PARENT, "TASK_NOT_FOUND", span.ended)
    told = events.CallbackTried(
        at=9.0,
        task_name="hello",
        execution_id="e-1",
        tries=2,
        failure="refused by https://user:secret@example.org/x?token=1",
        took_s=0.5,
        traceparent=SAMPLED,
        span_id="ab" * 8,
    )
    [span] = spans_of(told)
    assert (span.kind, span.span_id, span.began) == (CLIENT, "ab" * 8, 8.5)
    assert span.parent_id == by_name(spans_of(ended()))["hello"].span_id
    assert "secret" not in span.error
    assert "token" not in span.error


def test_one_execution_id_twice_in_a_trace_has_spans_of_its_own() -> None:
    """A function may hand its id on to another service, as the key of a call that it makes."""
    outer = spans_of(ended(SAMPLED))
    inner = spans_of(ended(f"00-{TRACE}-{outer[-1].span_id}-01"))
    assert not {span.span_id for span in outer} & {span.span_id for span in inner}


# --- on their way ---


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_spans_are_sent_and_counted(sink: Sink) -> None:
    it = tracing(sink)
    it.emit(STARTED)
    it.emit(ended(cold=True))
    it.emit(ended(UNSAMPLED))
    it.emit(events.TaskDeleted(at=0.0, task_name="hello"))
    it.close()
    assert [span.name for span in sink.spans] == ["hello", "queue", "start", "run"]
    assert it.counts() == {"exported": 1, "dropped": 0, "failed": 0}
    assert sink.closed


def test_a_collector_that_hangs_holds_nobody_up_and_costs_what_does_not_fit(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MAX_WAITING", 10)
    sink.held.set()
    it = tracing(sink)
    it.emit(ended())
    wait_for(lambda: not it._waiting)  # the thread has it, and hangs
    for _ in range(25):
        it.emit(ended())
    assert it.counts() == {"exported": 0, "dropped": 15, "failed": 0}
    it.close(timeout_s=0.01)  # does not wait for ever either
    wait_for(lambda: it.counts()["exported"] == 11)


def test_many_events_and_an_end_are_not_kept_waiting(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "PAUSE_S", 1000.0)
    monkeypatch.setattr(traces, "ENOUGH", 3)
    it = tracing(sink)
    for _ in range(3):
        it.emit(ended())
    wait_for(lambda: it.counts()["exported"] == 3)
    it.emit(ended())
    it.close(timeout_s=100.0)
    assert it.counts() == {"exported": 4, "dropped": 0, "failed": 0}


@pytest.mark.parametrize("trouble", ["refuses", "raises"])
def test_what_the_collector_does_not_take_is_counted(
    sink: Sink, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    def answer() -> bool:
        if trouble == "raises":
            raise RuntimeError("no route")
        return False

    sink.answer = answer
    it = tracing(sink)
    it.emit(ended())
    wait_for(lambda: it.counts()["failed"] == 1)
    sink.answer = lambda: True
    it.emit(ended())
    it.close()
    assert it.counts() == {"exported": 1, "dropped": 0, "failed": 1}
    assert ("could not be exported" in caplog.text) == (trouble == "raises")


def test_starts_that_nobody_waits_for_are_forgotten(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MAX_STARTS", 3)
    it = tracing(sink)
    for number in range(10):
        it.emit(replace(STARTED, instance_id=f"i-{number}"))
    assert list(it._starts) == ["i-7", "i-8", "i-9"]


# --- settings ---


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"traces_endpoint": "collector:4318"}, "http or https URL"),
        ({"traces_sample_ratio": 1.5}, "from 0 to 1"),
        ({"max_task_names": 0}, "above 0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingInvalid, match=said):
        parse(Settings, {"telemetry": wrong})


def test_without_opentelemetry_one_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(endpoint: str, version: str) -> Any:
        raise ModuleNotFoundError("no", name="opentelemetry.sdk")

    monkeypatch.setattr(otlp, "_OtlpExporter", missing)
    with pytest.raises(SettingInvalid, match=r"pip install .atlatl\[traces\]"):
        otlp.otlp_exporter("http://127.0.0.1:4318/v1/traces", "1")
