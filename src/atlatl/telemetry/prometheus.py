"""The same counters for Prometheus: rendered as text when asked for, kept nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atlatl.telemetry.exposition import Family
from atlatl.telemetry.service_families import SERVICE_FAMILIES, ServiceScrape
from atlatl.telemetry.task_families import TASK_FAMILIES, TaskScrape

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def content_type(accept: str) -> str:
    """The format for an `Accept` header: OpenMetrics when it is wanted at least as much."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type in weights:
            weights[media_type] = max(weights[media_type], _weight(parameters))
    wanted, other = weights.values()
    return OPENMETRICS if wanted > 0 and wanted >= other else TEXT


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


class Page:
    """The text of one scrape, put together a few tasks at a time.

    Between two calls of `add` others may have the event loop. What is shown of one task is of
    one moment.
    """

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._pieces: list[list[bytes]] = [[] for _ in TASK_FAMILIES]

    def add(self, tasks: Sequence[TaskScrape]) -> None:
        for family, pieces in zip(TASK_FAMILIES, self._pieces, strict=True):
            pieces.append("".join([family.lines(task) for task in tasks]).encode())

    def text(self, service: ServiceScrape) -> bytes:
        """All of it: the families of tasks, then those of the service."""
        pieces: list[bytes] = []
        for family, lines in zip(TASK_FAMILIES, self._pieces, strict=True):
            pieces += [self._head(family), *lines]
        for whole in SERVICE_FAMILIES:
            pieces += [self._head(whole), whole.lines(service).encode()]
        if self._openmetrics:
            pieces.append(b"# EOF\n")
        return b"".join(pieces)

    def _head(self, family: Family[TaskScrape] | Family[ServiceScrape]) -> bytes:
        return family.head(openmetrics=self._openmetrics).encode()
