"""Deploying, listing and deleting tasks over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from atlatl.errors import (
    ArtifactError,
    ConfigurationError,
    Conflict,
    InvalidRequest,
    PermissionDenied,
    TaskNotFound,
)
from atlatl.front.answers import (
    address,
    bounded,
    count_parameter,
    flag_parameter,
    json_answer,
    page_parameters,
    read_json,
    text_parameter,
)
from atlatl.front.auth import Grant, Scope
from atlatl.front.problems import problem_response
from atlatl.front.reach import Reach, filtered, grant_of
from atlatl.front.routes import Endpoint
from atlatl.front.rows import deployment_row, task_row
from atlatl.settings import merge

if TYPE_CHECKING:
    from atlatl.service import FunctionService

OVERHEAD_BYTES = 1024 * 1024
"""What a form may add to the artifact: boundaries and settings."""

_KINDS = ((b"PK\x03\x04", "main.zip"), (b"\0asm", "main.wasm"))
"""First bytes of an artifact that came without a file name; anything else is one `.py` file."""


_FORM = {
    "type": "object",
    "properties": {
        "artifact": {"type": "string", "format": "binary"},
        "settings": {"type": "string", "description": "A JSON object."},
    },
    "required": ["artifact"],
}


class Upload(NamedTuple):
    """What a deploy brought."""

    content: bytes
    filename: str
    settings: dict[str, Any]


class Tasks:
    """Answers everything below `/api/v1/tasks`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        one = "/api/v1/tasks/{name}"
        return [
            Endpoint(
                "GET",
                "/api/v1/tasks",
                self.listing,
                Scope.DEPLOY,
                ("prefix", "limit", "start_after"),
                reach=Reach.SHOWN,
            ),
            Endpoint(
                "PUT",
                one,
                self.deploy,
                Scope.DEPLOY,
                ("filename", "handler", "timeout_ms"),
                {"multipart/form-data": _FORM, "application/octet-stream": {}},
                {"200": ["application/json"], "201": ["application/json"]},
                Reach.NAMED,
            ),
            Endpoint("GET", one, self.show, Scope.DEPLOY, reach=Reach.NAMED),
            Endpoint(
                "DELETE",
                one,
                self.delete,
                Scope.ADMIN,
                ("force", "cleanup_executions"),
                reach=Reach.NAMED,
            ),
        ]

    async def deploy(self, request: Request) -> Response:
        """Deploys a task, or changes one: 201 when something changed, 200 when nothing did."""
        name = request.path_params["name"]
        # Elsewhere an id stands for its task; here it would be the name of a new one.
        grant_of(request).touch(name)
        upload = await self._upload(request)
        _check_confinement(grant_of(request), upload.settings)
        try:
            deployment = await self._service.deploy(
                name, upload.content, filename=upload.filename, settings=upload.settings
            )
        except (ArtifactError, ConfigurationError) as error:
            # Whoever may deploy may see why the code does not import: it is their own.
            return problem_response(error, log=error.detail)
        row = deployment_row(deployment, self._service.task_view(deployment.task))
        if not (deployment.created or deployment.changed):
            return json_answer(row)
        where = address(request, "api", "v1", "tasks", deployment.task.name)
        return json_answer(row, status=201, headers={"Location": where})

    async def _upload(self, request: Request) -> Upload:
        limit = self._service.settings.artifacts.max_bytes + OVERHEAD_BYTES
        request = bounded(request, limit, "artifacts.max_bytes")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "multipart/form-data":
            content, filename, settings = await _form(request)
        else:
            content, filename, settings = await request.body(), "", {}
        if not content:
            raise InvalidRequest("the artifact is empty: send a .py file or a .zip")
        filename = PurePosixPath(text_parameter(request, "filename") or filename).name
        return Upload(content, filename or _guess(content), merge(settings, _from_query(request)))

    async def listing(self, request: Request) -> Response:
        """Lists tasks, ordered by `task_id`."""
        page = self._service.tasks(
            prefix=text_parameter(request, "prefix"),
            **page_parameters(request),
            **filtered(grant_of(request)),
        )
        rows = [task_row(self._service.task_view(task)) for task in page.items]
        return json_answer({"tasks": rows, "next_start_after": page.next_start_after})

    async def show(self, request: Request) -> Response:
        """Shows one task."""
        task = self._service.task(request.path_params["name"])
        return json_answer(task_row(self._service.task_view(task)))

    async def delete(self, request: Request) -> Response:
        """Deletes a task; with executions in progress only when forced."""
        name = request.path_params["name"]
        deletion = await self._service.delete_task(
            name,
            force=flag_parameter(request, "force"),
            cleanup_executions=flag_parameter(request, "cleanup_executions"),
        )
        if not deletion.found:
            raise TaskNotFound(f"there is no task {name!r}")
        if not deletion.deleted:
            raise Conflict(
                f"task {name!r} has {deletion.running} executions in progress; wait for them, or "
                "cancel them by deleting with ?force=true"
            )
        return json_answer(
            {"task_name": name, "deleted": True, "cleaned_executions": deletion.cleaned_executions}
        )


def _check_confinement(grant: Grant, settings: dict[str, Any]) -> None:
    """Code that nothing holds may read the admin token, so that whoever deploys it has it."""
    confinement = settings.get("confinement")
    if isinstance(confinement, dict) and confinement.get("level") == "none":
        try:
            grant.require(Scope.ADMIN)
        except PermissionDenied as error:
            raise PermissionDenied(f"`confinement.level = none`: {error.message}") from None


class _FormReader(MultiPartParser):
    """Reads a form and refuses one that breaks off: its settings might be what is missing."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.headers, self._whole(request))
        self._ended = False

    def on_end(self) -> None:
        self._ended = True

    async def _whole(self, request: Request) -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            yield chunk
        if not self._ended:
            raise MultiPartException("it breaks off before its closing boundary")


async def _form(request: Request) -> tuple[bytes, str, dict[str, Any]]:
    """Artifact, its file name, and settings, out of a form."""
    try:
        form = await _FormReader(request).parse()
    except (MultiPartException, ValueError) as error:
        raise InvalidRequest(f"the form cannot be read: {error}") from None
    try:
        artifact, settings = form.get("artifact"), form.get("settings", "")
        if artifact is None:
            raise InvalidRequest("the form has no part `artifact` with the code")
        filename = artifact.filename or "" if isinstance(artifact, UploadFile) else ""
        return await _bytes(artifact), filename, _settings(await _bytes(settings))
    finally:
        await form.close()


async def _bytes(part: UploadFile | str) -> bytes:
    if isinstance(part, UploadFile):
        return await part.read()
    try:
        return part.encode()
    except UnicodeEncodeError as error:  # some charsets can write half a character
        raise InvalidRequest(f"a part of the form is no Unicode: {error}") from None


def _settings(text: bytes) -> dict[str, Any]:
    if not text.strip():
        return {}
    return read_json(text, dict[str, Any], "part `settings` is not a JSON object")


def _from_query(request: Request) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if handler := text_parameter(request, "handler"):
        settings["handler"] = handler
    if timeout_ms := count_parameter(request, "timeout_ms", 0):
        settings["timeout_ms"] = timeout_ms
    return settings


def _guess(content: bytes) -> str:
    return next((name for magic, name in _KINDS if content.startswith(magic)), "main.py")
