"""What a check says."""

from __future__ import annotations

from atlatl.model import Record

WARNING = "warning: "


class Item(Record, frozen=True):
    """One thing that was looked at."""

    item: str
    ok: bool
    detail: str
    """Its figures; of an item that holds with a reservation it begins with `warning: `."""

    @property
    def verdict(self) -> str:
        """`ok`, `warning` or `FAILED`."""
        if not self.ok:
            return "FAILED"
        return "warning" if self.detail.startswith(WARNING) else "ok"

    @property
    def said(self) -> str:
        """The detail without the word that the verdict says already."""
        return self.detail.removeprefix(WARNING)


def passed(item: str, detail: str) -> Item:
    return Item(item, True, detail)


def warned(item: str, detail: str) -> Item:
    return Item(item, True, WARNING + detail)


def failed(item: str, detail: str) -> Item:
    return Item(item, False, detail)


def judged(item: str, faults: list[str], doubts: list[str], detail: str) -> Item:
    """Failed with the faults, else a warning with the doubts, else `detail` as it is."""
    if faults:
        return failed(item, "; ".join(filter(None, [*faults, detail])))
    if doubts:
        return warned(item, "; ".join(filter(None, [*doubts, detail])))
    return passed(item, detail)
