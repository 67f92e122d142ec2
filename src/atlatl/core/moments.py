"""Moments as text, in RFC 3339: always with their offset from UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec

_Stated = Annotated[datetime, msgspec.Meta(tz=True)]


def parse_moment(text: str) -> float:
    """Unix seconds of a text such as `2026-01-31T09:00:00Z` or `2026-01-31T10:00:00.5+01:00`.

    Raises:
        ValueError: it is no such text; one without an offset could mean any of 24 hours.
    """
    return msgspec.convert(text, _Stated).timestamp()


def show_moment(at: float | datetime) -> str:
    """The text of a moment.

    Args:
        at: Unix seconds, or a time that knows its timezone.

    Raises:
        ValueError: it knows none, or is no moment of the years 1 to 9999.
    """
    if not isinstance(at, datetime):
        try:
            at = datetime.fromtimestamp(at, UTC)
        except (OverflowError, OSError) as error:
            raise ValueError(f"{at!r} is no moment: {error}") from None
    if at.tzinfo is None:
        raise ValueError(f"{at} has no timezone: make it with one, such as `datetime.UTC`")
    return at.isoformat().replace("+00:00", "Z")
