"""How functions tell a test that they ran: they see none of its files, but the network."""

from __future__ import annotations

import socket

NOTE = """
import socket
_notes = None
def _note(port, word):
    global _notes
    if _notes is None:
        _notes = socket.create_connection(("127.0.0.1", port))
    _notes.sendall(b"%b\\n" % word)
"""
"""For a function's source."""


class Notes:
    """What functions noted, over the lives of instances and services, in no certain order.

    What a function has noted is there, whatever becomes of it then.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._server.setblocking(False)
        self._connections: dict[socket.socket, bytes] = {}

    @property
    def port(self) -> int:
        port: int = self._server.getsockname()[1]
        return port

    def words(self) -> list[str]:
        while (sock := self._accepted()) is not None:
            self._connections[sock] = b""
        for sock in self._connections:
            self._read(sock)
        return b"".join(self._connections.values()).decode().split()

    def _accepted(self) -> socket.socket | None:
        try:
            sock, _ = self._server.accept()
        except BlockingIOError:
            return None
        sock.setblocking(False)
        return sock

    def _read(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65_536):
                self._connections[sock] += data
        except BlockingIOError:
            pass

    def close(self) -> None:
        for sock in (self._server, *self._connections):
            sock.close()

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
