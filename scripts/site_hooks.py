"""What the site has besides docs/: files of the project that its pages link to.

`make site` loads this by `hooks` of properdocs.yml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from properdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "CHANGELOG.md": "project/CHANGELOG.md",
    "CONTRIBUTING.md": "project/CONTRIBUTING.md",
    "SECURITY.md": "project/SECURITY.md",
    "examples": "examples/index.md",
}
"""Where on the site each of them stands."""

LINK = re.compile(r"\]\(((?:\.\./)+)(" + "|".join(map(re.escape, PAGES)) + r")(?=[#)])")


def on_files(files: Any, config: Any) -> Any:
    """Adds them to the pages of docs/."""
    for name, uri in PAGES.items():
        path = ROOT / name
        text = examples(path) if path.is_dir() else path.read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=text.replace("](docs/", "](../")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links out of docs/ to where the site has what they mean."""
    depth = page.file.src_uri.count("/")

    def found(link: re.Match[str]) -> str:
        if link[1].count("../") != depth + 1:
            return link[0]
        return f"]({'../' * depth}{PAGES[link[2]]}"

    return LINK.sub(found, markdown)


def examples(directory: Path) -> str:
    """One page with every file of the examples."""
    parts = ["# Examples\n", "`atlatl serve --functions examples` deploys all of them.\n"]
    for path in sorted(directory.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            text = path.read_text(encoding="utf-8").rstrip()
            parts.append(f"## {path.relative_to(directory)}\n\n```\n{text}\n```\n")
    return "\n".join(parts)
