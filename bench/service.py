"""`atlatl serve` as a process of its own, with everything switched on, as it is by default."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from bench.rounds import Wrong

_STARTED = re.compile(r"atlatl serves on http://127\.0\.0\.1:(\d+)(?: and gRPC \S+:(\d+))?")
_STOPPED_WITHIN_S = 60


class Service:
    """Runs from its making until `stop`, on a data directory of its own."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """Starts it; returns when it says that it serves, `started_s` after it was begun.

        Args:
            directory: its data; may have tasks and executions in it from before.
            environment: settings, `ATLATL__POOL__MIN_SIZE` for example.

        Raises:
            Wrong: it did not start.
        """
        self.directory = directory
        command = [
            sys.executable, "-m", "atlatl.cli", "serve",
            "--port", "0", "--grpc-port", "0", "--data-dir", str(directory),
        ]  # fmt: skip
        self._log = (directory.parent / f"{directory.name}.log").open("wb")
        began = time.monotonic()
        self._process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE,
            stderr=self._log, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.port, self.grpc_port = self._read_ports()
        self.started_s = time.monotonic() - began
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {(directory / 'token').read_text().strip()}"},
            timeout=120,
        )

    def _read_ports(self) -> tuple[int, int]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _STARTED.search(line):
                return int(found[1]), int(found[2] or 0)
        raise Wrong("atlatl did not start:\n" + Path(self._log.name).read_text()[-1000:])

    def deploy(
        self, name: str, content: str | bytes, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Deploys a Python file, or a zip, under this name; raises Wrong."""
        filename = f"{name}.zip" if isinstance(content, bytes) else f"{name}.py"
        answer = self._http.put(
            f"/api/v1/tasks/{name}",
            files={"artifact": (filename, content)},
            data={"settings": json.dumps(settings or {})},
        )
        if answer.status_code not in (200, 201):
            raise Wrong(f"deploying {name} answered {answer.status_code} {answer.text}")

    def get(self, path: str) -> httpx.Response:
        """Raises Wrong unless it is answered with 200."""
        answer = self._http.get(path)
        if answer.status_code != 200:
            raise Wrong(f"GET {path} answered {answer.status_code} {answer.text}")
        return answer

    def task_id(self, task: str) -> str:
        identity: str = self.get(f"/api/v1/tasks/{task}").json()["task_id"]
        return identity

    def instance_pids(self, task: str) -> list[int]:
        """Process ids of the instances of a task."""
        rows = self.get("/api/v1/instances").json()["instances"]
        return [row["pid"] for row in rows if row["task_name"] == task]

    def stop(self) -> None:
        """As an operator would; raises Wrong unless it ends well."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOPPED_WITHIN_S)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._log.close()
            self._http.close()
        if self._process.returncode:
            said = Path(self._log.name).read_text()[-1000:]
            raise Wrong(f"atlatl ended with status {self._process.returncode}: {said}")
