"""What a server of `spearlet.FunctionService` has to do, point by point, as its callers see it.

Each point asks the server something and raises `Differs` when the answer is not the one stated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import grpc
from contract_subject import (
    WAIT_S,
    Differs,
    Subject,
    completed,
    expect,
    refused,
    require,
    said,
    value,
)
from google.protobuf import struct_pb2, wrappers_pb2
from stranger import (
    ASYNC,
    CANCELLED,
    COMPLETED,
    EXISTING_TASK,
    FAILED,
    PENDING,
    RUNNING,
    STREAM,
    SYNC,
    TIMEOUT,
)

RAW_BYTES = "type.googleapis.com/spearlet.ExecutionData"


class Point(NamedTuple):
    text: str
    check: Callable[[Subject], None]


POINTS: list[Point] = []


def point(text: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Adds a check to the list under what it checks."""

    def add(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
        POINTS.append(Point(text, check))
        return check

    return add


# --- InvokeFunction ---


@point("InvokeFunction: NEW_TASK makes a task of the artifact and runs it")
def new_task(on: Subject) -> None:
    answer = on.create("new")
    expect(value(answer), {"hello": "nobody"}, "the output")
    expect(answer.result.result.type_url, RAW_BYTES, "type_url of the output")
    require(
        on.ask("GetTask", task_id=answer.task_id).found, "GetTask does not know the task that ran"
    )


@point("InvokeFunction: EXISTING_TASK calls by task_id, with named arguments")
def existing_task(on: Subject) -> None:
    answer = on.call(arguments={"name": "Ada", "times": 2})
    expect(value(answer), {"hello": "AdaAda"}, "the output")
    expect(answer.task_id, on.task_id, "task_id")


@point("InvokeFunction: the answer names the instance; status_endpoint is empty for SYNC")
def instance_id(on: Subject) -> None:
    answer = on.call()
    require(completed(answer) and answer.instance_id, "instance_id is empty")
    expect(answer.status_endpoint, "", "status_endpoint")


@point("InvokeFunction: wrapper types and Value in parameters arrive as values")
def typed_parameters(on: Subject) -> None:
    name, times = wrappers_pb2.StringValue(value="Ada"), wrappers_pb2.Int64Value(value=2)
    for number in (times, wrappers_pb2.UInt32Value(value=2), struct_pb2.Value(number_value=2)):
        fields = [
            {"name": key, "value": {"type_url": f"type.googleapis.com/{one.DESCRIPTOR.full_name}",
                                    "value": one.SerializeToString()}}
            for key, one in (("name", name), ("times", number))
        ]  # fmt: skip
        expect(value(on.call(parameters=fields)), {"hello": "AdaAda"}, "the output")


@point("InvokeFunction: invocation_type UNKNOWN with a task_id is EXISTING_TASK")
def unknown_type(on: Subject) -> None:
    expect(on.call(invocation_type=0).task_id, on.task_id, "task_id")


@point("InvokeFunction: an unknown task_id is TASK_NOT_FOUND in the answer")
def unknown_task(on: Subject) -> None:
    answer = on.ask(
        "InvokeFunction",
        invocation_type=EXISTING_TASK,
        task_id=f"{on.tag}-none",
        execution_mode=SYNC,
    )
    refused(answer, "TASK_NOT_FOUND")


@point("InvokeFunction: a request that names neither task nor artifact is INVALID_REQUEST")
def nothing_named(on: Subject) -> None:
    refused(on.ask("InvokeFunction", execution_mode=SYNC), "INVALID_REQUEST")


@point("InvokeFunction: create_if_not_exists makes a task that is unknown")
def create_if_not_exists(on: Subject) -> None:
    answer = on.ask(
        "InvokeFunction",
        invocation_type=EXISTING_TASK,
        task_id=f"{on.tag}-later",
        create_if_not_exists=True,
        artifact_spec=on.artifact("later"),
        execution_mode=SYNC,
    )
    expect(value(answer), {"hello": "nobody"}, "the output")
    on.ask("DeleteTask", task_id=answer.task_id, force=True)


@point("InvokeFunction: execution_id (14) counts before that of the context, and is the record's")
def chosen_id(on: Subject) -> None:
    wanted = f"{on.tag}-chosen"
    answer = on.call(execution_id=wanted, context={"execution_id": f"{on.tag}-other"})
    expect(answer.execution_id, wanted, "execution_id")
    require(on.status(wanted).found, "GetExecutionStatus does not know it")


@point("InvokeFunction: the same execution_id again does not run again")
def same_id(on: Subject) -> None:
    first, second = (value(on.call("clock", execution_id=f"{on.tag}-same")) for _ in range(2))
    expect(second, first, "the second output")


@point("InvokeFunction: the same execution_id for another call is CONFLICT")
def same_id_other_call(on: Subject) -> None:
    wanted = f"{on.tag}-conflict"
    value(on.call(execution_id=wanted, arguments={"name": "Ada"}))
    refused(on.call(execution_id=wanted, arguments={"name": "Bob"}), "CONFLICT")


@point("InvokeFunction: a function that raises is FAILED with EXECUTION_ERROR")
def raising(on: Subject) -> None:
    answer = on.call("boom")
    refused(answer, "EXECUTION_ERROR")
    expect(answer.result.status, FAILED, "status")
    require("no such luck" in answer.result.error_message, "error_message does not say why")


@point("InvokeFunction: timeout_ms ends the run, status TIMEOUT")
def timeout(on: Subject) -> None:
    answer = on.call("nap", {"s": 60}, context={"timeout_ms": 200})
    expect((answer.success, answer.result.status), (False, TIMEOUT), "(success, status)")


@point("InvokeFunction: a negative timeout_ms is INVALID_REQUEST")
def negative_timeout(on: Subject) -> None:
    refused(on.call(context={"timeout_ms": -1}), "INVALID_REQUEST")


@point("InvokeFunction: begin, end and duration are those of the run")
def times(on: Subject) -> None:
    result = on.call("nap", {"s": 0.1}).result
    lasted_ms = (result.completed_at.ToNanoseconds() - result.started_at.ToNanoseconds()) / 1e6
    # Of 100 ms; clocks are set now and then.
    require(lasted_ms >= 90, f"a run of 100 ms lasted {lasted_ms:g} ms by its timestamps")
    require(result.execution_time_ms >= 90, f"execution_time_ms is {result.execution_time_ms}")


@point("InvokeFunction: STREAM is STREAM_MODE_NOT_SUPPORTED in the answer")
def stream_mode(on: Subject) -> None:
    # Without a task too: the mode is looked at first.
    answer = on.ask("InvokeFunction", artifact_spec=on.artifact("mode"), execution_mode=STREAM)
    refused(answer, "STREAM_MODE_NOT_SUPPORTED")
    expect(answer.result.status, FAILED, "status")


@point("InvokeFunction: no mode, or an unknown one, is UNKNOWN_EXECUTION_MODE in the answer")
def unknown_mode(on: Subject) -> None:
    for mode in (0, 99):
        answer = on.ask("InvokeFunction", artifact_spec=on.artifact("mode"), execution_mode=mode)
        refused(answer, "UNKNOWN_EXECUTION_MODE")


@point("InvokeFunction: wait makes SYNC of a call without a mode")
def wait(on: Subject) -> None:
    expect(value(on.call(execution_mode=0, wait=True)), {"hello": "nobody"}, "the output")


@point("InvokeFunction: ASYNC answers PENDING at once, with the place where to look")
def async_answer(on: Subject) -> None:
    answer = on.call(execution_mode=ASYNC)
    require(answer.success, f"refused: {said(answer)}")
    expect(answer.result.status, PENDING, "status")
    require(answer.result.HasField("started_at"), "started_at is not set")
    require(not answer.result.HasField("completed_at"), "completed_at is set")
    expect(
        answer.status_endpoint,
        f"/api/v1/executions/{answer.execution_id}/status",
        "status_endpoint",
    )
    require(answer.estimated_completion_ms > 0, "estimated_completion_ms is not above 0")


@point("InvokeFunction: an ASYNC run is known from its answer on, and ends")
def async_run(on: Subject) -> None:
    answer = on.call(execution_mode=ASYNC)
    require(answer.success, f"refused: {said(answer)}")
    require(on.status(answer.execution_id).found, "unknown right after the answer")
    on.await_status(answer.execution_id, COMPLETED)


@point("InvokeFunction: an ASYNC call that is wrong on its face fails now")
def async_refused(on: Subject) -> None:
    refused(on.call(execution_mode=ASYNC, arguments={"surname": "Ada"}), "INVALID_REQUEST")
    refused(on.call(execution_mode=ASYNC, context={"timeout_ms": -1}), "INVALID_REQUEST")


@point("InvokeFunction: the same execution_id again, ASYNC, does not run again")
def async_same_id(on: Subject) -> None:
    wanted = f"{on.tag}-async"
    outputs = []
    for _ in range(2):
        answer = on.call("clock", execution_mode=ASYNC, execution_id=wanted)
        require(answer.success, f"refused: {said(answer)}")
        ended = on.await_status(wanted, COMPLETED)
        outputs.append(ended.result.result.value)
    expect(outputs[1], outputs[0], "the second output")
    again = on.call("boom", execution_mode=ASYNC, execution_id=wanted)
    refused(again, "CONFLICT")


@point("InvokeFunction: wait makes SYNC of an ASYNC call")
def async_wait(on: Subject) -> None:
    answer = on.call(execution_mode=ASYNC, wait=True)
    expect(value(answer), {"hello": "nobody"}, "the output")
    expect(answer.status_endpoint, "", "status_endpoint")


@point("CancelExecution: an ASYNC run is stopped like any other")
def async_cancel(on: Subject) -> None:
    answer = on.call("nap", {"s": 60}, execution_mode=ASYNC)
    require(answer.success, f"refused: {said(answer)}")
    on.await_status(answer.execution_id, RUNNING)
    answer = on.ask("CancelExecution", execution_id=answer.execution_id, reason="checking")
    expect((answer.success, answer.final_status), (True, CANCELLED), "(success, final_status)")


# --- executions ---


@point("GetExecutionStatus: a run that ended has its output, and its log lines when asked for")
def status_of_a_run(on: Subject) -> None:
    execution_id = on.call(arguments={"name": "Ada"}).execution_id
    answer = on.status(execution_id, include_result=True, include_logs=True)
    expect((answer.found, answer.result.status), (True, COMPLETED), "(found, status)")
    expect(answer.result.result.value, b'{"hello":"Ada"}', "the output")
    expect(list(answer.logs), ["greeting Ada"], "logs")
    expect(list(on.status(execution_id).logs), [], "logs that were not asked for")


@point("GetExecutionStatus: an unknown id is found false, without a gRPC error")
def status_of_nothing(on: Subject) -> None:
    expect(on.status(f"{on.tag}-none").found, False, "found")


@point("CancelExecution: a run is stopped, and its one end is CANCELLED")
def cancel_a_run(on: Subject) -> None:
    execution_id = f"{on.tag}-cancel"
    call = on.napping(execution_id)
    answer = on.ask("CancelExecution", execution_id=execution_id, reason="checking")
    expect((answer.success, answer.final_status), (True, CANCELLED), "(success, final_status)")
    call.join(WAIT_S)
    require(not call.is_alive(), "the caller still waits")
    expect(on.status(execution_id).result.status, CANCELLED, "status of the record")


@point("CancelExecution: what has ended keeps its status")
def cancel_too_late(on: Subject) -> None:
    execution_id = on.call().execution_id
    answer = on.ask("CancelExecution", execution_id=execution_id)
    expect((answer.success, answer.final_status), (False, COMPLETED), "(success, final_status)")


@point("CancelExecution: an unknown id is success false, status UNKNOWN")
def cancel_nothing(on: Subject) -> None:
    answer = on.ask("CancelExecution", execution_id=f"{on.tag}-none")
    expect((answer.success, answer.final_status), (False, 0), "(success, final_status)")


@point("ListExecutions: newest first, page by page, by status")
def list_executions(on: Subject) -> None:
    task_id = on.create("listed").task_id
    ids = [on.call(task_id=task_id).execution_id for _ in range(3)]
    failed = on.call("boom", task_id=task_id).execution_id
    page = on.ask("ListExecutions", task_id=task_id, limit=2)
    expect([one.execution_id for one in page.executions], [failed, ids[2]], "the first page")
    require(page.has_more and page.next_start_after, "there is no word of a second page")
    page = on.ask("ListExecutions", task_id=task_id, limit=2, start_after=page.next_start_after)
    expect([one.execution_id for one in page.executions], [ids[1], ids[0]], "the second page")
    page = on.ask("ListExecutions", task_id=task_id, status_filter=FAILED)
    expect([one.execution_id for one in page.executions], [failed], "those that failed")


# --- StreamFunction ---


@point("StreamFunction: one item a chunk, one execution_id, and one final item, the last")
def stream(on: Subject) -> None:
    items = on.stream("items", {"n": 3})
    expect([one.is_final for one in items], [False] * 3 + [True], "is_final of the items")
    chunks = [one.chunk_data.value for one in items[:3]]
    expect(chunks, [b'{"i":0}', b'{"i":1}', b'{"i":2}'], "the chunks")
    expect(len({one.execution_id for one in items}), 1, "the number of execution ids")
    expect(items[-1].status, COMPLETED, "status of the last item")


@point("StreamFunction: a failure is the final item, with error_message")
def stream_that_fails(on: Subject) -> None:
    last = on.stream("broken")[-1]
    expect((last.is_final, last.status), (True, FAILED), "(is_final, status)")
    require("no such luck" in last.error_message, "error_message does not say why")


@point("StreamFunction: a task that is unknown is the gRPC status NOT_FOUND")
def stream_of_nothing(on: Subject) -> None:
    try:
        items = list(on.ask("StreamFunction", task_id=f"{on.tag}-none"))
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.NOT_FOUND, "the gRPC status")
        return
    raise Differs(f"{len(items)} items came")


# --- tasks ---


@point("ListTasks: in order of task_id, page by page, by prefix of the name")
def list_tasks(on: Subject) -> None:
    made = sorted(on.create(f"page-{n}").task_id for n in range(3))
    found, start = [], ""
    for _ in made:
        page = on.ask("ListTasks", prefix=f"{on.tag}-page-", limit=1, start_after=start)
        found += [one.task_id for one in page.tasks]
        start = page.next_start_after
    expect(found, made, "what three pages of one list")
    expect((page.has_more, start), (False, ""), "(has_more, next_start_after) of the last page")


@point("ListTasks: artifact_spec is there with include_details only")
def list_details(on: Subject) -> None:
    on.create("detail")
    for details in (False, True):
        page = on.ask("ListTasks", prefix=f"{on.tag}-detail", include_details=details)
        expect([one.HasField("artifact_spec") for one in page.tasks], [details], "artifact_spec")


@point("ListTasks: a negative limit is the gRPC status INVALID_ARGUMENT")
def negative_limit(on: Subject) -> None:
    try:
        on.ask("ListTasks", limit=-1)
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.INVALID_ARGUMENT, "the gRPC status")
        return
    raise Differs("the list is answered")


@point("GetTask: the task, and its recent runs when asked for")
def get_task(on: Subject) -> None:
    on.call()
    plain = on.ask("GetTask", task_id=on.task_id)
    expect((plain.found, len(plain.executions)), (True, 0), "(found, runs not asked for)")
    expect(plain.task.task_name, f"{on.tag}-main", "task_name")
    require(plain.task.execution_count > 0, "execution_count is 0")
    full = on.ask("GetTask", task_id=on.task_id, include_executions=True, execution_limit=1)
    expect(len(full.executions), 1, "the number of runs with execution_limit 1")


@point("GetTask: an unknown task_id is found false, without a gRPC error")
def get_no_task(on: Subject) -> None:
    expect(on.ask("GetTask", task_id=f"{on.tag}-none").found, False, "found")


@point("DeleteTask: a task with a run in progress goes only with force")
def delete_task(on: Subject) -> None:
    task_id = on.create("deleted").task_id
    call = on.napping(f"{on.tag}-deleted", task_id=task_id)
    kept = on.ask("DeleteTask", task_id=task_id)
    expect((kept.success, kept.deleted), (False, False), "(success, deleted) without force")
    gone = on.ask("DeleteTask", task_id=task_id, force=True, cleanup_executions=True)
    expect((gone.success, gone.deleted), (True, True), "(success, deleted) with force")
    require(gone.cleaned_executions > 0, "no record of an execution was cleaned up")
    call.join(WAIT_S)
    require(not call.is_alive(), "the run goes on")
    require(not on.ask("GetTask", task_id=task_id).found, "the task is still there")


@point("DeleteTask: an unknown task_id is success true, deleted false")
def delete_nothing(on: Subject) -> None:
    answer = on.ask("DeleteTask", task_id=f"{on.tag}-none")
    expect((answer.success, answer.deleted), (True, False), "(success, deleted)")


# --- figures ---


@point("GetHealth: the status is healthy, degraded or unhealthy; details are always there")
def health(on: Subject) -> None:
    answer = on.ask("GetHealth")
    require(
        answer.status in ("healthy", "degraded", "unhealthy"), f"status is {answer.status!r:.100}"
    )
    require(answer.HasField("details"), "details are missing")


@point("GetHealth and GetStats: ten calls raise their totals by ten")
def measured(on: Subject) -> None:
    on.call()  # the task is there before the first reading

    def totals() -> tuple[int, int, int]:
        health, stats = on.ask("GetHealth"), on.ask("GetStats", include_execution_stats=True)
        return (
            health.details.total_executions,
            stats.service_stats.total_executions,
            stats.execution_stats.completed_executions,
        )

    before = totals()
    for _ in range(10):
        on.call()
    grown = tuple(after - was for was, after in zip(before, totals(), strict=True))
    # Others may call in between.
    require(min(grown) >= 10, f"the totals grew by {grown}")


@point("GetStats: task_stats and execution_stats are there when asked for")
def stats_flags(on: Subject) -> None:
    for wanted in (False, True):
        answer = on.ask("GetStats", include_task_stats=wanted, include_execution_stats=wanted)
        there = answer.HasField("task_stats"), answer.HasField("execution_stats")
        expect(there, (wanted, wanted), "(task_stats, execution_stats)")
        require(answer.HasField("service_stats"), "service_stats is missing")


@point("GetStats: function_service_stats has the eight counters (atlatl's addition)")
def own_counters(on: Subject) -> None:
    before = on.ask("GetStats").function_service_stats
    on.create("counted")
    on.call("boom")
    after = on.ask("GetStats").function_service_stats
    for name, least in (
        ("task_count", 1),
        ("artifact_count", 1),
        ("execution_count", 2),
        ("successful_executions", 1),
        ("failed_executions", 1),
    ):
        grown = getattr(after, name) - getattr(before, name)
        require(grown >= least, f"{name} grew by {grown}")
    require(after.instance_count > 0, "instance_count is 0")
    require(after.average_response_time_ms > 0, "average_response_time_ms is 0")
