"""Moments as text (RFC 3339)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlatl.core.moments import parse_moment, show_moment


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01t00:00:00z", 0.0),
        ("2026-01-31T09:00:00Z", 1_769_850_000.0),
        ("2026-01-31T10:00:00.5+01:00", 1_769_850_000.5),
        ("2026-01-31T08:59:00-00:01", 1_769_850_000.0),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140.0),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139.0),
    ],
)
def test_what_a_moment_is(text: str, at: float) -> None:
    assert parse_moment(text) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "1700000000",
        "2026-01-31",
        "2026-01-31T09:00:00",
        "2026-01-31T09:00Z",
        "2026-02-30T09:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T09:00:00+24:00",
        "2026-01-31T09:00:00Z trailing",
        "2026-01-31T09:00:00٣Z",
        "20260131T090000Z",
        "9" * 5000,
        "\ud800",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_moment(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_there_and_back(at: datetime) -> None:
    assert parse_moment(show_moment(at)) == at.timestamp()


def test_what_is_shown() -> None:
    assert show_moment(0) == "1970-01-01T00:00:00Z"
    assert show_moment(1.5) == "1970-01-01T00:00:01.500000Z"
    east = timezone(timedelta(hours=2))
    assert show_moment(datetime(2026, 1, 31, 9, tzinfo=east)) == "2026-01-31T09:00:00+02:00"


@pytest.mark.parametrize("at", [datetime(2026, 1, 31), float("nan"), float("inf"), 1e18, -1e18])
def test_what_cannot_be_shown(at: datetime | float) -> None:
    with pytest.raises(ValueError):
        show_moment(at)
