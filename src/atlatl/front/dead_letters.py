"""Async executions that failed for good, over HTTP: look at them, try again, let them go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from atlatl.front.answers import json_answer, page_parameters
from atlatl.front.auth import Scope
from atlatl.front.reach import Reach, filtered, grant_of
from atlatl.front.routes import Endpoint
from atlatl.front.rows import dead_letter_row, execution_row

if TYPE_CHECKING:
    from atlatl.service import FunctionService


class DeadLetters:
    """Answers `/api/v1/dead-letters`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        every = "/api/v1/dead-letters"
        one = every + "/{id:path}"  # an id may have slashes in it
        pages, of_one = ("limit", "start_after"), Reach.EXECUTION
        return [
            Endpoint("GET", every, self.listing, Scope.ADMIN, pages, reach=Reach.SHOWN),
            Endpoint("POST", one + "/redrive", self.redrive, Scope.ADMIN, reach=of_one),
            Endpoint("DELETE", one, self.delete, Scope.ADMIN, answers={"204": []}, reach=of_one),
        ]

    async def listing(self, request: Request) -> Response:
        """Lists async executions that failed for good, the latest first."""
        page = await self._service.dead_letters(
            **page_parameters(request), **filtered(grant_of(request))
        )
        rows = [dead_letter_row(letter) for letter in page.items]
        return json_answer({"dead_letters": rows, "next_start_after": page.next_start_after})

    async def redrive(self, request: Request) -> Response:
        """Has a dead letter tried again under its id, by the current version of its task."""
        return json_answer(execution_row(await self._service.redrive(request.path_params["id"])))

    async def delete(self, request: Request) -> Response:
        """Lets a dead letter go: it cannot be tried again, its record stays."""
        await self._service.delete_dead_letter(request.path_params["id"])
        return Response(status_code=204)
