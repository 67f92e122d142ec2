"""The HTTP listener: uvicorn's server, started and stopped by us."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from atlatl.errors import SettingInvalid
from atlatl.front.fast import FastPath
from atlatl.front.problems import StreamCut
from atlatl.front.protocol import protocol
from atlatl.settings import HttpSettings


class HttpListener:
    """Serves an ASGI application on one address.

    Args:
        app: the application.
        settings: address and limits.
        fast: answers the requests that don't need the application.
        tls: speaks HTTPS with it; None speaks HTTP.
    """

    def __init__(
        self,
        app: Any,
        settings: HttpSettings,
        fast: FastPath | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._config = uvicorn.Config(
            app,
            http=protocol(settings, fast),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._config.load()
        self._config.ssl = tls
        self._server = _Server(self._config)
        self._task: asyncio.Task[None] | None = None
        self.port = settings.port

    async def start(self) -> None:
        """Listens from here on; `port` is the real one.

        Raises:
            SettingInvalid: the address can't be had.
        """
        bound = bind(self._settings.host, self._settings.port, "http")
        self.port = bound.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name="http")
        await self._server.listening.wait()

    async def stop(self) -> None:
        """Closes the listener; connections have a second to finish what they are writing."""
        if self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._task = None


def bind(host: str, port: int, group: str) -> socket.socket:
    """A listening socket's address, or SettingInvalid naming the setting that asked for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SettingInvalid(
            f"{group.upper()} can't listen on {host}:{port} ({error.strerror}); choose another "
            f"`{group}.host` or `{group}.port` (0 takes a free one)"
        ) from None
    return bound


class _CutStreams(logging.Filter):
    """Passes all but the streams that were broken off on purpose: their execution is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], StreamCut)


_CUT_STREAMS = _CutStreams()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_CUT_STREAMS)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # A call that went the short way is no task that could be cancelled: it hears of this.
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals are the program's: it drains first, then stops the listeners.
        yield
