"""Bars with their spread as SVG, from the raw rounds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import floor, log10

from bench.comparison import Rounds, Spread, spread_of

Panels = Mapping[str, Mapping[str, Spread]]
"""By quantity, then by side."""

WIDTH, LABEL, VALUE = 720, 190, 110
BAR, GAP, TITLE, HEAD = 18, 6, 26, 34
COLOURS = {True: "#0a7f6f", False: "#9aa5b1"}
STYLE = "font-family:system-ui,sans-serif;font-size:12px;fill:#1f2933"


def panels(rounds: Rounds) -> Panels:
    """What was measured is named `side: quantity`; a panel has all sides of one quantity."""
    found: dict[str, dict[str, Spread]] = {}
    for name, values in rounds.items():
        side, _, quantity = name.partition(": ")
        found.setdefault(quantity or side, {})[side] = spread_of(values)
    return found


def svg(title: str, shown: Panels) -> str:
    """A panel below the other, each with an axis of its own that begins at 0."""
    parts, top = [_text(8, 20, title, "font-weight:600")], HEAD
    for quantity, sides in shown.items():
        parts.append(_text(8, top + 16, quantity, "font-weight:600"))
        top += TITLE
        scale = (WIDTH - LABEL - VALUE) / nice_ceiling(max(each.high for each in sides.values()))
        for side, spread in sides.items():
            parts += _bar(top, side, spread, scale)
            top += BAR + GAP
        top += GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" '
        f'width="{WIDTH}" height="{top}" style="{STYLE}"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _bar(top: int, side: str, spread: Spread, scale: float) -> list[str]:
    middle = top + BAR / 2
    low, median, high = (
        LABEL + max(0.0, x) * scale for x in (spread.low, spread.median, spread.high)
    )
    colour = COLOURS[side.startswith("atlatl")]
    return [
        _text(LABEL - 8, middle + 4, side, "text-anchor:end"),
        f'<rect x="{LABEL}" y="{top}" width="{median - LABEL:.1f}" height="{BAR}" '
        f'fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} '
        f'{middle - 4}v8" stroke="#1f2933" fill="none"/>',
        _text(max(high, median) + 8, middle + 4, short(spread.median)),
    ]


def _text(x: float, y: float, content: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(content)}</text>'


def nice_ceiling(value: float) -> float:
    """The next one of 1, 2, 5, 10, 20 and so on; 1 for 0 and below."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next((step * power for step in (1, 2, 5) if value <= step * power), 10 * power)


def short(value: float) -> str:
    """With three figures that count: 1234 is 1,234, 0.01234 is 0.0123."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - floor(log10(abs(value)))}f}"
