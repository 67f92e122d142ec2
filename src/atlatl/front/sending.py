"""Whole answers on their way out, counted until they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from atlatl.service import FunctionService

PIECE_BYTES = 262_144
"""What may be handed to a connection that still has to send what it got before."""


class CountedAnswers:
    """An ASGI application whose answers count among the bytes in flight while they are sent.

    A large one goes out in pieces, each when there is room for it: a server takes a whole body at
    once, however slowly its caller reads, and nobody would know when it was gone. The items of a
    stream are counted by whoever reads it.
    """

    def __init__(self, app: ASGIApp, service: FunctionService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            body = message.get("body", b"")
            if not body or message.get("more_body", False):
                await send(message)
                return
            with self._service.hold_answer(len(body)):
                await _in_pieces(body, message, send)

        await self._app(scope, receive, counted)


async def _in_pieces(body: bytes, message: Message, send: Send) -> None:
    if len(body) <= PIECE_BYTES:
        await send(message)
        return
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    # Waits until the last piece has room too.
    await send({"type": "http.response.body", "body": b"", "more_body": False})
