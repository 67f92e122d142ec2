"""Reads the events of a service in a thread, as a page would."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import httpx

from tests.e2e.server import Server


class Watch:
    """What was heard so far; the thread ends with the service."""

    def __init__(self, server: Server, query: str = "") -> None:
        self.seen: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._url = f"{server.url}/api/v1/events{query}"
        self._headers = {"authorization": f"Bearer {server.token}"}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", self._url, headers=self._headers, timeout=60) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.seen.append(json.loads(line[6:]))
            self.ended.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.seen if event["kind"] == kind]

    def row(self, task: str) -> dict[str, Any] | None:
        """The task in the latest figures."""
        rows = self.of("figures")[-1]["tasks"] if self.of("figures") else []
        return next((row for row in rows if row["task_name"] == task), None)
