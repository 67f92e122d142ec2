"""The main path through a real service: deploy, call, fail well, recover, restart."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, alive, eventually, serving

GOOD = """
def main(n: int = 0):
    return {"n": n}
"""

BAD = {
    "raises": ("def main():\n    raise ValueError('no such luck')\n", 500, "EXECUTION_ERROR"),
    "exits": ("import os\ndef main():\n    os._exit(7)\n", 502, "INSTANCE_CRASHED"),
    "sysexit": ("import sys\ndef main():\n    sys.exit(3)\n", 500, "EXECUTION_ERROR"),
    "segfault": (
        "import os, signal\ndef main():\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
        502,
        "INSTANCE_CRASHED",
    ),
    "set": ("def main():\n    return {1, 2}\n", 500, "SERIALIZATION_ERROR"),
    "nan": ("def main():\n    return float('nan')\n", 500, "SERIALIZATION_ERROR"),
    "hangs": ("import time\ndef main():\n    time.sleep(600)\n", 504, "EXECUTION_TIMEOUT"),
    "memory": ("def main():\n    raise MemoryError\n", 500, "RESOURCE_LIMIT_EXCEEDED"),
}

NAMED = {
    "raises": "no such luck",
    "exits": "7",
    "sysexit": "3",
    "segfault": "SIGSEGV",
    "set": "set",
    "nan": "NaN",
    "hangs": "150 ms",
    "memory": "emory",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service") / "data") as server:
        yield server


def test_deploy_call_list_delete(server: Server) -> None:
    assert server.deploy("hello", GOOD).status_code == 201
    assert server.deploy("hello", GOOD).status_code == 200
    answer = server.call("hello", {"n": 3})
    assert answer.status_code == 200
    assert answer.json() == {"n": 3}
    assert answer.headers["atlatl-execution-id"]
    assert answer.headers["atlatl-instance-id"]
    assert float(answer.headers["atlatl-duration-ms"]) >= 0
    listed = server.http.get("/api/v1/tasks").json()["tasks"]
    assert "hello" in [task["task_name"] for task in listed]
    assert server.http.delete("/api/v1/tasks/hello").status_code in (200, 204)
    gone = server.call("hello")
    assert (gone.status_code, gone.json()["code"]) == (404, "TASK_NOT_FOUND")


def test_two_calls_share_one_warm_instance(server: Server) -> None:
    """D75."""
    server.deployed("warm", "import os\ndef main():\n    return os.getpid()\n")
    assert server.call("warm").json() == server.call("warm").json()
    assert len(server.instances("warm")) == 1


def test_a_new_version_serves_and_a_broken_one_changes_nothing(server: Server) -> None:
    server.deployed("versioned", "def main():\n    return 1\n")
    server.deployed("versioned", "def main():\n    return 2\n")
    assert server.call("versioned").json() == 2
    refused = server.deploy("versioned", "import nothing_of_that_name\ndef main(): pass\n")
    assert refused.status_code == 422
    assert "nothing_of_that_name" in refused.json()["detail"]
    assert server.call("versioned").json() == 2
    assert server.http.get("/api/v1/tasks/versioned").json()["version"] == 2


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_handlers_fail_by_name_and_good_calls_go_on(server: Server, kind: str) -> None:
    code, status, error_code = BAD[kind]
    server.deployed("good", GOOD)
    server.deployed(f"bad-{kind}", code, timeout_ms=150, breaker={"enabled": False})
    for n in range(20):
        bad = server.call(f"bad-{kind}")
        assert (bad.status_code, bad.json()["code"]) == (status, error_code)
        assert NAMED[kind] in bad.json()["detail"]
        good = server.call("good", {"n": n})
        assert (good.status_code, good.json()) == (200, {"n": n})


@pytest.mark.parametrize("kind", sorted(BAD))
def test_the_breaker_opens_at_the_sixth_bad_call(server: Server, kind: str) -> None:
    code, status, error_code = BAD[kind]
    server.deployed("good", GOOD)
    server.deployed(f"broken-{kind}", code, timeout_ms=150)
    for n in range(20):
        bad = server.call(f"broken-{kind}")
        if n < 5:
            assert (bad.status_code, bad.json()["code"]) == (status, error_code)
        else:
            assert (bad.status_code, bad.json()["code"]) == (503, "CIRCUIT_OPEN")
            assert int(bad.headers["retry-after"]) >= 1
        assert server.call("good", {"n": n}).json() == {"n": n}


def test_ten_megabytes_of_print_are_cut_and_kept(server: Server) -> None:
    server.deployed("chatty", "def main():\n    print('x' * 10_000_000)\n    return 'done'\n")
    server.deployed("good", GOOD)
    for n in range(20):
        answer = server.call("chatty")
        assert (answer.status_code, answer.text) == (200, "done")
        assert server.call("good", {"n": n}).json() == {"n": n}
    logs = server.http.get(f"/api/v1/executions/{answer.headers['atlatl-execution-id']}/logs")
    assert 1_000_000 < len(logs.content) < 1_500_000


def test_a_thread_that_never_ends_keeps_nobody(server: Server) -> None:
    server.deployed(
        "threads",
        "import threading, time\n"
        "def main():\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    return 'ok'\n",
    )
    for _ in range(20):
        assert server.call("threads").text == "ok"
    assert server.http.delete("/api/v1/tasks/threads").status_code in (200, 204)


def test_bad_input_is_named(server: Server) -> None:
    server.deployed("typed", "def main(name: str, times: int = 1):\n    return name * times\n")
    cases = [
        ({"times": 2}, "name"),
        ({"name": "a", "tiems": 2}, "tiems"),
        ({"name": "a", "times": "two"}, "times"),
        ({"name": 5}, "name"),
    ]
    for body, named in cases:
        answer = server.call("typed", body)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
        assert named in answer.json()["detail"]
    broken = server.http.post(
        "/functions/typed", content=b'{"name": ', headers={"content-type": "application/json"}
    )
    assert (broken.status_code, broken.json()["code"]) == (400, "INVALID_REQUEST")
    assert server.call("typed", {"name": "ab", "times": 2}).text == "abab"
    assert server.http.get("/functions/typed", params={"name": "a", "times": "3"}).text == "aaa"


def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    with serving(tmp_path / "data", http__max_body_bytes=1000) as server:
        server.deployed("typed", "def main(name: str):\n    return name\n")
        big = server.call("typed", {"name": "x" * 2000})
        assert (big.status_code, big.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
        chunked = server.http.post("/functions/typed", content=iter([b"x" * 600] * 3))
        assert chunked.status_code == 413
        assert server.call("typed", {"name": "ok"}).text == "ok"


def test_what_cannot_be_deployed_is_refused_with_the_reason(server: Server) -> None:
    def zipped(**files: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in files.items():
                archive.writestr(name.replace("__", "/"), text)
        return buffer.getvalue()

    cases: list[tuple[str | bytes, dict[str, object], str]] = [
        ("def other(): pass\n", {}, "main"),
        ("def main(:\n", {}, "main.py"),
        ("import missing_thing\n", {}, "missing_thing"),
        ("def main(): pass\n", {"handler": "other.py:main"}, "other.py"),
        ("def main(): pass\n", {"pool": {"max_sise": 3}}, "max_sise"),
        ("def main(): pass\n", {"pool": {"max_concurrent_requests": 3}}, "async"),
        (zipped(**{"..__evil.py": "x = 1"}), {}, ".."),
        (b"PK\x03\x04 no archive", {}, "zip"),
    ]
    for code, settings, named in cases:
        answer = server.deploy("refused", code, **settings)
        assert answer.status_code == 422, (code, answer.text)
        assert named in answer.json()["detail"]
        assert server.http.get("/api/v1/tasks/refused").status_code == 404


def test_an_instance_killed_is_replaced(server: Server) -> None:
    server.deployed("killed", "import os\ndef main():\n    return os.getpid()\n")
    first = server.call("killed").json()
    os.kill(first, signal.SIGKILL)
    second = server.call("killed")
    if second.status_code != 200:  # the service had not noticed the death yet
        assert second.json()["code"] in ("INSTANCE_CRASHED", "INSTANCE_LOST")
        second = server.call("killed")
    assert second.json() != first


def test_after_a_restart_everything_is_served_again(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("kept", GOOD, timeout_ms=1234)
        before = server.http.get("/api/v1/tasks/kept").json()
    with serving(tmp_path / "data") as server:
        after = server.http.get("/api/v1/tasks/kept").json()
        assert after == before | {"instances": 0}
        assert server.call("kept", {"n": 5}).json() == {"n": 5}


def test_a_second_service_on_the_same_data_is_refused(server: Server) -> None:
    again = ("serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(server.data_dir))
    second = server.cli(*again)
    assert second.returncode == 1
    assert str(server.data_dir) in second.stderr
    assert "Traceback" not in second.stderr


def test_functions_of_a_directory_are_deployed(tmp_path: Path) -> None:
    functions = tmp_path / "functions"
    (functions / "pack").mkdir(parents=True)
    (functions / "one.py").write_text("def main(n: int = 1):\n    return n\n")
    (functions / "broken.py").write_text("import nowhere_to_be_found\n")
    (functions / "pack" / "app.py").write_text("import part\ndef main():\n    return part.X\n")
    (functions / "pack" / "part.py").write_text("X = 42\n")
    (functions / "pack" / "atlatl.toml").write_text("timeout_ms = 4321\n")
    (functions / "atlatl.toml").write_text("[one]\ntimeout_ms = 777\n")
    with serving(tmp_path / "data", "--functions", str(functions)) as server:
        assert server.http.get("/readyz").status_code == 200
        assert "nowhere_to_be_found" in server.output
        assert server.call("one", {"n": 2}).json() == 2
        assert server.call("pack").json() == 42
        pack = server.http.get("/api/v1/tasks/pack").json()
        assert pack["settings"]["timeout_ms"] == 4321


def test_nothing_is_left_when_zygote_and_service_are_killed(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    try:
        server.deployed(
            "daemon",
            "import os, subprocess\n"
            "def main():\n"
            "    subprocess.Popen(['sleep', '1000'])\n"
            "    if os.fork() == 0:\n"
            "        os.setsid()\n"
            "        if os.fork():\n"
            "            os._exit(0)\n"
            "        os.execvp('sleep', ['sleep', '1001'])\n"
            "    return 'ok'\n",
        )
        assert server.call("daemon").text == "ok"
        everybody = server.descendants()
        zygote = everybody[0]
        os.kill(zygote, signal.SIGKILL)
        eventually(lambda: not any(map(alive, everybody)), within_s=2.0)
        assert eventually(lambda: server.call("daemon").status_code == 200)
        everybody = server.descendants()
        assert len(everybody) >= 3
    finally:
        server.kill()
    eventually(lambda: not any(map(alive, everybody)), within_s=2.0)


@pytest.mark.timeout(300)
def test_a_thousand_calls_with_crashes_leak_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed(
            "crashing",
            "import os\n"
            "def main(n: int):\n"
            "    if n % 50 == 0:\n"
            "        os._exit(1)\n"
            "    return n\n",
            breaker={"enabled": False},
        )
        fds = Path(f"/proc/{server.process.pid}/fd")
        for n in range(1, 51):
            server.call("crashing", {"n": n})
        before = len(list(fds.iterdir()))
        for n in range(1, 1001):
            answer = server.call("crashing", {"n": n})
            assert answer.status_code == (502 if n % 50 == 0 else 200)
        eventually(lambda: len(list(fds.iterdir())) <= before + 4)
        eventually(lambda: all(map(alive, server.descendants())))


def test_cli_end_to_end(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "greet.py"
    source.write_text("def main(name: str):\n    return f'hello {name}'\n")
    deployed = server.cli("deploy", str(source))
    assert deployed.returncode == 0, deployed.stderr
    called = server.cli("invoke", "greet", "--data", '{"name": "Ada"}')
    assert (called.returncode, called.stdout.strip()) == (0, "hello Ada")
    assert "greet" in server.cli("tasks").stdout
    assert "greet" in server.cli("ps").stdout
    wrong = server.cli("invoke", "greet", "--data", "{}")
    assert wrong.returncode == 1
    assert "name" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    missing = server.cli("invoke", "gret")
    assert missing.returncode == 1
    assert "gret" in missing.stderr
    unreachable = server.cli("tasks", env={"ATLATL_URL": "http://127.0.0.1:9"})
    assert unreachable.returncode == 3
    assert server.cli("health").returncode == 0
    assert server.cli("stats", "--json").returncode == 0
    assert server.cli("delete", "greet").returncode == 0


def test_one_call_moves_metrics_pool_and_breaker(server: Server) -> None:
    """D53, D71, D76."""
    server.deployed("moved", "def main(fail: bool = False):\n    assert not fail\n    return 1\n")

    def figures() -> dict[str, dict[str, int]]:
        answer = server.http.get("/api/serverless/metrics", params={"task": "moved"})
        return dict(answer.json())

    before = figures()
    assert server.call("moved").status_code == 200
    assert server.call("moved", {"fail": True}).status_code == 500
    after = figures()
    assert after["total"]["request_count"] == before["total"]["request_count"] + 2
    assert after["total"]["error_count"] == before["total"]["error_count"] + 1
    assert after["pool"]["total_requests"] == before["pool"]["total_requests"] + 2
    rows = server.http.get("/api/v1/breakers").json()["breakers"]
    breaker = next(row for row in rows if row["task_name"] == "moved")
    assert breaker["failure_count"] == 1
    assert "AssertionError" in breaker["last_error"]
    assert server.http.get("/api/v1/tasks/moved").json()["state"] == "READY"


def test_reading_changes_nothing(server: Server) -> None:
    """D54: two readers at the same moment see the same."""
    server.deployed("read", GOOD)
    server.call("read")
    for path in ("/api/serverless/metrics?task=read", "/api/v1/pools", "/api/v1/tasks/read"):
        first, second = (server.http.get(path).json() for _ in range(2))
        for answer in (first, second):
            answer.get("total", {}).pop("uptime_seconds", None)
            answer.get("window", {}).pop("duration_seconds", None)
            answer.get("window", {}).pop("qps", None)
            answer.get("pool", {}).pop("utilization", None)
            for pool in answer.get("pools", []):
                pool.pop("utilization")
        assert first == second
