"""What the fronts offer, read from the code: commands, routes of HTTP, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import typer.main

from atlatl import cli
from atlatl.front.asgi import endpoints
from atlatl.front.auth import OPEN_ON_LOOPBACK, Scope
from atlatl.front.routes import Endpoint
from atlatl.front.sessions import Sessions
from atlatl.telemetry.prometheus import Page
from atlatl.telemetry.service_families import ServiceScrape

COMMANDS_INTRO = """\
# Commands

Every command but `serve`, `check`, `token`, `backup` and `completion` is a client of the HTTP API.
The service is found by `--url`, else by the variable `ATLATL_URL`, else by the settings; the token
by `--token-file`, else by `ATLATL_TOKEN`, else in the data directory when the service is on this
machine. A service with TLS is believed by the authorities in `--ca-file`, else in `ATLATL_CA_FILE`;
else, when it was found by the settings, by the certificate that these name, else by the public
authorities. Where it asks for a client's certificate, that is in `ATLATL_CERT_FILE`, its key in
`ATLATL_KEY_FILE`.

Exit status: 0 done, 1 the function or the check failed, 2 wrong usage, 3 the service could not be
reached. An error is one line on standard error. With `--json` a command prints JSON.
"""

HTTP_INTRO = """\
# HTTP

JSON in and out; errors are `application/problem+json` (RFC 9457) with the members `code`,
`execution_id` and `retryable` of our own ([errors](errors.md)). The same table is served as
`/openapi.json`.

A call takes these headers: `Idempotency-Key` (becomes the execution id: the same call under the
same key answers with the first execution), `Priority` (RFC 9218, `u=0` to `u=7`),
`Atlatl-Timeout-Ms`, `Atlatl-Max-Retries`, `traceparent` and `tracestate`; with
`Accept: text/event-stream` a generator streams as server-sent events, without it chunked. The
answer has `Atlatl-Execution-Id`, and unless it streams `Atlatl-Instance-Id`, `Atlatl-Duration-Ms`
and `Atlatl-Cold-Start: 1` where it was one.

With `Prefer: respond-async` the answer is 202 with the record, once the call is stored; `Location`
is where its end can be asked for. Then `Atlatl-Not-Before` (RFC 3339) and `Atlatl-Callback-Url` may
be given too ([more](functions.md#calls-that-nobody-waits-for)). `wait` is a number of seconds up to
60 that an answer may be held back until the execution has ended.

The last column says who may: `open` is everybody, `loopback` everybody on this machine and
elsewhere who has a token, the others who sends `Authorization: Bearer TOKEN` with a token of this
scope or one above: `invoke`, `deploy`, `admin`. `POST /api/v1/invocations` needs `deploy` when it
would create a task, `PUT /api/v1/tasks/{name}` needs `admin` for `confinement.level = none`. How
tokens are made, and what one that is limited to certain tasks may do, stands in
[operating](operating.md#access).
"""

METRICS_INTRO = """\
# Metrics

`GET /metrics` in Prometheus' text format, or in OpenMetrics when the scraper prefers that. All
counters are of this start of the service. `faas_name` is the name of the task, or `/other` for all
that have none of their own: beyond `telemetry.max_task_names`, deleted, or not there at all. The
same counters stand behind `GET /api/serverless/metrics?window=60s&task=NAME`, `GET /api/v1/stats`
and gRPC's GetStats.
"""

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


class Command(NamedTuple):
    usage: str
    summary: str
    table: Table


def commands() -> Iterator[Command]:
    """Every command of the command line, in the order of its help."""
    group: Any = typer.main.get_command(cli.app)
    for name, command in flat(group.commands):
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option"]
        shown = [argument_text(each) for each in arguments]
        yield Command(
            usage=" ".join(["atlatl", name, *shown]),
            summary=command.help,
            table=(
                ("option", "meaning"),
                [(f"`{' '.join(each.opts)}`", each.help or "") for each in [*arguments, *options]],
            ),
        )


def flat(commands: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Commands by their full names, those of groups too."""
    for name, command in commands.items():
        if hasattr(command, "commands"):
            yield from flat(command.commands, f"{above}{name} ")
        else:
            yield above + name, command


def argument_text(argument: Any) -> str:
    name: str = argument.name.upper()
    return name if argument.required else f"[{name}]"


def http_table() -> Table:
    """Every route, with who may use it."""
    nothing = cast(Any, None)  # the table is only read: nothing is asked of a service
    rows = [
        (
            each.method or "any",
            f"`{address(each)}`",
            (each.handler.__doc__ or "").partition("\n")[0],
            admitted(each.scope),
        )
        for each in endpoints(nothing, nothing, Sessions(nothing))
    ]
    return ("method", "path", "what it does", "who"), rows


def address(endpoint: Endpoint) -> str:
    query = "&".join(f"{name}=" for name in endpoint.query)
    return re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.path) + (f"?{query}" if query else "")


def admitted(scope: Scope) -> str:
    if scope is Scope.PROBE:
        return "open"
    return "loopback" if scope in OPEN_ON_LOOPBACK else f"`{scope}`"


def metrics_table() -> Table:
    """Every family that a scrape has, without the labels of any task."""
    text = Page(openmetrics=False).text(ServiceScrape()).decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    kinds: Sequence[tuple[str, str]] = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return ("metric", "kind", "meaning"), [(f"`{n}`", kind, helps[n]) for n, kind in kinds]
