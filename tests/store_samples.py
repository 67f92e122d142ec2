"""Tasks, artifacts and executions for the tests of stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from atlatl.errors import AtlatlError, FunctionRaised
from atlatl.model import (
    Arguments,
    Artifact,
    Call,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Parameter,
    Queued,
    Result,
    Shape,
    Task,
    Tried,
    failed,
)
from atlatl.settings import Settings, task_settings
from atlatl.stores.sqlite import SqliteStore

T = TypeVar("T")

TRIED = Tried(
    attempt=1,
    ended_at=1700000000.5,
    code="EXECUTION_ERROR",
    message="ValueError: naïve ☃",
    instance_id="i-1",
    run_s=0.25,
    retry_in_s=1.5,
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def artifact(content: bytes = b"code", **facts: Any) -> Artifact:
    known: dict[str, Any] = {
        "artifact_id": "art-1",
        "version": "1",
        "checksum": sha256(content),
        "filename": "app.py",
        "size_bytes": len(content),
        "location": "file:///srv/app.py",
        "labels": {"team": "blue"},
        "created_at": 1700000000.25,
    }
    return Artifact(**known | facts)


def task(task_id: str = "t-1", name: str = "hello", **facts: Any) -> Task:
    overrides = facts.pop("overrides", {"timeout_ms": 5000, "pool": {"max_size": 4}})
    known: dict[str, Any] = {
        "version": 1,
        "artifact": artifact(),
        "handler": "app.py:main",
        "shapes": {
            "main": Shape(
                function="main",
                kind="parameters",
                parameters=(Parameter(name="who", required=True, annotation="str"),),
            )
        },
        "created_by_call": True,
        "created_at": 1700000000.5,
        "updated_at": 1700000001.5,
    }
    resolved = task_settings(Settings(), overrides)
    return Task(task_id=task_id, name=name, overrides=overrides, settings=resolved, **known | facts)


def success(body: bytes = b'{"n":1}', output: bytes = b"printed\n") -> Outcome:
    return Outcome(
        kind=OutcomeKind.SUCCESS,
        result=Result(kind="json", body=body),
        output=output,
        instance_id="i-1",
        run_s=0.25,
        memory_bytes=2**33,
        cold=True,
    )


def failure(output: bytes = b"") -> Outcome:
    return failed(FunctionRaised("ValueError: no", detail="Traceback ..."), output=output)


def execution(execution_id: str = "e-1", outcome: Outcome | None = None, **facts: Any) -> Execution:
    """One that is pending, or that ended with `outcome`."""
    known: dict[str, Any] = {
        "task_id": "t-1",
        "task_name": "hello",
        "function_name": "main",
        "mode": Mode.SYNC,
        "status": ExecutionStatus.PENDING if outcome is None else outcome.status,
        "queued_at": 1700000000.5,
        "completed_at": None if outcome is None else 1700000001.75,
        "outcome": outcome,
    }
    return Execution(execution_id=execution_id, **known | facts)


def claim(execution_id: str = "e-1", fingerprint: bytes = b"f" * 32, **facts: Any) -> Any:
    """The record of a call with an id, as it is before it starts."""
    return ExecutionRecord(execution=execution(execution_id, **facts), fingerprint=fingerprint)


def record(execution_id: str = "e-1", outcome: Outcome | None = None, **facts: Any) -> Any:
    """The record of a call without an id."""
    return ExecutionRecord(execution=execution(execution_id, outcome or success(), **facts))


def queued(execution_id: str = "e-1", task_name: str = "hello", **facts: Any) -> Queued:
    """An accepted call, ready since 10.0 unless told otherwise."""
    payload = facts.pop("payload", Arguments(values={"who": "world"}))
    options = facts.pop("call", {})
    known: dict[str, Any] = {
        "call": Call(
            execution_id=execution_id,
            task_name=task_name,
            payload=payload,
            mode=Mode.ASYNC,
            **options,
        ),
        "task_id": "t-1",
        "queued_at": 10.0,
        "ready_at": 10.0,
        "turn": 25.0,
    }
    return Queued(**known | facts)


def accepted(entry: Queued, fingerprint: bytes = b"") -> ExecutionRecord:
    """The record of an entry, as it is from acceptance on."""
    return ExecutionRecord(
        execution=execution(
            entry.call.execution_id,
            task_id=entry.task_id,
            task_name=entry.call.task_name,
            mode=Mode.ASYNC,
            queued_at=entry.queued_at,
            attempt=entry.attempt,
        ),
        fingerprint=fingerprint,
    )


def ended(entry: Queued, outcome: Outcome | None = None, **facts: Any) -> ExecutionRecord:
    """The record of an entry that has ended."""
    outcome = outcome or success()
    known: dict[str, Any] = {
        "status": outcome.status,
        "outcome": outcome,
        "started_at": 20.0,
        "completed_at": 21.5,
        "queue_s": 10.0,
        "instance_id": outcome.instance_id,
        "version": 3,
        "cold_start": outcome.cold,
    }
    return ExecutionRecord(execution=replace(accepted(entry).execution, **known | facts))


def plain(stored: ExecutionRecord | None) -> Any:
    """The record in a form that compares: errors do not."""
    if stored is None or stored.execution.outcome is None:
        return stored
    outcome = stored.execution.outcome
    bare = replace(stored.execution, outcome=replace(outcome, error=None))
    return replace(stored, execution=bare), _plain_error(outcome.error)


def _plain_error(error: AtlatlError | None) -> object:
    return error and (type(error), error.message, error.retry_after_s, error.detail, vars(error))


@asynccontextmanager
async def sqlite_store(
    directory: Path, settings: Settings | None = None
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(directory, settings or Settings())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def with_sqlite(directory: Path, work: Callable[[SqliteStore], Awaitable[T]]) -> T:
    """Runs `work` with the directory's store open."""

    async def run() -> T:
        async with sqlite_store(directory) as store:
            return await work(store)

    return asyncio.run(run())
