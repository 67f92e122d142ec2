"""What is remembered to explain executions by, and that it is bounded."""

from __future__ import annotations

from typing import Any

from atlatl.events import (
    BreakerChanged,
    CallbackTried,
    ExecutionDied,
    InstanceEnded,
    InstanceStarted,
    StartFailedEvent,
    TaskDeleted,
)
from atlatl.model import Execution, ExecutionStatus, Mode, Tried
from atlatl.telemetry import journal as journals
from atlatl.telemetry.journal import Journal


def execution(**facts: Any) -> Execution:
    """From 100.0 to 101.0."""
    known: dict[str, Any] = {
        "execution_id": "e-1",
        "task_id": "t-1",
        "task_name": "hello",
        "function_name": "main",
        "mode": Mode.SYNC,
        "status": ExecutionStatus.FAILED,
        "queued_at": 100.0,
        "completed_at": 101.0,
        "instance_id": "i-1",
    }
    return Execution(**known | facts)


def started(instance_id: str = "i-1") -> InstanceStarted:
    return InstanceStarted(
        at=50.0, task_name="hello", instance_id=instance_id, pid=1, origin="blank", init_s=0.01
    )


def ended(at: float, instance_id: str = "i-1") -> InstanceEnded:
    return InstanceEnded(
        at=at, task_name="hello", instance_id=instance_id, reason="killed", expected=False
    )


def opened(at: float, task: str = "hello") -> BreakerChanged:
    return BreakerChanged(at=at, task_name=task, old="closed", new="open")


def told(execution_id: str, tries: int = 1) -> CallbackTried:
    return CallbackTried(at=102.0, task_name="hello", execution_id=execution_id, tries=tries)


def remembering(*events: Any) -> Journal:
    journal = Journal()
    for event in events:
        journal.emit(event)
    return journal


def test_an_execution_has_its_instance_and_what_happened_to_it_alone() -> None:
    died = ExecutionDied(
        at=101.0, task_name="hello", execution_id="e-1", attempts=2, code="EXECUTION_ERROR"
    )
    journal = remembering(started(), started("i-2"), died, told("e-1"), told("e-2"))
    facts = journal.facts(execution(), 200.0)
    assert facts.instance == started()
    assert facts.happened == (died, told("e-1"))
    assert facts.now == 200.0


def test_the_instance_of_a_call_whose_retry_was_refused_is_that_of_the_attempt() -> None:
    tried = (Tried(attempt=1, ended_at=100.5, code="X", message="", instance_id="i-1"),)
    journal = remembering(started(), ended(100.5))
    facts = journal.facts(execution(instance_id="", tried=tried), 200.0)
    assert (facts.instance, facts.instance_ended) == (started(), ended(100.5))


def test_an_instance_that_ended_much_later_did_not_end_with_the_execution() -> None:
    assert remembering(ended(101.5)).facts(execution(), 200.0).instance_ended == ended(101.5)
    assert remembering(ended(160.0)).facts(execution(), 200.0).instance_ended is None


def test_breaker_and_failed_starts_count_while_the_execution_lasted() -> None:
    failed = StartFailedEvent(at=100.2, task_name="hello", reason="no process")
    journal = remembering(
        opened(99.9), opened(100.5), failed, opened(100.6, "other"), opened(101.001), opened(102.0)
    )
    changes = journal.facts(execution(), 200.0).changes
    assert [change.at for change in changes] == [100.5, 100.2, 101.001]
    going_on = execution(completed_at=None)
    assert len(journal.facts(going_on, 150.0).changes) == 4


def test_the_oldest_are_forgotten() -> None:
    journal = remembering(TaskDeleted(at=0.0, task_name="hello"))
    for number in range(journals.MAX_INSTANCES + 1):
        journal.emit(started(f"i-{number}"))
        journal.emit(told(f"e-{number}"))
    assert journal.facts(execution(instance_id="i-0"), 0.0).instance is None
    assert journal.facts(execution(instance_id="i-1"), 0.0).instance is not None
    last = journals.MAX_INSTANCES
    assert not journal.facts(
        execution(execution_id=f"e-{last - journals.MAX_EXECUTIONS}"), 0.0
    ).happened
    assert journal.facts(execution(execution_id=f"e-{last}"), 0.0).happened


def test_of_one_execution_the_latest_are_kept() -> None:
    journal = remembering(*(told("e-1", tries) for tries in range(1, 100)))
    happened = journal.facts(execution(), 0.0).happened
    assert len(happened) == journals.PER_EXECUTION
    assert happened[-1] == told("e-1", 99)
