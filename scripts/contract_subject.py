"""A server under test: what the checks of `contract_points` ask it for, and how they judge."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from functools import cached_property
from typing import Any

import grpc
from stranger import COMPLETED, EXISTING_TASK, NEW_TASK, RUNNING, SYNC, Stranger, parameters

CODE = """
import time

def main(name="nobody", times=1):
    print("greeting", name)
    return {"hello": name * times}

def clock():
    return time.time_ns()

def boom():
    raise ValueError("no such luck")

def nap(s):
    time.sleep(s)
    return s

def items(n):
    for i in range(n):
        yield {"i": i}

def broken():
    yield 1
    raise ValueError("no such luck")
"""
WAIT_S = 10.0
"""Bound of every wait for something that goes on in the server."""


class Differs(Exception):
    """The server does something else than the point says."""


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Differs(f"{what} is {found!r:.300}, not {wanted!r:.300}")


def require(holds: object, problem: str) -> None:
    if not holds:
        raise Differs(problem)


class Subject:
    """The server under test, and what the run has made on it.

    Args:
        client: speaks to it.
        location: where the server finds `CODE`.
        tag: part of every name and id, so that two runs don't meet.
    """

    def __init__(self, client: Stranger, location: str, tag: str) -> None:
        self.client = client
        self.ask = client.ask
        self.location = location
        self.tag = tag
        self._made: list[str] = []

    @cached_property
    def task_id(self) -> str:
        """A task that runs `CODE`."""
        return str(self.create("main").task_id)

    def create(self, name: str) -> Any:
        """The answer of the call that made a task of this name."""
        answer = self.ask(
            "InvokeFunction",
            invocation_type=NEW_TASK,
            task_name=f"{self.tag}-{name}",
            artifact_spec=self.artifact(name),
            execution_mode=SYNC,
        )
        self._made.append(answer.task_id)
        require(completed(answer), f"no task could be made: {said(answer)}")
        return answer

    def artifact(self, name: str) -> dict[str, str]:
        return {"artifact_id": f"{self.tag}-{name}", "location": self.location}

    def call(self, function: str = "", arguments: dict[str, Any] | None = None, **more: Any) -> Any:
        """InvokeFunction for the task, SYNC unless something else is asked for."""
        fields = {
            "invocation_type": EXISTING_TASK,
            "task_id": self.task_id,
            "function_name": function,
            "parameters": parameters(arguments or {}),
            "execution_mode": SYNC,
        }
        return self.ask("InvokeFunction", **(fields | more))

    def stream(self, function: str, arguments: dict[str, Any] | None = None) -> list[Any]:
        return list(
            self.ask(
                "StreamFunction",
                task_id=self.task_id,
                function_name=function,
                parameters=parameters(arguments or {}),
            )
        )

    def napping(self, execution_id: str, task_id: str = "") -> threading.Thread:
        """A call that lasts a minute unless it is ended, seen RUNNING; its end is not looked at."""
        # Made here, so that a failure is the point's.
        task_id = task_id or self.task_id

        def nap() -> None:
            # The point looks at the record; the channel may be closed before this ends.
            with contextlib.suppress(grpc.RpcError, ValueError):
                self.call("nap", {"s": 60}, execution_id=execution_id, task_id=task_id)

        thread = threading.Thread(target=nap, daemon=True)
        thread.start()
        self.await_status(execution_id, RUNNING)
        return thread

    def status(self, execution_id: str, **wishes: bool) -> Any:
        return self.ask("GetExecutionStatus", execution_id=execution_id, **wishes)

    def await_status(self, execution_id: str, wanted: int) -> Any:
        ends = time.monotonic() + WAIT_S
        while True:
            answer = self.status(execution_id)
            if answer.found and answer.result.status == wanted:
                return answer
            require(
                time.monotonic() < ends,
                f"status {wanted} was not reached in {WAIT_S:g} s, it is {answer.result.status}",
            )
            time.sleep(0.02)

    def clean_up(self) -> None:
        """Deletes what the run has made."""
        for task_id in self._made:
            try:
                self.ask("DeleteTask", task_id=task_id, force=True, cleanup_executions=True)
            except grpc.RpcError:
                continue


def completed(answer: Any) -> bool:
    return bool(answer.success and answer.result.status == COMPLETED)


def said(answer: Any) -> str:
    return f"{answer.result.error_code} {answer.result.error_message or answer.message}"


def value(answer: Any) -> Any:
    """The output of a call that has to have succeeded."""
    require(completed(answer), f"the call failed: {said(answer)}")
    try:
        return json.loads(answer.result.result.value)
    except ValueError:
        raise Differs(f"the output is {answer.result.result.value[:100]!r}, no JSON") from None


def refused(answer: Any, code: str) -> None:
    """The call failed inside the answer, for this reason."""
    expect((answer.success, answer.result.error_code), (False, code), "(success, error_code)")
