"""Speaks to the service itself, through the socket of its own instance."""

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time

from trying import attempts

SOCKET, OUTPUT, TOKENS, BODIES = 3, 4, 5, 6
HEADER = struct.Struct("<IIIBBH")
REPLY, CHUNK, PING = 2, 3, 7
FRAMES = {
    "garbage": b"\xff" * 64,
    "nothing but zeros": bytes(64),
    "an answer for another call": HEADER.pack(2, 4242, 0, REPLY, 0, 0) + b"{}",
    "a second assignment": HEADER.pack(2, 0, 0, REPLY, 0, 0) + b"{}",
    "a chunk of nothing": HEADER.pack(1, 77, 0, CHUNK, 0, 0) + b"1",
    "what only the service sends": HEADER.pack(0, 1, 0, 1, 0, 0),
    "a frame of four gigabytes": HEADER.pack(0xFFFFFFFF, 1, 0, REPLY, 0, 0) + b"x" * 1000,
    "a fault of no kind": HEADER.pack(13, 1, 0, REPLY, 4, 0) + b'{"kind":"no"}',
    "metadata that is deep": HEADER.pack(90_000, 1, 90_000, REPLY, 0, 0) + b"[" * 90_000,
}


def main(what: str) -> None:
    """Sends that, and waits for what it has deserved."""
    os.write(SOCKET, FRAMES[what])
    time.sleep(1000)


def floods() -> None:
    """Pongs that nobody asked for, without an end."""
    frame = HEADER.pack(0, 0xFFFF, 0, 8, 0, 0) * 1000
    while True:
        os.write(SOCKET, frame)


def hangs_up() -> None:
    os.closerange(3, 256)
    time.sleep(1000)


def after_the_answer() -> str:
    """A thread goes on when the call is over."""

    def write() -> None:
        time.sleep(0.1)
        os.write(SOCKET, FRAMES["garbage"])

    threading.Thread(target=write, daemon=True).start()
    return "answered"


def keeps_answering() -> str:
    """A thread answers calls that are still to come."""

    def write() -> None:
        time.sleep(0.1)
        for number in range(2, 200):
            os.write(SOCKET, HEADER.pack(7, number, 0, REPLY, 0, 0) + b'"forged"'[:7])

    threading.Thread(target=write, daemon=True).start()
    return "answered"


def sends_descriptors() -> str:
    """Files that the service would have to hold."""
    sock = socket.socket(fileno=os.dup(SOCKET))
    null = os.open("/dev/null", os.O_RDONLY)
    pong = HEADER.pack(0, 0xFFFF, 0, 8, 0, 0)
    for _ in range(20):
        socket.send_fds(sock, [pong], [null] * 250)
    sock.detach()
    return "sent"


def tampers() -> object:
    """With the memory that it shares with the service."""
    return attempts(
        {
            "shrink the output": lambda: os.ftruncate(OUTPUT, 0),
            "grow the output": lambda: os.ftruncate(OUTPUT, 2**34),
            "shrink the bodies": lambda: os.ftruncate(BODIES, 0),
            "grow the bodies": lambda: os.ftruncate(BODIES, 2**34),
            "unseal": lambda: fcntl.fcntl(BODIES, fcntl.F_ADD_SEALS, 0x0010),
            "write far out": lambda: os.pwrite(OUTPUT, b"x", 2**34),
        }
    )


def moves_the_output() -> str:
    """The service reads from where the offset was to where it is."""
    print("printed before")
    for place in (2**40, 0, 16 * 1024 * 1024 - 1, 5):
        with contextlib.suppress(OSError):
            os.lseek(OUTPUT, place, os.SEEK_SET)
    return "moved"


def steals_tokens() -> str:
    flags = fcntl.fcntl(TOKENS, fcntl.F_GETFL)
    fcntl.fcntl(TOKENS, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    writer = os.open(f"/proc/self/fd/{TOKENS}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    return "filled"
