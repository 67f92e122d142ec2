"""The events of the live stream, read from the code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from atlatl.events import Event, ExecutionFinished
from atlatl.model import Execution, ExecutionStatus, Mode
from atlatl.telemetry.feed import KINDS
from atlatl.telemetry.happenings import fields_of

INTRO = """\
# Events

`GET /api/v1/events` streams what happens, as server-sent events: `event:` is the kind, `data:` a
JSON object with `at` (RFC 3339), `kind`, `task_name` and the members below. It needs the scope
`admin`, and a token that is good for all tasks.

```console
curl -N -H "Authorization: Bearer $(cat data/token)" \\
  'http://localhost:8081/api/v1/events?kinds=execution_finished,breaker_changed&task=hello'
```

`?kinds=` chooses kinds, `?task=` a task. The stream ends when the service drains, and after 15
minutes, so that a token is asked for again; whoever wants more asks again. When nothing happens a
comment comes every 15 s.

The stream is for looking on, not for counting; the counts are in [metrics](metrics.md). Events
about single executions are thinned: at most 50 of a kind a second, at most 40 of them successes.
Who reads too slowly loses the oldest of 1000 that wait, and is told how many by an event `lost`
with `count`. At most 64 can look on at once. While nobody does, nothing is done for it.

Once a second there is an event `figures` of that second:

- `span_s`: the seconds that it is of;
- `tasks`: those that had calls, or have some that run or wait. For each `task_name` the rates
  `calls_per_s`, `errors_per_s`, `refused_per_s`, `p50_ms`, `p99_ms`; of its pool `in_use`, `idle`,
  `starting`, `waiting`; the state of its `breaker`;
- `queue`: async executions of all tasks: `ready`, `delayed`, `running`, `dead` (dead letters), and
  `oldest_s`, for how long the oldest could have run;
- `service`: the rates of all tasks together; calls that are `running` and `waiting`, `tasks`,
  `uptime_s`, `cpu_percent`, `service_memory_bytes`, `instances_memory_bytes`,
  `memory_budget_bytes`; `executions` and how many of them were `errors`, since the start;
- `skipped`: events that were thinned out for you in this second.
"""

HEAD = ("kind", "members", "meaning")


def rows() -> Iterator[tuple[str, ...]]:
    for kind, name in KINDS.items():
        meaning = (inspect.getdoc(kind) or "").partition("\n")[0]
        yield f"`{name}`", ", ".join(f"`{member}`" for member in members(kind)), meaning


def members(kind: type[Event]) -> list[str]:
    if kind is ExecutionFinished:
        execution = Execution("", "", "", "", Mode.SYNC, ExecutionStatus.COMPLETED)
        return [*fields_of(ExecutionFinished(0.0, "", execution=execution, latency_s=0.0))]
    return [name for name in kind.__struct_fields__ if name not in ("at", "task_name")]
