"""How functions tell a test that they ran: they see none of its files, but the network."""

from __future__ import annotations

import socket

NOTE = """
import socket
_notes = {}
def _note(port, word):
    if port not in _notes:
        _notes[port] = socket.create_connection(("127.0.0.1", port))
    _notes[port].sendall(b"%b\\n" % word)
def _mark(place):
    port, _, word = place.partition("/")
    _note(int(port), word.encode())
"""
"""For a function's source."""


class Mark:
    """What a function leaves where a file would do; as text it is what the function is told."""

    def __init__(self, notes: Notes, word: str) -> None:
        self._notes = notes
        self._word = word

    def __str__(self) -> str:
        return f"{self._notes.port}/{self._word}"

    @property
    def begun(self) -> Mark:
        return Mark(self._notes, f"{self._word}.begun")

    def exists(self) -> bool:
        return self._word in self._notes.words()


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

    def mark(self, word: str) -> Mark:
        return Mark(self, word)

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
