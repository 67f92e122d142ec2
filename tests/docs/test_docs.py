"""The documents say what the code does, and nothing points to where it is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from atlatl import cli, errors
from atlatl.core.hosts import as_address, is_public
from atlatl.settings import Group, Settings
from atlatl.telemetry.feed import KINDS
from atlatl.telemetry.prometheus import Page
from atlatl.telemetry.service_families import ServiceScrape
from tests.e2e.server import serving

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LEFT_OUT = {"build", "dist", "LICENSE", "test_docs.py", "vendor"}
KNOWN_HOSTS = {
    "127.0.0.1",
    "localhost",
    "example.com",
    "example.org",
    "doi.org",
    "docs.python.org",
    "github.com",
    "keepachangelog.com",
    "knative.dev",
    "opentelemetry.io",
    "prometheus.io",
    "semver.org",
    "www.rfc-editor.org",
    "www.w3.org",
}


def written_files(directory: Path = ROOT) -> Iterator[Path]:
    """Every text file of the project; nothing that a tool made, and no look into what it made."""
    for path in sorted(directory.iterdir()):
        hidden = path.name.startswith(".") and path.name != ".ci"
        made = path.name == "__pycache__" or path.name.endswith((".pyc", ".egg-info"))
        made = made or path == ROOT / "tests" / "fuzz" / "corpus"  # by the fuzzer
        if hidden or made or path.name in LEFT_OUT:
            continue
        if path.is_dir():
            yield from written_files(path)
        elif path.is_file():
            yield path


@cache
def texts() -> list[tuple[str, str]]:
    found = []
    for path in written_files():
        with suppress(UnicodeDecodeError):
            found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
    return found


def snippets(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_the_reference_pages_are_what_the_code_says() -> None:
    """Every setting, error, command, route and metric, as `make docs` writes them."""
    script = ROOT / "scripts" / "gen_reference.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def reference(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_setting_stands_in_its_page_with_a_meaning() -> None:
    page = reference("settings.md")
    defaults = Settings()
    for name in Settings.__struct_fields__:
        assert f"`{name}`" in page, name
        value = getattr(defaults, name)
        for member in value.__struct_fields__ if isinstance(value, Group) else ():
            assert f"| `{member}` |" in page, f"{name}.{member}"
    assert re.findall(r"^\| `(\w+)` .*\|  \|$", page, re.MULTILINE) == []


def test_every_error_has_its_row() -> None:
    page = reference("errors.md")
    codes = {
        vars(kind)["code"]
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.AtlatlError) and "code" in vars(kind)
    } - {errors.AtlatlError.code}
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_every_command_has_its_section() -> None:
    page = reference("commands.md")
    groups = [("", cli.app)] + [(f"{g.name} ", g.typer_instance) for g in cli.app.registered_groups]
    named = {
        above + (command.name or command.callback.__name__)
        for above, group in groups
        for command in group.registered_commands
    }
    assert "token create" in named
    assert named
    assert {name for name in named if f"## `atlatl {name}" not in page} == set()


def test_every_event_and_every_step_of_a_life_has_its_row() -> None:
    page = reference("events.md")
    assert {kind for kind in KINDS.values() if f"| `{kind}` |" not in page} == set()
    told = (ROOT / "src" / "atlatl" / "core" / "explaining.py").read_text(encoding="utf-8")
    steps = set(re.findall(r'kind="(\w+)"', told))
    assert len(steps) > 10
    assert {step for step in steps if f"`{step}`" not in reference("operating.md")} == set()


def test_every_metric_has_its_row() -> None:
    text = Page(openmetrics=False).text(ServiceScrape()).decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert names
    assert {name for name in names if f"| `{name}` |" not in reference("metrics.md")} == set()


def test_links_lead_to_files_that_exist() -> None:
    lost = []
    for name, text in texts():
        if not name.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if "://" not in target and not (ROOT / name).parent.joinpath(target).exists():
                lost.append(f"{name}: {target}")
    assert lost == []


def test_documents_that_are_named_exist() -> None:
    """A document that is named but not in the project is of no use to who reads it."""
    there = {path.name for path in written_files() if path.suffix == ".md"}
    lost = []
    for name, text in texts():
        lost += [
            f"{name}: {other}"
            for other in re.findall(r"[\w-]+(?:\.zh-CN)?\.md\b", text)
            if other not in there
        ]
    assert lost == []


def test_no_address_but_the_known_ones() -> None:
    """Nothing depends on a host that a user may not reach, the package index's included."""
    strangers = []
    for name, text in texts():
        for host in re.findall(r"\bhttps?://([\w.-]*\w)", text):
            if host not in KNOWN_HOSTS and not leads_nowhere(host):
                strangers.append(f"{name}: {host}")
    assert strangers == []


def leads_nowhere(host: str) -> bool:
    """An address that is not one of the public internet, or a name that nobody can have there."""
    address = as_address(host)
    if address is not None:
        return not is_public(address)
    return "." not in host or host.endswith((".test", ".invalid", ".example"))


def test_nothing_names_the_place_where_it_was_written() -> None:
    everywhere = {Path("/", name) for name in ("", "home", "media", "mnt", "opt", "srv", "tmp")}
    places = {ROOT, ROOT.parent, Path.home()} - everywhere
    pattern = re.compile(
        r"(?<![\w./}-])(?:" + "|".join(re.escape(str(place)) for place in places) + r")(?![\w-])"
    )
    assert [name for name, text in texts() if pattern.search(text)] == []


REGISTRIES = ("pypi", "pythonhosted", "npmjs", "golang")
FOREIGN_WORDS = re.compile(
    r"(?<![\w.])/work(?![\w-])"
    r"|\.\./shared"
    r"|\b(?:decisions|domain|wire|http|pitfalls)\.md section"
    r"|\b(?:this|another|an earlier|the next) session\b"
    rf"|\b(?:{'|'.join(REGISTRIES)})\.(?:org|com)\b"
)
"""Where and how it was written, and hosts of package registries: none of the reader's business."""


def test_no_foreign_words() -> None:
    found = [
        f"{name}: {match[0]}" for name, text in texts() for match in FOREIGN_WORDS.finditer(text)
    ]
    assert found == []


def test_the_lock_pins_versions_and_nothing_else() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9.-]+==[\w.]+", line)] == []


def test_the_lock_has_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=\[; ]", line)[0].lower() for line in wanted}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert names - set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE)) == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert [line for line in wanted if re.split(r"[<>=\[; ]", line)[0] not in page] == []


def test_decisions_are_short() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, path.name


def test_the_two_commands_stand_first_in_the_readme() -> None:
    first = snippets("sh")[0]
    assert "make demo" in first
    assert "make test" in first
    assert len(README.splitlines()) < 100


def test_the_chinese_readme_says_the_same() -> None:
    """As far as a test can tell: the same sections, commands, figures and links."""
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    for kind in (r"^```.*?^```", r"^\| .*?$", r"\]\((?!README)[^)]*\)"):
        wanted, found = (
            re.findall(kind, page, re.DOTALL | re.MULTILINE) for page in (README, chinese)
        )
        assert found == wanted
    assert len(re.findall(r"^#", chinese, re.MULTILINE)) == len(
        re.findall(r"^#", README, re.MULTILINE)
    )


def test_make_knows_every_target_that_is_named() -> None:
    named: set[str] = set()
    for name, text in texts():
        if name.endswith(".md"):
            named |= set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert named - set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE)) == set()


def test_commands_in_the_readme_exist() -> None:
    named = {
        line.split()[1]
        for text in snippets("sh")
        for line in text.splitlines()
        if line.startswith("atlatl ")
    }
    assert named
    for command in sorted(named):
        done = subprocess.run(
            [Path(sys.executable).with_name("atlatl"), command, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"atlatl {command}: {done.stderr}"
        assert f" {command} " in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_tour_do_what_they_say(tmp_path: Path) -> None:
    """All but the first two, which find the command and start the service."""
    (tmp_path / "hello.py").write_text(snippets("python")[0], encoding="utf-8")
    lines = snippets("sh")[1].splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["export", 'PATH="$PWD/.venv/bin:$PATH"'],
        ["atlatl", "serve"],
    ]
    with serving(tmp_path / "data") as server:
        address = server.url.removeprefix("http://")
        done = subprocess.run(
            ["bash", "-e"],
            input="\n".join(lines[2:]).replace("localhost:8081", address),
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "ATLATL_URL": server.url,
                "ATLATL__DATA_DIR": str(server.data_dir),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("deployed hello (version 1)\nHello, Ada!Hello, Hello, Ada!")
    assert "Hello, Ada!\nINSTANCE ID" in done.stdout


def run_snippet(code: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_embedding_snippet_runs(tmp_path: Path) -> None:
    (function,), (embedding, _) = snippets("python"), snippets("python", reference("embedding.md"))
    (tmp_path / "hello.py").write_text(function, encoding="utf-8")
    assert run_snippet(embedding, tmp_path).strip() == "Hello, Ada!"


@pytest.mark.slow
def test_the_mounting_snippet_runs(tmp_path: Path) -> None:
    """The application opens the service, and the function answers under its prefix."""
    (function,), (_, mounting) = snippets("python"), snippets("python", reference("embedding.md"))
    (tmp_path / "hello.py").write_text(function, encoding="utf-8")
    call = """
import asyncio
import httpx

async def run():
    local = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with app.router.lifespan_context(app):
        await service.deploy("hello", "hello.py")
        async with httpx.AsyncClient(transport=local, base_url="http://localhost") as client:
            answer = await client.post("/fn/functions/hello", json={"name": "Ada"})
            print(answer.status_code, answer.text)

asyncio.run(run())
"""
    assert run_snippet(mounting + call, tmp_path).splitlines()[-1] == "200 Hello, Ada!"
