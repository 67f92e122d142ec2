"""Pictures of the state machines of docs/concepts, drawn from the code's own transitions.

What may follow what is read from the code; where a state stands in its picture, and what is
written on an arrow, is said here. A state without a place, or words for an arrow that the code
does not know, end the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import hypot
from pathlib import Path
from typing import NamedTuple

from atlatl.core.breaker import Breaker, CircuitState
from atlatl.model import TRANSITIONS, ExecutionStatus, InstanceState
from atlatl.settings import CircuitBreakerSettings

Arrow = tuple[str, str]
Point = tuple[float, float]

COLUMN, ROW = 170, 110
"""Distance of the centres of neighbours."""
WIDTH, HEIGHT = 112, 34
FRAME = 16
"""Room between a frame and the states in it."""

STYLE = """\
text { font: 13px system-ui, sans-serif; text-anchor: middle; fill: #1f2328 }
.say { font-size: 11px; fill: #57606a; paint-order: stroke; stroke: #fff; stroke-width: 4px }
rect { fill: #f6f8fa; stroke: #57606a }
.ground { fill: #fff; stroke: none }
.end { stroke-width: 3 }
.frame { fill: none; stroke-dasharray: 3 4 }
path { fill: none; stroke: #0969da }
.by-hand { stroke-dasharray: 5 4 }
marker path { fill: #0969da; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .say { fill: #9da7b1; stroke: #0d1117 }
  rect { fill: #161b22; stroke: #9da7b1 } .frame { fill: none } .ground { fill: #0d1117 }
  path { stroke: #4493f8 } marker path { fill: #4493f8 }
}"""


class Machine(NamedTuple):
    """One picture."""

    title: str
    arrows: frozenset[Arrow]
    places: Mapping[str, Point]
    """In columns and rows."""
    words: Mapping[Arrow, str] = {}
    frame: frozenset[str] = frozenset()
    """States whose common arrows are drawn once, from a frame around them."""
    bent: Mapping[Arrow, float] = {}
    """How far the middle of an arrow is moved to its left, in pixels."""
    by_hand: frozenset[Arrow] = frozenset()
    """Only somebody with the right to do so leads there."""


def pictures() -> dict[str, str]:
    """The files of docs/concepts, by their names."""
    machines = {
        "instance.svg": instance(),
        "execution.svg": execution(),
        "breaker.svg": breaker(),
        "queue.svg": queue(),
    }
    return {name: drawn(machine) for name, machine in machines.items()}


# --- the machines ---


def instance() -> Machine:
    return Machine(
        "The states of an instance",
        _legal(InstanceState),
        {
            "CREATING": (0, 0), "STARTING": (1, 0), "READY": (2, 0), "RUNNING": (3, 0),
            "BUSY": (4, 0), "UNHEALTHY": (2, 1), "DRAINING": (3, 1), "ERROR": (1, 2),
            "STOPPED": (4, 2),
        },
        frame=frozenset({"READY", "RUNNING", "BUSY"}),
        bent={("BUSY", "READY"): 56, ("UNHEALTHY", "READY"): 26, ("READY", "RUNNING"): 6,
              ("RUNNING", "READY"): 6, ("RUNNING", "BUSY"): 6, ("BUSY", "RUNNING"): 6},
    )  # fmt: skip


def execution() -> Machine:
    return Machine(
        "The states of an execution",
        _legal(ExecutionStatus),
        {
            "PENDING": (0, 0), "RUNNING": (2, 0), "COMPLETED": (3, 0), "FAILED": (0, 1),
            "CANCELLED": (1, 1), "TIMEOUT": (2, 1),
        },
        words={
            ("PENDING", "RUNNING"): "an instance took it",
            ("RUNNING", "PENDING"): "another attempt",
        },
        bent={("PENDING", "RUNNING"): 8, ("RUNNING", "PENDING"): 8},
    )  # fmt: skip


def breaker() -> Machine:
    by_itself, done_to_it = _found_out()
    by_hand = {arrow for arrow in done_to_it if arrow[0] != arrow[1]}
    names = [str(state) for state in CircuitState]
    assert names == ["closed", "open", "half-open"]
    return Machine(
        "The states of a circuit breaker",
        by_itself | by_hand,
        {"closed": (0, 0), "open": (2, 0), "half-open": (1, 1)},
        words={
            ("closed", "open"): "too many failures",
            ("open", "half-open"): "timeout_s is over",
            ("half-open", "open"): "a probe fails",
            ("half-open", "closed"): "enough probes succeed",
            ("open", "closed"): "reset, disable",
        },
        bent={
            ("closed", "open"): 8, ("open", "closed"): 8, ("open", "half-open"): 60,
            ("half-open", "open"): 14, ("half-open", "closed"): 10,
        },
        by_hand=frozenset(by_hand - by_itself),
    )  # fmt: skip


def queue() -> Machine:
    """From what the store's statements do to the column `state`."""
    return Machine(
        "The states of an async execution in the queue",
        frozenset(_stated()),
        {
            "accepted": (0, 0.3), "ready": (1.2, 0.3), "leased": (2.6, 0.3), "gone": (3.8, 0.3),
            "delayed": (1.2, 1.1), "dead": (2.6, 1.9),
        },
        words={
            ("ready", "leased"): "its turn",
            ("leased", "ready"): "recovered, put back",
            ("leased", "delayed"): "another attempt",
            ("leased", "dead"): "failed for good",
            ("leased", "gone"): "ended",
            ("dead", "ready"): "redriven",
            ("dead", "gone"): "let go, too old",
        },
        bent={
            ("ready", "leased"): 9, ("leased", "ready"): 9, ("accepted", "leased"): 90,
            ("leased", "delayed"): 9, ("delayed", "leased"): 9,
        },
        by_hand=frozenset({("dead", "ready")}),
    )  # fmt: skip


def _legal(states: Iterable[InstanceState | ExecutionStatus]) -> frozenset[Arrow]:
    return frozenset((old.value, new.value) for old in states for new in TRANSITIONS[old])


def _found_out() -> tuple[frozenset[Arrow], frozenset[Arrow]]:
    """What a breaker does by itself, and what is done to one: every move tried from each state."""
    settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=1.0)
    moves = {
        "succeed": lambda made: made.succeed(made.admit(9, 0), 9, 0, 0),
        "fail": lambda made: made.fail(made.admit(9, 0), 9, 0, 0, ""),
        "probe expires": lambda made: [made.admit(at, 0) for at in (9, 99)],
        "reset": lambda made: made.reset(9),
        "force_open": lambda made: made.force_open(9),
        "disable": lambda made: made.disable(9),
    }
    found: dict[bool, set[Arrow]] = {False: set(), True: set()}
    for state in CircuitState:
        for name, move in moves.items():
            made = Breaker(settings, 0.0)
            if state is not CircuitState.CLOSED:
                made.fail(made.admit(0, 0) or 0, 0, 0, 0, "")
            if state is CircuitState.HALF_OPEN:
                made.ignore(made.admit(5, 0) or 0, 5, 0)
            assert made.state is state
            made.transitions.clear()
            move(made)
            by_hand = name in ("reset", "force_open", "disable")
            found[by_hand] |= {(str(old), str(new)) for old, new in made.transitions}
    return frozenset(found[False]), frozenset(found[True])


SQL = Path(__file__).resolve().parents[1] / "src" / "atlatl" / "stores" / "sql"
ACCEPTED = {"ready", "delayed", "leased"}
"""What an execution is accepted as; see `Dispatcher.enter`."""
SOURCES = {"recover": {"leased"}, "bury": {"leased"}}
"""Statements that do not say themselves what they begin from: their rows come from `lapsed`."""


def _stated() -> Iterator[Arrow]:
    table = (SQL / "0003_queue.sql").read_text(encoding="utf-8")
    (listed,) = re.findall(r"CHECK \(state IN \(([^)]*)\)\)", table)
    states = set(re.findall(r"'(\w+)'", listed))
    yield from (("accepted", state) for state in ACCEPTED & states)
    text = (SQL / "queue.sql").read_text(encoding="utf-8")
    for name, statement in re.findall(r"-- name: (\w+)\n(.*?)(?=-- name:|\Z)", text, re.DOTALL):
        changed, _, condition = statement.partition("WHERE")
        if not re.match(r"(?:--.*\n)*(?:UPDATE queue SET|DELETE FROM queue)", statement):
            continue
        removes = "DELETE FROM queue" in statement
        targets = {"gone"} if removes else set(re.findall(r"'(\w+)'", changed)) & states
        stated = set(re.findall(r"state(?: =|\s+IN) \(?([^)\n]*)", condition))
        sources = {each for part in stated for each in re.findall(r"'(\w+)'", part)}
        for old in SOURCES.get(name, sources):
            yield from ((old, new) for new in targets if old != new)


# --- drawing ---


def drawn(machine: Machine) -> str:
    """The picture as SVG."""
    named = {state for arrow in machine.arrows for state in arrow}
    lost = (named - set(machine.places)) | (set(machine.places) - named)
    stray = {*machine.words, *machine.bent, *machine.by_hand} - machine.arrows
    if lost or stray:
        raise SystemExit(f"{machine.title}: {sorted(lost)} {sorted(stray)} are not in the code")
    centres = {
        state: (80 + column * COLUMN, 70 + row * ROW)
        for state, (column, row) in machine.places.items()
    }
    width = max(x for x, _ in centres.values()) + 80
    height = max(y for _, y in centres.values()) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img">',
        f"<title>{machine.title}</title>",
        f"<style>\n{STYLE}\n</style>",
        '<rect class="ground" width="100%" height="100%"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    parts += _frame(machine, centres)
    parts += _arrows(machine, centres)
    ends = named - {old for old, _ in machine.arrows}
    for state, (x, y) in sorted(centres.items()):
        kind = ' class="end"' if state in ends else ""
        parts.append(
            f'<rect{kind} x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" '
            f'height="{HEIGHT}" rx="8"/>'
        )
        parts.append(f'<text x="{x:.0f}" y="{y + 5:.0f}">{state}</text>')
    return "\n".join([*parts, "</svg>", ""])


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def _box(centre: Point) -> Box:
    x, y = centre
    return Box(x - WIDTH / 2, y - HEIGHT / 2, x + WIDTH / 2, y + HEIGHT / 2)


def _around(machine: Machine, centres: Mapping[str, Point]) -> Box:
    boxes = [_box(centres[state]) for state in machine.frame]
    return Box(
        min(box.left for box in boxes) - FRAME,
        min(box.top for box in boxes) - FRAME,
        max(box.right for box in boxes) + FRAME,
        max(box.bottom for box in boxes) + FRAME,
    )


def _frame(machine: Machine, centres: Mapping[str, Point]) -> list[str]:
    if not machine.frame:
        return []
    box = _around(machine, centres)
    return [
        f'<rect class="frame" x="{box.left:.0f}" y="{box.top:.0f}" '
        f'width="{box.right - box.left:.0f}" height="{box.bottom - box.top:.0f}" rx="12"/>'
    ]


def _arrows(machine: Machine, centres: Mapping[str, Point]) -> Iterator[str]:
    common = {
        new
        for _, new in machine.arrows
        if machine.frame and all((old, new) in machine.arrows for old in machine.frame)
    }
    for target in sorted(common):
        box = _around(machine, centres)
        x, y = centres[target]
        start = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
        yield _path(start, _edge(_box((x, y)), start), 0.0, by_hand=False)
    for old, new in sorted(machine.arrows):
        if old in machine.frame and new in common:
            continue
        bend = machine.bent.get((old, new), 0.0)
        middle = _middle(centres[old], centres[new], bend)
        start, end = _edge(_box(centres[old]), middle), _edge(_box(centres[new]), middle)
        yield _path(start, end, bend, by_hand=(old, new) in machine.by_hand)
        if (old, new) in machine.words:
            x, y = _middle(start, end, bend / 2 + (9 if bend else 0))
            yield f'<text class="say" x="{x:.0f}" y="{y + 4:.0f}">{machine.words[old, new]}</text>'


def _middle(start: Point, end: Point, bend: float) -> Point:
    """The middle between two points, moved to the left of who goes from one to the other."""
    (x1, y1), (x2, y2) = start, end
    length = hypot(x2 - x1, y2 - y1) or 1.0
    return (
        (x1 + x2) / 2 + bend * (y2 - y1) / length,
        (y1 + y2) / 2 - bend * (x2 - x1) / length,
    )


def _edge(box: Box, towards: Point) -> Point:
    """Where the way from the middle of a box to a point leaves the box."""
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    dx, dy = towards[0] - x, towards[1] - y
    share = min(
        (box.right - x) / abs(dx) if dx else float("inf"),
        (box.bottom - y) / abs(dy) if dy else float("inf"),
        1.0,
    )
    return x + dx * share, y + dy * share


def _path(start: Point, end: Point, bend: float, *, by_hand: bool) -> str:
    (x1, y1), (x2, y2) = start, end
    cx, cy = _middle(start, end, bend)
    kind = ' class="by-hand"' if by_hand else ""
    return (
        f'<path{kind} marker-end="url(#tip)" '
        f'd="M{x1:.0f} {y1:.0f} Q{cx:.0f} {cy:.0f} {x2:.0f} {y2:.0f}"/>'
    )
