"""Each parser of bytes from outside is fuzzed for a while; what was ever found is tried first."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.fuzz import fuzzing
from tests.fuzz.fuzzing import Report, Target, fuzz
from tests.fuzz.mutation import MAX_BYTES, mutated
from tests.fuzz.targets import TARGETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("ATLATL_FUZZ_SECONDS", "20"))
SEED = "1"
"""What passes today passes tomorrow; `make fuzz` takes another one each time."""
ROOT = Path(__file__).parents[2]


Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Done]]]:
    """Of the targets that are tested, two at a time.

    Each in a process of its own: it uses signals, and measures memory.
    """

    def run(name: str) -> Done:
        asked = ["--seconds", str(SECONDS), "--seed", SEED, "--only", name]
        command = [sys.executable, "-m", "tests.fuzz", *asked]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    asked = [item for item in request.session.items if isinstance(item, pytest.Function)]
    ours = [item for item in asked if item.originalname == test_nothing_is_found.__name__]
    with ThreadPoolExecutor(2) as two:
        names = [item.callspec.params["name"] for item in ours]
        yield {name: two.submit(run, name) for name in names}
        two.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_nothing_is_found(name: str, runs: dict[str, Future[Done]]) -> None:
    done = runs[name].result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 findings" in done.stdout


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_each_has_inputs_words_and_a_part_of_the_code(name: str) -> None:
    target = TARGETS[name]
    assert len(target.inputs()) > 10
    assert len(target.words) > 10
    assert target.folder.is_dir()
    assert all(len(path.read_bytes()) <= MAX_BYTES for path in target.folder.iterdir())
    assert target.name == name


# --- the fuzzer itself finds what there is to find ---


def target_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parser: fuzzing.Run) -> Target:
    monkeypatch.setattr(fuzzing, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(fuzzing, "WORDS", tmp_path)
    (tmp_path / "sample.txt").write_text("len=\\n\n\\xff\n")
    return Target("sample", lambda: nullcontext(parser), (__file__,), lambda: [b"1234567890"])


def nested(data: bytes) -> None:
    """Three conditions deep, each of which shows in another line."""
    if data[:1] != b"\xff":
        return
    if data[1:5] != b"len=":
        return
    if data[5:6] > b"x":
        raise LookupError("found")


def endless(data: bytes) -> None:
    while b"\xff" in data:
        pass


kept: list[mmap.mmap] = []


def leaking(data: bytes) -> None:
    """As much in any second, whatever else the machine does or other tests have freed."""
    memory = mmap.mmap(-1, 1_000_000)
    memory.write(b"x" * 1_000_000)
    kept.append(memory)
    time.sleep(0.01)


def greedy(data: bytes) -> None:
    if b"len=" in data:
        bytearray(b"x") * 300_000_000


def test_what_stands_behind_conditions_is_reached_and_made_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = found_in(monkeypatch, tmp_path, nested, 60.0)
    (finding,) = report.findings
    assert "LookupError" in finding.error
    assert len(finding.data) == 6
    assert finding.store().read_bytes() == finding.data
    assert report.failed


def test_what_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzzing, "INPUT_S", 0.2)
    (finding,) = found_in(monkeypatch, tmp_path, endless, 20.0).findings
    assert "TooLong" in finding.error


def test_what_takes_too_much_memory_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (finding,) = found_in(monkeypatch, tmp_path, greedy, 20.0).findings
    assert "TooLarge" in finding.error


def test_a_leak_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        report = found_in(monkeypatch, tmp_path, leaking, 2.0)
    finally:
        kept.clear()
    assert report.leak
    assert report.failed
    assert not report.findings


def found_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parser: fuzzing.Run, seconds: float
) -> Report:
    monkeypatch.setattr(fuzzing, "SHRINK_S", 2.0)
    return fuzz(target_of(monkeypatch, tmp_path, parser), seconds, seed=1, most_findings=1)


def test_the_same_seed_makes_the_same_inputs() -> None:
    def some(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        return [mutated(chance, b'{"a": [1, 2]}', [b"x" * 100], [b"word"]) for _ in range(200)]

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert all(len(data) <= MAX_BYTES for data in some(3))
