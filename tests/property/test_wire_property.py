"""Frames survive any cut; any bytes either are frames or raise WireError."""

from __future__ import annotations

import contextlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from atlatl_worker import wire

frames = st.builds(
    wire.Frame,
    kind=st.integers(wire.CALL, wire.PONG),
    request_id=st.integers(0, wire.MAX_REQUEST_ID),
    flags=st.integers(0, wire.ERROR),
    meta=st.binary(max_size=40),
    body=st.binary(max_size=200),
)


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_round_trip_however_it_is_cut(sent: list[wire.Frame], cuts: list[int]) -> None:
    data = b"".join(wire.encode(f.kind, f.request_id, f.meta, f.body, f.flags) for f in sent)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = wire.Decoder()
    received = [
        frame
        for start, end in itertools.pairwise(places)
        for frame in decoder.feed(memoryview(data)[start:end])
    ]
    assert received == sent


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_bytes_do_harm(pieces: list[bytes]) -> None:
    decoder = wire.Decoder(limit=100)
    with contextlib.suppress(wire.WireError):
        for piece in pieces:
            for frame in decoder.feed(piece):
                assert len(frame.meta) + len(frame.body) <= 100
