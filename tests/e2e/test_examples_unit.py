"""The examples as plain functions: imported and called, without a service."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import io
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atlatl import FunctionService
from atlatl.loader import deploy_directory
from atlatl.settings import Settings, task_settings
from atlatl_worker import Request

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(name: str) -> Any:
    """The handler `main` of an example."""
    directory = EXAMPLES / name
    return load(directory / "main.py" if directory.is_dir() else EXAMPLES / f"{name}.py").main


def test_hello() -> None:
    hello = example("hello")
    assert hello() == "Hello, world!"
    assert hello(name="Ada", times=2) == "Hello, Hello, Ada!"


def test_wordstats_of_a_text_that_can_be_counted_by_hand() -> None:
    found = example("wordstats")("The cat saw the dog.\nThe dog's bark? Loud!\n")
    assert found == {
        "characters": 43,
        "lines": 2,
        "sentences": 3,
        "words": 9,
        "distinct_words": 7,
        "used_once": 6,
        "mean_word_length": 3.44,
        "words_per_sentence": 3.0,
        "longest_word": "dog's",
        "top_words": {
            "the": 3, "cat": 1, "saw": 1, "dog": 1, "dog's": 1, "bark": 1, "loud": 1
        },
        "top_pairs": {"the cat": 1, "cat saw": 1, "saw the": 1, "the dog": 1, "dog the": 1},
    }  # fmt: skip


def test_wordstats_of_bytes_and_of_nothing() -> None:
    wordstats = example("wordstats")
    assert wordstats("na\u00efve \u00c9t\u00e9".encode())["words"] == 2
    assert wordstats("")["words"] == 0


def test_csvstats_agrees_with_the_statistics_of_its_seeded_table() -> None:
    demo_input = load(ROOT / "scripts" / "demo_input.py")
    rows = demo_input.readings(10_000)
    assert rows == demo_input.readings(10_000)
    body = io.StringIO()
    csv.writer(body).writerows([("city", "celsius"), *rows, ("Cork", "n/a"), ("Cork", "nan")])
    answer = example("csvstats")(
        Request(query_string="group=city&value=celsius", body=body.getvalue().encode())
    )
    assert (answer["rows"], answer["skipped"]) == (10_000, 2)
    assert set(answer["groups"]) == set(demo_input.CITIES)
    bergen = [value for city, value in rows if city == "Bergen"]
    assert answer["groups"]["Bergen"] == {
        "count": len(bergen),
        "mean": statistics.fmean(bergen),
        "median": statistics.median(bergen),
        "min": min(bergen),
        "max": max(bergen),
    }


def test_csvstats_names_the_column_that_is_missing() -> None:
    answer = example("csvstats")(Request(query_string="group=town&value=b", body=b"a,b\n1,2\n"))
    assert answer.status == 400
    assert "town" in answer.body


@pytest.fixture
def pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the thumbnail's requirements.txt names, importable for one test."""
    wanted = EXAMPLES / "thumbnail" / "requirements.txt"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path)]
    done = subprocess.run([*pip, "-r", str(wanted)], capture_output=True, text=True, timeout=110)
    if done.returncode != 0:
        pytest.skip(f"Pillow cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("pillow")
def test_thumbnail() -> None:
    demo_input = load(ROOT / "scripts" / "demo_input.py")
    thumbnail = example("thumbnail")
    picture = demo_input.gradient_png(300, 200)
    answer = thumbnail(Request(query_string="size=60", body=picture))
    assert answer.headers == [("content-type", "image/png")]
    assert demo_input.png_size(answer.body) == (60, 40)
    assert thumbnail(Request(body=b"no picture")).status == 400
    assert thumbnail(Request(query_string="size=big", body=picture)).status == 400


def test_countdown() -> None:
    assert list(example("countdown")(start=2, pause_s=0)) == ["2\n", "1\n", "lift-off\n"]


def test_flaky_works_or_fails_as_told() -> None:
    flaky = example("flaky")
    assert flaky(how="work") == "worked"
    assert flaky(how="return a set") == {1, 2, 3}
    with pytest.raises(ValueError, match="itself went wrong"):
        flaky()
    with pytest.raises(SystemExit):
        flaky(how="quit")
    with pytest.raises(ValueError, match="unknown way"):
        flaky(how="dance")


def test_settings_beside_the_examples_are_valid() -> None:
    tables = tomllib.loads((EXAMPLES / "atlatl.toml").read_text(encoding="utf-8"))
    for name, table in tables.items():
        assert (EXAMPLES / f"{name}.py").exists()
        task_settings(Settings(), table)
    for path in EXAMPLES.glob("*/atlatl.toml"):
        task_settings(Settings(), tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_a_directory_of_examples_is_served(tmp_path: Path) -> None:
    said: list[str] = []

    async def serve() -> None:
        async with FunctionService(Settings(data_dir=str(tmp_path))) as service:
            await deploy_directory(service, EXAMPLES, said.append)
            assert await service.invoke("hello", {"name": "Ada"}) == "Hello, Ada!"
            assert (await service.invoke("wordstats", "one two two"))["top_words"]["two"] == 2
            assert service.task("flaky").settings.breaker.failure_threshold == 3
            assert service.task("wordstats").settings.pool.min_size == 1

    asyncio.run(serve())
    deployed = {line.split()[1] for line in said if line.startswith("deployed ")}
    assert deployed >= {"hello", "wordstats", "csvstats", "countdown", "flaky"}, said


def test_examples_need_nothing_that_their_requirements_do_not_name() -> None:
    """A function sees the standard library, `atlatl_worker` and its own requirements only."""
    allowed = sys.stdlib_module_names | {"atlatl_worker"}
    for path in EXAMPLES.rglob("*.py"):
        own = {"PIL"} if (path.parent / "requirements.txt").exists() else set()
        lines = path.read_text(encoding="utf-8").splitlines()
        imported = {
            line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))
        }
        assert imported - allowed - own == set(), path
