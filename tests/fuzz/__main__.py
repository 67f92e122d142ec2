"""Fuzzes the parsers of all that comes from outside.

`python -m tests.fuzz --seconds 600`, or `make fuzz SECONDS=600 ONLY=zip`. Exit status 1 when
something was found; the input is then stored with the others, so that every later run tries it
first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.fuzz.fuzzing import fuzz, grow, new_seed
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each target")
    parser.add_argument("--only", choices=sorted(TARGETS), help="one target")
    parser.add_argument("--seed", type=int, help="of chance; as an earlier run said")
    parser.add_argument("--grow", action="store_true", help="store inputs that reach new lines")
    asked = parser.parse_args()
    if asked.only is None:
        # Each in a process of its own: what one has cached is no leak of another.
        statuses = [subprocess.call([*_this(asked), "--only", name]) for name in sorted(TARGETS)]
        return max(statuses)
    target, seed = TARGETS[asked.only], new_seed() if asked.seed is None else asked.seed
    if asked.grow:
        print(f"{target.name}: {grow(target, asked.seconds, seed)} new inputs")
        return 0
    report = fuzz(target, asked.seconds, seed)
    print(report, flush=True)
    for finding in report.findings:
        print(f"\n{finding.error}\n{finding.stack}stored as {finding.store()}", flush=True)
    return int(report.failed)


def _this(asked: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(asked.seconds)]
    command += [] if asked.seed is None else ["--seed", str(asked.seed)]
    return [*command, "--grow"] if asked.grow else command


if __name__ == "__main__":
    sys.exit(main())
