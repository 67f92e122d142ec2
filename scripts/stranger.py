"""A client of `spearlet.FunctionService` that knows nothing of atlatl.

Its messages are built at run time from the tables below, which were transcribed from the
published interface and not from our proto file, in a descriptor pool of its own. So what it
shows is what any client in the field would see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

# name, request, answer
RPCS = """
InvokeFunction InvokeFunctionRequest InvokeFunctionResponse
GetExecutionStatus GetExecutionStatusRequest GetExecutionStatusResponse
CancelExecution CancelExecutionRequest CancelExecutionResponse
StreamFunction InvokeFunctionRequest stream StreamExecutionResult
ListTasks ListTasksRequest ListTasksResponse
GetTask GetTaskRequest GetTaskResponse
DeleteTask DeleteTaskRequest DeleteTaskResponse
ListExecutions ListExecutionsRequest ListExecutionsResponse
GetHealth GetHealthRequest GetHealthResponse
GetStats GetStatsRequest GetStatsResponse
"""

# number, name
ENUMS = """
InvocationType
  0 INVOCATION_TYPE_UNKNOWN
  1 INVOCATION_TYPE_NEW_TASK
  2 INVOCATION_TYPE_EXISTING_TASK
ExecutionMode
  0 EXECUTION_MODE_UNKNOWN
  1 EXECUTION_MODE_SYNC
  2 EXECUTION_MODE_ASYNC
  3 EXECUTION_MODE_STREAM
ExecutionStatus
  0 EXECUTION_STATUS_UNKNOWN
  1 EXECUTION_STATUS_PENDING
  2 EXECUTION_STATUS_RUNNING
  3 EXECUTION_STATUS_COMPLETED
  4 EXECUTION_STATUS_FAILED
  5 EXECUTION_STATUS_CANCELLED
  6 EXECUTION_STATUS_TIMEOUT
"""

# number, name, type
MESSAGES = """
ArtifactSpec
  1 artifact_id string
  2 artifact_type string
  3 location string
  4 version string
  5 checksum string
  6 metadata map<string, string>
FunctionParameter
  1 name string
  2 type string
  3 value google.protobuf.Any
  4 required bool
  5 description string
ExecutionContext
  1 execution_id string
  2 session_id string
  3 user_id string
  4 environment map<string, string>
  5 headers map<string, string>
  6 timeout_ms int64
  7 max_retries int32
ExecutionResult
  1 status ExecutionStatus
  2 result google.protobuf.Any
  3 error_message string
  4 error_code string
  5 execution_time_ms int64
  6 memory_used_bytes int64
  7 metrics map<string, string>
  8 started_at google.protobuf.Timestamp
  9 completed_at google.protobuf.Timestamp
InvokeFunctionRequest
  1 invocation_type InvocationType
  2 task_name string
  3 task_description string
  4 artifact_spec ArtifactSpec
  5 task_id string
  6 function_name string
  7 parameters repeated FunctionParameter
  8 execution_mode ExecutionMode
  9 context ExecutionContext
  10 create_if_not_exists bool
  11 force_new_instance bool
  12 invocation_metadata map<string, string>
  13 wait bool
  14 execution_id optional string
InvokeFunctionResponse
  1 success bool
  2 message string
  3 execution_id string
  4 task_id string
  5 instance_id string
  6 result ExecutionResult
  7 status_endpoint string
  8 estimated_completion_ms int64
GetExecutionStatusRequest
  1 execution_id string
  2 include_result bool
  3 include_logs bool
GetExecutionStatusResponse
  1 found bool
  2 result ExecutionResult
  3 logs repeated string
  4 message string
CancelExecutionRequest
  1 execution_id string
  2 reason string
  3 force bool
CancelExecutionResponse
  1 success bool
  2 message string
  3 final_status ExecutionStatus
StreamExecutionResult
  1 execution_id string
  2 status ExecutionStatus
  3 chunk_data google.protobuf.Any
  4 is_final bool
  5 error_message string
  6 metadata map<string, string>
ListTasksRequest
  1 prefix string
  2 limit int32
  3 start_after string
  4 include_details bool
ListTasksResponse
  1 tasks repeated TaskInfo
  2 has_more bool
  3 next_start_after string
TaskInfo
  1 task_id string
  2 task_name string
  3 artifact_spec ArtifactSpec
  4 created_at int64
  5 updated_at int64
  6 execution_count int32
  7 last_status ExecutionStatus
  8 metadata map<string, string>
GetTaskRequest
  1 task_id string
  2 include_executions bool
  3 execution_limit int32
GetTaskResponse
  1 found bool
  2 task TaskInfo
  3 executions repeated ExecutionInfo
  4 message string
DeleteTaskRequest
  1 task_id string
  2 force bool
  3 cleanup_executions bool
DeleteTaskResponse
  1 success bool
  2 message string
  3 deleted bool
  4 cleaned_executions int32
ListExecutionsRequest
  1 task_id string
  2 limit int32
  3 start_after string
  4 status_filter ExecutionStatus
ListExecutionsResponse
  1 executions repeated ExecutionInfo
  2 has_more bool
  3 next_start_after string
ExecutionInfo
  1 execution_id string
  2 task_id string
  3 function_name string
  4 execution_mode ExecutionMode
  5 status ExecutionStatus
  6 started_at google.protobuf.Timestamp
  7 completed_at google.protobuf.Timestamp
  8 execution_time_ms int64
  9 memory_used_bytes int64
  10 error_message string
  11 metadata map<string, string>
GetHealthRequest
  1 include_details bool
GetHealthResponse
  1 status string
  2 message string
  3 uptime_seconds int64
  4 details HealthDetails
  100 healthy bool
HealthDetails
  1 active_tasks int32
  2 running_executions int32
  3 pending_executions int32
  4 total_memory_used int64
  5 total_executions int64
  6 system_info map<string, string>
  100 service_name string
  101 version string
  102 uptime_seconds int64
  103 memory_usage_mb int64
  104 cpu_usage_percent double
GetStatsRequest
  1 include_task_stats bool
  2 include_execution_stats bool
  3 time_range_hours int32
GetStatsResponse
  1 service_stats ServiceStats
  2 task_stats TaskStats
  3 execution_stats ExecutionStats
  100 function_service_stats FunctionServiceStats
ServiceStats
  1 uptime_seconds int64
  2 total_tasks int32
  3 total_executions int32
  4 total_memory_used int64
  5 cpu_usage_percent double
  6 memory_usage_percent double
TaskStats
  1 active_tasks int32
  2 idle_tasks int32
  3 tasks_by_type map<string, int32>
  4 most_active_tasks repeated TaskInfo
ExecutionStats
  1 running_executions int32
  2 pending_executions int32
  3 completed_executions int32
  4 failed_executions int32
  5 average_execution_time_ms double
  6 success_rate_percent double
  7 executions_by_function map<string, int32>
FunctionServiceStats
  1 task_count int32
  2 execution_count int32
  3 running_executions int32
  4 artifact_count int32
  5 instance_count int32
  6 successful_executions int32
  7 failed_executions int32
  8 average_response_time_ms double
"""

F = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": F.TYPE_STRING,
    "bytes": F.TYPE_BYTES,
    "bool": F.TYPE_BOOL,
    "int32": F.TYPE_INT32,
    "int64": F.TYPE_INT64,
    "double": F.TYPE_DOUBLE,
}


def sections(table: str) -> dict[str, list[list[str]]]:
    """Rows, split at the blank, under the unindented line above them."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            rows.append(line.split(None, 2))
        else:
            rows = found[line] = []
    return found


ENUMS_BY_NAME = sections(ENUMS)
MESSAGES_BY_NAME = sections(MESSAGES)


def build_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="stranger.proto",
        package="spearlet",
        syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/timestamp.proto"],
    )
    for name, rows in ENUMS_BY_NAME.items():
        enum = file.enum_type.add(name=name)
        for number, value in rows:
            enum.value.add(name=value, number=int(number))
    for name, rows in MESSAGES_BY_NAME.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind in rows:
            add_field(message, int(number), field_name, kind)
    return file


def add_field(message: Any, number: int, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=F.LABEL_OPTIONAL)
    modifier, _, rest = kind.partition(" ")
    if modifier == "repeated":
        field.label, kind = F.LABEL_REPEATED, rest
    elif modifier == "optional":
        # This is how protoc writes explicit presence down: a oneof with one member.
        field.proto3_optional, field.oneof_index, kind = True, len(message.oneof_decl), rest
        message.oneof_decl.add(name=f"_{name}")
    elif kind.startswith("map<"):
        field.label = F.LABEL_REPEATED
        kind = add_map_entry(message, name, *kind[4:-1].split(", "))
    set_type(field, kind)


def add_map_entry(message: Any, name: str, key_kind: str, value_kind: str) -> str:
    entry = message.nested_type.add(name="".join(p.title() for p in name.split("_")) + "Entry")
    entry.options.map_entry = True
    add_field(entry, 1, "key", key_kind)
    add_field(entry, 2, "value", value_kind)
    return f"{message.name}.{entry.name}"


def set_type(field: Any, kind: str) -> None:
    if kind in SCALARS:
        field.type = SCALARS[kind]
        return
    field.type = F.TYPE_ENUM if kind in ENUMS_BY_NAME else F.TYPE_MESSAGE
    field.type_name = f".{kind}" if kind.startswith("google.") else f".spearlet.{kind}"


def build_classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(build_file().SerializeToString())
    names = [f"spearlet.{name}" for name in MESSAGES_BY_NAME]
    return {
        name.partition(".")[2]: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for name in names
    }


CLASSES = build_classes()
NEW_TASK, EXISTING_TASK = 1, 2
SYNC, ASYNC, STREAM = 1, 2, 3
PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT = 1, 2, 3, 4, 5, 6


class Stranger:
    """Speaks to `address`, blocking; for use outside of an event loop."""

    def __init__(self, address: str, *, token: str = "", timeout_s: float = 30.0) -> None:
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.timeout_s = timeout_s
        self.channel = grpc.insecure_channel(address)
        self._methods: dict[str, tuple[Any, Any]] = {}
        for line in RPCS.strip().splitlines():
            name, request, *streams, answer = line.split()
            connect = self.channel.unary_stream if streams else self.channel.unary_unary
            method = connect(
                f"/spearlet.FunctionService/{name}",
                request_serializer=CLASSES[request].SerializeToString,
                response_deserializer=CLASSES[answer].FromString,
            )
            self._methods[name] = CLASSES[request], method

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.channel.close()

    def ask(self, rpc: str, **fields: Any) -> Any:
        """One RPC; of StreamFunction the answer is an iterator (and a call that can be cancelled).

        A nested message is given as a dict.
        """
        kind, method = self._methods[rpc]
        return method(kind(**fields), timeout=self.timeout_s, metadata=self.metadata)

    def invoke_new(self, artifact_id: str, location: str, **arguments: Any) -> Any:
        """Deploys by calling: InvokeFunction with NEW_TASK."""
        return self.ask(
            "InvokeFunction",
            invocation_type=NEW_TASK,
            artifact_spec={"artifact_id": artifact_id, "location": location},
            parameters=parameters(arguments),
            execution_mode=SYNC,
        )

    def invoke(self, task_id: str, **arguments: Any) -> Any:
        """Calls what is deployed, synchronously."""
        return self.ask(
            "InvokeFunction",
            invocation_type=EXISTING_TASK,
            task_id=task_id,
            parameters=parameters(arguments),
            execution_mode=SYNC,
        )

    def stream(self, task_id: str, **arguments: Any) -> Iterator[Any]:
        items: Iterator[Any] = self.ask(
            "StreamFunction",
            invocation_type=EXISTING_TASK,
            task_id=task_id,
            parameters=parameters(arguments),
        )
        return items


def parameters(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Named arguments as JSON in raw bytes, which every value fits into."""
    return [
        {"name": name, "type": "json", "value": {"value": json.dumps(value).encode()}}
        for name, value in arguments.items()
    ]
