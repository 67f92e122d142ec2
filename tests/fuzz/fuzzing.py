"""Fuzzing of one parser: inputs that lead to new lines of it are kept and changed further.

An input fails a target that raises, that takes longer than INPUT_S of the processor or LONG_S
altogether, or that takes up INPUT_BYTES of memory; a target fails as a whole when memory that it
took stays taken.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import hashlib
import logging
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.mutation import mutated

CORPUS = Path(__file__).parent / "corpus"
WORDS = Path(__file__).parent / "words"

INPUT_S = 2.0
LONG_S = 30.0
INPUT_BYTES = 192 * 1024 * 1024
GROWTH_BYTES = 48 * 1024 * 1024
"""More resident memory at the end than after a fifth of the time is a leak."""
KEPT_BYTES = 4 * 1024 * 1024
"""Of inputs in memory."""
SHRINK_S = 5.0
PAGE_BYTES = resource.getpagesize()

Run = Callable[[bytes], object]


class TooLong(BaseException):
    """Nothing that a parser catches."""


class TooLarge(AssertionError):
    """An input took up more memory than it may."""


@dataclass(frozen=True)
class Target:
    """A parser of bytes from outside.

    Attributes:
        name: also of its directory of inputs.
        opened: gives what takes an input, and raises nothing unless there is a bug.
        traced: parts of paths; the lines of such files are what is to be reached.
        seeds: inputs besides the stored ones: those that are large, or made by code.
    """

    name: str
    opened: Callable[[], AbstractContextManager[Run]]
    traced: tuple[str, ...]
    seeds: Callable[[], Sequence[bytes]]

    @functools.cached_property
    def words(self) -> list[bytes]:
        """What the parser looks for: a line each, written as in a Python literal."""
        lines = (WORDS / f"{self.name}.txt").read_text("ascii").splitlines()
        return [line.encode().decode("unicode_escape").encode("latin-1") for line in lines]

    @property
    def folder(self) -> Path:
        return CORPUS / self.name

    def inputs(self) -> list[bytes]:
        """All that is known to be worth trying, the stored ones by name."""
        stored = sorted(self.folder.glob("*")) if self.folder.is_dir() else []
        return [path.read_bytes() for path in stored] + list(self.seeds())


@dataclass
class Finding:
    """An input that fails, as small as it could be made in a short time."""

    target: str
    data: bytes
    error: str
    stack: str

    @property
    def name(self) -> str:
        return f"found-{hashlib.sha256(self.data).hexdigest()[:12]}"

    def store(self) -> Path:
        path = CORPUS / self.target / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path


@dataclass
class Report:
    target: str
    seed: int
    runs: int = 0
    took_s: float = 0.0
    places: int = 0
    """Lines reached, by way of which line before."""
    kept: int = 0
    slowest_s: float = 0.0
    growth_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    leak: bool = False

    @property
    def failed(self) -> bool:
        return bool(self.findings) or self.leak

    def __str__(self) -> str:
        said = (
            f"{self.target}: {self.runs} inputs in {self.took_s:.0f} s, {self.places} places, "
            f"{self.kept} kept, slowest {self.slowest_s * 1000:.0f} ms, memory "
            f"{self.growth_bytes / 2**20:+.1f} MiB, {len(self.findings)} findings "
            f"(seed {self.seed})"
        )
        return said + (", LEAK" if self.leak else "")


class Coverage:
    """Which lines of the traced files were reached, and from where."""

    def __init__(self, traced: Sequence[str]) -> None:
        self.places: set[tuple[CodeType, int, int]] = set()
        self._traced = traced
        self._wanted: dict[CodeType, bool] = {}
        self._new = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._new = False
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(None)

    @property
    def found_new(self) -> bool:
        return self._new

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        wanted = self._wanted.get(code)
        if wanted is None:
            wanted = any(part in code.co_filename for part in self._traced)
            self._wanted[code] = wanted
        if not wanted:
            return None
        last, places = 0, self.places

        def on_line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            line = frame.f_lineno
            place = (code, last, line)
            if place not in places:
                places.add(place)
                self._new = True
            last = line
            return on_line

        return on_line


def check(run: Run, data: bytes) -> None:
    """Gives one input to a target; raises when it fails."""
    before = _peak_bytes_from_now()
    signal.setitimer(signal.ITIMER_PROF, INPUT_S)
    signal.setitimer(signal.ITIMER_REAL, LONG_S)
    # Code in C does not hear signals: whatever hangs there ends the whole program, with a trace.
    faulthandler.dump_traceback_later(2 * LONG_S, exit=True)
    try:
        run(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    grown = _peak_bytes() - before
    if grown > INPUT_BYTES:
        raise TooLarge(f"{len(data)} bytes took up {grown} bytes of memory")


def _peak_bytes_from_now() -> int:
    """Forgets the peak of what ran before in this process, so that it hides nothing."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_bytes()
    return 1024 * int(status.partition(b"VmHWM:")[2].split(maxsplit=1)[0])


def _too_long(number: int, frame: object) -> None:
    raise TooLong(f"more than {INPUT_S} s of the processor, or {LONG_S} s in all")


@contextmanager
def silence() -> Iterator[None]:
    """Nobody reads what is logged of a thousand bad inputs; tests that come after are heard."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def alarms() -> Iterator[None]:
    """Signals are this module's."""
    before = [signal.signal(number, _too_long) for number in (signal.SIGPROF, signal.SIGALRM)]
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def fuzz(target: Target, seconds: float, seed: int, most_findings: int = 10) -> Report:
    """Tries inputs for a time.

    Args:
        target: what takes them.
        seconds: how long.
        seed: of all chance; the same seed tries the same inputs as long as they take no time.
        most_findings: ends when so many different ones were found.
    """
    report = Report(target.name, seed)
    chance, coverage = random.Random(seed), Coverage(target.traced)
    pool: list[bytes] = []
    pool_bytes = 0
    known: set[str] = set()
    began = time.monotonic()
    with silence(), alarms(), target.opened() as run:
        waiting = target.inputs()
        settled_bytes = 0
        while (passed := time.monotonic() - began) < seconds or waiting:
            if waiting:
                data = waiting.pop()
            else:
                data = mutated(chance, _chosen(chance, pool), pool, target.words)
            if not settled_bytes and passed > seconds / 5 and not waiting:
                settled_bytes = _resident_bytes()
            finding = _try(target, run, data, coverage, report)
            if finding is not None and finding.error not in known:
                known.add(finding.error)
                report.findings.append(_shrunk(run, finding))
                if len(report.findings) == most_findings:
                    break
            elif finding is None and coverage.found_new and pool_bytes < KEPT_BYTES:
                pool.append(data)
                pool_bytes += len(data)
        report.took_s = time.monotonic() - began
        report.growth_bytes = max(0, _resident_bytes() - settled_bytes) if settled_bytes else 0
    report.places, report.kept = len(coverage.places), len(pool)
    report.leak = report.growth_bytes > GROWTH_BYTES
    return report


def _chosen(chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """Mostly a short one: more of those can be tried."""
    return min((chance.choice(pool or [b""]) for _ in range(chance.randrange(1, 4))), key=len)


def _try(
    target: Target, run: Run, data: bytes, coverage: Coverage, report: Report
) -> Finding | None:
    report.runs += 1
    began = time.process_time()
    try:
        with coverage.watching():
            check(run, data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Finding(target.name, data, _where(error), traceback.format_exc())
    finally:
        report.slowest_s = max(report.slowest_s, time.process_time() - began)
    return None


def _where(error: BaseException) -> str:
    """What happened and in which line: the same bug is found once."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if "/atlatl" in frame.filename), frames[-1])
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def _shrunk(run: Run, finding: Finding) -> Finding:
    """The smallest input that fails in the same place, as far as that is found soon."""
    data, ends = finding.data, time.monotonic() + SHRINK_S
    size = len(data) // 2
    while size and time.monotonic() < ends:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            less = data[:at] + data[at + size :]
            if _fails_in(run, less) == finding.error:
                data = less
            else:
                at += size
        size //= 2
    return Finding(finding.target, data, finding.error, finding.stack)


def _fails_in(run: Run, data: bytes) -> str:
    try:
        check(run, data)
    except BaseException as error:
        return _where(error)
    return ""


def _resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * PAGE_BYTES


def grow(target: Target, seconds: float, seed: int, most: int = 60) -> int:
    """Stores inputs that reach what no stored one reaches; returns how many are new."""
    coverage, chance = Coverage(target.traced), random.Random(seed)
    found: list[bytes] = []
    with silence(), alarms(), target.opened() as run:
        pool = target.inputs()
        for data in pool:
            _try(target, run, data, coverage, Report(target.name, seed))
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and len(found) < most:
            data = mutated(chance, chance.choice([*pool, *found]), pool, target.words)
            failed = _try(target, run, data, coverage, Report(target.name, seed))
            if failed is None and coverage.found_new and len(data) <= 2048:
                found.append(data)
    target.folder.mkdir(parents=True, exist_ok=True)
    for data in found:
        (target.folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return len(found)


def new_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")
