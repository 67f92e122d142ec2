"""A gRPC client that knows nothing but the published tables of `spearlet.FunctionService`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from scripts.stranger import Stranger, parameters
from tests.e2e.server import Server, serving
from tests.file_host import FileHost, file_host

CODE = b"""
import time

def main(name: str, times: int = 1):
    print("greeting", name)
    return {"hello": name * times}

def boom():
    raise ValueError("no such luck")

def slow():
    time.sleep(60)

def items(n: int):
    for i in range(n):
        yield {"i": i}
"""
DATA = "data:text/x-python;base64," + base64.b64encode(CODE).decode()
SYNC, COMPLETED, FAILED, TIMEOUT = 1, 3, 4, 6


@pytest.fixture(scope="module")
def code_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("code")
    (directory / "greet.py").write_bytes(CODE)
    return directory


@pytest.fixture(scope="module")
def host() -> Iterator[FileHost]:
    with file_host() as host:
        host.files["/greet.py"] = CODE
        host.redirects["/private.py"] = "http://127.0.0.1:1/greet.py"
        yield host


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, code_dir: Path, host: FileHost
) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("service") / "data"
    with serving(
        data,
        artifacts__allowed_dirs=[str(code_dir)],
        artifacts__allowed_hosts=[host.address],
        artifacts__max_bytes=100_000,
        artifacts__fetch_timeout_s=0.5,
    ) as server:
        yield server


@pytest.fixture
def stranger(server: Server) -> Stranger:
    return Stranger(server.grpc, token=server.token)


def test_new_task_from_a_local_file(stranger: Stranger, code_dir: Path) -> None:
    answer = stranger.invoke_new("local", str(code_dir / "greet.py"), name="Ada", times=2)
    assert answer.success
    assert answer.result.status == COMPLETED
    assert answer.result.result.value == b'{"hello":"AdaAda"}'
    assert answer.execution_id
    assert answer.task_id
    assert answer.instance_id
    again = stranger.invoke(answer.task_id, name="Bob")
    assert again.result.result.value == b'{"hello":"Bob"}'
    assert again.instance_id == answer.instance_id


def test_new_task_from_a_data_location(stranger: Stranger) -> None:
    answer = stranger.invoke_new("inline", DATA, name="Ada")
    assert answer.result.result.value == b'{"hello":"Ada"}'
    status = stranger.ask("GetExecutionStatus", execution_id=answer.execution_id, include_logs=True)
    assert status.found
    assert status.result.status == COMPLETED
    assert list(status.logs) == ["greeting Ada"]


def test_new_task_from_a_url(stranger: Stranger, host: FileHost) -> None:
    checked = {
        "artifact_id": "fetched",
        "location": f"{host.url}/greet.py",
        "checksum": hashlib.sha256(CODE).hexdigest(),
    }
    answer = stranger.ask(
        "InvokeFunction",
        invocation_type=1,
        execution_mode=SYNC,
        artifact_spec=checked,
        parameters=parameters({"name": "Ada"}),
    )
    assert answer.result.result.value == b'{"hello":"Ada"}', answer


def test_urls_that_are_refused_say_why(stranger: Stranger, host: FileHost) -> None:
    """D105: private addresses, on redirects too; too large, too slow, something else."""
    for location, code, says in (
        ("https://example.org/greet.py", "INVALID_REQUEST", "`artifacts.allowed_hosts`"),
        (f"{host.url}/private.py", "INVALID_REQUEST", "`artifacts.allowed_hosts`"),
        (f"{host.url}/endless", "CONFIGURATION_ERROR", "`artifacts.max_bytes`"),
        (f"{host.url}/silent", "IO_ERROR", "`artifacts.fetch_timeout_s`"),
        (f"{host.url}/none.py", "ARTIFACT_NOT_FOUND", "404"),
    ):
        answer = stranger.invoke_new("refused", location)
        assert (answer.success, answer.result.error_code) == (False, code)
        assert says in answer.result.error_message
    other = {"artifact_id": "x", "location": f"{host.url}/greet.py", "checksum": "0" * 64}
    answer = stranger.ask(
        "InvokeFunction", invocation_type=1, execution_mode=SYNC, artifact_spec=other
    )
    assert answer.result.error_code == "CHECKSUM_MISMATCH"
    assert stranger.ask("ListTasks", prefix="refused").tasks == []


def test_what_is_refused_says_why(stranger: Stranger, tmp_path: Path) -> None:
    outside = stranger.invoke_new("outside", str(tmp_path / "x.py"), name="Ada")
    assert not outside.success
    assert "artifacts.allowed_dirs" in outside.result.error_message
    wrong = {"artifact_id": "sum", "location": DATA, "checksum": hashlib.sha256(b"x").hexdigest()}
    mismatch = stranger.ask(
        "InvokeFunction", invocation_type=1, execution_mode=SYNC, artifact_spec=wrong
    )
    assert mismatch.result.error_code == "CHECKSUM_MISMATCH"
    wasm = {"artifact_id": "wasm", "artifact_type": "wasm", "location": DATA}
    unsupported = stranger.ask(
        "InvokeFunction", invocation_type=1, execution_mode=SYNC, artifact_spec=wasm
    )
    assert unsupported.result.error_code == "UNSUPPORTED_OPERATION"
    unknown = stranger.invoke("no-such-task", name="Ada")
    assert unknown.result.error_code == "TASK_NOT_FOUND"
    assert not stranger.ask("GetExecutionStatus", execution_id="never").found


def test_failures_keep_their_names(stranger: Stranger) -> None:
    task_id = stranger.invoke_new("failing", DATA, name="Ada").task_id
    boom = stranger.ask(
        "InvokeFunction", task_id=task_id, function_name="boom", execution_mode=SYNC
    )
    assert (boom.success, boom.result.status) == (False, FAILED)
    assert boom.result.error_code == "EXECUTION_ERROR"
    assert "no such luck" in boom.result.error_message
    slow = stranger.ask(
        "InvokeFunction",
        task_id=task_id,
        function_name="slow",
        execution_mode=SYNC,
        context={"timeout_ms": 100},
    )
    assert slow.result.status == TIMEOUT
    missing = stranger.invoke(task_id)
    assert missing.result.error_code == "INVALID_REQUEST"
    assert "name" in missing.result.error_message


def test_lists_figures_and_deletion(stranger: Stranger) -> None:
    task_id = stranger.invoke_new("counted", DATA, name="Ada").task_id
    before = stranger.ask("GetStats", include_execution_stats=True)
    for _ in range(10):
        stranger.invoke(task_id, name="Ada")
    after = stranger.ask("GetStats", include_execution_stats=True)
    assert after.service_stats.total_executions == before.service_stats.total_executions + 10
    assert (
        after.execution_stats.completed_executions
        == before.execution_stats.completed_executions + 10
    )
    assert after.function_service_stats.average_response_time_ms > 0
    health = stranger.ask("GetHealth")
    assert health.status == "healthy"
    assert health.healthy
    assert health.details.total_memory_used > 10_000_000
    listed = stranger.ask("ListTasks", prefix="counted")
    assert [task.task_id for task in listed.tasks] == [task_id]
    found = stranger.ask("GetTask", task_id=task_id, include_executions=True, execution_limit=3)
    assert found.found
    assert len(found.executions) == 3
    gone = stranger.ask("DeleteTask", task_id=task_id)
    assert gone.deleted
    assert not stranger.ask("GetTask", task_id=task_id).found


def test_two_hundred_artifacts_in_turn(stranger: Stranger) -> None:
    """D78: artifacts that calls brought give way when no task uses them any more."""
    for n in range(200):
        code = base64.b64encode(b"def main():\n    return %d\n" % n).decode()
        answer = stranger.invoke_new(f"turn-{n}", f"data:text/x-python;base64,{code}")
        assert answer.result.result.value == b"%d" % n, answer
        assert stranger.ask("DeleteTask", task_id=answer.task_id).deleted


def test_strangers_without_a_token_may_call_but_not_create(server: Server) -> None:
    named = Stranger(server.grpc, token=server.token).invoke_new("open", DATA, name="Ada")
    nameless = Stranger(server.grpc)
    assert nameless.invoke(named.task_id, name="Ada").success
    with pytest.raises(grpc.RpcError) as refused:
        nameless.invoke_new("other", DATA, name="Ada")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
