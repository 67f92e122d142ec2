"""A real `atlatl serve` in a process of its own, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests import ordinary

STARTED = re.compile(r"atlatl serves on (https?://\S+?)(?: and gRPC (\S+?))?, data in (.*)")


class Server:
    """Starts the service and speaks to it; `stop` or `kill` ends it."""

    def __init__(
        self,
        data_dir: Path,
        *args: str,
        env: dict[str, str] | None = None,
        ca_file: Path | None = None,
        user: int | None = None,
        **settings: Any,
    ) -> None:
        self.data_dir = data_dir
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable if user is None else ordinary.python(), "-m", "atlatl.cli", "serve",
             "--port", "0", "--grpc-port", "0", "--data-dir", str(data_dir), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {}), **_variables(settings)},
            cwd=data_dir.parent,
            **({} if user is None else ordinary.as_user(user)),
        )  # fmt: skip
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._started.wait(30) or not hasattr(self, "url"):
            self.kill()
            raise AssertionError("the service did not start:\n" + "\n".join(self.lines))
        self.http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.token}"},
            timeout=60,
            verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            found = STARTED.search(line)
            if found:
                self.url, self.grpc = found[1], found[2]
                self._started.set()
        self._started.set()

    @property
    def token(self) -> str:
        return (self.data_dir / "token").read_text().strip()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def deploy(self, name: str, code: str | bytes, **settings: Any) -> httpx.Response:
        content = code.encode() if isinstance(code, str) else code
        filename = "main.zip" if content[:2] == b"PK" else "main.py"
        return self.http.put(
            f"/api/v1/tasks/{name}",
            files={"artifact": (filename, content)},
            data={"settings": json.dumps(settings)},
        )

    def deployed(self, name: str, code: str, **settings: Any) -> None:
        answer = self.deploy(name, code, **settings)
        assert answer.status_code in (200, 201), answer.text

    def call(self, name: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        return self.http.post(f"/functions/{name}", json={} if body is None else body, **kwargs)

    def instances(self, name: str) -> list[dict[str, Any]]:
        rows = self.http.get("/api/v1/instances").json()["instances"]
        return [row for row in rows if row["task_name"] == name]

    def cli(
        self, *args: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "atlatl.cli", *args],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **os.environ,
                "ATLATL_URL": self.url,
                "ATLATL__DATA_DIR": str(self.data_dir),
                **(env or {}),
            },
        )

    def descendants(self) -> list[int]:
        return descendants(self.process.pid)

    def stop(self) -> None:
        """Ends it as an operator would; it must end by itself, with status 0."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        finally:
            self.kill()
        assert status == 0, self.output

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if hasattr(self, "http"):
            self.http.close()


def _variables(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "ATLATL__" + name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
    }


def descendants(pid: int) -> list[int]:
    """Process ids of children, their children, and so on; zombies too."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir() if Path(f"/proc/{pid}/task").exists() else []:
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    """Whether the process is there and not just waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """Waits until the condition holds and returns its value; fails after `within_s`."""
    end = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{condition} did not hold within {within_s} s"
        time.sleep(0.02)


@contextmanager
def serving(data_dir: Path, *args: str, **settings: Any) -> Iterator[Server]:
    """A service that is stopped, and checked to stop well, at the end."""
    server = Server(data_dir, *args, **settings)
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.stop()
