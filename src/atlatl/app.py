"""The program: `atlatl serve`. Opens the service and its fronts, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from atlatl.assembly import FunctionService
from atlatl.configuration import load_settings
from atlatl.errors import AtlatlError
from atlatl.loader import deploy_directory
from atlatl.settings import Settings
from atlatl.telemetry.logs import ExecutionLog, configure, stderr_writer

__all__ = ["load_settings", "serve"]

log = logging.getLogger(__name__)

GARBAGE = 20_000
"""New objects after which garbage is looked for; a call makes some fifty."""


def serve(settings: Settings, *, functions: Path | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status.

    Args:
        settings: with `data_dir` set.
        functions: a directory whose functions are deployed at start.
    """
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
    writer = stderr_writer()
    logger = configure(writer, colours=sys.stderr.isatty())
    try:
        logged = [ExecutionLog(logger, None if sys.stderr.isatty() else writer)]
        async with (
            FunctionService(settings, listeners=logged) as service,
            _fronts(service) as where,
        ):
            if functions is not None:
                service.busy_with = f"the functions in {functions} are being deployed"
                await deploy_directory(service, functions, _say)
                service.busy_with = ""
            _spare_collections()
            _say(f"atlatl serves on {where}")
            await stop.wait()
            _say("draining: new calls are refused, started ones finish")
            await service.drain()
        _say("stopped")
    finally:
        writer.close()


def _spare_collections() -> None:
    """What is there now stays; to look through it again and again costs calls their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


@contextlib.asynccontextmanager
async def _fronts(service: FunctionService) -> AsyncIterator[str]:
    """Opens what the settings ask for; gives the addresses in words."""
    # Imported here: gRPC starts threads, and the zygote must exist before any does.
    from atlatl.front.access import Gate
    from atlatl.front.asgi import asgi
    from atlatl.front.auth import Authorizer, admin_token
    from atlatl.front.fast import FastPath
    from atlatl.front.listener import HttpListener

    settings = service.settings
    token = admin_token(Path(settings.data_dir))
    authorizer = Authorizer(token, settings.auth.required)
    http = HttpListener(
        asgi(service, authorizer=authorizer),
        settings.http,
        FastPath(service, Gate(authorizer, settings.http.host)),
    )
    grpc = None
    if settings.grpc.enabled:
        from atlatl.front.grpc import GrpcServer

        grpc = GrpcServer(settings.grpc, service, authorizer)
    await http.start()
    where = f"http://{_address(settings.http.host)}:{http.port}"
    try:
        if grpc is not None:
            await grpc.start()
            where += f" and gRPC {_address(settings.grpc.host)}:{grpc.port}"
        yield f"{where}, data in {settings.data_dir}"
    finally:
        if grpc is not None:
            await grpc.stop(1.0)
        await http.stop()


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
