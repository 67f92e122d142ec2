"""Durable executions as rows of SQLite, and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from atlatl.errors import InvalidRequest
from atlatl.model import Call, Callback, DeadLetter, Event, Mode, Queued, QueueDepth
from atlatl.stores.execution_rows import execution_of, tried_of

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Call)


def call_bytes(call: Call) -> bytes:
    """The call as MessagePack.

    Raises:
        InvalidRequest: it has a value that cannot be kept; the message says which kind.
    """
    try:
        return _ENCODER.encode(call)
    except OverflowError:
        trouble = "an integer needs more than 64 bits; send it as text"
    except UnicodeEncodeError as error:
        trouble = f"the text {error.object[:40]!r} is no Unicode; send it as bytes"
    except RecursionError:
        trouble = "its values are nested too deeply"
    except (TypeError, ValueError) as error:
        trouble = str(error)
    raise InvalidRequest(f"call {call.execution_id!r} cannot be kept until it runs: {trouble}")


def call_of(content: bytes, execution_id: str) -> Call:
    """The call of an execution.

    Raises:
        msgspec.DecodeError: the bytes are damaged.
    """
    try:
        call = _DECODER.decode(content)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    if call.execution_id != execution_id:
        raise msgspec.DecodeError("it is the call of another execution")
    return call


def state_of(queued: Queued) -> str:
    """The state in which an execution enters the queue."""
    if queued.lease > 0:
        return "leased"
    return "ready" if queued.ready_at <= queued.queued_at else "delayed"


def queue_row(queued: Queued) -> dict[str, Any]:
    """The row, with all bytes in it."""
    return {
        "execution_id": queued.call.execution_id,
        "task_name": queued.call.task_name,
        "state": state_of(queued),
        "turn": queued.turn,
        "queued_at": queued.queued_at,
        "ready_at": queued.ready_at,
        "expires_at": queued.expires_at,
        "attempt": queued.attempt,
        "failures": queued.failures,
        "recoveries": queued.recoveries,
        "lease": queued.lease,
        "task_id": queued.task_id,
        "call_file": None,
        "call": call_bytes(queued.call),
    }


def queued_of(row: sqlite3.Row, call: Call, damage: str = "") -> Queued:
    return Queued(
        call=call,
        task_id=row["task_id"],
        queued_at=row["queued_at"],
        ready_at=row["ready_at"],
        turn=row["turn"],
        expires_at=row["expires_at"],
        attempt=row["attempt"],
        failures=row["failures"],
        recoveries=row["recoveries"],
        lease=row["lease"],
        tried=tried_of(row),
        damage=damage,
    )


def damaged(row: sqlite3.Row, reason: str) -> Queued:
    """The entry of a call that cannot be read any more."""
    key = row["execution_id"]
    call = Call(
        execution_id=key,
        task_name=row["task_name"],
        payload=Event(value=None),
        mode=Mode.ASYNC,
    )
    return queued_of(row, call, damage_of(key, reason))


def damage_of(execution_id: str, reason: str) -> str:
    """Says what happened to a call that cannot be read any more."""
    return (
        f"the stored call of execution {execution_id!r} was changed or removed by another program "
        f"({reason}): call again, or restore it from a backup"
    )


def dead_letter_of(row: sqlite3.Row) -> DeadLetter:
    return DeadLetter(execution=execution_of(row), died_at=row["died_at"])


def callback_of(row: sqlite3.Row) -> Callback:
    return Callback(
        execution_id=row["execution_id"],
        url=row["url"],
        traceparent=row["traceparent"],
        tracestate=row["tracestate"],
        tries=row["tries"],
        ready_at=row["ready_at"],
    )


def depths_of(rows: Iterable[sqlite3.Row]) -> list[QueueDepth]:
    """One for each task in the order of their names; each row counts one state of one task."""
    counts: dict[str, dict[str, Any]] = {}
    for row in rows:
        of_task = counts.setdefault(row["task_name"], {})
        of_task[row["state"]] = row["n"]
        if row["state"] == "ready":
            of_task["oldest_ready_at"] = row["oldest"]
    return [QueueDepth(task_name=name, **of_task) for name, of_task in sorted(counts.items())]
