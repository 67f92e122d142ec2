"""The breaker against a slow model that keeps the whole history and derives everything.

Times are multiples of 62.5 ms, so that ends, limits and calls fall on the same moment: a
sixteenth of a second has an exact binary form, and a tie is a tie.
"""

from __future__ import annotations

import dataclasses
import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atlatl.core.breaker import Breaker, Permit
from atlatl.settings import CircuitBreakerSettings

STEP_S = 1 / 16


@dataclasses.dataclass
class ModelCall:
    """A call in flight as the model sees it."""

    era: int
    began: int
    probe: bool
    reported: bool = False


class Model:
    """The rules again, in whole steps, as plainly as possible."""

    def __init__(self, threshold: int, successes: int, probes: int, open_: int, limit: int) -> None:
        self.threshold, self.successes, self.probes = threshold, successes, probes
        self.open_steps, self.cap, self.probe_limit = open_, open_ * 4, limit
        self.state = "closed"
        self.mode = "auto"
        self.era = 0
        self.since = 0
        self.results: list[bool] = []
        self.reopened = 0
        self.calls: list[ModelCall] = []
        self.refused = 0
        self.counts = {True: 0, False: 0}

    def enter(self, state: str, at: int) -> None:
        self.state, self.since, self.results = state, at, []
        self.era += 1

    def open(self, at: int) -> None:
        self.reopened = self.reopened + 1 if self.state == "half-open" else self.reopened
        self.enter("open", at)

    def opens_until(self) -> int:
        return self.since + min(self.open_steps * 2**self.reopened, self.cap)

    def out(self) -> list[ModelCall]:
        """Probes that have not reported."""
        return [c for c in self.calls if c.probe and c.era == self.era and not c.reported]

    def pass_time(self, now: int) -> None:
        late = [c.began + self.probe_limit for c in self.out() if c.began + self.probe_limit <= now]
        if self.state == "half-open" and late:
            self.counts[False] += 1
            self.open(min(late))

    def admit(self, now: int) -> ModelCall | None:
        self.pass_time(now)
        if self.mode == "auto" and self.state == "open" and now >= self.opens_until():
            self.enter("half-open", now)
        full = self.state == "half-open" and len(self.out()) >= self.probes
        if self.state == "open" or full:
            self.refused += 1
            return None
        call = ModelCall(self.era, now, self.state == "half-open")
        self.calls.append(call)
        return call

    def stale(self, call: ModelCall) -> bool:
        return call.era != self.era or (call.probe and call.reported)

    def report(self, call: ModelCall, now: int, result: bool | None) -> None:
        """True is a success, False a failure, None neither."""
        if self.stale(call):
            return
        self.pass_time(now)
        stale = self.stale(call)
        call.reported = True
        if stale or result is None:
            return
        self.counts[result] += 1
        if self.mode == "disabled":
            return
        self.results.append(result)
        if call.probe:
            if not result:
                self.open(now)
            elif len(self.results) >= self.successes:
                self.close(now)
        elif len(self.results) >= self.threshold and not any(self.results[-self.threshold :]):
            self.open(now)

    def close(self, now: int) -> None:
        self.reopened = 0
        self.enter("closed", now)


class BreakerHistory(RuleBasedStateMachine):
    @initialize(
        threshold=st.integers(1, 3),
        successes=st.integers(1, 3),
        probes=st.integers(1, 3),
        open_=st.integers(1, 4),
        limit=st.integers(1, 4),
    )
    def begin(self, threshold: int, successes: int, probes: int, open_: int, limit: int) -> None:
        self.now = 0
        self.model = Model(threshold, successes, probes, open_, limit)
        self.breaker = Breaker(
            CircuitBreakerSettings(
                failure_threshold=threshold,
                success_threshold=successes,
                half_open_max_calls=probes,
                timeout_s=open_ * STEP_S,
                max_timeout_s=open_ * 4 * STEP_S,
                probe_timeout_s=limit * STEP_S,
            ),
            0.0,
        )
        self.pairs: list[tuple[Permit, ModelCall]] = []

    def clock(self) -> float:
        return self.now * STEP_S

    @rule(steps=st.integers(1, 5))
    def wait(self, steps: int) -> None:
        self.now += steps

    @rule()
    def ask(self) -> None:
        expected = self.model.admit(self.now)
        permit = self.breaker.admit(self.clock(), 0.5)
        assert (permit is None) == (expected is None)
        if permit is not None and expected is not None:
            self.pairs.append((permit, expected))

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), result=st.sampled_from([True, False, None]))
    def report_any(self, data: st.DataObject, result: bool | None) -> None:
        """Some call ends; the permit of a probe may be handed back again later."""
        permit, call = data.draw(st.sampled_from(self.pairs))
        if not call.probe or data.draw(st.booleans()):
            self.pairs.remove((permit, call))
        self.report(permit, call, result)

    @rule(result=st.booleans())
    def ask_and_report(self, result: bool) -> None:
        """A call that takes no time."""
        before = len(self.pairs)
        self.ask()
        if len(self.pairs) > before:
            self.report(*self.pairs.pop(), result)

    def report(self, permit: Permit, call: ModelCall, result: bool | None) -> None:
        self.model.report(call, self.now, result)
        now = self.clock()
        if result is None:
            self.breaker.ignore(permit, now, 0.5)
        elif result:
            self.breaker.succeed(permit, now, 0.0, 0.5)
        else:
            self.breaker.fail(permit, now, 0.0, 0.5, "failed")

    @precondition(lambda self: self.now % 7 == 3)
    @rule(mode=st.sampled_from(["forced_open", "disabled", "auto"]))
    def by_hand(self, mode: str) -> None:
        """Now and then only, or the other rules get nowhere."""
        self.model.mode = mode
        if mode == "forced_open":
            self.model.enter("open", self.now)
            self.breaker.force_open(self.clock())
        elif mode == "disabled":
            self.model.close(self.now)
            self.breaker.disable(self.clock())
        else:
            self.model.close(self.now)
            self.model.counts = {True: 0, False: 0}
            self.breaker.reset(self.clock())

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        stats = self.breaker.stats(self.clock())
        assert str(stats.state) == self.model.state
        assert stats.mode == self.model.mode
        assert stats.generation == self.model.era
        assert stats.rejected_count == self.model.refused
        assert stats.failure_count == self.model.counts[False]
        assert stats.success_count == self.model.counts[True]
        assert (self.breaker.closed_permit is None) == (self.model.state != "closed")

    @invariant()
    def transitions_form_a_chain(self) -> None:
        if not hasattr(self, "breaker"):
            return
        told = list(self.breaker.transitions)
        assert all(old[1] is new[0] for old, new in itertools.pairwise(told))


TestBreakerHistory = BreakerHistory.TestCase
TestBreakerHistory.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
