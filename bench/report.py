"""Writes the results into the documentation: tables and plots, from the newest stored rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import comparison, plots, results
from bench.comparison import Aim
from bench.plane.run import SCENARIOS
from bench.results import ROOT, Result, say

PAGE, PLOTS = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks"
BEGIN, END = "<!-- results: written by `make bench-report` -->", "<!-- end of the results -->"


def main() -> int:
    newest = results.newest()
    for name in SCENARIOS.keys() & newest.keys():
        PLOTS.mkdir(exist_ok=True)
        drawn = plots.svg(f"{name}: {newest[name]['about']}", plots.panels(newest[name]["rounds"]))
        (PLOTS / f"{name}.svg").write_text(drawn, encoding="utf-8")
    _write(PAGE, page(newest))
    for summary_page in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        _write(summary_page, brief(newest))
    return 0


def _write(path: Path, content: str) -> None:
    path.write_text(between(path.read_text(encoding="utf-8"), content), encoding="utf-8")
    say(f"wrote the results into {path.relative_to(ROOT)}")


def between(text: str, content: str) -> str:
    """The text with this content between its two marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"`{BEGIN}` and `{END}` are missing")
    return f"{before}{BEGIN}\n\n{content.strip()}\n\n{END}{after}"


# --- Markdown ---


def page(newest: Mapping[str, Result]) -> str:
    stored = [newest[name] for name in SCENARIOS if name in newest]
    if not stored:
        return "There is no stored result yet: run `make bench`, then `make bench-report`."
    return "\n\n".join([summary(newest), *map(_section, stored)])


def summary(newest: Mapping[str, Result]) -> str:
    """One row for each aim of every scenario with a stored result."""
    rows = [
        (name, *row)
        for name, scenario in SCENARIOS.items()
        if name in newest
        for row in aim_rows(newest[name]["rounds"], scenario.aims)
    ]
    head = ("benchmark", "ratio or figure", "measured", "spread", "aim (stretch)", "")
    return table([head, *rows])


def brief(newest: Mapping[str, Result]) -> str:
    """One row for each scenario with a stored result: its aims, and what was measured."""
    rows = [
        (
            scenario.about,
            "; ".join(
                f"{what} **{median}** ({bound})" if bound else f"{what} **{median}**"
                for what, median, _, bound, _ in aim_rows(newest[name]["rounds"], scenario.aims)
            ),
        )
        for name, scenario in SCENARIOS.items()
        if name in newest
    ]
    return table([("what", "measured (aim, stretch)"), *rows])


def aim_rows(rounds: comparison.Rounds, aims: Sequence[Aim]) -> list[tuple[str, ...]]:
    """Name, median, quartiles, bound and verdict of those that were measured."""
    rows: list[tuple[str, ...]] = []
    for aim in aims:
        if aim.measured(rounds):
            median, low, high = map(plots.short, aim.spread(rounds))
            bound = aim.bound().replace(">=", "≥").replace("<=", "≤")
            rows.append((aim.name, median, f"{low} to {high}", bound, aim.verdict(rounds)))
    return rows


def _section(result: Result) -> str:
    name = result["benchmark"]
    machine, load = result["machine"], result["load"]
    rows = [
        (what, *map(plots.short, comparison.spread_of(values)))
        for what, values in result["rounds"].items()
    ]
    packages = ", ".join(f"{package} {number}" for package, number in result["packages"].items())
    size = len(next(iter(result["rounds"].values())))
    return "\n\n".join(
        [
            f"### {name}",
            f"{result['about'].capitalize()}.",
            f"![{name}](benchmarks/{name}.svg)",
            table([("measured", "median", "lower quartile", "upper quartile"), *rows]),
            f"{result['at']}, commit {result['commit']}, {size} rounds, load from "
            f"{result['generator']}; {machine['cores']} cores of {machine['cpu']}, "
            f"{machine['system']} {machine['kernel']}, Python {machine['python']}; {packages}. "
            f"Others kept {load['others_cores']} cores busy meanwhile.",
            *(f"Skipped: {side}: {why}." for side, why in result["skipped"].items()),
        ]
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]])
