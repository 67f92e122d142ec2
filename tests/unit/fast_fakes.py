"""Tasks that end as they are told to, and connections that speak to them with the short way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from msgspec.structs import replace

from atlatl.errors import FunctionRaised
from atlatl.front.access import Gate
from atlatl.front.auth import Authorizer
from atlatl.front.fast import FastPath
from atlatl.front.sending import PIECE_BYTES
from atlatl.model import Outcome, OutcomeKind, Result
from tests.connections import Answer, Connection
from tests.unit.front_fakes import (
    TOKEN,
    Behaviour,
    FakeService,
    FakeTicket,
    fails,
    front,
    hangs,
    make_execution,
    returns,
)

LARGE = 5 * PIECE_BYTES
MAX_BODY_BYTES = 100_000


def warm(outcome: Outcome, *, after_s: float | None = None, instance_id: str = "i-1") -> Behaviour:
    """Ends like this, at once or later, on an instance that was there already."""

    def end(ticket: FakeTicket) -> None:
        if not ticket.ended:
            ticket.ended = True
            execution = make_execution(ticket.call, outcome)
            ticket.done(replace(execution, cold_start=False, instance_id=instance_id))

    def behave(ticket: FakeTicket) -> None:
        if after_s is None:
            end(ticket)
        else:
            asyncio.get_running_loop().call_later(after_s, end, ticket)

    return behave


def result(kind: str, body: bytes, **more: Any) -> Outcome:
    return Outcome(
        kind=OutcomeKind.SUCCESS, result=Result(kind=kind, body=body, **more), run_s=0.0125
    )


def echoes(ticket: FakeTicket) -> None:
    """Answers at once with the body."""
    warm(result("json", ticket.call.payload.body))(ticket)  # type: ignore[union-attr]


def served() -> FakeService:
    service = FakeService(http={"max_body_bytes": MAX_BODY_BYTES})
    service.add("echo", echoes)
    service.add("slow", warm(result("json", b'"slow"'), after_s=5.0))
    service.add("hangs", hangs)
    service.add("fails", fails(FunctionRaised("ValueError: no")))
    service.add("large", warm(result("bytes", b"x" * LARGE)))
    service.add("cold", returns("json", b"1"))
    return service


def fast_path(service: FakeService) -> FastPath:
    return FastPath(service, Gate(Authorizer(TOKEN), "127.0.0.1"))  # type: ignore[arg-type]


def connected(service: FakeService, *, fast: bool = True, **http: Any) -> Connection:
    """With the short way, or without."""
    return Connection(front(service), fast=fast_path(service) if fast else None, **http)


def asks(name: str, body: bytes = b"", *lines: bytes, version: bytes = b"1.1") -> bytes:
    head = [
        b"POST /functions/%b HTTP/%b" % (name.encode(), version),
        b"Host: localhost",
        b"Content-Length: %d" % len(body),
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def problem(answer: Answer) -> str:
    """Its code."""
    assert answer.header("content-type") == "application/problem+json"
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    return str(document["code"])


def bodies(connection: Connection) -> list[bytes]:
    assert not connection.transport.late
    return [answer.body for answer in connection.answers()]
