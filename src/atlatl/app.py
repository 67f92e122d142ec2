"""The program: `atlatl serve`. Opens the service and its fronts, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from atlatl.assembly import FunctionService, wall_clock
from atlatl.configuration import connectable, load_settings
from atlatl.errors import AtlatlError
from atlatl.loader import deploy_directory
from atlatl.runtimes.machine import conceal
from atlatl.settings import Settings
from atlatl.telemetry.logs import ExecutionLog, configure, stderr_writer
from atlatl.telemetry.supervisor import supervisor

if TYPE_CHECKING:
    from atlatl.front.sessions import Sessions

__all__ = ["load_settings", "serve"]

log = logging.getLogger(__name__)

GARBAGE = 20_000
"""New objects after which garbage is looked for; a call makes some fifty."""
END_S = 30.0
"""What a stop may take beyond `drain.timeout_s`, as a supervisor is told: records are written."""


def serve(settings: Settings, *, functions: Path | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status.

    Args:
        settings: with `data_dir` set.
        functions: a directory whose functions are deployed at start.
    """
    # First: what comes into memory from now on, tokens for example, is nobody else's.
    conceal()
    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, functions))
    except AtlatlError as error:
        print(f"atlatl: {error.message}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 1
    return 0


async def _serve(settings: Settings, functions: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _asked_to_stop, stop, number)
    told = supervisor(os.environ, os.getpid())
    writer = stderr_writer()
    logger = configure(writer, colours=sys.stderr.isatty())
    try:
        logged = [
            ExecutionLog(
                logger,
                None if sys.stderr.isatty() else writer,
                executions=settings.telemetry.log_executions,
            )
        ]
        async with (
            told.watched(),
            FunctionService(settings, listeners=logged) as service,
            _fronts(service) as fronts,
        ):
            if functions is not None:
                service.busy_with = f"the functions in {functions} are being deployed"
                await deploy_directory(service, functions, _say)
                service.busy_with = ""
            _spare_collections()
            for warning in exposure(settings):
                _say(f"warning: {warning}")
            _say(f"atlatl serves on {fronts.where}")
            _say(f"dashboard, for one browser within ten minutes: {fronts.dashboard()}")
            told.tell(READY=1, STATUS=f"serves on {fronts.where}")
            await stop.wait()
            _say("draining: new calls are refused, started ones finish")
            patience_s = settings.drain.timeout_s + END_S
            told.tell(STOPPING=1, STATUS="draining", EXTEND_TIMEOUT_USEC=round(patience_s * 1e6))
            await service.drain()
        _say("stopped")
    finally:
        writer.close()


def _spare_collections() -> None:
    """What is there now stays; to look through it again and again costs calls their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


class Fronts(NamedTuple):
    """What is open."""

    where: str
    """In words."""
    page: str
    """Address of the dashboard."""
    sessions: Sessions

    def dashboard(self) -> str:
        """An address that signs a browser in once; where nothing needs a token, it need not."""
        if self.sessions.authorizer.disabled:
            return self.page
        return f"{self.page}#code={self.sessions.new_code()}"


@contextlib.asynccontextmanager
async def _fronts(service: FunctionService) -> AsyncIterator[Fronts]:
    """Opens what the settings ask for."""
    # Imported here: gRPC starts threads, and the zygote must exist before any does.
    from atlatl.front.access import Gate
    from atlatl.front.asgi import asgi
    from atlatl.front.fast import FastPath
    from atlatl.front.listener import HttpListener
    from atlatl.front.sessions import Sessions
    from atlatl.front.tls import Certificates
    from atlatl.front.tokens import TokenKeeper
    from atlatl.front.watching import Watch

    settings = service.settings
    keeper = TokenKeeper(Path(settings.data_dir), settings.auth.required, wall_clock)
    authorizer = keeper.authorizer
    sessions = Sessions(authorizer)
    certificates = Certificates(settings.tls) if settings.tls.cert_file else None
    http = HttpListener(
        asgi(service, authorizer=authorizer, sessions=sessions),
        settings.http,
        FastPath(service, Gate(authorizer, settings.http.host)),
        certificates.context if certificates is not None else None,
    )
    grpc = None
    if settings.grpc.enabled:
        from atlatl.front.grpc import GrpcServer

        credentials = certificates.for_grpc() if certificates is not None else None
        grpc = GrpcServer(settings.grpc, service, authorizer, credentials)
    watched = [keeper.look, sessions.look, *([certificates.look] if certificates else [])]
    watch = Watch(*watched)
    await http.start()
    scheme = "https" if certificates is not None else "http"
    where = f"{scheme}://{_address(settings.http.host)}:{http.port}"
    try:
        watch.start()
        if grpc is not None:
            await grpc.start()
            where += f" and gRPC {_address(settings.grpc.host)}:{grpc.port}"
        yield Fronts(
            f"{where}, data in {settings.data_dir}",
            f"{scheme}://{_address(connectable(settings.http.host))}:{http.port}/",
            sessions,
        )
    finally:
        watch.stop()
        if grpc is not None:
            await grpc.stop(1.0)
        await http.stop()


def exposure(settings: Settings) -> Iterator[str]:
    """What whoever starts the service should know about who can reach it."""
    from atlatl.front.auth import is_loopback

    hosts = {"HTTP": settings.http.host}
    if settings.grpc.enabled:
        hosts["gRPC"] = settings.grpc.host
    outside = [f"{front} on {host}" for front, host in hosts.items() if not is_loopback(host)]
    if settings.auth.required is False:
        yield (
            "nothing needs a token (`auth.required = false`): everybody who reaches the ports, and "
            "every web page that a browser on this machine shows, may run code here"
        )
    if not outside:
        return
    where = " and ".join(outside)
    if settings.auth.required is not False:
        yield (
            f"other machines can reach {where}: there everything but /healthz, /readyz, "
            "/openapi.json and / needs a token, calls of functions too; `atlatl token create` "
            "makes tokens"
        )
    if not settings.tls.cert_file:
        yield (
            f"there is no TLS for {where}: tokens and bodies can be read on the way; set "
            "`tls.cert_file` and `tls.key_file`, or put a proxy with TLS in front"
        )


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _asked_to_stop(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():
        # Asked twice: whoever asks does not want to wait. The zygote ends all instances.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    stop.set()


def _say(line: str) -> None:
    print(line, flush=True)
