"""Runs a page of the documentation: its files are written and its commands typed, as they stand.

A block that begins with `# NAME.ENDING` is a file. A block `sh` is commands. A block `text` that is
no file is what the commands before it print, `...` standing for anything. `<!-- fails -->` right
before commands says that their exit status need not be 0.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

BLOCK = re.compile(r"^(<!-- fails -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
SERVE = re.compile(r"^(.*\batlatl serve\b.*?) &$", re.MULTILINE)

# What the service says is shown where the reader would see it: with the commands that led to it.
SAID = "if [ -s said ]; then cat said; : >said; fi"
STARTED = """\
\\1 >>said &
until grep -q ^dashboard said; do kill -0 $!; sleep 0.02; done"""


ENDS = "trap 'status=$?; set +e; kill $(jobs -p) 2>/dev/null; wait; exit $status' EXIT"


class Step(NamedTuple):
    """A file to write, or commands to type."""

    text: str
    file: str = ""
    may_fail: bool = False
    printed: str | None = None
    """None where the page does not say."""


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for fails, kind, text in BLOCK.findall(page):
        file = FILE.match(text)
        if file:
            found.append(Step(text, file=file[1]))
        elif kind == "sh":
            found.append(Step(text, may_fail=bool(fails)))
        elif kind == "text" and found and not found[-1].file and found[-1].printed is None:
            found[-1] = found[-1]._replace(printed=text)
    return found


def starts_a_service(page: str) -> bool:
    return any(SERVE.search(step.text) for step in steps(page) if not step.file)


def script(page: str) -> str:
    """All of the page for bash; after each block of commands stands a line with its number."""
    lines = ["set -e", ENDS]
    for number, step in enumerate(steps(page)):
        if step.file:
            path = shlex.quote(step.file)
            lines += [f"mkdir -p $(dirname {path})", f"cat >{path} <<'END OF FILE'"]
            lines += [step.text + "END OF FILE"]
            continue
        commands = SERVE.sub(STARTED, step.text.rstrip())
        lines += ["set +e", commands, "set -e"] if step.may_fail else [commands]
        lines += [SAID, f"printf '\\n@@@{number}\\n'"]
    return "\n".join([*lines, ""])


def run(
    page: str, directory: Path, environment: Mapping[str, str], ports: Mapping[int, int]
) -> Iterator[tuple[Step, str]]:
    """The blocks of commands, each with what it printed.

    Args:
        page: Markdown.
        directory: where everything happens.
        environment: of the commands.
        ports: that stand in the page, and those to be used in their places.
    """
    text = script(page)
    for stated, used in ports.items():
        text = text.replace(f":{stated}", f":{used}")
    (directory / ".curlrc").write_text("silent\nshow-error\n")
    done = subprocess.run(
        ["bash"],
        input=text,
        cwd=directory,
        env={**environment, "CURL_HOME": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    printed = done.stdout
    for stated, used in ports.items():
        printed = printed.replace(f":{used}", f":{stated}")
    assert done.returncode == 0, f"it ended with status {done.returncode}:\n{printed}"
    parts = re.split(r"\n@@@(\d+)\n", printed)
    for number, output in zip(parts[1::2], parts[::2], strict=False):
        yield steps(page)[int(number)], output


def is_as_said(said: str, printed: str) -> bool:
    pattern = re.escape(said.strip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
