"""What goes between the service and an instance, either way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from atlatl.engine.arguments import encode
from atlatl.errors import ArtifactInvalid, AtlatlError, InvalidRequest, StartFailed
from atlatl.front import codec, outcomes, rows
from atlatl.model import Call, ExecutionRecord, HttpRequest, Outcome, Shape
from atlatl.runtimes import answers
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.requests import call_frame
from atlatl.runtimes.zygote import Exit
from atlatl.stores.execution_rows import execution_row
from atlatl_worker import calls, wire
from atlatl_worker.api import Response
from atlatl_worker.calls import Calls, Refused
from atlatl_worker.loading import Assignment, Function, Program
from atlatl_worker.shapes import read_shape
from tests.fuzz.fuzzing import Target
from tests.puppet import DEADLINE, Pending, Puppet, opened
from tests.unit.front_fakes import make_execution, make_task
from tests.virtual_time import run

# --- from an instance ---

SEVERAL, UNASSIGNED, STREAM, PINGED, RECIPE = 1, 2, 16, 32, 128


@contextmanager
def from_an_instance() -> Iterator[Callable[[bytes], None]]:
    """The first byte says what the instance has to do, the second how its bytes are cut."""
    with opened() as files:
        yield lambda data: run(_from_an_instance(files, data))


async def _from_an_instance(files: Any, data: bytes) -> None:
    how, cut, rest = (*data[:2].ljust(2, b"\0"), data[2:])
    if how & RECIPE:
        rest = _cooked(rest)
    puppet = Puppet(files, several=bool(how & SEVERAL), confinement={"response_bytes": 300_000})
    if how & UNASSIGNED:
        with contextlib.suppress(ArtifactInvalid, StartFailed, TimeoutError):
            # What was no answer at all is followed by the end.
            await asyncio.wait_for(puppet.assigned(rest, b"\0" * 16), 1.0)
    else:
        await puppet.assigned()
        _speak(puppet, how, cut, rest)
    for _ in range(3):
        await asyncio.sleep(0.5)
    if not puppet.channel.gone:
        puppet.dies(Exit(0, 9))
    await asyncio.sleep(10.0)
    for pending in puppet.pending:
        assert len(pending.told) == 1, pending.told
        _check_shown(pending, pending.told[0])
    assert puppet.channel.gone
    assert len(puppet.wire.sent) < 100_000 + 100 * len(rest), len(puppet.wire.sent)


def _speak(puppet: Puppet, how: int, cut: int, rest: bytes) -> None:
    for n in range(1 + (how >> 2 & 3)):
        stream = bool(how & STREAM) and n == 0
        puppet.call("items" if stream else "main", stream=stream)
    if how & PINGED:
        puppet.aside.append(asyncio.ensure_future(_pinged(puppet.channel)))
    step = max(cut, len(rest) // 500) or max(1, len(rest))
    for at in range(0, len(rest), step):
        puppet.says(rest[at : at + step])


async def _pinged(channel: Channel) -> None:
    with contextlib.suppress(AtlatlError):
        await channel.ping()


def _cooked(recipe: bytes) -> bytes:
    """Frames whose lengths are right: five bytes each, then their metadata and body."""
    out = bytearray()
    while len(recipe) >= 5:
        kind, number, flags, n_meta, n_body = recipe[:5]
        meta, recipe = recipe[5 : 5 + n_meta], recipe[5 + n_meta :]
        body, recipe = recipe[:n_body], recipe[n_body:]
        if n_body == 255:
            body = (body or b"x") * 300
        out += wire.encode(kind % 10, number % 8, meta, body, flags % 64)
    return bytes(out)


def _check_shown(pending: Pending, outcome: Outcome | None) -> None:
    """Whatever the caller was told can be shown, stored and sent on."""
    if outcome is None:
        return  # taken back
    assert outcome.run_s >= 0.0
    call = Call(execution_id=pending.execution_id, task_name="puppet", payload=_NOTHING)
    execution = make_execution(call, outcome)
    for sandbox in (False, True):
        answer = outcomes.answer(execution, sandbox=sandbox)
        b"".join(b"%b: %b" % pair for pair in answer.raw_headers)
    codec.invoked(execution).SerializeToString()
    codec.execution_status(execution, include_logs=True).SerializeToString()
    codec.stream_end(execution, with_result=True).SerializeToString()
    msgspec.json.encode(rows.execution_row(execution))
    execution_row(ExecutionRecord(execution=execution))
    for item in pending.items:
        codec.stream_item("e", item).SerializeToString()


_NOTHING = HttpRequest(method="POST", path="/", query="", headers={}, body=b"")


# --- to an instance ---


def _event(event: Any) -> Any:
    return event


def _request(request: Any) -> Any:
    return Response(request.body, headers={"x-path": "p"})


def _all(a: int, b: float = 0.0, c: str = "", d: bool = False, e: bytes = b"", **more: Any) -> Any:
    return {"a": a, "b": b, "c": c, "d": d, "e": len(e), "more": more}


def _lists(f: list, g: dict | None = None, h: int | None = None) -> Any:  # type: ignore[type-arg]
    return [f, g, h]


def _one(it: bytes) -> bytes:
    return it


def _unchecked(context, /, anything=None, *, other=()):  # type: ignore[no-untyped-def]
    return [anything, other, context.attempt]


FUNCTIONS = (_event, _request, _all, _lists, _one, _unchecked)
CONTENT_TYPES = (
    "application/json", "", "application/x-www-form-urlencoded", "text/plain; charset=utf-8",
    "application/octet-stream", "application/vnd.a+json",
)  # fmt: skip
ASSIGNMENT = Assignment(
    code="", deps="", handler="a.py:main", environment={}, task_name="t", version=1, concurrency=2,
    output_bytes=1000, response_bytes=100_000, confinement={},
)  # fmt: skip


@contextmanager
def to_an_instance() -> Iterator[Callable[[bytes], None]]:
    """Three bytes choose function, media type and where the query ends and the body begins."""
    program: Program = {}
    shapes: dict[str, Shape] = {}
    for function in FUNCTIONS:
        name = function.__name__
        program[name] = Function(function, read_shape(name, function))
        shapes[name] = msgspec.convert(program[name].shape.plain(), Shape)
    task = make_task("puppet")
    with patch.object(calls, "position", lambda: 0):
        server = Calls(program, ASSIGNMENT)
        yield lambda data: _to_an_instance(server, shapes, task, data)


def _to_an_instance(server: Calls, shapes: dict[str, Shape], task: Any, data: bytes) -> None:
    which, kind, n_query = data[:3].ljust(3, b"\0")
    rest = data[3:]
    function = FUNCTIONS[which % len(FUNCTIONS)].__name__
    content_type = CONTENT_TYPES[kind % len(CONTENT_TYPES)]
    request = HttpRequest(
        method="POST",
        path="/",
        query=rest[:n_query].decode("latin-1"),
        headers={"content-type": content_type} if content_type else {},
        body=rest[n_query:],
    )
    call = Call(execution_id="e", task_name="t", payload=request, function=function)
    try:
        encoded = encode(shapes[function], request)
        frame = call_frame(1, call, encoded, task, shapes, DEADLINE, 1)
    except InvalidRequest as error:
        error.message.encode()
        return
    (frame,) = wire.Decoder().feed(frame)
    try:
        started = server.start(frame, lambda: False)
    except Refused as error:
        reply = server.refusal(1, str(error))
    else:
        value = started.target.call(*started.arguments, **started.named)
        reply = server.answer(1, started, value)
    (answer,) = wire.Decoder().feed(reply)
    about = answers.told(answer)
    value = None if answer.content == wire.ERROR else answers.result(answer, about)
    outcome = answers.outcome(answer, about, value, b"", "i")
    msgspec.json.encode(rows.execution_row(make_execution(call, outcome)))


def _seeds_of_instances() -> list[bytes]:
    """An instance that behaves, as bytes and as a recipe; and what is too large to be stored."""
    reply = wire.encode(wire.REPLY, 1, b'{"run_s":0.1,"memory_bytes":1000}', b'{"a":1}')
    fault = json.dumps({"kind": "raised", "message": "no", "detail": "Traceback"}).encode()
    frames = [
        reply,
        wire.encode(wire.CHUNK, 1, b"", b"item", wire.TEXT) * 3 + wire.encode(wire.END, 1),
        wire.encode(wire.REPLY, 1, b"", fault, wire.ERROR),
        wire.encode(wire.REPLY, 1, b'{"status":201,"headers":[["a","b"]]}', b"x", wire.RESPONSE),
        wire.encode(wire.REPLY, 1, b'{"printed":[0,10]}', b"", wire.BYTES),
        wire.encode(wire.REPLY, 1, b'{"output":"a","written":9}', wire.AMOUNT.pack(70_000), 18),
        wire.encode(wire.PONG, 1) + reply,
        wire.encode(wire.CHUNK, 1, b"", b"", wire.TEXT) * 3000,
        wire.encode(wire.PONG, 1) * 3000,
        wire.encode(wire.REPLY, 1, b"[" * 100_000, b""),
        wire.encode(wire.REPLY, 1, b'{"run_s":1e300,"memory_bytes":9007199254740992}', b"1"),
        wire.encode(wire.REPLY, 0, b"", b'{"main":' * 20_000),
        b"\xff" * 100,
    ]
    hows = (0, SEVERAL, UNASSIGNED, STREAM, PINGED, 4 | SEVERAL, 12, SEVERAL | STREAM | PINGED)
    return [bytes([how, cut]) + frame for how in hows for cut in (0, 7) for frame in frames]


def _seeds_of_callers() -> list[bytes]:
    deep = 100_000
    bodies = [
        b'{"a": 1, "b": 2.5, "c": "x", "d": true, "e": "aGk=", "more": [1]}', b"[1, 2]", b"null",
        b'"text"', b"a=1&b=2&c=%e4", b"", b"plain", b"\xff\xfe", b'{"f": [], "g": {}}', b"1e999",
        b'{"a": 1e999}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1, "a": "twice"}', b"-0.0",
        b'{"a": 123456789012345678901234567890}', b'{"a": NaN}', b'{"a": "\\ud800"}',
        b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep, b"[" * deep,
        b'{"more": ' + b"[" * 900 + b"]" * 900 + b"}", b"a=&" * 10_001, b"%" * 1000,
    ]  # fmt: skip
    queries = [b"", b"a=5&b=1e999", b"a=1&a=2&f=[1]", b"d=yes&e=####&h="]
    return [
        bytes([which, kind, len(query)]) + query + body
        for which in range(len(FUNCTIONS))
        for kind in range(len(CONTENT_TYPES))
        for query in queries[: 1 + (which == 2) * 3]
        for body in bodies
    ]


_WORKER = ("/atlatl_worker/", "/atlatl/runtimes/", "/atlatl/engine/arguments.py")
TARGETS = [
    Target(
        name="frames_from_instances",
        opened=from_an_instance,
        traced=("/atlatl_worker/wire.py", "/atlatl/runtimes/", "/atlatl/front/"),
        seeds=_seeds_of_instances,
    ),
    Target(
        name="calls_to_instances",
        opened=to_an_instance,
        traced=_WORKER,
        seeds=_seeds_of_callers,
    ),
]
