"""Where results lie, and what each of them says of the run that it is from."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import machine

ROOT = Path(__file__).parent.parent
RESULTS, BASELINE = ROOT / "bench" / "results", ROOT / "bench" / "baseline.json"

Result = dict[str, Any]
"""As it is stored; figures are worked out again from its `rounds`."""


def heading(benchmark: str, packages: Sequence[str]) -> Result:
    """What a result depends on besides its own settings."""
    return {
        "benchmark": benchmark,
        "version": version("atlatl"),
        "commit": machine.commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "packages": machine.versions(*packages),
    }


def store(result: Result) -> Path:
    """Writes it to the file of its benchmark, version and commit."""
    RESULTS.mkdir(exist_ok=True)
    commit = result["commit"].rstrip("+")
    path = RESULTS / f"{result['benchmark']}-{result['version']}-{commit}.json"
    _write(path, result)
    return path


def newest(directory: Path = RESULTS) -> dict[str, Result]:
    """The newest stored result of each benchmark, by its name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")]
    return {each["benchmark"]: each for each in sorted(found, key=lambda each: str(each["at"]))}


def baseline() -> Result:
    """Empty when none was stored."""
    return json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.is_file() else {}


def store_baseline(content: Result) -> None:
    _write(BASELINE, content)


def _write(path: Path, content: Result) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {path.relative_to(ROOT)}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
