"""Tells whoever started the service how it does: systemd, by datagrams to a socket.

See sd_notify(3) for what they say. Without `NOTIFY_SOCKET` in the environment nobody wants to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, MutableMapping

from atlatl.model import Record

PINGS = 3
"""In each time that a supervisor waits for one: a slow machine may be late."""
ROOM_S = 1.0


class Supervisor(Record, frozen=True):
    """Who is told."""

    address: str = ""
    """Of the socket; empty: nobody. `@` in front stands for one without a file."""
    patience_s: float = 0.0
    """Time after which it ends a service that says nothing; 0: never."""

    def tell(self, **fields: str | int) -> None:
        """Sends what has changed; that nobody listens is no trouble of ours.

        Of a supervisor that is far behind it waits a moment for room: what it says comes once.
        """
        self._send(ROOM_S, fields)

    def _send(self, patience_s: float, fields: Mapping[str, str | int]) -> None:
        if not self.address:
            return
        path = f"\0{self.address[1:]}" if self.address[0] == "@" else self.address
        lines = "\n".join(f"{name}={value}" for name, value in fields.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(patience_s)
            sock.sendto(lines.encode(), path)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, it hears again and again that the event loop turns."""
        if not self.patience_s:
            yield
            return
        pings = asyncio.get_running_loop().create_task(self._ping())
        try:
            yield
        finally:
            pings.cancel()

    async def _ping(self) -> None:
        while True:
            self._send(0, {"WATCHDOG": 1})
            await asyncio.sleep(self.patience_s / PINGS)


def supervisor(environ: MutableMapping[str, str], pid: int) -> Supervisor:
    """Reads who is to be told, and takes it out of the environment: it is for this process alone.

    Args:
        environ: as `os.environ`.
        pid: of this process.
    """
    address = environ.pop("NOTIFY_SOCKET", "")
    patience_us = environ.pop("WATCHDOG_USEC", "")
    meant = environ.pop("WATCHDOG_PID", "") in ("", str(pid))
    known = address[:1] in ("/", "@") and len(address) > 1
    watches = known and meant and patience_us.isdecimal()
    return Supervisor(
        address=address if known else "",
        patience_s=int(patience_us) / 1e6 if watches else 0.0,
    )
