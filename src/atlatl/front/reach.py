"""What a token that is limited to certain tasks reaches, on every route and RPC.

A task that it may not touch is refused by its name. An execution of such a task is one that is
not there, because only who looks it up could know whose it is. Lists leave both out.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from atlatl.errors import ExecutionNotFound, TaskNotFound
from atlatl.front.auth import Grant
from atlatl.model import Execution

if TYPE_CHECKING:
    from atlatl.engine.views import InvocationTarget
    from atlatl.service import FunctionService

_KEY = "atlatl.grant"


class Reach(enum.Enum):
    """Which tasks a route or an RPC touches."""

    NONE = enum.auto()
    """It has nothing to do with any task."""
    NAMED = enum.auto()
    """The one that the request names."""
    EXECUTION = enum.auto()
    """That of the execution that the request names."""
    SHOWN = enum.auto()
    """Its handler keeps to what the caller may see."""
    ALL = enum.auto()
    """All of them together: nothing for a limited token."""


def grant_of(request: Request) -> Grant:
    """What the caller may do, once the request was let in."""
    grant: Grant = request.scope[_KEY]
    return grant


def keep_grant(request: Request, grant: Grant) -> None:
    request.scope[_KEY] = grant


async def keep_within(
    grant: Grant, reach: Reach, service: FunctionService, named: dict[str, Any]
) -> None:
    """Returns when a limited caller may touch what a request names.

    Args:
        grant: of the caller.
        reach: of the route.
        service: knows whose execution it is.
        named: the path's parameters.

    Raises:
        PermissionDenied: a task that the caller may not touch.
        ExecutionNotFound: an execution of such a task, or of none.
        StoreUnavailable.
    """
    if reach is Reach.ALL:
        grant.touch_all()
    elif reach is Reach.NAMED:
        touch(grant, service, named["task"] if "task" in named else named["name"])
    elif reach is Reach.EXECUTION:
        await visible_execution(grant, service, named["id"])


def touch(grant: Grant, service: FunctionService, ref: str) -> None:
    """Raises PermissionDenied unless the caller may touch the task of this name or id."""
    if not grant.limited:
        return
    try:
        name = service.task(ref).name
    except TaskNotFound:
        name = ref
    grant.touch(name)


def touch_target(grant: Grant, service: FunctionService, target: InvocationTarget) -> None:
    """The same for the task that an invocation is for, or would create.

    What it would be made from counts too: a known artifact is another task's code.
    """
    if not grant.limited:
        return
    spec = target.spec
    if target.task_id and target.invocation_type != "new":
        try:
            grant.touch(service.task(target.task_id).name)
            return
        except TaskNotFound:
            if spec is None or not target.create_if_not_exists:
                grant.touch(target.task_id)
    if spec is not None:
        grant.touch(target.task_name or spec.artifact_id)
        if service.would_create(target):
            grant.touch(spec.artifact_id)


async def visible_execution(grant: Grant, service: FunctionService, execution_id: str) -> Execution:
    """The record as it stands now.

    Raises:
        ExecutionNotFound: there is none, or the caller may not know of it.
        StoreUnavailable.
    """
    execution = await service.execution(execution_id)
    if not grant.sees(execution.task_name):
        raise ExecutionNotFound(f"there is no execution {execution_id[:140]!r}")
    return execution


def filtered(grant: Grant) -> dict[str, Any]:
    """The argument of a list that leaves out what the caller may not see; none when it sees all."""
    return {"sees": grant.sees} if grant.limited else {}
