"""What every answer and every question of the HTTP front has in common."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from atlatl.errors import Cancelled, InvalidRequest, PayloadTooLarge

MAX_PAGE = 1000

LARGEST_COUNT = 2**53
"""Of a query parameter; larger ones are not exact in JSON."""

MAX_WAIT_S = 60.0
"""Longer, and what lies between would take the connection for dead."""

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

T = TypeVar("T")


def json_answer(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def read_json(content: bytes, kind: type[T], name: str) -> T:
    """A JSON text that a caller sent.

    Args:
        content: the text.
        kind: what it has to be.
        name: of the text, for the error.

    Raises:
        InvalidRequest: it is no JSON, or not of that kind.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{name}: {error}") from None
    except RecursionError:
        raise InvalidRequest(f"{name}: it is nested too deep") from None


def address(request: Request, *segments: str) -> str:
    """Path of something served here, below the prefix that this front is mounted at."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/") + "".join(f"/{quote(segment, safe='')}" for segment in segments)


def bounded(request: Request, max_bytes: int, setting: str) -> Request:
    """The same request, whose body cannot be read beyond `max_bytes`.

    Args:
        request: as it came in, its body not yet read.
        max_bytes: largest body.
        setting: name of the setting that says so, for the error.

    Raises:
        PayloadTooLarge: now, if the body says that it is larger; else while it is read.
    """
    too_large = PayloadTooLarge(f"the body is larger than {max_bytes} bytes (`{setting}`)")
    stated = request.headers.get("content-length", "")
    if is_whole_number(stated) and int(stated) > max_bytes:
        raise too_large
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work whose body is read, for as long as somebody waits for it.

    Raises:
        Cancelled: the caller hung up, so the work was cancelled.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the caller hung up")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def text_parameter(request: Request, name: str) -> str:
    """A query parameter; empty when it is not there."""
    return request.query_params.get(name, "")


def flag_parameter(request: Request, name: str) -> bool:
    """A yes-or-no query parameter; absent is no.

    Raises:
        InvalidRequest: it is neither.
    """
    value = text_parameter(request, name).lower()
    if value in ("", "0", "false"):
        return False
    if value in ("1", "true"):
        return True
    raise InvalidRequest(f"`{name}` is true or false, it is {value[:140]!r}")


def count_parameter(request: Request, name: str, default: int) -> int:
    """A query parameter that counts something; 0 is the default too.

    Raises:
        InvalidRequest: it is not a whole number from 0.
    """
    value = text_parameter(request, name) or "0"
    count = int(value) if is_whole_number(value) else -1
    if not 0 <= count <= LARGEST_COUNT:
        raise InvalidRequest(f"`{name}` is a whole number of 0 or more, it is {value[:140]!r}")
    return count or default


def wait_parameter(request: Request) -> float:
    """`wait`: how many seconds the answer may be held back; absent is none.

    Raises:
        InvalidRequest: it is no decimal number from 0 to MAX_WAIT_S.
    """
    value = text_parameter(request, "wait") or "0"
    if not _SECONDS.fullmatch(value) or float(value) > MAX_WAIT_S:
        raise InvalidRequest(
            f"`wait` is a number of seconds from 0 to {MAX_WAIT_S:g}, it is {value[:140]!r}"
        )
    return float(value)


def is_whole_number(text: str) -> bool:
    """Whether `int` takes it: that refuses some digits of Unicode, and thousands of ours."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def page_parameters(request: Request) -> dict[str, Any]:
    """`limit` and `start_after` of a list, as arguments of the service."""
    limit = count_parameter(request, "limit", 100)
    return {
        "limit": min(limit, MAX_PAGE),
        "start_after": text_parameter(request, "start_after"),
    }
