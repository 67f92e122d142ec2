"""What the gRPC messages mean, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2, wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from atlatl.engine.views import (
    CancelAnswer,
    Deletion,
    Figures,
    Health,
    Page,
    TaskView,
)
from atlatl.errors import (
    CircuitOpenError,
    FunctionRaised,
    InvalidRequest,
    StreamModeNotSupported,
    UnknownExecutionMode,
)
from atlatl.front import codec, reports
from atlatl.front.parameters import payload
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto_json import to_json
from atlatl.model import (
    Arguments,
    Artifact,
    Event,
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Result,
    Task,
    TaskState,
    failed,
)
from atlatl.settings import TaskSettings

EVERY_MODE_NUMBER = [-1, 0, 1, 2, 3, 4, 99, 2**31 - 1]


def parameter(message: Any, name: str = "x", **fields: Any) -> pb.FunctionParameter:
    wrapped = pb.FunctionParameter(name=name, **fields)
    wrapped.value.Pack(message)
    return wrapped


def raw(type_url: str, content: bytes, *, declared: str = "") -> pb.FunctionParameter:
    value = AnyMessage(type_url=type_url, value=content)
    return pb.FunctionParameter(name="x", type=declared, value=value)


def read(given_parameter: pb.FunctionParameter) -> Any:
    decoded = payload([given_parameter])
    assert isinstance(decoded, Arguments)
    return decoded.values["x"]


def struct(tree: dict[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(tree, struct_pb2.Struct())


# --- parameters (D82) ---


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (wrappers_pb2.StringValue(value="héllo"), "héllo"),
        (wrappers_pb2.StringValue(), ""),
        (wrappers_pb2.BytesValue(value=b"\x00\xff"), b"\x00\xff"),
        (wrappers_pb2.BoolValue(value=True), True),
        (wrappers_pb2.BoolValue(), False),
        (wrappers_pb2.Int32Value(value=-7), -7),
        (wrappers_pb2.Int64Value(value=-(2**63)), -(2**63)),
        (wrappers_pb2.UInt32Value(value=2**32 - 1), 2**32 - 1),
        (wrappers_pb2.UInt64Value(value=2**64 - 1), 2**64 - 1),
        (wrappers_pb2.FloatValue(value=0.5), 0.5),
        (wrappers_pb2.DoubleValue(value=3.0), 3.0),
        (
            struct({"a": [1, 2.5, None, "t", True, {"b": {}}]}),
            {"a": [1, 2.5, None, "t", True, {"b": {}}]},
        ),
        (struct_pb2.Value(string_value="s"), "s"),
        (struct_pb2.Value(null_value=struct_pb2.NULL_VALUE), None),
        (struct_pb2.Value(), None),
        (struct_pb2.ListValue(), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_well_known_types_are_decoded(message: Any, value: Any) -> None:
    decoded = read(parameter(message))
    assert decoded == value
    assert type(decoded) is type(value)


def test_a_whole_number_of_a_struct_is_an_integer() -> None:
    decoded = read(parameter(struct({"n": 3, "big": 1e300})))
    assert (decoded, type(decoded["n"])) == ({"n": 3, "big": 1e300}, int)


@pytest.mark.parametrize(
    ("declared", "content", "value"),
    [
        ("", b"\xff\x00", b"\xff\x00"),
        ("integer", b"5", b"5"),
        ("json", b'{"a": [1, null]}', {"a": [1, None]}),
        (" JSON ", b"5", 5),
        ("string", "é".encode(), "é"),
        ("string", b"", ""),
    ],
)
@pytest.mark.parametrize("type_url", ["", "type.googleapis.com/my.Own", "nonsense"])
def test_other_types_are_bytes_unless_declared(
    type_url: str, declared: str, content: bytes, value: Any
) -> None:
    assert read(raw(type_url, content, declared=declared)) == value


@pytest.mark.parametrize("content", ["hello", "he", "héllo wörld", "{}", "ok ok", "\t"])
def test_bare_text_under_the_name_of_string_value_is_that_text(content: str) -> None:
    """ "he" parses: as a StringValue with an unknown field 13."""
    url = "type.googleapis.com/google.protobuf.StringValue"
    assert read(raw(url, content.encode())) == content


@given(st.text())
def test_every_text_survives_as_string_value(content: str) -> None:
    assert read(parameter(wrappers_pb2.StringValue(value=content))) == content


@pytest.mark.parametrize(
    "refused",
    [
        raw("", b"{", declared="json"),
        raw("", b"NaN", declared="json"),
        raw("", b"[" * 100_000, declared="json"),
        raw("", b"\xff", declared="string"),
        raw("type.googleapis.com/google.protobuf.StringValue", b"\xff\xff"),
        raw("type.googleapis.com/google.protobuf.Int64Value", b"\xff"),
        raw("type.googleapis.com/google.protobuf.Struct", b"\x0a\xff"),
        parameter(wrappers_pb2.DoubleValue(value=float("nan"))),
        parameter(wrappers_pb2.FloatValue(value=float("inf"))),
        parameter(struct_pb2.Value(number_value=float("nan"))),
    ],
)
def test_unreadable_values_are_refused_by_name(refused: pb.FunctionParameter) -> None:
    with pytest.raises(InvalidRequest, match="'x' cannot be read as"):
        payload([refused])


def test_a_deep_struct_is_refused_or_read_but_never_crashes() -> None:
    deep = b""
    for _ in range(5000):
        inner = b"\x32" + _varint(len(deep)) + deep
        deep = b"\x0a" + _varint(len(inner)) + inner
    with pytest.raises(InvalidRequest):
        payload([raw("type.googleapis.com/google.protobuf.ListValue", deep)])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_a_missing_value_is_left_to_the_default_unless_required() -> None:
    assert payload([pb.FunctionParameter(name="x")]) == Arguments(values={})
    with pytest.raises(InvalidRequest, match="'x' is required"):
        payload([pb.FunctionParameter(name="x", required=True)])
    present = pb.FunctionParameter(name="x", required=True, value=AnyMessage())
    assert payload([present]) == Arguments(values={"x": b""})


@pytest.mark.parametrize("name", ["x", "x" * 10_000, "\x00\x1b", ""])
def test_a_name_may_stand_only_once(name: str) -> None:
    twice = [parameter(wrappers_pb2.Int32Value(), name=name)] * 2
    with pytest.raises(InvalidRequest, match="more than once") as caught:
        payload(twice)
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()


def test_one_parameter_without_a_name_is_the_event() -> None:
    nameless = parameter(struct_pb2.Value(string_value="all"), name="")
    assert payload([nameless]) == Event(value="all")
    with pytest.raises(InvalidRequest, match="without a name"):
        payload([nameless, parameter(wrappers_pb2.Int32Value())])


# --- requests ---


@pytest.mark.parametrize("number", EVERY_MODE_NUMBER)
@pytest.mark.parametrize("wait", [False, True])
def test_modes(number: int, wait: bool) -> None:
    request = pb.InvokeFunctionRequest(wait=wait)
    request.execution_mode = number  # type: ignore[assignment]
    if number == 3:
        with pytest.raises(StreamModeNotSupported):
            codec.asked_mode(request)
    elif number == 1 or wait:
        assert codec.asked_mode(request) is Mode.SYNC
    elif number == 2:
        assert codec.asked_mode(request) is Mode.ASYNC
    else:
        with pytest.raises(UnknownExecutionMode):
            codec.asked_mode(request)


@pytest.mark.parametrize("number", EVERY_MODE_NUMBER)
def test_unknown_enum_numbers_count_as_0(number: int) -> None:
    request = pb.InvokeFunctionRequest()
    request.invocation_type = number  # type: ignore[assignment]
    expected = {1: "new", 2: "existing"}.get(number, "unknown")
    assert codec.target(request).invocation_type == expected
    assert (codec.status_filter(number) is None) == (number not in range(1, 7))


def test_target_carries_all_that_was_said_d62_d64() -> None:
    request = pb.InvokeFunctionRequest(
        invocation_type=pb.INVOCATION_TYPE_NEW_TASK,
        task_name="n",
        task_description="d",
        task_id="t",
        create_if_not_exists=True,
        artifact_spec=pb.ArtifactSpec(
            artifact_id="a",
            artifact_type="zip",
            location="l",
            version="v",
            checksum="c",
            metadata={"k": "v"},
        ),
    )
    target = codec.target(request)
    assert (target.task_name, target.task_description, target.task_id) == ("n", "d", "t")
    assert target.create_if_not_exists
    spec = target.spec
    assert spec is not None
    assert (spec.artifact_id, spec.artifact_type, spec.location) == ("a", "zip", "l")
    assert (spec.version, spec.checksum, spec.metadata) == ("v", "c", {"k": "v"})
    assert codec.target(pb.InvokeFunctionRequest()).spec is None


@pytest.mark.parametrize(
    ("own", "context", "expected"),
    [("a", "b", "a"), ("", "b", "b"), (None, "b", "b"), (None, "", ""), ("", "", "")],
)
def test_order_of_execution_ids_d79(own: str | None, context: str, expected: str) -> None:
    request = pb.InvokeFunctionRequest(context=pb.ExecutionContext(execution_id=context))
    if own is not None:
        request.execution_id = own
    assert codec.wanted_id(request) == expected
    assert codec.call(request, Mode.SYNC, "x", {}).id_given == bool(expected)


@pytest.mark.parametrize("wanted", ["a b", "x" * 129, "x" * 10_000, "é", "a\x00", "\n"])
def test_impossible_execution_ids_are_refused(wanted: str) -> None:
    with pytest.raises(InvalidRequest, match="execution id"):
        codec.wanted_id(pb.InvokeFunctionRequest(execution_id=wanted))


def test_call_carries_all_that_was_said_d64_d82() -> None:
    request = pb.InvokeFunctionRequest(
        function_name="other",
        force_new_instance=True,
        parameters=[parameter(wrappers_pb2.Int64Value(value=5))],
        invocation_metadata={"label": "1"},
        context=pb.ExecutionContext(
            session_id="s",
            user_id="u",
            environment={"A": "1"},
            headers={"X-Custom": "h"},
            timeout_ms=1234,
            max_retries=2,
        ),
    )
    call = codec.call(request, Mode.STREAM, "id", {"x-custom": "not this"})
    assert call.payload == Arguments(values={"x": 5})
    assert (call.function, call.force_new_instance, call.mode) == ("other", True, Mode.STREAM)
    assert (call.timeout_ms, call.max_retries, call.execution_id) == (1234, 2, "id")
    assert (call.environment, call.headers) == ({"A": "1"}, {"x-custom": "h"})
    assert call.metadata == {"label": "1", "session_id": "s", "user_id": "u"}


def test_an_empty_request_asks_for_the_defaults_d65() -> None:
    call = codec.call(pb.InvokeFunctionRequest(), Mode.SYNC, "id", {})
    assert (call.timeout_ms, call.max_retries, call.payload) == (0, None, Arguments(values={}))
    assert (call.traceparent, call.id_given, call.environment) == ("", False, {})
    with_context = pb.InvokeFunctionRequest(context=pb.ExecutionContext())
    assert codec.call(with_context, Mode.SYNC, "id", {}).max_retries == 0


@pytest.mark.parametrize("context", [{"timeout_ms": -1}, {"max_retries": -(2**31)}])
def test_negative_limits_are_refused(context: dict[str, int]) -> None:
    request = pb.InvokeFunctionRequest(context=pb.ExecutionContext(**context))
    with pytest.raises(InvalidRequest, match="must be 0 or more"):
        codec.call(request, Mode.SYNC, "id", {})


@pytest.mark.parametrize(
    "environment", [{"": "1"}, {"A=B": "1"}, {"A\0": "1"}, {"A": "\0"}, {"=" * 10_000: ""}]
)
def test_impossible_environments_are_refused(environment: dict[str, str]) -> None:
    request = pb.InvokeFunctionRequest(context=pb.ExecutionContext(environment=environment))
    with pytest.raises(InvalidRequest, match="environment variable") as caught:
        codec.call(request, Mode.SYNC, "id", {})
    assert len(caught.value.message) < 400


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-11111111111111111111111111111111-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("in_message", "in_transport", "expected"),
    [
        ({"Traceparent": TRACE, "tracestate": "a=1"}, {"traceparent": OTHER_TRACE}, (TRACE, "a=1")),
        ({}, {"traceparent": TRACE, "tracestate": "b=2"}, (TRACE, "b=2")),
        ({}, {"traceparent": "00-zz-1-1", "tracestate": "b=2"}, ("", "")),
        ({}, {"traceparent": f"00-{'0' * 32}-{'1' * 16}-01"}, ("", "")),
        ({}, {}, ("", "")),
    ],
)
def test_trace_context(
    in_message: dict[str, str], in_transport: dict[str, str], expected: tuple[str, str]
) -> None:
    request = pb.InvokeFunctionRequest(context=pb.ExecutionContext(headers=in_message))
    call = codec.call(request, Mode.SYNC, "id", in_transport)
    assert (call.traceparent, call.tracestate) == expected


@pytest.mark.parametrize(("wanted", "size"), [(0, 100), (1, 1), (1000, 1000), (2**31 - 1, 1000)])
def test_page_sizes(wanted: int, size: int) -> None:
    assert codec.page_size("limit", wanted, 100) == size


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="`limit`"):
        codec.page_size("limit", -1, 100)


# --- answers ---


def execution(outcome: Outcome | None = None, **fields: Any) -> Execution:
    status = outcome.status if outcome else fields.pop("status", ExecutionStatus.RUNNING)
    facts: dict[str, Any] = {
        "execution_id": "e",
        "task_id": "t",
        "task_name": "n",
        "function_name": "f",
        "mode": Mode.SYNC,
        "status": status,
        "outcome": outcome,
        "queued_at": 1_700_000_000.0,
    }
    return Execution(**facts | fields)


def success(body: bytes = b"null", **facts: Any) -> Outcome:
    return Outcome(kind=OutcomeKind.SUCCESS, result=Result(kind="json", body=body), **facts)


def test_a_completed_call() -> None:
    answer = codec.invoked(
        execution(
            success(b'{"a":1}', run_s=0.0125, memory_bytes=4096),
            started_at=1_700_000_000.25,
            completed_at=1_700_000_001.5,
            instance_id="i",
            queue_s=0.25,
            cold_start=True,
        )
    )
    assert (answer.success, answer.execution_id, answer.task_id, answer.instance_id) == (
        True,
        "e",
        "t",
        "i",
    )
    assert (answer.status_endpoint, answer.estimated_completion_ms) == ("", 0)
    result = answer.result
    assert result.status == pb.EXECUTION_STATUS_COMPLETED
    assert result.result.type_url == "type.googleapis.com/spearlet.ExecutionData"
    assert result.result.value == b'{"a":1}'
    assert (result.execution_time_ms, result.memory_used_bytes) == (12, 4096)
    assert (result.started_at.seconds, result.started_at.nanos) == (1_700_000_000, 250_000_000)
    assert (result.completed_at.seconds, result.completed_at.nanos) == (1_700_000_001, 500_000_000)
    assert result.metrics["queue_time_ms"] == "250"
    assert result.metrics["cold_start"] == "1"
    assert result.metrics["content_type"] == "application/json"
    assert (result.error_code, result.error_message) == ("", "")


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (OutcomeKind.SUCCESS, pb.EXECUTION_STATUS_COMPLETED),
        (OutcomeKind.ERROR, pb.EXECUTION_STATUS_FAILED),
        (OutcomeKind.CRASHED, pb.EXECUTION_STATUS_FAILED),
        (OutcomeKind.REJECTED, pb.EXECUTION_STATUS_FAILED),
        (OutcomeKind.INVALID, pb.EXECUTION_STATUS_FAILED),
        (OutcomeKind.CANCELLED, pb.EXECUTION_STATUS_CANCELLED),
        (OutcomeKind.TIMEOUT, pb.EXECUTION_STATUS_TIMEOUT),
    ],
)
def test_success_is_true_exactly_when_completed_d81(kind: OutcomeKind, number: int) -> None:
    answer = codec.invoked(execution(Outcome(kind=kind)))
    assert answer.result.status == number
    assert answer.success == (kind is OutcomeKind.SUCCESS)


def test_a_failure_says_what_and_when_to_come_back() -> None:
    refused = codec.invoked(execution(failed(CircuitOpenError("n", retry_after_s=1.5))))
    assert refused.result.error_code == "CIRCUIT_OPEN"
    assert refused.result.metrics["retry_after_ms"] == "1500"
    assert not refused.result.HasField("result")
    raised = codec.invoked(execution(failed(FunctionRaised("ValueError: no", detail="Traceback"))))
    assert (raised.message, raised.result.error_message) == ("ValueError: no",) * 2
    assert "Traceback" not in str(raised)


def test_lone_surrogates_do_not_break_an_answer() -> None:
    broken = failed(FunctionRaised("\ud800 <- that"))
    answer = codec.invoked(execution(broken, function_name="f\udfff"))
    assert answer.result.error_message == "? <- that"
    assert codec.execution_info(execution(broken, function_name="f\udfff")).function_name == "f?"


def test_accepted_names_the_path_that_is_served_d100() -> None:
    pending = execution(mode=Mode.ASYNC, status=ExecutionStatus.PENDING, execution_id="a/b")
    answer = codec.accepted(pending, 250)
    assert (answer.success, answer.result.status) == (True, pb.EXECUTION_STATUS_PENDING)
    assert answer.status_endpoint == "/api/v1/executions/a%2Fb/status"
    assert answer.estimated_completion_ms == 250
    assert answer.result.HasField("started_at")
    assert not answer.result.HasField("completed_at")


def test_an_id_that_stood_already_is_accepted_as_it_is() -> None:
    """D81: a first execution that failed is no success."""
    running = codec.accepted(execution(mode=Mode.ASYNC), 250)
    assert (running.success, running.result.status) == (True, pb.EXECUTION_STATUS_RUNNING)
    done = codec.accepted(execution(success(), mode=Mode.ASYNC), 250)
    assert (done.success, done.result.status) == (True, pb.EXECUTION_STATUS_COMPLETED)
    assert (done.estimated_completion_ms, done.status_endpoint) == (
        0,
        "/api/v1/executions/e/status",
    )
    failure = codec.accepted(execution(failed(FunctionRaised("no")), mode=Mode.ASYNC), 250)
    assert (failure.success, failure.result.error_code) == (False, "EXECUTION_ERROR")


def test_status_of_a_running_execution_has_no_end() -> None:
    answer = codec.execution_status(execution(), include_logs=True)
    assert (answer.found, answer.result.status) == (True, pb.EXECUTION_STATUS_RUNNING)
    assert not answer.result.HasField("completed_at")
    assert not answer.result.HasField("result")
    assert list(answer.logs) == []


def test_logs_only_when_asked_for() -> None:
    ended = execution(success(output=b"one\n\xff two\n\nlast"))
    assert list(codec.execution_status(ended, include_logs=False).logs) == []
    logs = codec.execution_status(ended, include_logs=True).logs
    assert list(logs) == ["one", "\ufffd two", "", "last"]
    assert codec.log_lines(b"") == []
    assert codec.log_lines(b"a\n") == ["a"]


def test_execution_info_and_pages() -> None:
    page = Page(items=[execution(success(run_s=1.0), metadata={"k": "v"})], next_start_after="e")
    answer = codec.executions(page)
    assert (answer.has_more, answer.next_start_after) == (True, "e")
    info = answer.executions[0]
    assert (info.execution_mode, info.execution_time_ms) == (pb.EXECUTION_MODE_SYNC, 1000)
    assert (dict(info.metadata), info.function_name) == ({"k": "v"}, "f")
    assert not codec.executions(Page(items=[])).has_more


def test_cancel_answers() -> None:
    unknown = codec.cancelled(CancelAnswer(success=False, message="no"))
    assert (unknown.success, unknown.final_status) == (False, pb.EXECUTION_STATUS_UNKNOWN)
    stopped = CancelAnswer(success=True, message="", final_status=ExecutionStatus.CANCELLED)
    assert codec.cancelled(stopped).final_status == pb.EXECUTION_STATUS_CANCELLED


def test_stream_items() -> None:
    item = codec.stream_item("e", Result(kind="text", body=b"a"))
    assert (item.is_final, item.status, item.chunk_data.value) == (
        False,
        pb.EXECUTION_STATUS_RUNNING,
        b"a",
    )
    end = codec.stream_end(execution(success(b"1")), with_result=True)
    assert (end.is_final, end.chunk_data.value) == (True, b"1")
    end = codec.stream_end(execution(failed(FunctionRaised("no"))), with_result=False)
    assert (end.error_message, end.metadata["error_code"]) == ("no", "EXECUTION_ERROR")
    assert not end.HasField("chunk_data")


def task(**fields: Any) -> Task:
    artifact = Artifact(
        artifact_id="a",
        version="1",
        checksum="c",
        filename="a.py",
        size_bytes=1,
        location="l",
        labels={"x": "y"},
    )
    facts: dict[str, Any] = {
        "task_id": "t",
        "name": "n",
        "version": 1,
        "artifact": artifact,
        "handler": "a.py:main",
        "overrides": {},
        "settings": TaskSettings(labels={"team": "blue"}),
        "shapes": {},
        "created_at": 1_700_000_000.9,
        "updated_at": 1_700_000_001.0,
    }
    return Task(**facts | fields)


def test_task_info_shows_details_only_when_asked() -> None:
    view = TaskView(
        task=task(),
        state=TaskState.READY,
        execution_count=2**40,
        last_status=ExecutionStatus.TIMEOUT,
    )
    bare = reports.task_info(view, details=False)
    assert not bare.HasField("artifact_spec")
    assert not bare.metadata
    assert (bare.created_at, bare.updated_at) == (1_700_000_000, 1_700_000_001)
    assert bare.execution_count == 2**31 - 1, "D68"
    assert bare.last_status == pb.EXECUTION_STATUS_TIMEOUT
    full = reports.task_info(view, details=True)
    assert (full.artifact_spec.artifact_id, full.artifact_spec.location) == ("a", "l")
    assert (dict(full.artifact_spec.metadata), dict(full.metadata)) == (
        {"x": "y"},
        {"team": "blue"},
    )
    new = reports.task_info(TaskView(task=task(), state=TaskState.READY), details=False)
    assert new.last_status == pb.EXECUTION_STATUS_UNKNOWN


@pytest.mark.parametrize(
    ("deletion", "success", "deleted"),
    [
        (Deletion(found=False, deleted=False), True, False),
        (Deletion(found=True, deleted=False, running=3), False, False),
        (Deletion(found=True, deleted=True, cleaned_executions=2**35), True, True),
    ],
)
def test_deletions(deletion: Deletion, success: bool, deleted: bool) -> None:
    answer = reports.deleted(deletion)
    assert (answer.success, answer.deleted) == (success, deleted)
    assert answer.message
    assert answer.cleaned_executions == min(deletion.cleaned_executions, 2**31 - 1)


@pytest.mark.parametrize("status", ["healthy", "degraded", "unhealthy"])
def test_health_fills_both_upstream_fields_and_ours_d58_d59(status: Any) -> None:
    answer = reports.health(
        Health(
            status=status,
            message="m",
            uptime_s=61.9,
            active_tasks=2**33,
            running=1,
            pending=2,
            memory_bytes=3 * 1024 * 1024 - 1,
            total_executions=2**40,
            cpu_percent=12.5,
            version="0.1.0",
            system_info={"os": "Linux"},
        )
    )
    assert (answer.status, answer.healthy) == (status, status != "unhealthy")
    details = answer.details
    assert (answer.uptime_seconds, details.uptime_seconds) == (61, 61)
    assert details.active_tasks == 2**31 - 1, "D68"
    assert details.total_executions == 2**40
    assert (details.memory_usage_mb, details.total_memory_used) == (2, 3 * 1024 * 1024 - 1)
    assert (details.service_name, details.version) == ("spearlet-function-service", "0.1.0")
    assert (details.cpu_usage_percent, dict(details.system_info)) == (12.5, {"os": "Linux"})


@pytest.mark.parametrize("with_tasks", [False, True])
@pytest.mark.parametrize("with_executions", [False, True])
def test_stats_obey_the_flags_and_saturate_d68(with_tasks: bool, with_executions: bool) -> None:
    figures = Figures(
        uptime_s=5.0,
        total_executions=2**40,
        completed=3,
        failed=1,
        by_function={"f": 2**40, "g\ud800": 1},
        tasks_by_type={"process": 2},
        most_active=[TaskView(task=task(), state=TaskState.READY)],
        average_response_ms=7.5,
        average_execution_ms=5.5,
    )
    answer = reports.stats(figures, with_tasks=with_tasks, with_executions=with_executions)
    assert answer.service_stats.total_executions == 2**31 - 1
    own = answer.function_service_stats
    assert (own.execution_count, own.successful_executions) == (2**31 - 1, 3)
    assert own.average_response_time_ms == 7.5
    assert answer.HasField("task_stats") == with_tasks
    assert answer.HasField("execution_stats") == with_executions
    if with_executions:
        counts = dict(answer.execution_stats.executions_by_function)
        assert counts == {"f": 2**31 - 1, "g?": 1}
    if with_tasks:
        assert answer.task_stats.most_active_tasks[0].task_id == "t"


def test_json_of_an_answer_has_all_fields_and_the_output() -> None:
    tree = to_json(codec.execution_status(execution(success(b"\xff")), include_logs=False))
    assert (tree["found"], tree["logs"]) == (True, [])
    assert tree["result"]["status"] == "EXECUTION_STATUS_COMPLETED"
    assert tree["result"]["result"]["value"] == "/w=="
    assert json.dumps(tree)
    missing = to_json(pb.GetExecutionStatusResponse(found=False))
    assert (missing["found"], missing["message"]) == (False, "")
