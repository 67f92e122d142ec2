"""The gRPC surface, read from the .proto and from what serves it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from atlatl.front.auth import OPEN_ON_LOOPBACK, Scope
from atlatl.front.grpc import SERVICE, UNARY

PROTO = Path(__file__).resolve().parents[1] / "src" / "atlatl" / "front" / "proto"

INTRO = f"""\
# gRPC

One service, `{SERVICE}`, on `grpc.port`: the interface of SPEAR's, so that its clients work
unchanged ([moving from SPEAR](moving-from-spear.md)). All its RPCs are implemented; a field that
changes nothing says `No effect`. Numbers from 100 on are ours. Beside it the standard health
service answers for the whole server, and server reflection tells clients what there is.

The last column says who may, as in [HTTP](http.md): `loopback` is everybody on this machine and
elsewhere who has a token; the others send `authorization: Bearer TOKEN` as metadata, with a token
of this scope or one above. InvokeFunction and StreamFunction need `deploy` when they would create a
task. `traceparent` and `tracestate` may stand in the metadata too.

A call that fails is an answer with the status OK, whose `result` says so by `error_code`
([errors](errors.md)); `result.metrics` has `attempt`, `cold_start`, `queue_time_ms`, the
`content_type` of a result, and `retry_after_ms` where it is known when to try again. Only what has
no answer to stand in is a gRPC status: a missing token, a message or a limit that can't be
read, a service that shuts down, and what is refused before the first item of a stream.
"""

RPC_HEAD = ("RPC", "takes", "gives", "what it does", "who")
FIELD_HEAD = ("field", "number", "type", "meaning")
VALUE_HEAD = ("value", "number", "meaning")

Rows = list[tuple[str, ...]]


class Part(NamedTuple):
    """A message or an enum."""

    name: str
    meaning: str
    head: tuple[str, ...]
    rows: Rows


def rpcs() -> Rows:
    """Every RPC, with who may use it."""
    text = (PROTO / "function.proto").read_text(encoding="utf-8")
    line = r"// (.*)\n  rpc (\w+)\((\w+)\) returns \((?:(stream) )?(\w+)\)"
    return [
        (f"`{name}`", f"`{taken}`", f"{stream and 'stream of '}`{given}`", meaning, _who(name))
        for meaning, name, taken, stream, given in re.findall(line, text)
    ]


def _who(name: str) -> str:
    scope = UNARY[name].scope if name in UNARY else Scope.CALL  # StreamFunction
    return "loopback" if scope in OPEN_ON_LOOPBACK else f"`{scope}`"


def parts() -> Iterator[Part]:
    """Messages and enums, in the order of the file."""
    text = (PROTO / "function.proto").read_text(encoding="utf-8")
    block = r"((?:^// [^\n]*\n)*)^(message|enum) (\w+) \{\n(.*?)^\}"
    for above, kind, name, body in re.findall(block, text, re.DOTALL | re.MULTILINE):
        head = FIELD_HEAD if kind == "message" else VALUE_HEAD
        yield Part(name, _joined(above), head, [*_rows(kind, body)])


def _rows(kind: str, body: str) -> Iterator[tuple[str, ...]]:
    above: list[str] = []
    for line in body.splitlines():
        if line.strip().startswith("//"):
            above.append(line.strip())
            continue
        found = re.match(r"\s*(?:(.+?) )?(\w+) = (\d+);(?:\s*(//.*))?", line)
        assert found is not None, line
        shape, name, number, beside = found.groups()
        meaning = _joined("\n".join([*above, beside or ""]))
        above = []
        if kind == "message":
            yield f"`{name}`", number, f"`{shape}`", meaning
        else:
            yield f"`{name}`", number, meaning


def _joined(comment: str) -> str:
    """Lines of comment as one sentence or more, with a capital and a full stop."""
    said = " ".join(line.removeprefix("//").strip() for line in comment.splitlines()).strip()
    return said and said[0].upper() + said[1:].rstrip(".") + "."
