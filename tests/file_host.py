"""A small web server in a thread, which serves code well and badly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileHost(ThreadingHTTPServer):
    """Serves `files` by path, `redirects` to their targets; `/endless` and `/silent` as named."""

    # A handler of /silent waits for the end: joined then, not left behind.
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ending = threading.Event()
        self.address = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.address}"


class _Handler(BaseHTTPRequestHandler):
    server: FileHost

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        if path in self.server.redirects:
            self._head(302, location=self.server.redirects[path])
        elif path in self.server.files:
            content = self.server.files[path]
            self._head(200, content_length=str(len(content)))
            self.wfile.write(content)
        elif path == "/endless":
            self._endless()
        elif path == "/packed.py":
            self._head(200, content_encoding="gzip")
        elif path == "/silent":
            self.server.ending.wait(60)
        else:
            self._head(int(path.removeprefix("/status/")) if "status" in path else 404)

    def _endless(self) -> None:
        """Without a length, until the reader has had enough."""
        self._head(200)
        try:
            while not self.server.ending.is_set():
                self.wfile.write(b"#" * 1000 + b"\n")
        except OSError:
            self.close_connection = True

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def file_host() -> Iterator[FileHost]:
    with FileHost() as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield host
        finally:
            host.ending.set()
            host.shutdown()
            thread.join(10)
