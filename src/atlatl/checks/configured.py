"""Items about the settings: of the service, and of the tasks that are deployed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from atlatl.checks.item import Item, failed, judged
from atlatl.checks.live import Seen
from atlatl.engine.autoscaler import ASSUMED_BYTES
from atlatl.errors import SettingInvalid
from atlatl.front.auth import is_loopback
from atlatl.front.tls import expiry
from atlatl.front.tokens import TokenFile, has_expired
from atlatl.runtimes.machine import mebibytes, memory_budget_bytes
from atlatl.settings import CircuitBreakerSettings, Settings, TaskSettings, task_settings
from atlatl_worker.means import INSTANCES

DEFAULTS = "the defaults"
"""Stands where a task's name would, for what holds when a task says nothing."""
MOST_THRESHOLD = 100
RENEW_S = 14 * 86_400.0
"""A certificate that ends sooner should have been renewed already."""
SHORTEST_OPEN_S, LONGEST_OPEN_S = 1.0, 3600.0


def _of_tasks(settings: Settings, seen: Seen) -> tuple[dict[str, TaskSettings], list[str]]:
    """The settings in force by task, the defaults among them; and which are refused."""
    found, refused = {DEFAULTS: task_settings(settings, {})}, []
    for row in seen.tasks:
        try:
            found[row["task_name"]] = task_settings(settings, row["settings"])
        except SettingInvalid as error:
            refused.append(f"task {row['task_name']!r}: {error.message}")
    return found, refused


def _coverage(tasks: Mapping[str, TaskSettings], seen: Seen) -> str:
    count = len(tasks) - 1
    if not seen.knows_tasks:
        return "the defaults only"
    return f"the defaults and {count} task{'' if count == 1 else 's'}"


# --- circuit breaker ---


def breaker_settings(settings: Settings, seen: Seen) -> Item:
    """Thresholds and times are such that the breaker can open, and can close again."""
    tasks, faults = _of_tasks(settings, seen)
    doubts = list(_differences(settings, seen))
    for name, own in tasks.items():
        faults += [f"{name}: {fault}" for fault in _breaker_faults(own)]
        if not own.breaker.enabled:
            doubts.append(f"{name}: the breaker is off (`breaker.enabled`)")
    default = settings.breaker
    figures = (
        f"opens after {default.failure_threshold} failures for {default.timeout_s:g} s, closes "
        f"after {default.success_threshold} successes ({_coverage(tasks, seen)})"
    )
    return judged("circuit breaker settings", faults, doubts, figures)


def _breaker_faults(task: TaskSettings) -> Iterator[str]:
    breaker = task.breaker
    for name in ("failure_threshold", "success_threshold"):
        value = getattr(breaker, name)
        if not 1 <= value <= MOST_THRESHOLD:
            yield f"`breaker.{name}` is {value}, not from 1 to {MOST_THRESHOLD}"
    for name in ("timeout_s", "max_timeout_s"):
        value = getattr(breaker, name)
        if value is not None and not SHORTEST_OPEN_S <= value <= LONGEST_OPEN_S:
            yield f"`breaker.{name}` is {value:g}, not from {SHORTEST_OPEN_S:g} to 3600 seconds"
    reachable = task.rate_limit_per_s * breaker.window_s
    if _by_rate(breaker) and 0 < reachable < breaker.minimum_calls:
        yield (
            f"`breaker.minimum_calls` ({breaker.minimum_calls}) is never reached: "
            f"`rate_limit_per_s` allows {reachable:g} calls in `breaker.window_s`"
        )


def _by_rate(breaker: CircuitBreakerSettings) -> bool:
    return (breaker.failure_rate_threshold or breaker.slow_call_rate_threshold) is not None


def _differences(settings: Settings, seen: Seen) -> Iterator[str]:
    """Where the service was started with other settings than those that were read here."""
    running = seen.figures.get("circuit_breaker", {})
    for key, value in (
        ("failure_threshold", settings.breaker.failure_threshold),
        ("success_threshold", settings.breaker.success_threshold),
        ("timeout_seconds", settings.breaker.timeout_s),
    ):
        if running and running[key] != value:
            yield f"the running service has {key} {running[key]:g}, the configuration {value:g}"


# --- pools ---


def pool_settings(settings: Settings, seen: Seen) -> Item:
    """All pools at their largest fit into the memory budget, or it is said to cap them."""
    tasks, faults = _of_tasks(settings, seen)
    for name, own in tasks.items():
        if own.pool.max_size > settings.limits.max_instances_per_task:
            faults.append(
                f"{name}: `pool.max_size` ({own.pool.max_size}) is above "
                f"`limits.max_instances_per_task` ({settings.limits.max_instances_per_task})"
            )
    # Without any task, one with the defaults stands in for those to come.
    counted = {name: own for name, own in tasks.items() if name != DEFAULTS} or tasks
    each = {name: _instance_bytes(name, own, seen) for name, own in counted.items()}
    most = sum(own.pool.max_size * each[name] for name, own in counted.items())
    least = sum(own.pool.min_size * each[name] for name, own in counted.items())
    budget = _budget_bytes(settings, seen)
    if least > budget:
        faults.append(
            f"`pool.min_size` alone needs {mebibytes(least)}: lower it, or raise "
            "`limits.memory_budget_bytes`"
        )
    instances = sum(own.pool.max_size for own in counted.values())
    figures = (
        f"at most {instances} instances, {mebibytes(most)} of a budget of {mebibytes(budget)}"
        f"{', which caps them all together' if most > budget else ''} ({_coverage(tasks, seen)})"
    )
    return judged("pool settings", faults, [], figures)


def _instance_bytes(name: str, task: TaskSettings, seen: Seen) -> int:
    """What an instance may use, else what the largest one uses, else what the pools assume."""
    measured = max((row["memory_bytes"] for row in seen.instances_of(name)), default=0)
    return task.pool.max_memory_bytes or measured or ASSUMED_BYTES


def _budget_bytes(settings: Settings, seen: Seen) -> int:
    running = seen.figures.get("total", {}).get("memory_limit_bytes", 0)
    return running or settings.limits.memory_budget_bytes or memory_budget_bytes()


# --- data directory ---


def data_directory(settings: Settings) -> Item:
    """It can be written, is nobody else's to read, and holds at least one more deploy."""
    path = Path(settings.data_dir)
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failed("data directory", f"{there} cannot be written: check its permissions")
    free = shutil.disk_usage(there).free
    # The archive, and what it unpacks to.
    wanted = 2 * settings.artifacts.max_bytes
    faults = [] if free >= wanted else [f"a deploy may need {mebibytes(wanted)}: free some space"]
    faults += _opened_to_others(path)
    made = "" if path.exists() else ", made at the first start"
    return judged("data directory", faults, [], f"{path}{made}, {mebibytes(free)} free")


def _opened_to_others(data_dir: Path) -> list[str]:
    return [
        f"{path} is open to other users: say `chmod go-rwx {path}`"
        for path in (data_dir, data_dir / "token", data_dir / "tokens")
        if path.exists() and _is_open(path.stat())
    ]


def _is_open(found: os.stat_result) -> bool:
    """To more than its owner, and to instances that have to pass to their code."""
    passing = 0o010 if found.st_gid == INSTANCES else 0
    return bool(found.st_mode & 0o077 & ~passing)


# --- access ---


def access(settings: Settings, seen: Seen, now: datetime) -> Item:
    """Nobody manages the service from another machine without a token, or reads what is sent."""
    required = settings.auth.required
    hosts = {"http": settings.http.host}
    if settings.grpc.enabled:
        hosts["grpc"] = settings.grpc.host
    outside = [
        f"{front} listens on {host}" for front, host in hosts.items() if not is_loopback(host)
    ]
    faults: list[str] = []
    doubts: list[str] = []
    known: list[str] = []
    for look in (_certificate, _tokens):
        try:
            detail, doubt = look(settings, now)
        except SettingInvalid as error:
            faults.append(error.message)
        else:
            known.append(detail)
            doubts += filter(None, [doubt])
    if outside:
        if not settings.tls.cert_file:
            doubts.append(
                "tokens and bodies travel unencrypted: set `tls.cert_file` and `tls.key_file`, or "
                "put a proxy with TLS before it"
            )
        if required is False:
            faults.append("nothing needs a token (`auth.required = false`) and others can reach it")
    elif required is False:
        doubts.append("nothing needs a token (`auth.required = false`)")
    if seen.guarded is False and required is not False:
        faults.append("the running service lets strangers manage it: start it again")
    words = {"auto": "to manage it" if not outside else "for everything", True: "for everything"}
    needed = f"tokens are needed {words[required]}" if required in words else "no tokens"
    measured = " (a call without one was refused)" if seen.guarded else ""
    where = ", ".join(outside) or "loopback only"
    return judged("access", faults, doubts, ", ".join([where, needed + measured, *known]))


def _certificate(settings: Settings, now: datetime) -> tuple[str, str]:
    """Figures and a doubt; raises SettingInvalid when no client would accept it."""
    if not settings.tls.cert_file:
        return "no TLS", ""
    left_s = expiry(settings.tls) - now.timestamp()
    days = f"{left_s / 86_400:.0f} days"
    doubt = f"the certificate ends in {days}: renew it" if left_s < RENEW_S else ""
    return f"TLS with a certificate for {days}", doubt


def _tokens(settings: Settings, now: datetime) -> tuple[str, str]:
    """The same; raises SettingInvalid when the file cannot be read."""
    tokens = TokenFile(Path(settings.data_dir)).read()
    expired = [token.name for token in tokens if has_expired(token, now)]
    doubt = f"expired, revoke them: tokens {', '.join(expired)}" if expired else ""
    count = len(tokens) - len(expired)
    return f"{count} token{'' if count == 1 else 's'} besides the admin's", doubt
