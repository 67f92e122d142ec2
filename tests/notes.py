"""How functions tell a test that they ran: they see none of its files, but the network."""

from __future__ import annotations

import socket
import threading

NOTE = """
import socket
def note():
    with socket.create_connection(("127.0.0.1", {port})) as sock:
        sock.recv(1)
"""
"""For a function's source; returns when the test has counted it."""


class Notes:
    """Counts how often functions called `note`, over the lives of services."""

    def __init__(self) -> None:
        self.count = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.source = NOTE.format(port=self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            with sock:
                self.count += 1

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
