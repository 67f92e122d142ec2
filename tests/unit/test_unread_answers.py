"""Bytes of answers that their callers have not read yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atlatl.core.admission import ByteBudget
from atlatl.errors import NoCapacity
from atlatl.front.reading import Reading
from atlatl.front.sending import PIECE_BYTES, CountedAnswers
from atlatl.model import Call, Event, Execution, Mode, Outcome, OutcomeKind, Result
from atlatl.service import HANG_UP_GRACE_S
from tests.unit.front_fakes import FakeService, FakeTicket, body, post, run

ITEM = Result("bytes", b"x" * 100)
HELLO = "/functions/hello"


# --- the budget ---


def test_an_answer_is_never_refused_and_what_comes_next_is() -> None:
    budget = ByteBudget(100)
    with budget.hold(300) as held:
        assert budget.held == 300
        with pytest.raises(NoCapacity, match="unread answers") as refusal:
            budget.take(0)
        assert refusal.value.retry_after_s
        held.drop(250)
        budget.take(50)
        budget.give_back(50)
        held.add(10)
        assert budget.held == held.n_bytes == 60
    assert budget.held == 0
    held.release()
    assert budget.held == 0


def test_what_is_held_is_let_go_whatever_happens() -> None:
    budget = ByteBudget(100)
    with pytest.raises(ZeroDivisionError), budget.hold(7):
        raise ZeroDivisionError
    assert budget.held == 0


# --- whole answers ---


class Slow:
    """A connection that takes a message when it is told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._room = asyncio.Semaphore(0)

    async def send(self, message: Any) -> None:
        await self._room.acquire()
        self.sent.append(message)

    async def takes(self, n: int) -> None:
        for _ in range(n):
            self._room.release()
        for _ in range(5 * n + 5):
            await asyncio.sleep(0)


async def _answering(service: FakeService, slow: Slow, *bodies: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for content in bodies[:-1]:
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": bodies[-1]})

    await CountedAnswers(app, service)({"type": "http"}, None, slow.send)  # type: ignore[arg-type]


def test_a_whole_answer_is_held_until_it_is_out() -> None:
    async def scenario() -> None:
        service, slow = FakeService(), Slow()
        content = bytes(range(256)) * (PIECE_BYTES // 256) * 2 + b"end"
        answering = asyncio.create_task(_answering(service, slow, content))
        await slow.takes(1)
        assert service.bytes.held == len(content)
        await slow.takes(3)
        assert service.bytes.held == len(content)  # the last piece has no room yet
        await slow.takes(1)
        await answering
        assert service.bytes.held == 0
        bodies = [message["body"] for message in slow.sent[1:]]
        assert [len(piece) for piece in bodies] == [PIECE_BYTES, PIECE_BYTES, 3, 0]
        assert b"".join(bodies) == content
        assert [m["more_body"] for m in slow.sent[1:]] == [True, True, True, False]

    run(scenario())


def test_a_small_answer_goes_out_as_it_is_and_an_empty_one_too() -> None:
    async def scenario() -> None:
        service, slow = FakeService(), Slow()
        answering = asyncio.create_task(_answering(service, slow, b"small"))
        await slow.takes(1)
        assert service.bytes.held == 5
        await slow.takes(1)
        await answering
        assert slow.sent[1] == {"type": "http.response.body", "body": b"small"}
        await slow.takes(2)
        await _answering(service, slow, b"")
        assert service.bytes.held == 0

    run(scenario())


def test_an_answer_that_nobody_waits_for_any_more_is_let_go() -> None:
    async def scenario() -> None:
        service, slow = FakeService(), Slow()
        answering = asyncio.create_task(_answering(service, slow, b"x" * PIECE_BYTES * 3))
        await slow.takes(2)
        assert service.bytes.held
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert service.bytes.held == 0

    run(scenario())


def test_the_answer_of_a_function_is_counted() -> None:
    seen: list[int] = []
    service = FakeService()

    def behave(ticket: FakeTicket) -> None:
        service.hold_answer = lambda n_bytes=0: (seen.append(n_bytes), service.bytes.hold())[1]
        result = Result("text", b"hello you")
        ticket.finish(Outcome(kind=OutcomeKind.SUCCESS, result=result))

    service.add("hello", behave)
    sent, _ = run(post(service, HELLO, [body(b"{}")]))
    assert sent[1]["body"] == b"hello you"
    assert seen == [9]


# --- streams ---


def _call(**fields: Any) -> Call:
    return Call(
        execution_id="e-1",
        task_name="hello",
        payload=Event(value=None),
        mode=Mode.STREAM,
        **fields,
    )


def _streaming() -> FakeService:
    service = FakeService()
    service.add("hello", lambda ticket: None, streams=True)
    return service


def test_the_items_of_a_stream_are_held_until_they_are_sent() -> None:
    async def scenario() -> None:
        service = _streaming()
        with Reading(service, _call()) as reading:  # type: ignore[arg-type]
            (ticket,) = service.tickets
            ticket.on_chunk(ITEM)
            ticket.on_chunk(ITEM)
            assert service.bytes.held == 200
            assert await reading.next() is ITEM
            assert (service.bytes.held, ticket.credits) == (200, [])
            reading.sent()
            assert (service.bytes.held, ticket.credits) == (100, [100])
            assert await reading.next() is ITEM
            reading.sent()
            ticket.finish(Outcome(kind=OutcomeKind.SUCCESS))
            assert isinstance(await reading.next(), Execution)
        assert service.bytes.held == 0
        assert ticket.cancelled == []

    run(scenario())


def test_a_reader_that_leaves_cancels_with_a_grace_and_holds_nothing() -> None:
    async def scenario() -> None:
        service = _streaming()
        with pytest.raises(ConnectionError), Reading(service, _call()) as reading:  # type: ignore[arg-type]
            (ticket,) = service.tickets
            ticket.on_chunk(ITEM)
            ticket.on_chunk(ITEM)
            await reading.next()
            raise ConnectionError
        assert ticket.cancelled == ["the caller went away"]
        assert ticket.graces == [HANG_UP_GRACE_S]
        assert service.bytes.held == 0

    run(scenario())


def test_a_stream_with_an_id_goes_on_without_its_reader() -> None:
    """Else its function would wait for the reader until the deadline."""

    async def scenario() -> None:
        service = _streaming()
        call = _call(id_given=True)
        with pytest.raises(ConnectionError), Reading(service, call) as reading:  # type: ignore[arg-type]
            (ticket,) = service.tickets
            for _ in range(3):
                ticket.on_chunk(ITEM)
            await reading.next()
            raise ConnectionError
        assert ticket.credits == [100, 100, 100]
        ticket.on_chunk(ITEM)
        assert ticket.credits == [100] * 4
        assert ticket.cancelled == []
        assert service.bytes.held == 0

    run(scenario())


def test_a_stream_says_what_is_known_when_it_begins() -> None:
    def behave(ticket: FakeTicket) -> None:
        ticket.on_chunk(ITEM)
        ticket.finish(Outcome(kind=OutcomeKind.SUCCESS, run_s=1.0))

    service = FakeService()
    service.add("hello", behave, streams=True)
    sent, _ = run(post(service, HELLO, [body(b"")]))
    headers = dict(sent[0]["headers"])
    assert headers[b"atlatl-execution-id"] == b"new-1"
    assert headers[b"atlatl-instance-id"] == b"i-1"
    assert headers[b"atlatl-cold-start"] == b"1"
    assert b"atlatl-duration-ms" not in headers
    assert service.bytes.held == 0


def test_a_caller_who_hangs_up_leaves_a_grace() -> None:
    for streams in (False, True):
        service = FakeService()
        service.add(
            "hello", lambda ticket: ticket.on_chunk and ticket.on_chunk(ITEM), streams=streams
        )
        run(post(service, HELLO, [body(b"{}"), {"type": "http.disconnect"}]))
        assert service.tickets[0].cancelled == ["the caller hung up"]
        assert service.tickets[0].graces == [HANG_UP_GRACE_S]
