"""What the record of an execution keeps of its way: made only where there is something to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlatl.core.waiting import Waiter
from atlatl.model import Execution, Outcome, Tried, Way

if TYPE_CHECKING:
    from atlatl.core.leases import Lease
    from atlatl.engine.ticket import Ticket

MAX_TRIED = 20
"""Failed attempts that a record names, the latest."""
MAX_TEXT = 500
"""Characters of the error of one of them."""


def way_of(ticket: Ticket, waiter: Waiter, lease: Lease) -> Way:
    """Of a call that was lent an instance."""
    waiting, lent, size = waiter.met or (0, 0, 0)
    instance, channel = lease.instance, lease.channel
    cold = lease.cold
    return Way(
        waited_s=lease.waited_s,
        waiting=waiting,
        lent=lent,
        size=size,
        probe=(ticket.permit or 0) < 0,
        policy=waiter.pool.policy,
        uses=instance.uses,
        origin=channel.origin,
        init_s=instance.started_at - instance.reserved_at if cold else 0.0,
        process_s=channel.process_s if cold else 0.0,
        spare_s=max(0.0, lease.asked_at - instance.started_at) if cold else 0.0,
    )


def way_without(waiter: Waiter, now: float) -> Way:
    """Of a call that asked for an instance and got none."""
    waiting, lent, size = waiter.met or (0, 0, 0)
    return Way(waited_s=max(0.0, now - waiter.since), waiting=waiting, lent=lent, size=size)


def noted(
    tried: tuple[Tried, ...],
    attempt: Execution,
    outcome: Outcome,
    ended_at: float,
    retry_in_s: float = 0.0,
    *,
    recovered: bool = False,
) -> tuple[Tried, ...]:
    """The attempts that failed, with the one that just did.

    Args:
        tried: those before.
        attempt: its record.
        outcome: how it ended.
        ended_at: Unix seconds.
        retry_in_s: until the next one.
        recovered: the end of the service cut it off.
    """
    error = outcome.error
    assert error is not None
    latest = Tried(
        attempt=attempt.attempt,
        ended_at=ended_at,
        code=error.code,
        message=error.message[:MAX_TEXT],
        instance_id=attempt.instance_id or outcome.instance_id,
        run_s=outcome.run_s,
        retry_in_s=retry_in_s,
        recovered=recovered,
    )
    return (*tried[1 - MAX_TRIED :], latest)
