"""Computes and never answers."""

import ctypes
import os
import signal
import threading
import time


def main() -> None:
    while True:
        pass


def in_threads() -> None:
    for _ in range(4):
        threading.Thread(target=main, daemon=True).start()
    main()


def in_children() -> None:
    """Short-lived ones, so that no single process uses much."""
    while True:
        pid = os.fork()
        if not pid:
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
            os._exit(0)
        os.waitpid(pid, 0)


def deaf() -> None:
    """Ignores all that can be ignored, and asks for nothing."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    while True:
        try:
            main()
        except BaseException:
            continue


def in_c() -> None:
    """Holds the interpreter's lock for ever, so that no thread of ours ever runs again."""
    ctypes.PyDLL(None).pause()


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
