"""Takes so long to import that it gets a zygote of its own, and then plays tricks in it.

What it does is told to it by the environment, because only the import runs there.
"""

import os
import threading
import time

from trying import libc

TRICK = os.environ["TRICK"]

time.sleep(0.1)  # more than what a task zygote is made for


def rest() -> None:
    time.sleep(1000)


def start_thread() -> None:
    # Not with the library's own means: those would tell of it.
    threading.Thread(target=rest, daemon=True).start()


def garble() -> None:
    """All that its zygote has open, the way to the service among them."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"garbage")
        except OSError:
            continue


def stall() -> None:
    time.sleep(1000)


def leave() -> None:
    os._exit(5)


def undie() -> None:
    libc.prctl(1, 0, 0, 0, 0)


TRICKS = {
    "thread after a fork": start_thread,
    "garbage after a fork": garble,
    "stalls at a fork": stall,
    "leaves at a fork": leave,
    "clears its death signal": undie,
}

if TRICK == "thread":
    start_thread()
elif TRICK == "child":
    if not os.fork():
        stall()
elif TRICK == "clears its death signal":
    undie()
elif TRICK in ("stalls at a fork", "leaves at a fork"):
    os.register_at_fork(before=TRICKS[TRICK])
elif TRICK in TRICKS:
    os.register_at_fork(after_in_parent=TRICKS[TRICK])


def main() -> str:
    return "served"
