"""The compiled proto file says what the published interface says, and the generated code is new."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from atlatl.front.proto import function_pb2 as pb
from scripts import stranger

SOURCE = Path(__file__).parents[2] / "src"
PROTO = SOURCE / "atlatl/front/proto"

FIRST_OWN_NUMBER = 100
OWN_MESSAGES = {"FunctionServiceStats"}

UPSTREAM_FIELDS = {
    "ArtifactSpec": 6,
    "FunctionParameter": 5,
    "ExecutionContext": 7,
    "ExecutionResult": 9,
    "InvokeFunctionRequest": 14,
    "InvokeFunctionResponse": 8,
    "GetExecutionStatusRequest": 3,
    "GetExecutionStatusResponse": 4,
    "CancelExecutionRequest": 3,
    "CancelExecutionResponse": 3,
    "StreamExecutionResult": 6,
    "ListTasksRequest": 4,
    "ListTasksResponse": 3,
    "TaskInfo": 8,
    "GetTaskRequest": 3,
    "GetTaskResponse": 4,
    "DeleteTaskRequest": 3,
    "DeleteTaskResponse": 4,
    "ListExecutionsRequest": 4,
    "ListExecutionsResponse": 3,
    "ExecutionInfo": 11,
    "GetHealthRequest": 1,
    "GetHealthResponse": 4,
    "HealthDetails": 6,
    "GetStatsRequest": 3,
    "GetStatsResponse": 3,
    "ServiceStats": 6,
    "TaskStats": 4,
    "ExecutionStats": 7,
}

EXTENSIONS = {
    ("GetHealthResponse", 100, "healthy"),
    ("HealthDetails", 100, "service_name"),
    ("HealthDetails", 101, "version"),
    ("HealthDetails", 102, "uptime_seconds"),
    ("HealthDetails", 103, "memory_usage_mb"),
    ("HealthDetails", 104, "cpu_usage_percent"),
    ("GetStatsResponse", 100, "function_service_stats"),
    ("FunctionServiceStats", 1, "task_count"),
    ("FunctionServiceStats", 2, "execution_count"),
    ("FunctionServiceStats", 3, "running_executions"),
    ("FunctionServiceStats", 4, "artifact_count"),
    ("FunctionServiceStats", 5, "instance_count"),
    ("FunctionServiceStats", 6, "successful_executions"),
    ("FunctionServiceStats", 7, "failed_executions"),
    ("FunctionServiceStats", 8, "average_response_time_ms"),
}


def compiled() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return file


def is_own(message: str, number: int) -> bool:
    return message in OWN_MESSAGES or number >= FIRST_OWN_NUMBER


def test_all_upstream_fields_are_there_and_ours_begin_at_100_d58() -> None:
    fields = [(m.name, f.number, f.name) for m in compiled().message_type for f in m.field]
    counts: dict[str, int] = {}
    for message, number, _ in fields:
        counts[message] = counts.get(message, 0) + (not is_own(message, number))
    assert {name: count for name, count in counts.items() if count} == UPSTREAM_FIELDS
    assert (sum(counts.values()), len(UPSTREAM_FIELDS)) == (149, 29)
    assert {field for field in fields if is_own(field[0], field[1])} == EXTENSIONS


def shape(file: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """All that matters on the wire: numbers, names, types, labels, presence, map entries."""

    def fields(message: descriptor_pb2.DescriptorProto) -> list[tuple[Any, ...]]:
        return sorted(
            (f.number, f.name, f.type, f.type_name, f.label, f.proto3_optional)
            for f in message.field
        )

    return {
        "package": (file.package, file.syntax, list(file.dependency)),
        "enums": {e.name: [(v.number, v.name) for v in e.value] for e in file.enum_type},
        "messages": {m.name: fields(m) for m in file.message_type},
        "entries": {
            (m.name, n.name): (n.options.map_entry, fields(n))
            for m in file.message_type
            for n in m.nested_type
        },
    }


def test_messages_and_enums_are_those_of_the_independent_transcription() -> None:
    ours = shape(compiled())
    assert ours == shape(stranger.build_file())
    assert [len(values) for values in ours["enums"].values()] == [3, 4, 7]


def test_the_service_has_the_ten_rpcs() -> None:
    service = pb.DESCRIPTOR.services_by_name["FunctionService"]
    assert service.full_name == "spearlet.FunctionService"
    found = [
        f"{m.name} {m.input_type.name} {'stream ' * m.server_streaming}{m.output_type.name}"
        for m in service.methods
    ]
    assert found == stranger.RPCS.strip().splitlines()
    assert len(found) == 10
    assert not any(method.client_streaming for method in service.methods)


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proto")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", "."),
            *(f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"),
            f"--descriptor_set_out={out}/function.binpb",
            "atlatl/front/proto/function.proto",
        ],
        cwd=SOURCE,
        check=True,
        timeout=60,
    )
    return out


def test_the_generated_code_says_what_the_proto_file_says(regenerated: Path) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (regenerated / "function.binpb").read_bytes()
    )
    (file,) = files.file
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    committed = compiled()
    for message in committed.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert shape(file) == shape(committed)
    assert file.service == committed.service


@pytest.mark.parametrize("name", ["function_pb2.py", "function_pb2.pyi", "function_pb2_grpc.py"])
def test_the_generated_code_is_fresh(name: str, regenerated: Path) -> None:
    """Of another generator version only the contents can be compared, which the test above does."""
    fresh = regenerated / "atlatl/front/proto"
    if generators(PROTO) != generators(fresh):
        pytest.skip("made by another version of the generator")
    assert (PROTO / name).read_text() == (fresh / name).read_text(), "run `make proto`"


def generators(folder: Path) -> list[str]:
    code = (folder / "function_pb2.py").read_text() + (folder / "function_pb2_grpc.py").read_text()
    return re.findall(r"Protobuf Python Version: .*|GRPC_GENERATED_VERSION = .*", code)


def test_the_stranger_and_the_service_can_live_in_one_process() -> None:
    theirs = stranger.CLASSES["GetHealthRequest"].DESCRIPTOR
    assert theirs.full_name == pb.GetHealthRequest.DESCRIPTOR.full_name
    assert theirs.file.pool is not pb.DESCRIPTOR.pool
