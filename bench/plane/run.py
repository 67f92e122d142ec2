"""The data plane beside its peers: runs scenarios, and compares what they came to.

In each round every side takes its turn, with a fresh process of its own and a warm-up; status
and body of every answer are checked. A table is made from the raw rounds.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench import comparison, results
from bench.comparison import Spread
from bench.plane import cold, confinement, cpu, memory, telemetry, unary, warm
from bench.plane.load import generator
from bench.plane.scenario import Scenario, Size
from bench.results import Result, say
from bench.rounds import interleaved, watched

SCENARIOS: Mapping[str, Scenario] = {
    each.name: each
    for module in (warm, cpu, cold, confinement, telemetry, memory, unary)
    for each in module.SCENARIOS
}


def measure(scenario: Scenario, size: Size, *, wait: bool = True) -> Result:
    """Runs a scenario; gives the result with all that it depends on.

    Args:
        scenario: of SCENARIOS.
        size: how much is done.
        wait: for a quiet moment first.

    Raises:
        Wrong: a side did not do its work.
        Missing: nothing of it can be measured here.
    """
    heading = results.heading(scenario.name, scenario.packages)
    say(f"{scenario.name}: {scenario.about}")
    with watched(wait) as load:
        turns = scenario.turns(size)
        rounds, skipped = interleaved(turns, scenario.rounds_in(size), scenario.name)
    return {
        **heading,
        "about": scenario.about,
        "generator": generator(),
        "load": load,
        "size": size._asdict(),
        "settings": dict(scenario.settings),
        "skipped": skipped,
        "rounds": rounds,
    }


def report(result: Result) -> str:
    """A result as text, worked out from its raw rounds."""
    rounds: comparison.Rounds = result["rounds"]
    scenario = SCENARIOS[result["benchmark"]]
    packages = ", ".join(f"{name} {number}" for name, number in result["packages"].items())
    lines = [
        f"{result['benchmark']}: {result['about']}",
        f"atlatl {result['version']} at {result['commit']}; {packages or 'no peer'}",
        f"load from {result['generator']}; "
        f"others kept {result['load']['others_cores']} cores busy meanwhile, "
        f"{result['load']['took_s']:.0f} s",
        *(f"skipped: {side}: {why}" for side, why in result["skipped"].items()),
        "",
        comparison.medians(rounds),
        "",
        comparison.verdicts(rounds, scenario.aims),
    ]
    return "\n".join(lines)


# --- the baseline ---


def ratios(result: Result) -> dict[str, Spread]:
    """Of all aims whose sides were measured, by `scenario: aim`."""
    scenario = SCENARIOS[result["benchmark"]]
    return {
        f"{scenario.name}: {aim.name}": aim.spread(result["rounds"])
        for aim in scenario.aims
        if aim.measured(result["rounds"])
    }


def into_baseline(baseline: Result, result: Result) -> Result:
    """The baseline with this scenario's ratios in place of those that it had."""
    kept = {
        "at": result["at"],
        "commit": result["commit"],
        "machine": result["machine"],
        "generator": result["generator"],
        "ratios": {
            name: [round(number, 4) for number in spread] for name, spread in ratios(result).items()
        },
    }
    scenarios = {**baseline.get("scenarios", {}), result["benchmark"]: kept}
    return {**baseline, "scenarios": dict(sorted(scenarios.items()))}


def behind(baseline: Result, result: Result) -> list[str]:
    """Aims that this scenario is further from than it was."""
    then = baseline.get("scenarios", {}).get(result["benchmark"])
    if then is None:
        return [f"{result['benchmark']} is not in the baseline: store it"]
    for what in ("machine", "generator"):
        if then[what] != result[what]:
            say(f"{result['benchmark']}: the baseline has another {what}: ratios may differ for it")
    scenario = SCENARIOS[result["benchmark"]]
    higher = {f"{scenario.name}: {aim.name}" for aim in scenario.aims if aim.higher_is_better}
    return comparison.behind(comparison.spreads(then["ratios"]), ratios(result), higher)
