"""All benchmarks.

python -m bench [--only NAME ...] [--quick] [--check | --store-baseline]
python -m bench pieces | queue [OPTION ...]   one of them with all its options; see --help
python -m bench report                        docs/benchmarks.md again, from the stored results

Without --only everything runs but what has to be named: the heavy peers. A quick run, which is
stored nowhere, leaves out what takes minutes too. A whole run goes to bench/results/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

from bench import report, results
from bench.plane import run
from bench.plane.scenario import QUICK, SMOKE, WHOLE
from bench.results import say
from bench.rounds import Missing, Wrong

OTHERS = ("pieces", "queue")
"""Benchmarks with options of their own."""
LONG = ("soak", "queue", "confinement-cpu", "telemetry-cpu")
"""Not in a quick run, which takes less than three minutes."""
NAMES = (*run.SCENARIOS, *OTHERS)


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in OTHERS:
        name, rest = arguments[0], arguments[1:]
        return 0 if _ends_well(name, lambda: _other(name, rest)) else 1
    if list(arguments) == ["report"]:
        return report.main()
    options = _options(arguments)
    failed = [name for name in options.names if not _ends_well(name, partial(_runs, name, options))]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--quick", action="store_true", help="short rounds; stored nowhere")
    parser.add_argument("--minutes", type=float, help="that soak takes")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail when behind the baseline")
    what.add_argument("--store-baseline", action="store_true", help="make this the baseline")
    options = parser.parse_args(arguments)
    options.short = options.quick or options.smoke
    if options.short and options.store_baseline:
        parser.error("a short run is no baseline")
    options.size = SMOKE if options.smoke else QUICK if options.quick else WHOLE
    if options.minutes:
        options.size = options.size._replace(soak_minutes=options.minutes)
    options.names = options.only or default_names(
        quick=options.short, check=options.check, baseline=results.baseline()
    )
    return options


def default_names(*, quick: bool, check: bool, baseline: results.Result) -> list[str]:
    """What runs when nothing is named; a check runs what there is a baseline of."""
    if check:
        return [
            "pieces",
            *(name for name in run.SCENARIOS if name in baseline.get("scenarios", {})),
        ]
    named_only = {name for name, each in run.SCENARIOS.items() if each.on_demand}
    return [name for name in NAMES if name not in named_only and not (quick and name in LONG)]


def _ends_well(name: str, run_it: Callable[[], bool]) -> bool:
    """What cannot be measured here is skipped; what was done wrongly fails, without figures."""
    try:
        return run_it()
    except Missing as missing:
        say(f"{name} is skipped: {missing}")
        return True
    except Wrong as wrong:
        say(f"{name} failed: {wrong}")
        return False


def _runs(name: str, options: argparse.Namespace) -> bool:
    if name in OTHERS:
        return _other(name, _flags(name, options))
    return _scenario(name, options)


def _flags(name: str, options: argparse.Namespace) -> list[str]:
    flags = ["--quick"] if options.short else []
    if name == "pieces" and options.check:
        flags.append("--check")
    if name == "pieces" and options.store_baseline:
        flags.append("--store-baseline")
    return flags


def _scenario(name: str, options: argparse.Namespace) -> bool:
    result = run.measure(run.SCENARIOS[name], options.size, wait=not options.short)
    if not options.short:
        results.store(result)
    print(run.report(result), end="\n\n", flush=True)
    if options.store_baseline:
        results.store_baseline(run.into_baseline(results.baseline(), result))
    faults = run.behind(results.baseline(), result) if options.check else []
    for fault in faults:
        print(f"behind the baseline: {fault}")
    return not faults


def _other(name: str, arguments: Sequence[str]) -> bool:
    # Imported late: each of them needs peers that may not be there.
    try:
        if name == "pieces":
            from bench.pieces.run import main as run_other
        else:
            from bench.queue.run import main as run_other
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed: `make bench-peers`") from None
    return run_other(arguments) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
