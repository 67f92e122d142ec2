"""Checks a server of `spearlet.FunctionService`, whichever it is, against what it has to do.

    python check_contract.py localhost:50052 --token "$(cat DATA_DIR/token)"

One line a point: `kept`, or `differs` with what was seen. Exit status 0 when all are kept, 1 when
some differ, 2 when the server cannot be reached. Makes a few small tasks and deletes them again.
Needs grpcio and protobuf, and `contract_*.py` and `stranger.py` beside it.
"""

from __future__ import annotations

import argparse
import base64
import secrets
import sys
from collections.abc import Iterator

import grpc
from contract_points import POINTS, Point
from contract_subject import CODE, Differs, Subject
from stranger import Stranger

DATA_URL = "data:text/x-python;base64," + base64.b64encode(CODE.encode()).decode()


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    with Stranger(options.address, token=options.token, timeout_s=options.timeout) as client:
        try:
            grpc.channel_ready_future(client.channel).result(options.timeout)
        except grpc.FutureTimeoutError:
            print(f"nothing speaks gRPC at {options.address}", file=sys.stderr)
            return 2
        subject = Subject(client, options.location, f"contract-{secrets.token_hex(4)}")
        problems = 0
        for text, problem in results(subject):
            print(f"differs  {text}: {problem}" if problem else f"kept     {text}", flush=True)
            problems += bool(problem)
    print(f"{len(POINTS) - problems} kept, {problems} differ")
    return 1 if problems else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("address", help="host and port of the gRPC server, without TLS")
    made.add_argument("--token", default="", help="sent as `authorization: Bearer TOKEN`")
    made.add_argument(
        "--location",
        default=DATA_URL,
        help="where the server finds CODE of contract_subject.py (a `data:` URL with it)",
    )
    made.add_argument(
        "--timeout", type=float, default=20.0, help="of each request, in seconds (20)"
    )
    return made


def results(subject: Subject) -> Iterator[tuple[str, str]]:
    """What each point says, and the problem with it or an empty text."""
    try:
        for one in POINTS:
            yield one.text, problem_of(one, subject)
    finally:
        subject.clean_up()


def problem_of(one: Point, subject: Subject) -> str:
    try:
        one.check(subject)
    except Differs as difference:
        return str(difference)
    except grpc.RpcError as error:
        return f"gRPC status {error.code().name}: {error.details()}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
