"""`atlatl check`, item by item: what holds, what is doubtful, what fails (D57)."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from atlatl.checks import check, configured, installed, look
from atlatl.checks.item import Item
from atlatl.checks.live import Seen, confinement, metrics_endpoint
from atlatl.client import Client
from atlatl.errors import SettingInvalid, Unauthenticated
from atlatl.model import OutcomeKind
from atlatl.settings import Settings, parse
from atlatl.telemetry.figures import BreakersFigures, MemoryFigures, PoolFigures
from atlatl.telemetry.metrics import Metrics, metrics_answer
from atlatl.telemetry.prometheus import Page
from atlatl.telemetry.queues import QueueFigures
from atlatl.telemetry.service_families import ServiceScrape
from atlatl.telemetry.task_families import TaskScrape, task_label
from atlatl_worker.means import INSTANCES
from tests.unit.test_confinement import ALL

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
NOW = datetime.fromtimestamp(1_800_000_000, UTC)


def settings(**tree: Any) -> Settings:
    return parse(Settings, tree)


def task(name: str, **own: Any) -> dict[str, Any]:
    return {"task_name": name, "settings": own}


def seen(*tasks: dict[str, Any], **more: Any) -> Seen:
    return Seen(reason="", knows_tasks=True, tasks=list(tasks), **more)


def figures_of(metrics: Metrics) -> dict[str, Any]:
    pools = [PoolFigures("hello", total=3, in_use=1, available=2, max_size=4)]
    memory = MemoryFigures(limit_bytes=512 * MIB)
    return metrics_answer(metrics, pools, memory, BreakersFigures(), QueueFigures())


def exposition_of(metrics: Metrics) -> str:
    page = Page(openmetrics=False)
    for name in metrics.names():
        page.add([TaskScrape(label=task_label(name), figures=metrics.figures(name))])
    return page.text(ServiceScrape()).decode()


def busy() -> Metrics:
    metrics = Metrics(lambda: 10.0)
    for number, kind in enumerate(OutcomeKind):
        for _ in range(number + 1):
            metrics.record_request(0.02, kind, number == 0, task_name='say "hi", outcome="error"')
    return metrics


# --- circuit breaker settings ---


def test_the_defaults_are_fit_for_production() -> None:
    item = configured.breaker_settings(settings(), Seen())
    assert item.verdict == "ok"
    assert "5 failures for 30 s" in item.detail


@pytest.mark.parametrize(
    ("breaker", "named"),
    [
        ({"failure_threshold": 101}, "breaker.failure_threshold"),
        ({"success_threshold": 1000}, "breaker.success_threshold"),
        ({"timeout_s": 0.5}, "breaker.timeout_s"),
        ({"timeout_s": 3601}, "breaker.timeout_s"),
        ({"max_timeout_s": 7200}, "breaker.max_timeout_s"),
    ],
)
def test_thresholds_and_times_have_bounds(breaker: dict[str, Any], named: str) -> None:
    for item in (
        configured.breaker_settings(settings(breaker=breaker), Seen()),
        configured.breaker_settings(settings(), seen(task("mine", breaker=breaker))),
    ):
        assert item.verdict == "FAILED"
        assert named in item.detail


@pytest.mark.parametrize(
    "breaker",
    [
        {"failure_threshold": 1, "success_threshold": 100, "timeout_s": 1},
        {"failure_threshold": 100, "success_threshold": 1, "timeout_s": 3600},
    ],
)
def test_the_bounds_themselves_are_allowed(breaker: dict[str, Any]) -> None:
    assert configured.breaker_settings(settings(breaker=breaker), Seen()).verdict == "ok"


@pytest.mark.parametrize(("rate", "ok"), [(0.0, True), (1.0, False), (2.0, True)])
def test_minimum_calls_are_reachable_at_the_rate_limit(rate: float, ok: bool) -> None:
    """100 calls in 60 s are needed: 1 a second never gets there, no limit always may."""
    own = task("mine", rate_limit_per_s=rate, breaker={"failure_rate_threshold": 0.5})
    item = configured.breaker_settings(settings(), seen(own))
    assert item.ok is ok
    if not ok:
        assert "mine: `breaker.minimum_calls` (100) is never reached" in item.detail


def test_the_rate_limit_is_of_no_matter_without_a_rule_by_rate() -> None:
    item = configured.breaker_settings(settings(), seen(task("mine", rate_limit_per_s=1)))
    assert item.verdict == "ok"


def test_a_breaker_that_is_off_is_doubtful() -> None:
    item = configured.breaker_settings(settings(), seen(task("mine", breaker={"enabled": False})))
    assert item.verdict == "warning"
    assert item.detail.startswith("warning: mine: the breaker is off")


def test_a_service_with_other_settings_than_those_read_here_is_told() -> None:
    running = figures_of(busy())
    item = configured.breaker_settings(
        settings(breaker={"failure_threshold": 7}), seen(figures=running)
    )
    assert item.verdict == "warning"
    assert "failure_threshold 5, the configuration 7" in item.detail


# --- pool settings ---


def test_pools_within_the_budget() -> None:
    own = settings(limits={"memory_budget_bytes": 600 * MIB})
    item = configured.pool_settings(own, seen(task("a"), task("b")))
    assert item.detail.startswith("at most 32 instances, 512 MiB of a budget of 600 MiB (")


def test_pools_beyond_the_budget_are_capped_by_it_and_it_is_said_d37() -> None:
    own = settings(limits={"memory_budget_bytes": 400 * MIB})
    item = configured.pool_settings(own, seen(task("a"), task("b")))
    assert item.ok
    assert "512 MiB of a budget of 400 MiB, which caps them all together" in item.detail


def test_instances_that_must_be_up_have_to_fit() -> None:
    own = settings(limits={"memory_budget_bytes": 64 * MIB})
    item = configured.pool_settings(own, seen(task("a", pool={"min_size": 5})))
    assert item.verdict == "FAILED"
    assert "`pool.min_size` alone needs 80 MiB" in item.detail


def test_memory_is_the_limit_else_what_was_measured_else_assumed() -> None:
    tasks = [
        task("limited", pool={"max_size": 1, "max_memory_bytes": 100 * MIB}),
        task("measured", pool={"max_size": 1}),
        task("new", pool={"max_size": 1}),
    ]
    running = [
        {"task_name": "limited", "memory_bytes": 7 * MIB},
        {"task_name": "measured", "memory_bytes": 30 * MIB},
        {"task_name": "measured", "memory_bytes": 40 * MIB},
        {"task_name": "new", "memory_bytes": 0},
    ]
    own = settings(limits={"memory_budget_bytes": 1024 * MIB})
    item = configured.pool_settings(own, seen(*tasks, instances=running))
    assert "3 instances, 156 MiB" in item.detail


def test_the_budget_is_that_of_the_running_service() -> None:
    item = configured.pool_settings(settings(), seen(figures=figures_of(busy())))
    assert "of a budget of 512 MiB" in item.detail


def test_a_pool_above_the_limit_of_the_service_fails() -> None:
    item = configured.pool_settings(settings(pool={"max_size": 51}), Seen())
    assert item.verdict == "FAILED"
    assert "`limits.max_instances_per_task` (50)" in item.detail


def test_settings_of_a_task_that_no_longer_fit_are_told() -> None:
    """They would be refused at the next start."""
    own = task("mine", pool={"min_size": 9})
    item = configured.pool_settings(settings(pool={"max_size": 4}), seen(own))
    assert item.verdict == "FAILED"
    assert "task 'mine'" in item.detail


# --- metrics endpoint ---


def test_figures_that_agree_with_prometheus() -> None:
    metrics = busy()
    figures = figures_of(metrics)
    item = metrics_endpoint(
        seen(figures=figures, figures_after=figures, exposition=exposition_of(metrics))
    )
    assert item.verdict == "ok", item.detail
    assert "10 figures agree" in item.detail


def test_calls_between_the_readings_are_no_disagreement() -> None:
    metrics = busy()
    before = figures_of(metrics)
    metrics.record_request(0.01, "error", task_name="x")
    text = exposition_of(metrics)
    metrics.record_request(0.01, "success", task_name="x")
    item = metrics_endpoint(
        seen(figures=before, figures_after=figures_of(metrics), exposition=text)
    )
    assert item.verdict == "ok", item.detail


def test_figures_that_disagree_with_prometheus() -> None:
    metrics = busy()
    figures, text = figures_of(metrics), exposition_of(metrics)
    wrong = re.sub(r"(?m)^(faas_errors_total\{.*\}) .*$", r"\1 99", text)
    item = metrics_endpoint(seen(figures=figures, figures_after=figures, exposition=wrong))
    assert item.verdict == "FAILED"
    assert "error_count is" in item.detail


@pytest.mark.parametrize("key", ["request_count", "pool_size"])
def test_figures_that_contradict_each_other_d44(key: str) -> None:
    metrics = busy()
    figures = figures_of(metrics)
    figures["total"][key] += 1
    item = metrics_endpoint(
        seen(figures=figures, figures_after=figures, exposition=exposition_of(metrics))
    )
    assert item.verdict == "FAILED"
    assert key in item.detail


def test_no_service_is_a_doubt_and_a_fault_when_it_was_named() -> None:
    assert metrics_endpoint(Seen(reason="nobody")).verdict == "warning"
    assert metrics_endpoint(Seen(reason="nobody", expected=True)).verdict == "FAILED"


def test_looking_takes_what_is_answered_and_says_why_the_rest_is_missing() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/serverless/metrics":
            return httpx.Response(200, json={"total": {}})
        if request.url.path == "/metrics":
            return httpx.Response(200, text="# TYPE a_total counter\n")
        problem = {"type": "urn:atlatl:error:unauthenticated", "detail": "this needs a token"}
        content_type = {"content-type": "application/problem+json"}
        return httpx.Response(401, headers=content_type, content=json.dumps(problem))

    with Client(transport=httpx.MockTransport(handle)) as client:
        found = look(client)
        with pytest.raises(Unauthenticated):
            client.tasks()
    assert found.exposition.startswith("# TYPE")
    assert found.guarded is True
    assert found.knows_tasks is False
    assert found.reason == "this needs a token"


# --- alert rules ---


def alerts() -> list[installed.Alert]:
    path = installed.shipped(installed.ALERTS)
    assert path is not None
    return installed.alerts_in(path.read_text(encoding="utf-8"))


def test_the_shipped_alerts() -> None:
    assert [each.name for each in alerts()] == [
        "AtlatlBreakerOpen",
        "AtlatlErrorRate",
        "AtlatlLatencyP99",
        "AtlatlPoolExhausted",
        "AtlatlStartFailures",
        "AtlatlQueueOld",
        "AtlatlQueueFilling",
        "AtlatlDeadLetters",
        "AtlatlCallbacksGivenUp",
        "AtlatlRecordsDropped",
    ]


def test_alerts_name_only_what_is_exported() -> None:
    item = installed.alert_rules(exposition_of(busy()), "")
    assert item.ok, item.detail
    assert all("atlatl_" in each.expression or "faas_" in each.expression for each in alerts())


def test_a_name_that_is_not_exported_fails() -> None:
    text = exposition_of(busy()).replace("atlatl_pool_waiting", "atlatl_pool_queue")
    item = installed.alert_rules(text, "")
    assert item.verdict == "FAILED"
    assert "does not export atlatl_pool_waiting" in item.detail


def test_an_incomplete_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alerts.yml"
    file.write_text("rules:\n      - alert: Mine\n        expr: up == 0\n")
    monkeypatch.setattr(installed, "shipped", lambda _: file)
    item = installed.alert_rules("", "")
    assert item.verdict == "FAILED"
    assert "alert Mine has no `labels`" in item.detail


def test_a_missing_file_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "shipped", lambda _: None)
    assert installed.alert_rules("", "").verdict == "FAILED"
    assert installed.documentation().verdict == "FAILED"
    assert installed.benchmark().verdict == "warning"


@contextmanager
def prometheus(answer: Any) -> Iterator[str]:
    """A server that answers the one question that it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200 if self.path == "/api/v1/rules" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def rules(*names: str, health: str = "ok") -> dict[str, Any]:
    loaded = [{"type": "alerting", "name": name, "health": health} for name in names]
    recording = {"type": "recording", "name": "x", "health": "ok"}
    return {"data": {"groups": [{"name": "atlatl", "rules": [recording, *loaded]}]}}


def test_a_prometheus_server_that_has_loaded_them() -> None:
    with prometheus(rules(*(each.name for each in alerts()), health="unknown")) as url:
        item = installed.alert_rules("", url)
    assert item.ok
    assert f"loaded by {url}" in item.detail


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (rules("AtlatlBreakerOpen"), "has not loaded AtlatlErrorRate, AtlatlLatencyP99"),
        (rules(*(each.name for each in alerts()), health="err"), "AtlatlErrorRate fails on"),
        ({"data": None}, "is no Prometheus server"),
        ([], "is no Prometheus server"),
    ],
)
def test_a_prometheus_server_that_has_not(answer: Any, said: str) -> None:
    with prometheus(answer) as url:
        item = installed.alert_rules("", url)
    assert item.verdict == "FAILED"
    assert said in item.detail


def test_a_prometheus_server_that_is_not_there() -> None:
    item = installed.alert_rules("", "http://127.0.0.1:1")
    assert item.verdict == "FAILED"
    assert "http://127.0.0.1:1 can't be asked" in item.detail


# --- benchmark, documentation ---


@pytest.mark.parametrize(("version", "verdict"), [(installed.VERSION, "ok"), ("0.0.1", "warning")])
def test_the_benchmark_is_of_this_version(
    version: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "baseline.json"
    stored = {"version": version, "together_ns": 2345.6, "at": "then", "machine": {"cpu": "x"}}
    file.write_text(json.dumps(stored))
    monkeypatch.setattr(installed, "shipped", lambda _: file)
    item = installed.benchmark()
    assert item.verdict == verdict
    assert "2,346 ns" in item.detail


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json"])
def test_a_broken_result_is_none(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(content)
    monkeypatch.setattr(installed, "shipped", lambda _: file)
    assert installed.benchmark().verdict == "warning"


def test_the_reference_is_of_this_version_and_complete() -> None:
    item = installed.documentation()
    assert item.verdict == "ok", item.detail


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"of atlatl {installed.VERSION};", "of atlatl 0.0.1;", "is not of"),
        ("| `max_uses` |", "| `max_used` |", "lacks `pool.max_uses`"),
        ("QUEUE_FULL", "QUEUE", "lacks QUEUE_FULL"),
    ],
)
def test_another_reference_fails(
    old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (installed.SETTINGS_PAGE, installed.ERRORS_PAGE):
        page = (ROOT / place).read_text(encoding="utf-8")
        (tmp_path / Path(place).name).write_text(page.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(installed, "shipped", lambda place: tmp_path / Path(place).name)
    item = installed.documentation()
    assert item.verdict == "FAILED"
    assert said in item.detail


# --- data directory, access, confinement ---


def test_the_data_directory_has_room_and_can_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    item = configured.data_directory(settings(data_dir=str(tmp_path), artifacts={"max_bytes": 1}))
    assert item.verdict == "ok", item.detail
    assert "MiB free" in item.detail


def test_a_data_directory_without_room_fails(tmp_path: Path) -> None:
    own = settings(data_dir=str(tmp_path), artifacts={"max_bytes": 2**60})
    item = configured.data_directory(own)
    assert item.verdict == "FAILED"
    assert "free some space" in item.detail


def test_one_that_is_yet_to_be_made_is_judged_by_where_it_will_be(tmp_path: Path) -> None:
    own = settings(data_dir=str(tmp_path / "a" / "b"), artifacts={"max_bytes": 1})
    item = configured.data_directory(own)
    assert item.ok
    assert "made at the first start" in item.detail
    (tmp_path / "a").write_text("a file")
    assert configured.data_directory(own).verdict == "FAILED"


def test_one_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert configured.data_directory(settings(data_dir=str(tmp_path))).verdict == "FAILED"


def test_instances_may_pass_through_the_data_directory() -> None:
    def found(mode: int, gid: int) -> os.stat_result:
        return os.stat_result((0o040000 | mode, 1, 1, 1, 0, gid, 0, 0, 0, 0))

    assert not configured._is_open(found(0o700, 0))
    assert not configured._is_open(found(0o710, INSTANCES))
    assert configured._is_open(found(0o710, 0))
    assert configured._is_open(found(0o750, INSTANCES))
    assert configured._is_open(found(0o711, INSTANCES))


def test_a_token_that_others_can_read_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    own = settings(data_dir=str(tmp_path), artifacts={"max_bytes": 1})
    item = configured.data_directory(own)
    assert item.verdict == "FAILED"
    assert f"chmod go-rwx {token}" in item.detail


@pytest.mark.parametrize(
    ("tree", "guarded", "verdict"),
    [
        ({}, None, "ok"),
        ({}, True, "ok"),
        ({}, False, "FAILED"),
        ({"auth": {"required": True}}, True, "ok"),
        ({"auth": {"required": False}}, False, "warning"),
        ({"http": {"host": "0.0.0.0"}}, True, "warning"),
        ({"grpc": {"host": "::"}}, True, "warning"),
        ({"grpc": {"host": "::", "enabled": False}}, True, "ok"),
        ({"http": {"host": "0.0.0.0"}, "auth": {"required": False}}, False, "FAILED"),
        ({"http": {"host": "0.0.0.0"}}, False, "FAILED"),
    ],
)
def test_access(tree: dict[str, Any], guarded: bool | None, verdict: str) -> None:
    item = configured.access(settings(**tree), seen(guarded=guarded), NOW)
    assert item.verdict == verdict, item.detail


def process(proc: Path, pid: int, command: bytes, **status: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(command)
    lines = [f"{name}:\t{value}" for name, value in {"Pid": str(pid), **status}.items()]
    (proc / str(pid) / "status").write_text("\n".join(lines))


def pool(name: str, *not_kept: str, level: str = "standard") -> dict[str, Any]:
    return {"task_name": name, "confinement": {"level": level, "not_kept": list(not_kept)}}


def test_confinement_that_is_kept_is_ok() -> None:
    item = confinement(settings(), seen(pools=[pool("a")]), ALL)
    assert item.verdict == "ok"
    assert item.detail == "tried here: `standard` and `strict` are kept"


def test_confinement_says_what_was_tried_and_is_not_kept() -> None:
    kept = replace(ALL, landlock=0, network_namespaces=False)
    item = confinement(settings(), Seen(), kept)
    assert item.verdict == "warning"
    assert "`standard` is kept, but for files: all that its user may open" in item.detail
    assert item.detail.count("files: all that its user may open") == 1
    assert "`strict` is refused: network: no network namespace" in item.detail
    assert confinement(settings(), Seen(), None).detail == "nothing could be tried"


def test_confinement_of_tasks_is_what_their_service_says() -> None:
    pools = [pool("a", "files: open"), pool("b", "files: open"), pool("c", level="none")]
    item = confinement(settings(), seen(pools=pools), ALL)
    assert item.verdict == "warning"
    assert "not kept for 'a', 'b': files: open" in item.detail
    assert "task 'c' is not confined" in item.detail
    item = confinement(settings(confinement={"level": "none"}), Seen(), ALL)
    assert "not confined unless they ask for it" in item.detail


def test_confinement_is_measured_on_the_instances_of_this_machine(tmp_path: Path) -> None:
    zygote = b"python\0-I\0/lib/atlatl_worker/zygote.py\0"
    held = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16}
    process(tmp_path, 7, zygote, **held, Uid="1000\t1000\t1000\t1000")
    process(tmp_path, 8, b"another\0", NoNewPrivs="0", Uid="0\t0\t0\t0")
    pools = [pool("a"), pool("free", level="none"), pool("old", "system calls: all are allowed")]
    service = {"instances": [{"task_name": "a", "pid": pid} for pid in (7, 8, 9)], "pools": pools}
    item = confinement(settings(), seen(**service), ALL, tmp_path)
    assert "measured on 1 of the instances" in item.detail
    assert item.ok

    process(tmp_path, 9, zygote, NoNewPrivs="0", Seccomp="0", CapEff="f", Uid="0\t0\t0\t0")
    item = confinement(settings(), seen(**service), ALL, tmp_path)
    assert item.verdict == "FAILED"
    for fault in ("NoNewPrivs 0, and should have 1", "Seccomp 0", "CapEff f", "runs as root"):
        assert f"the instance with pid 9 {'' if ' as ' in fault else 'has '}{fault}" in item.detail

    # A service that cannot make it another user's says so by itself.
    process(tmp_path, 12, zygote, **held, Uid="0\t0\t0\t0")
    reported = [*pools, pool("root", "user: it runs as root")]
    rows = [{"task_name": "root", "pid": 12}]
    item = confinement(settings(), seen(instances=rows, pools=reported), ALL, tmp_path)
    assert item.verdict == "warning"
    assert "not kept for 'root': user: it runs as root" in item.detail

    process(tmp_path, 10, zygote, NoNewPrivs="1", Seccomp="0", CapEff="f", Uid="0\t0\t0\t0")
    process(tmp_path, 11, zygote, **{**held, "Seccomp": "0"}, Uid="1\t1\t1\t1")
    rows = [{"task_name": "free", "pid": 10}, {"task_name": "old", "pid": 11}]
    item = confinement(settings(), seen(instances=rows, pools=pools), ALL, tmp_path)
    assert item.ok
    assert "measured on 2 of the instances" in item.detail


# --- all together ---


def test_every_item_is_there_once(tmp_path: Path) -> None:
    items = check(settings(data_dir=str(tmp_path)))
    assert [each.item for each in items] == [
        "circuit breaker settings",
        "pool settings",
        "metrics endpoint",
        "alert rules",
        "benchmark",
        "documentation",
        "data directory",
        "access",
        "confinement",
    ]
    assert all(isinstance(each, Item) and each.detail for each in items)


@pytest.mark.parametrize(
    ("tree", "item"),
    [
        ({"pool": {"min_size": 99}}, "pool settings"),
        ({"scaling": {"scale_up_threshold": 0.1}}, "pool settings"),
        ({"breaker": {"failure_threshold": -1}}, "circuit breaker settings"),
        ({"nonsense": 1}, "configuration"),
    ],
)
def test_refused_settings_are_a_failed_item(tree: dict[str, Any], item: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        settings(**tree)
    first, *others = check(caught.value)
    assert (first.item, first.ok) == (item, False)
    assert "alert rules" in [each.item for each in others]


def test_details_are_single_lines() -> None:
    for each in check(settings(data_dir="/nowhere")):
        assert "\n" not in msgspec.json.encode(each).decode()
        assert "\n" not in each.detail
