"""The same work as a Celery task; its worker and those who submit to it import this.

The settings are those that Celery's guide to optimizing names for many short tasks: a large
prefetch multiplier. Events, gossip and the like are off. Clients have no result backend, so
that submitting does not subscribe to the result; it is read afterwards from Redis itself.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery  # type: ignore[import-untyped]

from bench.work import answer

PREFETCH_MULTIPLIER = 128
CONCURRENCY = 2

_url = os.environ.get("BENCH_QUEUE_REDIS", "")
_is_worker = os.environ.get("BENCH_QUEUE_WORKER") == "1"
app = Celery("bench.queue.tasks", broker=_url, backend=_url if _is_worker else None)
app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=False,
    result_serializer="json",
    task_acks_late=os.environ.get("BENCH_QUEUE_ACKS_LATE") == "1",
    task_serializer="json",
    worker_concurrency=CONCURRENCY,
    worker_pool="prefork",
    worker_prefetch_multiplier=PREFETCH_MULTIPLIER,
    worker_send_task_events=False,
)


@app.task(name="work")  # type: ignore[untyped-decorator]
def work(number: int, text: str) -> dict[str, Any]:
    return answer(number, text)
