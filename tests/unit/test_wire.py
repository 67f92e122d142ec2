"""Frames: what comes out is what went in, and what is none is refused."""

from __future__ import annotations

import pytest

from atlatl_worker import wire


def decode(data: bytes, limit: int = 1000) -> list[wire.Frame]:
    return wire.Decoder(limit).feed(data)


def test_a_frame_is_sixteen_bytes_metadata_and_body() -> None:
    data = wire.encode(wire.CALL, 7, b"{}", b"abc", wire.TEXT)
    assert len(data) == 16 + 2 + 3
    assert decode(data) == [wire.Frame(wire.CALL, 7, wire.TEXT, b"{}", b"abc")]


def test_several_frames_at_once_and_a_rest() -> None:
    decoder = wire.Decoder()
    data = wire.encode(wire.PING, 1) + wire.encode(wire.CALL, 2, b"m", b"b")
    assert [frame.request_id for frame in decoder.feed(data + data[:5])] == [1, 2]
    assert [frame.request_id for frame in decoder.feed(data[5:])] == [1, 2]


def test_credit_round_trip() -> None:
    (frame,) = decode(wire.encode_credit(3, 70_000))
    assert (frame.request_id, wire.amount_of(frame)) == (3, 70_000)


def test_an_empty_item_costs_something() -> None:
    assert wire.cost(0) == wire.cost(1) == wire.ITEM_BYTES
    assert wire.cost(10_000) == 10_000


def test_a_window_bounds_what_a_stream_may_have_out() -> None:
    assert wire.may_send(0, wire.WINDOW_BYTES * 10)
    assert wire.may_send(1, wire.WINDOW_BYTES - 1)
    assert not wire.may_send(1, wire.WINDOW_BYTES)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"garbage that is no frame at all", "no frame"),
        (wire.HEADER.pack(4, 1, 0, 99, 0, 0) + b"abcd", "no frame"),
        (wire.HEADER.pack(4, 1, 0, wire.CALL, 7, 0) + b"abcd", "no frame"),
        (wire.HEADER.pack(4, 1, 0, wire.CALL, 0, 1) + b"abcd", "no frame"),
        (wire.HEADER.pack(4, 1, 5, wire.CALL, 0, 0) + b"abcd", "metadata"),
        (wire.HEADER.pack(1001, 1, 0, wire.CALL, 0, 0), "limit of 1000"),
    ],
)
def test_garbage_is_refused_before_it_is_kept(data: bytes, word: str) -> None:
    with pytest.raises(wire.WireError, match=word):
        decode(data)


def test_garbage_is_refused_in_pieces_too() -> None:
    decoder = wire.Decoder(1000)
    header = wire.HEADER.pack(1001, 1, 0, wire.CALL, 0, 0)
    assert decoder.feed(header[:9]) == []
    with pytest.raises(wire.WireError):
        decoder.feed(header[9:])


def test_a_credit_without_an_amount_is_refused() -> None:
    (frame,) = decode(wire.encode(wire.CREDIT, 3, body=b"abc"))
    with pytest.raises(wire.WireError):
        wire.amount_of(frame)
