"""The quickstart and the guides: every file and every command in them, as they stand."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.collector import collecting
from tests.docs import pages
from tests.docs.test_docs import run_snippet, snippets
from tests.e2e.server import Server, eventually, serving

DOCS = pages.ROOT / "docs"
PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "how-to").glob("*.md"))]
NEEDED = {"access.md": "openssl"}
HTTP, GRPC, COLLECTOR = 8081, 50052, 4318


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wheel_of(package: str, folder: Path) -> None:
    """A wheel made of what is installed: an index is not at hand everywhere."""
    found = distribution(package)
    name = f"{package}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for file in found.files or []:
            if not str(file).endswith((".pyc", "INSTALLER", "REQUESTED", "direct_url.json")):
                wheel.write(str(file.locate()), str(file))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For all pages that start none of their own."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "wheels").mkdir()
    wheel_of("packaging", folder / "wheels")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels")}
    with serving(folder / "data", env=offline) as server:
        server.deployed("hello", "def main(name='world'):\n    return f'Hello, {name}!'\n")
        yield server


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATLATL")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_they_say(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = text_of(page)
    needed = NEEDED.get(page.name, "bash")
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    traced = f":{COLLECTOR}/" in text
    if traced and importlib.util.find_spec("opentelemetry.sdk") is None:
        pytest.skip('it needs pip install "atlatl[traces]"')
    with ExitStack() as opened:
        if pages.starts_a_service(text):
            ports = {HTTP: free_port(), GRPC: free_port()}
            settings = environment(
                ATLATL__HTTP__PORT=str(ports[HTTP]), ATLATL__GRPC__PORT=str(ports[GRPC])
            )
        else:
            server: Server = request.getfixturevalue("service")
            (tmp_path / "data").symlink_to(server.data_dir)
            ports = {
                HTTP: int(server.url.rpartition(":")[2]),
                GRPC: int(server.grpc.rpartition(":")[2]),
            }
            settings = environment(ATLATL_URL=server.url, ATLATL__DATA_DIR=str(server.data_dir))
        if traced:
            collector = opened.enter_context(collecting())
            ports[COLLECTOR] = int(collector.url.split(":")[2].partition("/")[0])
        for step, printed in pages.run(text, tmp_path, settings, ports):
            said = step.printed
            assert said is None or pages.is_as_said(said, printed), f"{step.text}\n{printed}"
        if traced:
            eventually(lambda: {span.name for span in collector.spans} >= {"front", "run", "queue"})


def test_every_guide_has_commands() -> None:
    assert len(PAGES) > 12
    for page in PAGES:
        typed = [step for step in pages.steps(text_of(page)) if not step.file]
        assert typed, page.name
        assert any(step.printed for step in typed), page.name


def test_what_is_said_is_compared() -> None:
    """Nothing that a page says passes unseen."""
    assert pages.is_as_said("a...c\n", "abc")
    assert not pages.is_as_said("a...c\n", "abcd")
    assert not pages.is_as_said("", "abc")
    (step,) = pages.steps("```sh\ntrue\n```\n\n```text\nso\n```\n")
    assert step == pages.Step("true\n", printed="so\n")
    (file,) = pages.steps("```text\n# a/requirements.txt\npackaging\n```\n")
    assert file.file == "a/requirements.txt"


@pytest.mark.slow
def test_the_breaker_works_in_a_program_of_its_own(tmp_path: Path) -> None:
    (snippet,) = snippets("python", text_of(DOCS / "concepts" / "breaker.md"))
    assert run_snippet(snippet, tmp_path).strip() == "paid closed"


def test_no_guide_waits_for_luck() -> None:
    for page in PAGES:
        for step in pages.steps(text_of(page)):
            waits = re.findall(r"^sleep ", step.text, re.MULTILINE)
            assert waits == [], page.name
