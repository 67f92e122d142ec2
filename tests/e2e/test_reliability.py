"""The promises of the reliability core, kept by a real service under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.load import Answer, Caller, NotAnswered, flood, once, quantile
from tests.e2e.server import Server, alive, eventually, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SLEEPS = "import time\ndef main(s: float = 0.05):\n    time.sleep(s)\n    return s\n"
WORKS = (
    "import time\n"
    "def main(s: float = 0.005):\n"
    "    end = time.process_time() + s\n"
    "    while time.process_time() < end:\n"
    "        pass\n"
    "    return s\n"
)
ECHO = "def main(n: int):\n    return n\n"
FAST = {"scale_interval_s": 0.1, "scale_down_cooldown_s": 0}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data") as server:
        yield server


def _figures(server: Server, task: str = "") -> dict[str, Any]:
    params = {"task": task} if task else {}
    answer = server.http.get("/api/serverless/metrics", params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_two_hundred_at_once_on_eight_instances(server: Server) -> None:
    settings = {"max_size": 8, "min_size": 1, "idle_timeout_s": 0.5}
    server.deployed("sleeps", SLEEPS, pool=settings, scaling=FAST)

    async def main() -> list[tuple[int, int, Answer]]:
        done: list[tuple[int, int, Answer]] = []

        async def one(place: int) -> None:
            # Sent one after the other, so that the order of arrival is known.
            await asyncio.sleep(place * 0.002)
            answer = await once(server.url, "sleeps")
            done.append((len(done), place, answer))

        await asyncio.gather(*(one(place) for place in range(200)))
        return done

    done = asyncio.run(main())
    assert all(answer.status == 200 for _, _, answer in done)
    assert len({answer.headers["atlatl-instance-id"] for _, _, answer in done}) <= 8
    # First come, first served: nobody is overtaken by more than those who run beside.
    assert max(abs(order - place) for order, place, _ in done) < 3 * 8
    rows = eventually(lambda: len(r := server.instances("sleeps")) == 1 and r, within_s=20)
    assert alive(rows[0]["pid"])
    assert server.call("sleeps").status_code == 200


@pytest.mark.parametrize(
    ("flood_code", "flood_body", "flood_settings"),
    [
        (WORKS, {"s": 0.005}, {"pool": {"max_size": 1}}),
        (SLEEPS, {"s": 0.05}, {}),
    ],
    ids=["cpu", "sleep"],
)
def test_a_flooded_task_leaves_the_other_alone(
    server: Server, flood_code: str, flood_body: Any, flood_settings: dict[str, Any]
) -> None:
    server.deployed("quiet", WORKS, pool={"max_size": 1})
    server.deployed("flooded", flood_code, **flood_settings)

    async def quiet(seconds: float) -> list[Answer]:
        """About a quarter of what one instance can do."""
        answers = []
        end = time.monotonic() + seconds
        async with Caller(server.url) as caller:
            while time.monotonic() < end:
                answers.append(await caller.call("quiet"))
                await asyncio.sleep(0.015)
        return answers

    async def both() -> tuple[list[Answer], list[Answer], list[Answer]]:
        await quiet(0.5)
        alone = await quiet(4.0)
        # Ten times what the flooded task can do: its one instance works 200 calls a second.
        rush = asyncio.create_task(
            flood(server.url, "flooded", callers=60, seconds=5.0, body=flood_body)
        )
        await asyncio.sleep(0.5)
        beside = await quiet(4.0)
        return alone, beside, await rush

    # Three machines in one: callers, service and functions share two cores with whatever
    # else runs here. The promise is checked on the best of three rounds.
    ratios = []
    for _ in range(3):
        alone, beside, rush = asyncio.run(both())
        assert {a.status for a in (*alone, *beside)} == {200}
        assert {a.status for a in rush} <= {200, 429}
        ratios.append(quantile(beside, 0.99) / quantile(alone, 0.99))
        if ratios[-1] <= 2:
            break
    assert min(ratios) <= 2, ratios


def test_breakers_open_by_both_rules_and_refusals_are_counted(server: Server) -> None:
    half = "def main(n: int):\n    if n % 2:\n        raise ValueError('odd')\n    return n\n"
    window = {"failure_rate_threshold": 0.4, "minimum_calls": 20, "window_s": 30}
    server.deployed("half", half, breaker=window)
    codes = [server.call("half", {"n": n}) for n in range(40)]
    first = [answer.status_code for answer in codes].index(503)
    assert 19 <= first <= 21
    assert all(answer.json()["code"] == "CIRCUIT_OPEN" for answer in codes[first:])
    server.deployed("always", "def main():\n    raise ValueError('always')\n")
    statuses = [server.call("always").status_code for _ in range(10)]
    assert statuses == [500] * 5 + [503] * 5
    figures = _figures(server, "always")
    assert figures["total"]["rejected_count"] == 5
    assert figures["window"]["rejected_count"] == 5
    assert figures["circuit_breaker"]["state"] == "open"
    assert figures["circuit_breaker"]["rejected_count"] == 5
    everything = _figures(server)
    assert everything["total"]["rejected_count"] == 5 + len(codes) - first
    assert everything["circuit_breaker"]["functions"] == {
        "always": {"state": "open"},
        "half": {"state": "open"},
    }
    assert server.http.post("/api/v1/breakers/always/reset").status_code == 200
    assert server.call("always").status_code == 500


def test_the_breaker_keeps_its_word_on_the_running_service(server: Server) -> None:
    """Closed under successes, open after three failures, and one probe when its time is over."""
    code = (
        "import time\n"
        "def main(fail: bool = False, s: float = 0):\n"
        "    assert not fail\n"
        "    time.sleep(s)\n"
    )
    breaker = {"failure_threshold": 3, "success_threshold": 1, "timeout_s": 1.0}
    server.deployed("guarded", code, breaker=breaker)
    assert [server.call("guarded").status_code for _ in range(10)] == [200] * 10
    assert [server.call("guarded", {"fail": True}).status_code for _ in range(3)] == [500] * 3
    uses = sum(row["uses"] for row in server.instances("guarded"))
    refused = server.call("guarded")
    assert (refused.status_code, refused.json()["code"]) == (503, "CIRCUIT_OPEN")
    assert sum(row["uses"] for row in server.instances("guarded")) == uses
    time.sleep(1.0)

    async def a_hundred() -> list[Answer]:
        callers = [once(server.url, "guarded", {"s": 1.0}) for _ in range(100)]
        return list(await asyncio.gather(*callers))

    answers = asyncio.run(a_hundred())
    assert Counter(answer.status for answer in answers) == {200: 1, 503: 99}
    rows = server.http.get("/api/v1/breakers").json()["breakers"]
    assert [row["state"] for row in rows] == ["closed"]
    assert server.call("guarded").status_code == 200


def test_the_pool_keeps_its_word_on_the_running_service(server: Server) -> None:
    pool = {"min_size": 2, "max_size": 8}
    scaling = {
        "scale_up_threshold": 0.5,
        "scale_down_threshold": 0.2,
        "scale_interval_s": 0.1,
        "scale_down_cooldown_s": 0,
    }
    server.deployed("sleeps", SLEEPS, pool=pool, scaling=scaling)
    assert len(server.instances("sleeps")) == 2

    async def two() -> None:
        await asyncio.gather(*(once(server.url, "sleeps", {"s": 2.0}) for _ in range(2)))

    async def main() -> int:
        leased = asyncio.create_task(two())
        await asyncio.sleep(0.05)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            grown = len(await asyncio.to_thread(server.instances, "sleeps"))
            if grown > 2:
                break
        await leased
        return grown

    assert asyncio.run(main()) > 2
    rows = eventually(lambda: len(r := server.instances("sleeps")) == 2 and r, within_s=20)
    assert all(alive(row["pid"]) for row in rows)
    assert server.call("sleeps").status_code == 200


class _Restarter:
    """The service behind one port, restarted in the middle."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir, self.port = data_dir, port
        self.logs: list[Path] = []
        self.start()

    def start(self) -> None:
        self.logs.append(self.data_dir.with_name(f"log-{len(self.logs)}"))
        with self.logs[-1].open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "atlatl.cli", "serve", "--port", str(self.port),
                 "--grpc-port", "0", "--data-dir", str(self.data_dir)],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )  # fmt: skip

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 0

    def successes(self) -> Counter[str]:
        """Executions that the service says it completed, by id."""
        seen: Counter[str] = Counter()
        for log in self.logs:
            for line in log.read_text().splitlines():
                event = json.loads(line)
                assert event["event"] != "log lines dropped"
                if event["event"] == "Task execution completed":
                    assert event["outcome"] == "success", event
                    seen[event["execution_id"]] += 1
        return seen


class _Traffic:
    """Four fifths of the time bursts of 20 and more calls, else silence: the pool must breathe."""

    PULSE_S = 3.0
    SILENCE_S = 0.6

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered: list[Answer] = []
        self.refused: list[Answer] = []
        self.unanswered = 0

    async def run(self, seconds: float, rate: int) -> None:
        """About `rate` calls a second over the whole time."""
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(Caller(self.url)) for _ in range(40)]
            for _ in range(round(seconds / self.PULSE_S)):
                await self._pulse(callers, int(rate * self.PULSE_S))
                await asyncio.sleep(self.SILENCE_S)

    async def _pulse(self, callers: list[Caller], count: int) -> None:
        sending_s = self.PULSE_S - self.SILENCE_S
        began, n = time.monotonic(), 0
        while (passed := time.monotonic() - began) < sending_s:
            burst = callers[: int(passed / sending_s * count) - n]
            if len(burst) >= 20:
                await asyncio.gather(*(self._one(c, n + i) for i, c in enumerate(burst)))
                n += len(burst)
            else:
                await asyncio.sleep(0.005)

    async def _one(self, caller: Caller, n: int) -> None:
        try:
            answer = await caller.call("echo", {"n": n})
        except NotAnswered:
            self.unanswered += 1
            await asyncio.sleep(0.05)
        else:
            if answer.status == 200:
                assert json.loads(answer.body) == n
                self.answered.append(answer)
            else:
                self.refused.append(answer)


async def _change(service: _Restarter, url: str, token: str, settings: Any, pause: float) -> int:
    """Twenty new versions, and a restart in the middle; how often the pool shrank before it."""
    shrunk = 0
    for version in range(20):
        await asyncio.sleep(pause)
        code = ECHO + f"# {version}\n"
        answer = await asyncio.to_thread(_deploy, url, token, code, settings)
        assert answer in (200, 201), answer
        if version == 9:
            shrunk = await asyncio.to_thread(_scale_downs, url, token)
            await asyncio.to_thread(service.term)
            service.start()
            await asyncio.to_thread(eventually, lambda: _ready(url), 20)
    return shrunk


def test_no_started_call_fails_through_redeploys_scaling_and_a_restart(tmp_path: Path) -> None:
    settings = {"pool": {"max_size": 6}, "scaling": FAST}
    with serving(tmp_path / "data") as first:
        port = int(first.url.rpartition(":")[2])
        first.deployed("echo", ECHO, **settings)
        token = first.token
    service = _Restarter(tmp_path / "data", port)
    url = f"http://127.0.0.1:{port}"
    traffic = _Traffic(url)
    seconds, rate = 60.0, 1000

    async def main() -> int:
        await asyncio.to_thread(eventually, lambda: _ready(url), 20)
        changes = _change(service, url, token, settings, seconds / 25)
        _, shrunk = await asyncio.gather(traffic.run(seconds, rate), changes)
        return shrunk

    try:
        shrunk = asyncio.run(main()) + _scale_downs(url, token)
    finally:
        service.term()
    assert len(traffic.answered) > seconds * rate * 0.5
    for answer in traffic.refused:
        assert answer.status in (429, 503), answer
        assert int(answer.headers["retry-after"]) >= 1
    # What the service completed, callers were told: an answer was lost nowhere.
    told = Counter(answer.headers["atlatl-execution-id"] for answer in traffic.answered)
    assert service.successes() == told
    assert shrunk >= 20
    print(
        f"{len(traffic.answered)} answered, {len(traffic.refused)} refused with a hint, "
        f"{traffic.unanswered} found nobody listening; the pool shrank {shrunk} times"
    )


def _ready(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _deploy(url: str, token: str, code: str, settings: dict[str, Any]) -> int:
    import httpx

    return httpx.put(
        f"{url}/api/v1/tasks/echo",
        files={"artifact": ("main.py", code.encode())},
        data={"settings": json.dumps(settings)},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
    ).status_code


def _scale_downs(url: str, token: str) -> int:
    import httpx

    headers = {"authorization": f"Bearer {token}"}
    text = httpx.get(f"{url}/metrics", headers=headers, timeout=10).text
    line = 'atlatl_pool_scalings_total{faas_name="echo",direction="down"}'
    found = [row for row in text.splitlines() if row.startswith(line)]
    return int(float(found[0].split()[1])) if found else 0
