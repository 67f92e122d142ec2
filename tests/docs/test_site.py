"""The site: every page has its place, every link leads somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from atlatl.core.scheduling import POLICIES
from atlatl.front.proto import function_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@cache
def pages() -> dict[str, str]:
    """The pages of docs/ and those beside it, without what stands in their code blocks."""
    found = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    return {
        path.relative_to(ROOT).as_posix(): re.sub(
            r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        for path in found
    }


def test_every_page_has_its_place_in_the_navigation() -> None:
    nav = (ROOT / "properdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"^ +-(?: [^:\n]+:)? ([\w/.-]+\.md)$", nav, re.MULTILINE)
    hooks = (ROOT / "scripts" / "site_hooks.py").read_text(encoding="utf-8")
    added = re.findall(r'^    "[\w.]+": "([\w/.]+)",$', hooks, re.MULTILINE)
    there = {name.removeprefix("docs/") for name in pages() if name.startswith("docs/")}
    assert sorted(named) == sorted([*there, *added])


def anchors(page: str) -> set[str]:
    """Of its headings, as forges make them and as the site does, where both agree."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
        plain = re.sub(r"[^\w\s-]", "", plain).strip().lower()
        if (slug := re.sub(r"\s", "-", plain)) == re.sub(r"[-\s]+", "-", plain):
            found.add(slug)
    return found


def test_links_lead_to_headings_that_exist() -> None:
    lost = []
    for name, text in pages().items():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]*)\)", text):
            if "://" in target:
                continue
            path = (ROOT / name).parent / target if target else ROOT / name
            other = pages().get(path.resolve().relative_to(ROOT).as_posix(), "")
            if anchor not in anchors(other):
                lost.append(f"{name}: {target}#{anchor}")
    assert lost == []


def test_every_page_can_be_reached_from_the_first_one() -> None:
    seen: set[str] = set()
    waiting = ["docs/index.md"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in pages():
            continue
        seen.add(name)
        for target in re.findall(r"\]\(([^)#\s]+)", pages()[name]):
            if "://" not in target:
                path = ((ROOT / name).parent / target).resolve()
                waiting.append(path.relative_to(ROOT).as_posix())
    assert {name for name in pages() if "decisions/" not in name} - seen <= {
        "README.md",
        "README.zh-CN.md",
    }


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--strict", "-q", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) >= len(pages())
    for page in built:
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"([^\"]*)", text)
        assert [each for each in loads if re.match(r"(?:https?:)?//", each)] == [], page.name
    assert "circuit breaker" in (tmp_path / "search" / "search_index.json").read_text().lower()


def test_every_scheduling_policy_is_described() -> None:
    page = (DOCS / "concepts" / "scheduler.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[: len(POLICIES)] == list(POLICIES)


def test_fields_of_requests_that_nobody_reads_say_so() -> None:
    """By the code of the front: a field is read where its name follows a dot."""
    page = (DOCS / "grpc.md").read_text(encoding="utf-8")
    front = [path.read_text(encoding="utf-8") for path in (ROOT / "src/atlatl/front").glob("*.py")]
    read = set(re.findall(r"\.(\w+)\b", "\n".join(front)))
    messages = [
        pb.InvokeFunctionRequest,
        pb.ExecutionContext,
        pb.ArtifactSpec,
        pb.FunctionParameter,
    ]
    messages += [getattr(pb, name) for name in dir(pb) if name.endswith("Request")]
    for message in messages:
        section = page.partition(f"### `{message.DESCRIPTOR.name}`\n")[2].partition("### ")[0]
        for field in message.DESCRIPTOR.fields:
            (meaning,) = re.findall(rf"^\| `{field.name}` \|.*\| (.*) \|$", section, re.MULTILINE)
            assert (field.name in read) or "no effect" in meaning.lower(), field.full_name


def test_our_names_exist() -> None:
    """In the column `here` of the page of names."""
    page = (DOCS / "names.md").read_text(encoding="utf-8")
    homes = ["atlatl", "atlatl.errors", "atlatl.model", "atlatl.engine.manager"]
    homes += ["atlatl.runtimes.manager", "atlatl.settings", "builtins"]
    known = [importlib.import_module(home) for home in homes]
    lost = []
    for row in re.findall(r"^\| .*? \| (.*?) \| .*\|$", page, re.MULTILINE):
        for name in re.findall(r"`([A-Z]\w+(?:\.\w+)*)", row):
            first, *rest = name.split(".")
            owners = [getattr(module, first) for module in known if hasattr(module, first)]
            if not owners or not all(hasattr(owners[0], part) for part in rest):
                lost.append(name)
    assert lost == []
