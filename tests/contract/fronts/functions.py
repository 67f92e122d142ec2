"""What the suite deploys: every function here is a task of its name. Also read as a module."""

import asyncio
import mmap
import os
import time
from typing import Any

from atlatl_worker import Context, Response

GIVEN = {
    "object": {"a": 1, "b": [True, None, -2.5], "ü": {"": "\u2028"}},
    "empty object": {},
    "list": [1, [2, []], {"three": 3}],
    "integer": 2**60 + 1,
    "number": 0.1,
    "truth": True,
    "nothing": None,
    "text": 'line one\nline "two" \u00fc \U0001f600',
    "empty text": "",
    "bytes": b"\x00\xff\r\n\r\n{}",
    "empty bytes": b"",
}
"""A value of every kind, by its name."""

times_called = 0


def give(kind: str) -> Any:
    return GIVEN[kind]


def echo(event: Any) -> Any:
    return event


def greet(name: str, times: int = 1) -> Any:
    print("greeting", name)
    return {"hello": name * times}


def seen(context: Context) -> Any:
    return {
        "headers": dict(context.headers),
        "environment": dict(context.environment),
        "execution_id": context.execution_id,
        "attempt": context.attempt,
        "remaining_ms": context.remaining_ms(),
        "task_name": context.task_name,
        "pid": os.getpid(),
    }


def count(s: float = 0.0, pad: str = "") -> Any:
    """How many calls this instance has had."""
    global times_called
    times_called += 1
    time.sleep(s)
    return times_called


def teapot() -> Any:
    return Response(b"short and stout", 418, {"content-type": "text/x-tea", "x-lid": "on"})


def boom(marker: str = "") -> Any:
    print("about to fail", marker)
    raise ValueError(f"no such luck {marker}")


def second_time_lucky(context: Context) -> Any:
    if context.attempt < 2:
        raise ValueError("not yet")
    return context.attempt


def a_set() -> Any:
    return {1, 2}


def no_memory() -> Any:
    raise MemoryError


def hog() -> Any:
    memory = mmap.mmap(-1, 2**28)
    for place in range(0, len(memory), mmap.PAGESIZE):
        memory[place] = 1
    time.sleep(60)


def spin() -> Any:
    while True:
        pass


def leave() -> Any:
    os._exit(7)


def listen(context: Context) -> Any:
    """Goes on until it hears that nobody waits any more."""
    while not context.cancelled:
        time.sleep(0.01)


async def whisper(word: str, s: float = 0.0) -> Any:
    for n in range(3):
        print(word, n)
        await asyncio.sleep(s)
    return word


def items(n: int = 3) -> Any:
    for i in range(n):
        yield {"i": i}


def texts() -> Any:
    yield "one\ntwo"
    yield ""
    yield "three"


def blobs() -> Any:
    yield b"\x00\xff"
    yield b"two"


def fail_at_once() -> Any:
    raise ValueError("no such luck")
    yield


def fail_later(n: int = 2) -> Any:
    yield from items(n)
    raise ValueError("no such luck")


def endless() -> Any:
    print("first")
    while True:
        yield "x" * 1000


def rest(context: Context, n: int = 2, deaf: bool = False) -> Any:
    """Has no more items and does not end, until it hears that nobody waits any more."""
    yield from items(n)
    time.sleep(60.0 if deaf else 0.0)
    listen(context)
