"""What makes the load of the benchmarks, on transports that go nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bench.plane.generator import Caller, Tally, requests
from bench.plane.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    fault,
    frame,
    header_block,
    unpadded,
)

# --- HTTP ---


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def on_a_loop(test: Callable[[], None]) -> None:
    async def run() -> None:
        test()

    asyncio.run(run())


def answer(body: bytes, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} Said\r\nX: y\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def receive(caller: Caller, content: bytes, piece: int) -> None:
    """Hands it over in pieces, as a transport does."""
    while content:
        room = caller.get_buffer(-1)
        got = content[: min(piece, len(room))]
        room[: len(got)] = got
        caller.buffer_updated(len(got))
        content = content[len(got) :]


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_caller_asks_again_when_it_is_answered(piece: int) -> None:
    def test() -> None:
        tally, transport = Tally(b"{}"), Transport()
        caller = Caller(lambda: b"ask ", tally)
        caller.connection_made(transport)
        receive(caller, answer(b"{}"), piece)
        assert (transport.written, tally.answered, tally.wrong) == (b"ask ask ", 1, 0)
        caller.stopping = True
        receive(caller, answer(b"{}"), piece)
        assert (transport.written, tally.answered) == (b"ask ask ", 2)
        assert transport.closed and caller.ended.done()

    on_a_loop(test)


@pytest.mark.parametrize(
    "wrong",
    [answer(b"{}", 500), answer(b"[]"), answer(b"{} "), answer(b""), answer(b"x" * 200_000)],
    ids=["status", "body", "longer", "empty", "far-too-long"],
)
def test_a_wrong_answer_is_counted_d103(wrong: bytes) -> None:
    def test() -> None:
        tally = Tally(b"{}")
        caller = Caller(lambda: b"ask", tally)
        caller.connection_made(Transport())
        receive(caller, wrong, 50_000)
        receive(caller, answer(b"{}"), 50_000)
        found = tally.report(1.0)
        assert (found["answered"], found["wrong"], found["broken"]) == (2, 1, 0)
        assert found["example"]

    on_a_loop(test)


def test_a_connection_that_ends_is_a_call_without_an_answer_d103() -> None:
    def test() -> None:
        tally = Tally(b"{}")
        caller = Caller(lambda: b"ask", tally)
        caller.connection_made(Transport())
        receive(caller, answer(b"{}")[:20], 20)
        caller.connection_lost(None)
        assert tally.broken == 1 and caller.ended.done()

    on_a_loop(test)


def test_an_answer_without_a_length_is_none_d103() -> None:
    def test() -> None:
        tally = Tally(b"{}")
        caller = Caller(lambda: b"ask", tally)
        caller.connection_made(Transport())
        receive(caller, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 100)
        assert (tally.broken, tally.answered) == (1, 0)

    on_a_loop(test)


def test_there_is_a_request_for_each_path() -> None:
    first, second = requests(80, ["/a", "/b"], b"{}", "application/json")
    assert first.startswith(b"POST /a HTTP/1.1\r\n") and first.endswith(b"\r\n\r\n{}")
    assert b"Content-Length: 2\r\n" in second and b"POST /b " in second


# --- gRPC ---


class Decoder:
    """Reads what `header_block` writes."""

    header_table_size = 0

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, data: bytes) -> list[tuple[str, str]]:
        self.decoded += 1
        words: list[str] = []
        place = 0
        while place < len(data):
            place += len(words) % 2 == 0  # before each name
            end = place + 1 + data[place]
            words.append(data[place + 1 : end].decode())
            place = end
        return list(zip(words[::2], words[1::2], strict=True))


HEAD = header_block([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = header_block([("grpc-status", "0")])
MESSAGE = b"\x00\x00\x00\x00\x02ok"


def reply(stream: int, trailers: bytes = TRAILERS) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, HEAD)
        + frame(DATA, 0, stream, MESSAGE)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)
    )


class Talk:
    """A client, and what became of its calls."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, bytes, str]] = []
        self.broken: list[str] = []
        self.decoder, self.transport = Decoder(), Transport()
        self.client = Client(
            "/a.B/C", self.decoder, lambda *end: self.ends.append(end), self.broken.append
        )
        self.client.connection_made(self.transport)
        self.client.data_received(frame(SETTINGS, 0, 0, b""))

    def ask(self, *messages: bytes) -> bytes:
        """Calls, numbered from 0; gives what was written for it."""
        self.transport.written = b""
        for number, message in enumerate(messages):
            self.client.ask(number, message)
        self.client.flush()
        return self.transport.written


def test_a_client_greets_and_answers_settings() -> None:
    def test() -> None:
        talk = Talk()
        assert talk.transport.written.startswith(PREFACE)
        assert talk.transport.written.endswith(frame(SETTINGS, ACK, 0, b""))
        assert talk.client.ready.done()

    on_a_loop(test)


@pytest.mark.parametrize("piece", [1, 10, 10_000])
def test_calls_end_with_their_own_message(piece: int) -> None:
    def test() -> None:
        talk = Talk()
        assert talk.ask(b"one", b"two").count(b"/a.B/C") == 2
        content = reply(3) + reply(1)
        for place in range(0, len(content), piece):
            talk.client.data_received(content[place : place + piece])
        assert talk.ends == [(1, b"ok", ""), (0, b"ok", "")]
        assert talk.decoder.decoded == 2, "each block is decoded once"

    on_a_loop(test)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (reply(1, header_block([("grpc-status", "8"), ("grpc-message", "full")])), "8: full"),
        (frame(DATA, END_STREAM, 1, MESSAGE), "no trailers"),
        (frame(RST_STREAM, 0, 1, bytes([0, 0, 0, 7])), "code 7"),
        (frame(HEADERS, END_HEADERS | END_STREAM, 1, header_block([(":status", "503")])), "503"),
    ],
    ids=["grpc-status", "no-trailers", "reset", "http-status"],
)
def test_a_call_that_fails_has_a_fault_d103(content: bytes, why: str) -> None:
    def test() -> None:
        talk = Talk()
        talk.ask(b"one")
        talk.client.data_received(content)
        ((number, _, fault),) = talk.ends
        assert number == 0 and why in fault

    on_a_loop(test)


def test_pings_are_answered() -> None:
    def test() -> None:
        talk = Talk()
        talk.transport.written = b""
        talk.client.data_received(frame(PING, 0, 0, b"12345678"))
        assert talk.transport.written == frame(PING, ACK, 0, b"12345678")

    on_a_loop(test)


def test_calls_wait_for_the_window_of_the_connection() -> None:
    def test() -> None:
        talk = Talk()
        large = bytes(FIRST_WINDOW // 2 - 10)
        assert talk.ask(large, large, large, b"x").count(b"/a.B/C") == 2
        talk.transport.written = b""
        talk.client.data_received(frame(WINDOW_UPDATE, 0, 0, (FIRST_WINDOW).to_bytes(4, "big")))
        assert talk.transport.written.count(b"/a.B/C") == 2

    on_a_loop(test)


def test_a_server_that_goes_away_breaks_the_connection() -> None:
    def test() -> None:
        talk = Talk()
        talk.client.data_received(frame(GOAWAY, 0, 0, bytes(8)))
        assert len(talk.broken) == 1 and "goes away" in talk.broken[0]
        assert talk.transport.closed

    on_a_loop(test)


def test_a_server_that_keeps_a_header_table_is_refused() -> None:
    def test() -> None:
        talk = Talk()
        talk.decoder.header_table_size = 4096
        talk.ask(b"one")
        talk.client.data_received(reply(1))
        assert "told not to" in talk.broken[0] and talk.ends == []

    on_a_loop(test)


def test_padding_is_taken_off() -> None:
    assert unpadded(PADDED, b"\x02abc\x00\x00") == b"abc"
    assert unpadded(0, b"\x02abc") == b"\x02abc"


def test_only_a_whole_success_has_no_fault() -> None:
    assert fault({":status": "200", "grpc-status": "0"}) == ""
    assert fault({":status": "200"}) and fault({"grpc-status": "0"})
