"""What memory keeps of ended executions stays within its bounds, and counts right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from atlatl.engine import recent
from atlatl.engine.recent import RecentExecutions
from atlatl.model import Execution
from tests.store_samples import execution, failure, success

MOST, MOST_BYTES = 5, 100

keys = st.integers(0, 9).map("e-{}".format)
bodies = st.integers(0, 60).map(bytes)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), keys, bodies, bodies),
        st.tuples(st.just("output"), keys, bodies, st.none()),
        st.tuples(st.just("forget"), st.sampled_from(["t-1", "t-2"]), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_bounds_hold_and_what_is_called_whole_is_whole(
    history: list[tuple[str, str, bytes, bytes]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "KEPT_BYTES", MOST_BYTES)
        patch.setattr(recent, "KEPT_RESULT_BYTES", 50)
        kept = RecentExecutions(MOST)
        expected = {}
        for action, key, first, second in history:
            if action == "add":
                task_id = "t-1" if key < "e-5" else "t-2"
                outcome = success(first, second) if second else failure(first)
                expected[key] = execution(key, outcome, task_id=task_id)
                kept.add(expected[key])
            elif action == "output":
                record = kept.with_output(key, first)
                if record is not None:
                    assert record.execution == _with_output(expected[key], first)
                    expected[key] = record.execution
            else:
                kept.forget_task(key)
                assert not any(one.task_id == key for one in kept.all())
            _check(kept)
            for one in kept.all():
                record = kept.whole(one.execution_id)
                if record is not None and one.execution_id in expected:
                    assert record.execution == expected[one.execution_id]


def _with_output(one: Execution, output: bytes) -> Execution:
    assert one.outcome is not None
    return replace(one, outcome=replace(one.outcome, output=one.outcome.output + output))


def _check(kept: RecentExecutions) -> None:
    remembered = list(kept.all())
    assert len(remembered) == len(kept._oldest) <= MOST
    assert {one.execution_id for one in remembered} == set(kept._oldest)
    held = 0
    for one in remembered:
        assert one.outcome is not None
        held += len(one.outcome.output)
        held += len(one.outcome.result.body) if one.outcome.result else 0
    assert held == kept._bytes <= MOST_BYTES
