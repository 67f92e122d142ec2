"""Which function of which file a task calls."""

from __future__ import annotations

import pytest

from atlatl.core.handlers import resolve_handler
from atlatl.errors import ArtifactInvalid


@pytest.mark.parametrize(
    ("files", "handler", "resolved"),
    [
        (["hello.py"], "", "hello.py:main"),
        (["hello.py", "data.json"], "greet", "hello.py:greet"),
        (["app.py", "lib.py"], "", "app.py:main"),
        (["main.py", "app.py"], "", "main.py:main"),
        (["app.py", "lib.py"], "lib.py:run", "lib.py:run"),
        (["app.py", "lib.py"], "lib:run", "lib.py:run"),
        (["app.py", "lib.py"], "./lib.py:run", "lib.py:run"),
        (["app.py", "pkg/deep.py"], "pkg.deep:run", "pkg/deep.py:run"),
        (["app.py", "lib.py"], "lib.py", "lib.py:main"),
        (["app.py", "lib.py"], "lib.py:", "lib.py:main"),
    ],
)
def test_what_is_left_out_is_the_obvious_one(files: list[str], handler: str, resolved: str) -> None:
    assert resolve_handler(files, handler) == resolved


@pytest.mark.parametrize(
    ("files", "handler", "word"),
    [
        ([], "", "no Python file"),
        (["a.py", "b.py"], "", "a.py, b.py"),
        (["a.py"], "b.py:main", "'b.py' is not in the artifact, which has a.py"),
        (["a.py"], "a.py:not a name", "names no function"),
        (["a.py"], "../../etc/passwd.py:main", "not in the artifact"),
    ],
)
def test_what_cannot_be_resolved_says_why(files: list[str], handler: str, word: str) -> None:
    with pytest.raises(ArtifactInvalid, match=word):
        resolve_handler(files, handler)
