"""Tasks and artifacts as rows of SQLite, and back."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from atlatl.errors import SettingInvalid
from atlatl.model import Artifact, Shape, Task
from atlatl.settings import Settings, task_settings


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8")


def artifact_row(artifact: Artifact) -> dict[str, Any]:
    return msgspec.structs.asdict(artifact) | {"labels": _json(artifact.labels)}


def task_row(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "name": task.name,
        "version": task.version,
        "artifact_id": task.artifact.artifact_id,
        "artifact_version": task.artifact.version,
        "checksum": task.artifact.checksum,
        "handler": task.handler,
        "overrides": _json(task.overrides),
        "shapes": _json(task.shapes),
        "created_by_call": task.created_by_call,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
    }


def artifact_of(row: sqlite3.Row) -> Artifact:
    return Artifact(
        artifact_id=row["artifact_id"],
        version=row["artifact_version"],
        checksum=row["checksum"],
        filename=row["filename"],
        size_bytes=row["size_bytes"],
        artifact_type=row["artifact_type"],
        location=row["location"],
        labels=msgspec.json.decode(row["labels"], type=dict[str, str]),
        created_at=row["artifact_created_at"],
    )


def task_of(row: sqlite3.Row, defaults: Settings) -> Task:
    """The task, with its settings resolved anew on the service's defaults.

    Raises:
        SettingInvalid: what was set at deploy does not fit the defaults any more.
        msgspec.DecodeError: the row is damaged.
    """
    overrides = msgspec.json.decode(row["overrides"], type=dict[str, Any])
    try:
        settings = task_settings(defaults, overrides)
    except SettingInvalid as error:
        raise SettingInvalid(
            f"task {row['name']!r} can't be loaded with the service's settings: {error.message}; "
            "change the service's settings back, or deploy the task again under them"
        ) from None
    return Task(
        task_id=row["task_id"],
        name=row["name"],
        version=row["version"],
        artifact=artifact_of(row),
        handler=row["handler"],
        overrides=overrides,
        settings=settings,
        shapes=msgspec.json.decode(row["shapes"], type=dict[str, Shape]),
        created_by_call=bool(row["created_by_call"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
