"""Raw bytes on the real listener: whatever a connection brings, the next one is served."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import requests
from tests.fuzz.field import LONG_S, SLEEPER, STEADY, Field, examples, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOOD = f"POST /functions/{STEADY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n".encode()
GOOD_BODY = b'{"x":1}'
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with opened(tmp_path_factory.mktemp("raw") / "data") as field:
        yield field


@pytest.fixture(autouse=True)
def good_afterwards(field: Field) -> Iterator[None]:
    yield
    served(field)
    field.run(field.check())


def served(field: Field) -> None:
    """A good request on a connection of its own is answered."""
    answers = talk(field, GOOD + b"Connection: close\r\n\r\n" + GOOD_BODY)
    assert statuses(answers) == [200], answers
    assert answers.endswith(GOOD_BODY)


@contextmanager
def connected(field: Field) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", field.listener.port), LONG_S) as connection:
        yield connection


def talk(field: Field, *pieces: bytes, half_close: bool = False) -> bytes:
    """Everything that the service says to these bytes, until it closes the connection."""
    with connected(field) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has had enough of this already
        return heard(connection)


def heard(connection: socket.socket) -> bytes:
    out = b""
    try:
        while piece := connection.recv(65536):
            out += piece
    except ConnectionResetError:
        pass
    return out


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(answers)]


def head(*lines: bytes, start: bytes = b"POST /functions/steady HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: localhost", *lines, b"", b""])


@pytest.mark.parametrize(
    "begun", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n" * 20]
)
def test_a_slow_head_is_cut_off(field: Field, begun: bytes) -> None:
    with connected(field) as connection:
        connection.sendall(begun)
        # A line now and then does not help: the whole head has to be there in time.
        connection.settimeout(0.05)
        ends = time.monotonic() + LONG_S
        while time.monotonic() < ends:
            try:
                if begun.endswith(b": "):
                    connection.sendall(b"x")
                answer = connection.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                break
            assert b"200 OK" not in answer
            break
        else:
            pytest.fail("the connection was still open")


def test_a_kept_connection_has_its_idle_time_and_then_its_head_again(field: Field) -> None:
    with connected(field) as connection:
        for _ in range(2):
            connection.sendall(GOOD + b"\r\n" + GOOD_BODY)
            answer = b""
            while not answer.endswith(GOOD_BODY):
                answer += connection.recv(65536)
            assert statuses(answer) == [200]
            # Longer than the head may take: between two requests nothing is due.
            time.sleep(field.settings.http.header_timeout_s * 1.2)
        connection.sendall(b"POST /functions/steady HTTP/1.1\r\nHost: loc")
        assert heard(connection) == b""


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 7", b"Content-Length: 8"),
        (b"Content-Length: 7, 8",),
        (b"Content-Length: 7", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 7"),
        (b"Transfer-Encoding: identity", b"Content-Length: 7"),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding : chunked",),
        (b"Content-Length: -1",),
        (b"Content-Length: +7",),
        (b"Content-Length: 0x7",),
        (b"Content-Length: 99999999999999999999999",),
        (b"Content-Length: \xb2",),
    ],
)
def test_lengths_that_conflict_let_no_second_request_in(
    field: Field, lines: tuple[bytes, ...]
) -> None:
    """A body that two readers delimit differently could hide a request (RFC 9112, 11.2)."""
    hidden = b"GET /functions/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    body = b"0\r\n\r\n" + hidden
    answers = talk(field, head(*lines) + body, half_close=True)
    assert len(statuses(answers)) <= 1, answers
    assert b"smuggled" not in answers


@pytest.mark.parametrize(
    "body",
    [
        b"7;name=value\r\n" + GOOD_BODY + b"\r\n0\r\n\r\n",
        b'7;a="b;c"\r\n' + GOOD_BODY + b"\r\n0;last\r\n\r\n",
        b"7;" + b"x" * 60_000 + b"\r\n" + GOOD_BODY + b"\r\n0\r\n\r\n",
        b"3\r\n" + GOOD_BODY[:3] + b"\r\n4\r\n" + GOOD_BODY[3:] + b"\r\n0\r\nTrailer: x\r\n\r\n",
        b"0" * 100 + b"7\r\n" + GOOD_BODY + b"\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n" + GOOD_BODY,
        b"-7\r\n" + GOOD_BODY,
        b"7\n" + GOOD_BODY + b"\n0\n\n",
        b"zz\r\n",
        b"7\r\n" + GOOD_BODY + b"0\r\n\r\n",
    ],
)
def test_chunks_of_every_kind(field: Field, body: bytes) -> None:
    lines = (b"Transfer-Encoding: chunked", b"Connection: close")
    answers = talk(field, head(*lines) + body, half_close=True)
    assert statuses(answers) in ([], [200], [400]), answers


def test_a_body_of_many_chunks_is_bounded(field: Field) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answers = talk(field, head(b"Transfer-Encoding: chunked"), *[chunk] * 64)
    assert statuses(answers) == [413], answers[:500]


def test_100_000_headers(field: Field) -> None:
    lines = [b"X-%d: y" % n for n in range(100_000)]
    answers = talk(field, head(*lines, b"Content-Length: 0", b"Connection: close"))
    assert statuses(answers) in ([431], [400]), answers[:500]


def test_a_header_of_1_mib(field: Field) -> None:
    answers = talk(field, head(b"X: " + b"y" * 1024 * 1024, b"Connection: close"))
    assert statuses(answers) in ([431], [400]), answers[:500]


def test_a_request_line_of_1_mib(field: Field) -> None:
    start = b"GET /" + b"y" * 1024 * 1024 + b" HTTP/1.1"
    answers = talk(field, head(b"Connection: close", start=start))
    assert statuses(answers) in ([431], [414], [400]), answers[:500]


def test_a_head_without_an_end_takes_no_memory(field: Field) -> None:
    """64 MiB of header fields, in one connection: cut off long before."""
    sent = 0
    with connected(field) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            while sent < 64 * 1024 * 1024:
                connection.sendall(b"X: " + b"y" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        heard(connection)
    assert sent < 16 * 1024 * 1024


@pytest.mark.parametrize("piece", [b"x" * 65536, b"X: y\r\n" * 10_000])
@pytest.mark.parametrize("start", [b"7;", b"0\r\nX: "])
def test_extensions_and_trailers_without_an_end(field: Field, start: bytes, piece: bytes) -> None:
    sent = 0
    with connected(field) as connection:
        try:
            connection.sendall(head(b"Transfer-Encoding: chunked") + start)
            while sent < 64 * 1024 * 1024:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        heard(connection)
    assert sent < 16 * 1024 * 1024


def test_a_trailer_is_no_header(field: Field) -> None:
    """A proxy in front may have taken a header of that name away; it does not look at trailers."""
    start = b"POST /functions/whole HTTP/1.1"
    lines = (b"Transfer-Encoding: chunked", b"Connection: close")
    body = b"2\r\nhi\r\n0\r\nX-Late: smuggled\r\n\r\n"
    answers = talk(field, head(*lines, start=start) + body)
    assert statuses(answers) == [200], answers
    assert b"smuggled" not in answers
    assert b"smuggled" in talk(field, head(b"X-Late: smuggled", *lines, start=start) + body)


def test_a_line_break_does_not_keep_an_idle_connection(field: Field) -> None:
    with connected(field) as connection:
        connection.sendall(GOOD + b"\r\n" + GOOD_BODY)
        answer = b""
        while not answer.endswith(GOOD_BODY):
            answer += connection.recv(65536)
        connection.sendall(b"\r\n")
        assert heard(connection) == b""


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"x" * 1000])
@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_an_upgrade_is_ignored_and_the_body_read(
    field: Field, upgrade: bytes, pause_s: float
) -> None:
    """Java's client asks for HTTP/2 with every first request, also of those with a body."""
    asks = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + upgrade, b"HTTP2-Settings: x")
    with connected(field) as connection:
        for framed in (
            (b"Content-Length: 7", GOOD_BODY),
            (b"Transfer-Encoding: chunked", b"7\r\n" + GOOD_BODY + b"\r\n0\r\n\r\n"),
        ):
            connection.sendall(head(framed[0], *asks))
            time.sleep(pause_s)
            connection.sendall(framed[1])
            answer = b""
            while not answer.endswith(GOOD_BODY):
                piece = connection.recv(65536)
                assert piece, answer
                answer += piece
            assert statuses(answer) == [200]
        connection.sendall(head(b"Connection: close", start=b"GET /healthz HTTP/1.1"))
        assert statuses(heard(connection)) == [200]


def test_a_body_behind_an_upgrade_is_no_request(field: Field) -> None:
    hidden = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lines = (b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(hidden))
    with connected(field) as connection:
        connection.sendall(head(*lines, start=b"POST /functions/whole HTTP/1.1"))
        time.sleep(0.05)
        connection.sendall(hidden)
        connection.sendall(head(b"Connection: close", start=b"GET /healthz HTTP/1.1"))
        answers = heard(connection)
    assert statuses(answers) == [200, 200]
    assert b'"openapi"' not in answers
    assert hidden in answers  # echoed: it was the body


def test_a_thousand_upgrades_at_once(field: Field) -> None:
    one = head(b"Connection: Upgrade", b"Upgrade: x", start=b"GET /healthz HTTP/1.1")
    answers = talk(field, one * 1000 + head(b"Connection: close", start=b"GET /healthz HTTP/1.1"))
    assert statuses(answers) == [200] * 1001


def test_connect_opens_no_tunnel(field: Field) -> None:
    answers = talk(field, head(start=b"CONNECT 127.0.0.1:22 HTTP/1.1"), half_close=True)
    assert statuses(answers) in ([400], [404], [405]), answers


def test_what_is_no_http_gets_a_problem_document(field: Field) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n"):
        answers = talk(field, nonsense, half_close=True)
        assert statuses(answers) == [400], answers
        top, _, body = answers.partition(b"\r\n\r\n")
        assert b"content-type: application/problem+json" in top
        assert json.loads(body)["code"] == "INVALID_REQUEST"


def test_pipelined_requests_are_answered_in_order(field: Field) -> None:
    sent = b"".join(
        b"POST /functions/steady HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
        % (len(body), body)
        for body in (b'{"n":%d}' % n for n in range(200))
    )
    last = GOOD + b"Connection: close\r\n\r\n" + GOOD_BODY
    answers = talk(field, sent + last)
    assert statuses(answers) == [200] * 201
    assert re.findall(rb'{"n":(\d+)}', answers) == [b"%d" % n for n in range(200)]


@pytest.mark.parametrize(
    "path", [b"/functions/steady", b"/api/v1/tasks/made", b"/api/v1/invocations"]
)
def test_a_body_that_stays_short_then_a_hang_up(field: Field, path: bytes) -> None:
    before = field.service.tasks().items
    method = b"PUT" if b"tasks" in path else b"POST"
    start = method + b" " + path + b" HTTP/1.1"
    for _ in range(20):
        with connected(field) as connection:
            connection.sendall(head(b"Content-Length: 100000", start=start) + b'{"x":')
    field.run(field.at_rest())
    assert field.service.tasks().items == before


def test_hanging_up_ends_the_call(field: Field) -> None:
    with contextlib.ExitStack() as connections:
        for n in range(1, 4):
            connection = connections.enter_context(connected(field))
            start = b"POST /functions/%b HTTP/1.1" % SLEEPER.encode()
            connection.sendall(head(b"Content-Length: 0", start=start))
            ends = time.monotonic() + LONG_S
            while field.service.health().running < n:
                assert time.monotonic() < ends
                time.sleep(0.005)
    field.run(field.at_rest())


def test_many_connections_that_say_nothing(field: Field) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", field.listener.port), LONG_S) for _ in range(200)
    ]
    try:
        served(field)
        assert [heard(connection) for connection in idle] == [b""] * 200
    finally:
        for connection in idle:
            connection.close()


@examples(150)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=3))
def test_any_bytes(field: Field, pieces: list[bytes]) -> None:
    answers = talk(field, *pieces, half_close=True)
    assert b"Traceback" not in answers
    assert 500 not in statuses(answers)


@examples(150)
@given(requests.asked, st.data())
def test_requests_with_bytes_changed(
    field: Field, asked: requests.Asked, data: st.DataObject
) -> None:
    lines = [name + b": " + value for name, value in asked.headers]
    body = asked.body[:5000]
    lines += [b"Content-Length: %d" % len(body), b"Connection: close"]
    start = f"{asked.method} {asked.path} HTTP/1.1".encode()
    content = bytearray(head(*lines, start=start) + body)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, min(len(content), 300) - 1))
        content[place] = data.draw(st.integers(0, 255))
    answers = talk(field, bytes(content), half_close=True)
    assert b"its log says why" not in answers, answers
    field.run(field.at_rest())
    field.run(field.restore())
