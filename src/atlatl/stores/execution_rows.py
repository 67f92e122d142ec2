"""Records of executions as rows of SQLite, and back."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from atlatl import errors
from atlatl.errors import AtlatlError, CircuitOpenError, InternalFailure
from atlatl.model import (
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Result,
    Tried,
    Way,
)

QUEUED = 2
"""`promised` of a record whose execution is in the queue: no bound removes it."""

_LEAVES = {
    name: leaf
    for name, leaf in inspect.getmembers(errors, inspect.isclass)
    if issubclass(leaf, AtlatlError)
}


class _Failure(msgspec.Struct):
    leaf: str
    """Name of the error's class."""
    message: str
    retry_after_s: float | None
    detail: str


class _ResultHead(msgspec.Struct):
    """A result without its body."""

    kind: str
    status: int
    headers: tuple[tuple[str, str], ...]


class _Ended(msgspec.Struct, omit_defaults=True):
    """An outcome without result and output, and what led to it."""

    kind: OutcomeKind
    result: _ResultHead | None
    error: _Failure | None
    instance_id: str
    run_s: float
    memory_bytes: int
    cold: bool
    way: Way | None = None
    tried: tuple[Tried, ...] = ()


def clean(text: str) -> str:
    """The text with its lone surrogates replaced: neither JSON nor SQLite holds them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def payload_of(record: ExecutionRecord) -> tuple[bytes | None, bytes]:
    """Body of the result, None when there is none; and what was printed."""
    outcome = record.execution.outcome
    if outcome is None:
        return None, b""
    return None if outcome.result is None else outcome.result.body, outcome.output


def execution_row(record: ExecutionRecord, promised: int | None = None) -> dict[str, Any]:
    """The row, with all bytes in it; `promised` is the record's own unless it is given."""
    execution = record.execution
    return end_row(record, promised) | {
        "task_name": execution.task_name,
        "mode": execution.mode.value,
        "queued_at": execution.queued_at,
        "metadata": _metadata_json(execution.metadata),
        "fingerprint": record.fingerprint,
    }


def _metadata_json(metadata: Mapping[str, str]) -> str:
    return _json({clean(k): clean(v) for k, v in metadata.items()}) if metadata else "{}"


def end_row(record: ExecutionRecord, promised: int | None = None) -> dict[str, Any]:
    """The id, and the columns that an execution's way to its end changes."""
    execution = record.execution
    body, output = payload_of(record)
    return {
        "execution_id": execution.execution_id,
        "task_id": execution.task_id,
        "function_name": clean(execution.function_name),
        "status": execution.status.value,
        "attempt": execution.attempt,
        "started_at": execution.started_at,
        "completed_at": execution.completed_at,
        "queue_s": execution.queue_s,
        "instance_id": execution.instance_id,
        "version": execution.version,
        "cold_start": execution.cold_start,
        "trace_id": clean(execution.trace_id),
        "interrupted": record.interrupted,
        "promised": record.promised if promised is None else promised,
        "outcome": None if execution.outcome is None else end_json(execution),
        "n_bytes": len(body or b"") + len(output),
        "result_file": None,
        "output_file": None,
        "result": body,
        "output": output,
    }


def end_json(execution: Execution) -> str:
    """How an execution ended, and how it came to that."""
    assert execution.outcome is not None
    return outcome_json(execution.outcome, execution.way, execution.tried)


def outcome_json(outcome: Outcome, way: Way | None = None, tried: tuple[Tried, ...] = ()) -> str:
    result, error = outcome.result, outcome.error
    return _json(
        _Ended(
            kind=outcome.kind,
            result=None if result is None else _head_of(result),
            error=None if error is None else _failure_of(error),
            instance_id=outcome.instance_id,
            run_s=outcome.run_s,
            memory_bytes=outcome.memory_bytes,
            cold=outcome.cold,
            way=way,
            tried=cleaned(tried),
        )
    )


def tried_json(tried: tuple[Tried, ...]) -> str:
    return _json(cleaned(tried))


def tried_of(row: sqlite3.Row) -> tuple[Tried, ...]:
    """The attempts that a row of the queue names; none when it is no such row."""
    text = row["tried"] if "tried" in row.keys() else None  # noqa: SIM118 - a row has no `in`
    return () if text is None else msgspec.json.decode(text, type=tuple[Tried, ...])


def cleaned(tried: tuple[Tried, ...]) -> tuple[Tried, ...]:
    """With texts that JSON can hold."""
    return tuple(replace(each, message=clean(each.message)) for each in tried)


def execution_of(row: sqlite3.Row, body: bytes | None = None, output: bytes = b"") -> Execution:
    """The execution; its result and output are as given, whatever the row says.

    Raises:
        msgspec.DecodeError: the row is damaged.
    """
    outcome, way, tried = None, None, tried_of(row)
    if row["outcome"] is not None:
        ended = msgspec.json.decode(row["outcome"], type=_Ended)
        outcome = _outcome_of(ended, row["task_name"], body, output)
        way, tried = ended.way, ended.tried
    return Execution(
        execution_id=row["execution_id"],
        task_id=row["task_id"],
        task_name=row["task_name"],
        function_name=row["function_name"],
        mode=Mode(row["mode"]),
        status=ExecutionStatus(row["status"]),
        attempt=row["attempt"],
        queued_at=row["queued_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        queue_s=row["queue_s"],
        outcome=outcome,
        instance_id=row["instance_id"],
        version=row["version"],
        cold_start=bool(row["cold_start"]),
        trace_id=row["trace_id"],
        metadata=msgspec.json.decode(row["metadata"], type=dict[str, str]),
        way=way,
        tried=tried,
    )


def _outcome_of(ended: _Ended, task_name: str, body: bytes | None, output: bytes) -> Outcome:
    head, failure = ended.result, ended.error
    result = None
    if head is not None and body is not None:
        result = Result(kind=head.kind, body=body, status=head.status, headers=head.headers)
    return Outcome(
        kind=ended.kind,
        result=result,
        error=None if failure is None else _error_of(failure, task_name),
        output=output,
        instance_id=ended.instance_id,
        run_s=ended.run_s,
        memory_bytes=ended.memory_bytes,
        cold=ended.cold,
    )


def _head_of(result: Result) -> _ResultHead:
    headers = tuple((clean(name), clean(value)) for name, value in result.headers)
    return _ResultHead(result.kind, result.status, headers)


def _failure_of(error: AtlatlError) -> _Failure:
    return _Failure(
        type(error).__name__, clean(error.message), error.retry_after_s, clean(error.detail)
    )


def _error_of(failure: _Failure, task_name: str) -> AtlatlError:
    leaf = _LEAVES.get(failure.leaf, InternalFailure)
    error = leaf.__new__(leaf)
    # Not the leaf's own __init__: some make the message from other arguments.
    AtlatlError.__init__(
        error, failure.message, retry_after_s=failure.retry_after_s, detail=failure.detail
    )
    if isinstance(error, CircuitOpenError):
        error.name = task_name
    return error


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8")
