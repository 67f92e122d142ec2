"""What a caller gets, whichever front the caller comes through.

Each promise stands here once and is held against every front in `fronts.FRONTS`, all of them on
one real service. Where a front cannot say something, the test is not asked of it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import uvloop

from atlatl import errors
from atlatl.errors import AtlatlError
from atlatl.model import failed
from tests.contract.fronts import FRONTS
from tests.contract.fronts.front import Answer, Front, GaveUp
from tests.contract.fronts.functions import GIVEN
from tests.contract.fronts.provoked import HINTED, PROVOKED, held
from tests.contract.fronts.stand import LONG_S, Stand
from tests.running import alive

pytestmark = pytest.mark.slow  # real processes, sockets or packages: `make test`

MEDIA_TYPES: dict[type, str] = {str: "text/plain; charset=utf-8", bytes: "application/octet-stream"}
"""Of results; all others are JSON."""


# --- the service that all of it is asked of ---


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def stand(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    stand = Stand(tmp_path_factory.mktemp("stand") / "data")
    runner.run(stand.open())
    yield stand
    runner.run(stand.close())


@pytest.fixture(scope="module", params=FRONTS)
def front(request: Any, runner: asyncio.Runner, stand: Stand) -> Iterator[Front]:
    front = FRONTS[request.param](stand)
    runner.run(front.open())
    yield front
    runner.run(front.close())


@pytest.fixture(autouse=True)
def nothing_half_done(runner: asyncio.Runner, stand: Stand) -> Iterator[None]:
    """After each test no call goes on and no place is lent."""
    yield
    runner.run(stand.tidy())


def scenario(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on the loop that the service lives on."""

    @functools.wraps(test)
    def on_the_loop(runner: asyncio.Runner, **asked: Any) -> None:
        runner.run(asyncio.wait_for(test(**asked), LONG_S))

    signature = inspect.signature(test)
    asks = inspect.signature(on_the_loop, follow_wrapped=False).parameters["runner"]
    parameters = [asks, *signature.parameters.values()]
    on_the_loop.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return on_the_loop


def able_to(what: str) -> pytest.MarkDecorator:
    """Only the fronts that can."""
    names = [name for name, kind in FRONTS.items() if what in kind.can]
    return pytest.mark.parametrize("front", names, indirect=True)


# --- what comes in and goes out ---


@pytest.mark.parametrize("kind", GIVEN)
@scenario
async def test_results_of_every_kind(front: Front, stand: Stand, kind: str) -> None:
    answer = await front.call(await stand.task("give"), {"kind": kind})
    value = GIVEN[kind]
    assert (answer.status, answer.code, answer.message) == ("COMPLETED", "", "")
    assert answer.content_type == MEDIA_TYPES.get(type(value), "application/json")
    assert _decoded(answer) == value


def _decoded(answer: Answer) -> Any:
    if answer.content_type == "application/json":
        return json.loads(answer.value)
    return answer.value.decode() if answer.content_type.startswith("text/") else answer.value


@pytest.mark.parametrize("kind", [kind for kind in GIVEN if "nothing" not in kind])
@scenario
async def test_arguments_of_every_kind(front: Front, stand: Stand, kind: str) -> None:
    value = GIVEN[kind]
    answer = await front.call(await stand.task("echo"), value)
    if value in ("", b""):  # an empty body, or an empty value: either way nothing was said
        assert _decoded(answer) in ({}, value)
    else:
        assert _decoded(answer) == value


@scenario
async def test_large_arguments_and_results(front: Front, stand: Stand) -> None:
    block = bytes(range(256)) * 4096
    answer = await front.call(await stand.task("echo"), block)
    assert answer.value == block


@scenario
async def test_a_response_keeps_its_body_and_media_type(front: Front, stand: Stand) -> None:
    answer = await front.call(await stand.task("teapot"))
    assert (answer.value, answer.content_type) == (b"short and stout", "text/x-tea")
    assert answer.told in ("418", "200", "OK")


@scenario
async def test_named_arguments_are_bound_and_defaults_hold(front: Front, stand: Stand) -> None:
    name = await stand.task("greet")
    assert _decoded(await front.call(name, {"name": "Ada"})) == {"hello": "Ada"}
    assert _decoded(await front.call(name, {"name": "Ada", "times": 2})) == {"hello": "AdaAda"}


@scenario
async def test_what_a_function_may_know_of_its_call(front: Front, stand: Stand) -> None:
    name = await stand.task("seen")
    answer = await front.call(
        name, execution_id=stand.new_name("known"), headers={"X-Colour": "blue"}, timeout_ms=5000
    )
    seen = json.loads(answer.value)
    assert seen["headers"]["x-colour"] == "blue"
    assert (seen["execution_id"], seen["attempt"]) == (answer.execution_id, 1)
    assert 1000 < seen["remaining_ms"] <= 5000
    assert seen["task_name"] == name


@able_to("environment")
@scenario
async def test_environment_and_a_fresh_instance(front: Front, stand: Stand) -> None:
    name = await stand.deploy("seen")
    first = await front.call(name, environment={"COLOUR": "blue"})
    assert json.loads(first.value)["environment"] == {"COLOUR": "blue"}
    warm = await front.call(name)
    fresh = await front.call(name, fresh=True)
    assert json.loads(warm.value)["pid"] == json.loads(first.value)["pid"]
    assert json.loads(fresh.value)["pid"] != json.loads(first.value)["pid"]
    assert (warm.cold, fresh.cold) == (False, True)


@able_to("function")
@scenario
async def test_another_function_of_the_artifact(front: Front, stand: Stand) -> None:
    answer = await front.call(await stand.task("give"), {"name": "Ada"}, function="greet")
    assert _decoded(answer) == {"hello": "Ada"}
    nobody = await front.call(await stand.task("give"), function="_parameter")
    assert nobody.code == "INVALID_REQUEST"


@scenario
async def test_calls_share_a_warm_instance_d75(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count")
    answers = [await front.call(name) for _ in range(3)]
    assert [answer.value for answer in answers] == [b"1", b"2", b"3"]
    assert len({answer.instance_id for answer in answers}) == 1
    assert [answer.cold for answer in answers] == [True, False, False]


@scenario
async def test_retries_that_the_caller_asks_for(front: Front, stand: Stand) -> None:
    retry = {"initial_backoff_s": 0.001, "budget_ratio": 1.0}
    name = await stand.deploy("second_time_lucky", retry=retry)
    assert (await front.call(name)).code == "EXECUTION_ERROR"
    assert (await front.call(name, max_retries=1)).value == b"2"


@able_to("priority")
@scenario
async def test_the_urgent_go_first(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count", pool={"max_size": 1})
    async with held(front, stand, name):
        late = front.begin(name, priority=7)
        await stand.busy(name, waiting=1)
        urgent = front.begin(name, priority=0)
        await stand.busy(name, waiting=2)
    assert int((await urgent).value) < int((await late).value)


# --- ids and records ---


@pytest.mark.parametrize("function", ["greet", "boom"])
@scenario
async def test_the_ids_of_an_answer_can_be_looked_up(
    front: Front, stand: Stand, function: str
) -> None:
    name = await stand.task(function)
    answer = await front.call(name, {"name": "Ada"} if function == "greet" else None)
    record = await front.status(answer.execution_id)
    assert record is not None
    assert (record.status, record.code, record.value) == (
        answer.status,
        answer.code,
        answer.value,
    )
    assert answer.instance_id in stand.instance_ids()
    listed = await front.executions(name, limit=1)
    assert listed.ids == [answer.execution_id]


@scenario
async def test_unknown_ids_are_said_to_be_unknown(front: Front) -> None:
    assert await front.status("never-heard-of") is None
    assert await front.cancel("never-heard-of") == (False, "")


@scenario
async def test_what_is_printed_belongs_to_its_execution(front: Front, stand: Stand) -> None:
    greeted = await front.call(await stand.task("greet"), {"name": "Ada"})
    broken = await front.call(await stand.task("boom"), {"marker": "seven"})
    for answer, line in ((greeted, "greeting Ada"), (broken, "about to fail seven")):
        record = await front.status(answer.execution_id)
        assert record is not None
        assert record.logs == (line,)


@scenario
async def test_calls_that_share_an_instance_keep_their_output_apart(
    front: Front, stand: Stand
) -> None:
    name = await stand.deploy("whisper", pool={"max_size": 1, "max_concurrent_requests": 4})
    words = ["one", "two", "three"]
    answers = await asyncio.gather(*(front.call(name, {"word": w, "s": 0.01}) for w in words))
    assert len({answer.instance_id for answer in answers}) == 1
    for word, answer in zip(words, answers, strict=True):
        record = await front.status(answer.execution_id)
        assert record is not None
        assert record.logs == tuple(f"{word} {n}" for n in range(3))


# --- what a call can end with ---


@pytest.mark.parametrize("leaf", PROVOKED, ids=lambda leaf: leaf.__name__)
@scenario
async def test_a_call_that_fails_says_how(
    front: Front, stand: Stand, leaf: type[AtlatlError]
) -> None:
    answer = await PROVOKED[leaf](front, stand)
    assert (answer.told, answer.code) == front.expected(leaf), answer
    assert answer.status == failed(leaf("as provoked")).status.value
    assert answer.message
    assert answer.value == b""
    assert (answer.retry_after_s is not None) == (leaf in HINTED)
    if answer.retry_after_s is not None:
        assert answer.retry_after_s > 0


@scenario
async def test_what_fails_harms_no_other_call(front: Front, stand: Stand) -> None:
    good = await stand.task("greet")
    for leaf in (errors.FunctionRaised, errors.InstanceCrashed, errors.TimedOut):
        await PROVOKED[leaf](front, stand)
        assert (await front.call(good, {"name": "Ada"})).status == "COMPLETED"


@scenario
async def test_a_task_is_made_and_deleted(front: Front, stand: Stand) -> None:
    name = stand.new_name("made")
    assert await front.create(name, b"def main():\n    return 'made'\n") == ""
    assert (await front.call(name)).value == b"made"
    async with held(front, stand, await stand.deploy("count")):
        pass
    assert await front.delete(name)
    assert (await front.call(name)).code == "TASK_NOT_FOUND"
    assert not await front.delete(name)


@scenario
async def test_a_task_in_use_is_deleted_only_by_force(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count")
    call = front.begin(name, {"s": 60.0})
    await stand.busy(name)
    assert not await front.delete(name)
    assert await front.delete(name, force=True)
    assert (await call).status == "CANCELLED"


@scenario
async def test_what_cannot_be_made_says_why(front: Front, stand: Stand) -> None:
    name = stand.new_name("refused")
    cases: list[tuple[bytes, dict[str, Any], type[AtlatlError]]] = [
        (b"import nothing_of_that_name\n", {}, errors.ArtifactInvalid),
        (b"\0asm", {"kind": "wasm"}, errors.UnsupportedOperation),
        (b"def main(): ...\n", {"token": False}, errors.Unauthenticated),
    ]
    for code, how, leaf in cases:
        assert await front.create(name, code, **how) == leaf.code
    assert (await front.call(name)).code == "TASK_NOT_FOUND"


# --- the same id twice ---


@pytest.mark.parametrize("function", ["count", "boom"])
@scenario
async def test_an_id_is_run_once(front: Front, stand: Stand, function: str) -> None:
    name, execution_id = await stand.deploy(function), stand.new_name("once")
    first = await front.call(name, execution_id=execution_id)
    again = await front.call(name, execution_id=execution_id)
    assert (again.status, again.code, again.value) == (first.status, first.code, first.value)
    assert again.execution_id == first.execution_id == execution_id
    assert len((await front.executions(name, limit=10)).ids) == 1


@scenario
async def test_an_id_that_comes_twice_at_once_is_run_once(front: Front, stand: Stand) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("once")
    calls = [front.call(name, {"s": 0.05}, execution_id=execution_id) for _ in range(5)]
    answers = await asyncio.gather(*calls)
    assert {answer.value for answer in answers} == {b"1"}
    assert (await front.call(name)).value == b"2"


@scenario
async def test_an_id_of_another_call_is_a_conflict(front: Front, stand: Stand) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("mine")
    calls = [front.call(name, {"pad": pad}, execution_id=execution_id) for pad in ("a", "b")]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.code for answer in answers) == ["", "CONFLICT"]
    other = await front.call(await stand.task("seen"), execution_id=execution_id)
    assert other.code == "CONFLICT"
    assert (await front.call(name)).value == b"2"


@scenario
async def test_ids_that_no_execution_can_have(front: Front, stand: Stand) -> None:
    name = await stand.task("seen")
    for execution_id in ("x" * 129, "a b"):
        answer = await front.call(name, execution_id=execution_id)
        assert (answer.told, answer.code) == front.expected(errors.InvalidRequest)


@scenario
async def test_one_id_at_every_front_is_one_call(stand: Stand) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("shared")
    answers = []
    for kind in FRONTS.values():
        front = kind(stand)
        await front.open()
        try:
            call = front.call(name, {"pad": "x", "s": 0.0}, execution_id=execution_id)
            answers.append(await call)
        finally:
            await front.close()
    assert [answer.value for answer in answers] == [b"1"] * len(FRONTS)
    assert len({answer.instance_id for answer in answers}) == 1


# --- deadlines, cancels, and callers who leave ---


@scenario
async def test_a_time_limit_ends_the_work_and_frees_its_place(front: Front, stand: Stand) -> None:
    name = await stand.deploy("seen", pool={"max_size": 1})
    pid = json.loads((await front.call(name)).value)["pid"]
    sleeper = await stand.deploy("count", pool={"max_size": 1}, timeout_ms=100)
    late = await front.call(sleeper, {"s": 60.0})
    assert (late.status, late.code) == ("TIMEOUT", "EXECUTION_TIMEOUT")
    record = await front.status(late.execution_id)
    assert record is not None
    assert record.status == "TIMEOUT"
    assert (await front.call(sleeper)).value == b"1"
    assert alive(pid)


@scenario
async def test_a_limit_of_the_call_counts_before_that_of_the_task(
    front: Front, stand: Stand
) -> None:
    name = await stand.deploy("count", timeout_ms=50)
    assert (await front.call(name, {"s": 0.1}, timeout_ms=10_000)).status == "COMPLETED"


@pytest.mark.parametrize("force", [False, True])
@scenario
async def test_cancelling_what_runs(front: Front, stand: Stand, force: bool) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("run")
    call = front.begin(name, {"s": 60.0}, execution_id=execution_id)
    await stand.busy(name)
    running = await front.status(execution_id)
    assert running is not None
    assert running.status == "RUNNING"
    assert await front.cancel(execution_id, force=force) == (True, "CANCELLED")
    assert await front.cancel(execution_id, force=force) == (False, "CANCELLED")
    assert (await call).status == "CANCELLED"
    await stand.busy(name, in_use=0)
    ended = await front.status(execution_id)
    assert ended is not None
    assert ended.status == "CANCELLED"


@scenario
async def test_cancelling_what_waits(front: Front, stand: Stand) -> None:
    name, execution_id = await stand.deploy("count", pool={"max_size": 1}), stand.new_name("wait")
    async with held(front, stand, name):
        call = front.begin(name, execution_id=execution_id)
        await stand.busy(name, waiting=1)
        waiting = await front.status(execution_id)
        assert waiting is not None
        assert waiting.status == "PENDING"
        assert await front.cancel(execution_id) == (True, "CANCELLED")
        assert (await call).status == "CANCELLED"
        await stand.busy(name, waiting=0)
    assert (await front.call(name)).value == b"1"


@scenario
async def test_cancelling_what_has_ended_changes_nothing(front: Front, stand: Stand) -> None:
    for function, status in (("seen", "COMPLETED"), ("boom", "FAILED")):
        answer = await front.call(await stand.task(function))
        assert await front.cancel(answer.execution_id) == (False, status)
        record = await front.status(answer.execution_id)
        assert record is not None
        assert record.status == status


@pytest.mark.parametrize("leaves", ["by cancelling", "by its deadline"])
@scenario
async def test_a_caller_who_leaves_ends_the_function(
    front: Front, stand: Stand, leaves: str
) -> None:
    name = await stand.deploy("listen")
    if leaves == "by cancelling":
        call = front.begin(name)
        await stand.busy(name)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    else:
        with pytest.raises(GaveUp):
            await front.call(name, patience_s=0.1)
    await stand.busy(name, in_use=0)
    (execution_id,) = (await front.executions(name, limit=10)).ids
    record = await front.status(execution_id)
    assert record is not None
    assert (record.status, record.code) == ("CANCELLED", "CANCELLED")


@pytest.mark.slow
@scenario
async def test_who_does_not_listen_is_ended_too(stand: Stand) -> None:
    """Callers at all fronts at once: the work has some seconds to end by itself."""
    fronts = [kind(stand) for kind in FRONTS.values()]
    names = [await stand.deploy("count") for _ in fronts]
    for front, name in zip(fronts, names, strict=True):
        await front.open()
        with pytest.raises(GaveUp):
            await front.call(name, {"s": 60.0}, patience_s=0.1)
    for front, name in zip(fronts, names, strict=True):
        await stand.busy(name, in_use=0)
        assert len((await front.executions(name, limit=10, status="CANCELLED")).ids) == 1
        await front.close()


@scenario
async def test_a_caller_who_leaves_the_queue_is_not_served(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count", pool={"max_size": 1})
    async with held(front, stand, name):
        with pytest.raises(GaveUp):
            await front.call(name, patience_s=0.1)
        await stand.busy(name, waiting=0)
    assert (await front.call(name)).value == b"1"


@scenario
async def test_a_caller_who_leaves_an_id_may_come_back(front: Front, stand: Stand) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("left")
    with pytest.raises(GaveUp):
        await front.call(name, {"s": 0.3}, execution_id=execution_id, patience_s=0.1)
    answer = await front.call(name, {"s": 0.3}, execution_id=execution_id)
    assert (answer.status, answer.value) == ("COMPLETED", b"1")


# --- lists ---


@scenario
async def test_executions_page_by_page_while_more_come(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count")
    ids = [(await front.call(name)).execution_id for _ in range(5)]
    found, after = [], ""
    for _ in range(3):
        page = await front.executions(name, limit=2, after=after)
        found += page.ids
        after = page.after
        await front.call(name)
    assert found == ids[::-1]
    assert after == ""
    newest = await front.executions(name, limit=3)
    assert not set(newest.ids) & set(ids)


@scenario
async def test_executions_by_status(front: Front, stand: Stand) -> None:
    name = await stand.deploy("second_time_lucky", retry={"initial_backoff_s": 0.001})
    broken = (await front.call(name)).execution_id
    good = (await front.call(name, max_retries=1)).execution_id
    for status, ids in (("FAILED", [broken]), ("COMPLETED", [good]), ("CANCELLED", [])):
        assert (await front.executions(name, limit=10, status=status)).ids == ids
    assert (await front.executions(name, limit=10)).ids == [good, broken]


@scenario
async def test_a_running_execution_is_listed(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count")
    async with held(front, stand, name) as execution_id:
        assert (await front.executions(name, limit=1, status="RUNNING")).ids == [execution_id]


@scenario
async def test_tasks_page_by_page_while_they_come_and_go(front: Front, stand: Stand) -> None:
    prefix = stand.new_name("listed")
    made = {await _task_id(stand, f"{prefix}-{n}") for n in range(4)}
    first = await front.tasks(prefix, limit=2)
    assert first.ids == sorted(made)[:2]
    # The cursor outlives what it names.
    await stand.service.delete_task(first.ids[-1])
    later = await _task_id(stand, f"{prefix}-later")
    rest = await front.tasks(prefix, limit=10, after=first.after)
    expected = sorted(made)[2:] + ([later] if later > first.after else [])
    assert rest.ids == sorted(expected)
    assert rest.after == ""


async def _task_id(stand: Stand, name: str) -> str:
    return stand.service.task(await stand.deploy("seen", name=name)).task_id


# --- in the background ---


@scenario
async def test_what_is_taken_is_known_from_the_answer_on_and_ends(
    front: Front, stand: Stand
) -> None:
    taken = await front.submit(await stand.task("greet"), {"name": "Ada"})
    assert (taken.status, taken.code) == ("PENDING", "")
    assert await front.status(taken.execution_id) is not None
    record = await front.ended(taken.execution_id)
    assert (record.status, record.value) == ("COMPLETED", b'{"hello":"Ada"}')
    assert record.logs == ("greeting Ada",)


@scenario
async def test_what_is_wrong_with_a_call_is_said_before_it_is_taken(
    front: Front, stand: Stand
) -> None:
    name = await stand.task("greet")
    for task, value, leaf in (
        (name, {"times": 2}, errors.InvalidRequest),
        ("nobody", None, errors.TaskNotFound),
    ):
        answer = await front.submit(task, value)
        assert (answer.told, answer.code) == front.expected(leaf)


@scenario
async def test_failures_in_the_background_are_in_the_record(front: Front, stand: Stand) -> None:
    limited = await stand.deploy("count", timeout_ms=100)
    for name, value, status, code in (
        (await stand.task("boom"), None, "FAILED", "EXECUTION_ERROR"),
        (await stand.task("leave"), None, "FAILED", "INSTANCE_CRASHED"),
        (limited, {"s": 60.0}, "TIMEOUT", "EXECUTION_TIMEOUT"),
    ):
        taken = await front.submit(name, value)
        assert taken.status == "PENDING"
        record = await front.ended(taken.execution_id)
        assert (record.status, record.code) == (status, code)


@scenario
async def test_retries_in_the_background(front: Front, stand: Stand) -> None:
    retry = {"initial_backoff_s": 0.05, "budget_ratio": 1.0}
    name = await stand.deploy("second_time_lucky", retry=retry)
    taken = await front.submit(name, max_retries=1)
    assert (await front.ended(taken.execution_id)).value == b"2"


@scenario
async def test_an_id_that_is_taken_twice_is_run_once(front: Front, stand: Stand) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("taken")
    taken = await asyncio.gather(*(front.submit(name, execution_id=execution_id) for _ in "123"))
    assert {answer.execution_id for answer in taken} == {execution_id}
    assert (await front.ended(execution_id)).value == b"1"
    again = await front.submit(name, execution_id=execution_id)
    assert (again.status, again.code) == ("COMPLETED", "")
    other = await front.submit(name, {"pad": "other"}, execution_id=execution_id)
    assert (other.told, other.code) == front.expected(errors.Conflict)
    at_once = await front.call(name, execution_id=execution_id)
    assert (at_once.status, at_once.value) == ("COMPLETED", b"1")


@scenario
async def test_a_call_under_the_id_of_what_was_taken_waits_for_its_end(
    front: Front, stand: Stand
) -> None:
    name, execution_id = await stand.deploy("count"), stand.new_name("taken")
    taken = await front.submit(name, {"s": 0.1}, execution_id=execution_id)
    assert taken.status == "PENDING"
    answer = await front.call(name, {"s": 0.1}, execution_id=execution_id)
    assert (answer.status, answer.value) == ("COMPLETED", b"1")


@scenario
async def test_cancelling_what_was_taken(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count", pool={"max_size": 1})
    running = await front.submit(name, {"s": 60.0})
    await stand.busy(name)
    waiting = await front.submit(name)
    for answer in (waiting, running):
        assert await front.cancel(answer.execution_id) == (True, "CANCELLED")
        assert (await front.ended(answer.execution_id)).status == "CANCELLED"
        assert await front.cancel(answer.execution_id) == (False, "CANCELLED")
    await stand.busy(name, in_use=0)
    assert (await front.call(name)).value == b"1"


# --- streams ---


@able_to("stream")
@pytest.mark.parametrize(
    ("function", "items"),
    [
        ("items", [b'{"i":0}', b'{"i":1}', b'{"i":2}']),
        ("texts", [b"one\ntwo", b"", b"three"]),
        ("blobs", [b"\x00\xff", b"two"]),
    ],
)
@scenario
async def test_a_stream_has_its_items_in_order_and_one_end(
    front: Front, stand: Stand, function: str, items: list[bytes]
) -> None:
    async with front.stream(await stand.task(function)) as reading:
        assert [item async for item in reading] == items
    assert reading.end is not None
    assert (reading.end.status, reading.end.code) == ("COMPLETED", "")
    record = await front.status(reading.end.execution_id)
    assert record is not None
    assert record.status == "COMPLETED"


@able_to("stream")
@scenario
async def test_a_stream_without_items(front: Front, stand: Stand) -> None:
    async with front.stream(await stand.task("items"), {"n": 0}) as reading:
        assert [item async for item in reading] == []
    assert reading.end is not None
    assert (reading.end.status, reading.end.value) == ("COMPLETED", b"")


@able_to("stream")
@scenario
async def test_a_long_stream_is_whole(front: Front, stand: Stand) -> None:
    async with front.stream(await stand.task("items"), {"n": 2000}) as reading:
        found = [json.loads(item)["i"] async for item in reading]
    assert found == list(range(2000))


@able_to("stream")
@pytest.mark.parametrize(("function", "n"), [("fail_at_once", 0), ("fail_later", 2)])
@scenario
async def test_a_stream_that_fails_says_so_at_its_end(
    front: Front, stand: Stand, function: str, n: int
) -> None:
    async with front.stream(await stand.task(function)) as reading:
        assert len([item async for item in reading]) == n
    end = reading.end
    assert end is not None
    assert (end.status, end.code) == ("FAILED", "EXECUTION_ERROR")
    assert "no such luck" in end.message
    if n == 0:
        assert end.told == front.expected(errors.FunctionRaised, streaming=True)[0]
    record = await front.status(end.execution_id)
    assert record is not None
    assert (record.status, record.code) == (end.status, end.code)


@able_to("stream")
@scenario
async def test_a_stream_that_is_refused_has_no_items(front: Front, stand: Stand) -> None:
    full = await stand.deploy("rest", pool={"max_size": 1, "max_waiting": 0})
    async with front.stream(full) as busy:
        assert len(await busy.first(2)) == 2
        for name, leaf in (("nobody", errors.TaskNotFound), (full, errors.QueueFull)):
            async with front.stream(name) as reading:
                assert [item async for item in reading] == []
            assert reading.end is not None
            answered = reading.end.told, reading.end.code
            assert answered == front.expected(leaf, streaming=True)
            assert (reading.end.retry_after_s is not None) == (leaf in HINTED)


@able_to("stream")
@scenario
async def test_a_time_limit_covers_the_whole_stream(front: Front, stand: Stand) -> None:
    name = await stand.deploy("rest")
    async with front.stream(name, {"deaf": True}, timeout_ms=200) as reading:
        assert len([item async for item in reading]) == 2
    assert reading.end is not None
    assert (reading.end.status, reading.end.code) == ("TIMEOUT", "EXECUTION_TIMEOUT")


@able_to("stream")
@scenario
async def test_a_stream_can_be_cancelled(front: Front, stand: Stand) -> None:
    name, execution_id = await stand.deploy("rest"), stand.new_name("stream")
    async with front.stream(name, execution_id=execution_id) as reading:
        assert len(await reading.first(2)) == 2
        assert await front.cancel(execution_id) == (True, "CANCELLED")
        assert [item async for item in reading] == []
    assert reading.end is not None
    assert (reading.end.status, reading.end.code) == ("CANCELLED", "CANCELLED")


@able_to("stream")
@scenario
async def test_a_reader_who_leaves_ends_the_function(front: Front, stand: Stand) -> None:
    name = await stand.deploy("endless")
    async with front.stream(name) as reading:
        assert len(await reading.first(3)) == 3
    await stand.busy(name, in_use=0)
    (execution_id,) = (await front.executions(name, limit=10)).ids
    record = await front.status(execution_id)
    assert record is not None
    assert (record.status, record.logs) == ("CANCELLED", ("first",))


@able_to("chunks")
@scenario
async def test_a_stream_as_plain_chunks(front: Front, stand: Stand) -> None:
    for function, media_type, content in (
        ("items", "application/x-ndjson", b'{"i":0}\n{"i":1}\n{"i":2}\n'),
        ("texts", "text/plain; charset=utf-8", b"one\ntwothree"),
        ("blobs", "application/octet-stream", b"\x00\xfftwo"),
    ):
        async with front.chunks(await stand.task(function)) as response:
            assert response.headers["content-type"] == media_type
            assert b"".join([chunk async for chunk in response.aiter_raw()]) == content


@able_to("chunks")
@scenario
async def test_plain_chunks_break_off_when_the_function_fails(front: Front, stand: Stand) -> None:
    async with front.chunks(await stand.task("fail_later")) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()


# --- figures ---


@scenario
async def test_ten_calls_are_ten_in_every_figure(front: Front, stand: Stand) -> None:
    good, bad = await stand.task("seen"), await stand.task("boom")
    health, stats = await front.health(), await front.stats()
    for name in [good] * 7 + [bad] * 3:
        await front.call(name)
    assert (await front.health()).total - health.total == 10
    after = await front.stats()
    grown = (
        after.total - stats.total,
        after.completed - stats.completed,
        after.failed - stats.failed,
    )
    assert grown == (10, 7, 3)
    await stand.deploy("seen")
    assert (await front.stats()).tasks == after.tasks + 1


@scenario
async def test_health_is_of_this_moment(front: Front, stand: Stand) -> None:
    name = await stand.deploy("count", pool={"max_size": 1})
    quiet = await front.health()
    assert (quiet.status, quiet.running, quiet.pending) == ("healthy", 0, 0)
    async with held(front, stand, name):
        waiting = front.begin(name)
        await stand.busy(name, waiting=1)
        busy = await front.health()
    assert (busy.status, busy.running, busy.pending) == ("degraded", 1, 1)
    assert busy.memory_bytes > 10_000_000
    assert (await waiting).status == "COMPLETED"


# --- the end ---


class Leaving(NamedTuple):
    """How the calls of one front came through the end of the service."""

    running: Answer
    waiting: Answer
    late: Answer
    late_submit: Answer
    late_stream: Answer | None
    health: str


@pytest.fixture(scope="module")
def leaving(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Leaving]:
    """What each front answered while another service drained."""
    return runner.run(_drained(Stand(tmp_path_factory.mktemp("leaving") / "data")))


async def _drained(stand: Stand) -> dict[str, Leaving]:
    await stand.open()
    fronts = [kind(stand) for kind in FRONTS.values()]
    calls = []
    for front in fronts:
        await front.open()
        name = await stand.deploy("count", pool={"max_size": 1})
        running = front.begin(name, {"s": 0.5})
        await stand.busy(name)
        calls.append((name, running, front.begin(name)))
        await stand.busy(name, waiting=1)
    drained = asyncio.create_task(stand.service.drain())
    await stand.until(lambda: not stand.service.ready()[0], "beginning of the end")
    found = {}
    for front, (name, running, waiting) in zip(fronts, calls, strict=True):
        end = None
        if "stream" in front.can:
            async with front.stream(name) as reading:
                assert [item async for item in reading] == []
            end = reading.end
        found[front.name] = Leaving(
            await running,
            await waiting,
            await front.call(name),
            await front.submit(name),
            end,
            (await front.health()).status,
        )
        await front.close()
    await drained
    await stand.close()
    return found


def test_at_its_end_the_service_finishes_what_runs_and_refuses_the_rest(
    front: Front, leaving: dict[str, Leaving]
) -> None:
    seen = leaving[front.name]
    assert (seen.running.status, seen.running.value) == ("COMPLETED", b"1")
    for refused in (seen.waiting, seen.late, seen.late_submit):
        assert (refused.told, refused.code) == front.expected(errors.Draining)
        assert refused.retry_after_s is not None
    if seen.late_stream is not None:
        answered = seen.late_stream.told, seen.late_stream.code
        assert answered == front.expected(errors.Draining, streaming=True)
    assert seen.health == "unhealthy"


# --- the suite itself ---

ELSEWHERE = {
    errors.Draining: "refuses everything from then on, so it has a service of its own above",
    errors.Unauthenticated: "above, with what cannot be made",
    errors.UnsupportedOperation: "above, with what cannot be made",
    errors.ExecutionNotFound: "above, with ids that are unknown",
    errors.PermissionDenied: "of HTTP alone: pages of other sites",
    errors.StreamModeNotSupported: "of InvokeFunction alone",
    errors.UnknownExecutionMode: "of InvokeFunction alone",
    errors.ArtifactNotFound: "of calls that bring their code",
    errors.ChecksumMismatch: "of calls that bring their code",
    errors.FetchFailed: "of calls that bring their code",
    errors.SettingInvalid: "of deploys over HTTP alone",
    errors.PoolClosed: "Draining, by another name inside",
    errors.InstanceLost: "needs an instance that dies under nobody's call",
    errors.StartFailed: "needs a machine that starts no process",
    errors.InternalFailure: "needs a bug",
}
"""Leaves that no caller can bring about by a call, or that are shown in another way."""


def test_every_error_is_provoked_or_said_not_to_be() -> None:
    leaves = {
        found
        for found in vars(errors).values()
        if inspect.isclass(found) and issubclass(found, AtlatlError) and "code" in vars(found)
    }
    leaves |= {errors.PoolClosed, errors.KilledOutOfMemory, errors.TimedOutWaiting}
    known = {*PROVOKED, *ELSEWHERE, AtlatlError}
    assert {leaf.__name__ for leaf in leaves - known} == set()
    assert not set(PROVOKED) & set(ELSEWHERE)
