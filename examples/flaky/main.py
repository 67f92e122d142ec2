"""Fails in the way that the caller asks for: to see what comes back, and the breaker at work."""

import os
import signal
import sys


def main(how: str = "raise") -> object:
    print(f"asked to {how}")
    match how:
        case "work":
            return "worked"
        case "raise":
            raise ValueError("the function itself went wrong")
        case "exit":
            os._exit(7)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            signal.pause()
        case "return a set":
            return {1, 2, 3}
        case "quit":
            sys.exit("had enough")
    raise ValueError(f"unknown way to fail: {how!r}")
