"""An artifact of our own: each blank loads and calls it once before it waits for a real one."""

from __future__ import annotations


def main(name: str, count: int = 1) -> dict[str, str]:
    """Does next to nothing, in the most usual shape."""
    return {"name": name * count}
