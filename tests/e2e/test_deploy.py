"""A service as `deploy/` starts it, and other programs' own checks of what lies there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto import function_pb2_grpc as pb_grpc
from tests.certificates import Authority, needs_openssl
from tests.e2e.server import Server, eventually, serving
from tests.shelf_samples import zipped
from tests.unit.test_dependencies import OFFLINE, wheel

pytestmark = pytest.mark.slow  # real processes: `make test`

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ATLATL = Path(sys.executable).with_name("atlatl")
LARGE = "x" * 300_000
"""More than the database itself holds."""


class Told:
    """What a supervisor would have heard; it reads all the time, as one does."""

    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while message := self.sock.recv(4096):
            self.lines += message.decode().splitlines()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.sock.getsockname())
        self._reader.join()
        self.sock.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    heard = Told(tmp_path_factory.mktemp("notify") / "socket")
    yield heard
    heard.close()


@pytest.fixture(scope="module")
def server(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the unit's settings, umask and environment."""
    env = {"NOTIFY_SOCKET": told.sock.getsockname(), "WATCHDOG_USEC": "300000"}
    data_dir = tmp_path_factory.mktemp("service") / "data"
    before = os.umask(0o077)
    try:
        server = Server(data_dir, "--config", str(DEPLOY / "atlatl.toml"), env=env)
    finally:
        os.umask(before)
    with server.process:
        yield server
        server.stop()
    assert "STOPPING=1" in told.lines
    assert "EXTEND_TIMEOUT_USEC=60000000" in told.lines


def test_a_supervisor_hears_that_it_serves_and_lives(server: Server, told: Told) -> None:
    eventually(lambda: told.lines.count("WATCHDOG=1") > 4)
    assert "READY=1" in told.lines
    assert any(line.startswith(f"STATUS=serves on {server.url}") for line in told.lines)
    assert server.http.get("/metrics", headers={"authorization": ""}).status_code == 401


def test_packages_are_installed_whatever_the_umask(server: Server) -> None:
    content = zipped(
        {
            "main.py": b"import thing\n\n\ndef main():\n    return thing.VALUE\n",
            "requirements.txt": OFFLINE + b"thing\n",
            **wheel("thing", "VALUE = 42\n"),
        }
    )
    answer = server.deploy("packed", content, handler="main.py:main")
    assert answer.status_code == 201, answer.text
    assert server.call("packed").json() == 42


def test_names_are_completed_in_a_shell(server: Server) -> None:
    server.deployed("complete-me", "def main():\n    pass\n")
    script = (
        f"source <({ATLATL} completion bash); COMP_WORDS=(atlatl invoke compl); COMP_CWORD=2; "
        f'_atlatl_completion {ATLATL}; echo "${{COMPREPLY[@]}}"'
    )
    env = {**os.environ, "ATLATL_URL": server.url, "ATLATL__DATA_DIR": str(server.data_dir)}

    def offered() -> str:
        """Nothing when a slow machine has not answered in time."""
        done = subprocess.run(
            ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.strip()

    assert eventually(offered, 30) == "complete-me"


def test_a_backup_of_a_running_service_starts_another_one(server: Server, tmp_path: Path) -> None:
    server.deployed("echo", "def main(text: str):\n    return text\n")
    key = {"idempotency-key": "kept"}
    assert server.call("echo", {"text": LARGE}, headers=key).text == LARGE
    later = {"prefer": "respond-async", "atlatl-not-before": "2099-01-01T00:00:00Z"}
    accepted = server.call("echo", {"text": LARGE}, headers=later).json()["execution_id"]
    target = tmp_path / "backup"

    def backed_up() -> bool:
        """Its record is written behind its answer."""
        shutil.rmtree(target, ignore_errors=True)
        done = server.cli("backup", str(target), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["files"] >= 5

    eventually(backed_up)
    again = server.cli("backup", str(target))
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "not there yet" in again.stderr
    assert all(not path.stat().st_mode & 0o077 for path in target.rglob("*"))

    with serving(target) as restored:
        assert restored.token == server.token
        assert restored.call("echo", {"text": "a"}).text == "a"
        assert restored.call("echo", {"text": LARGE}, headers=key).text == LARGE
        waiting = restored.http.get(f"/api/v1/executions/{accepted}").json()
        assert waiting["status"] == "PENDING"


def test_no_backup_is_made_of_nothing(server: Server, tmp_path: Path) -> None:
    done = server.cli("backup", str(tmp_path / "a"), "--data-dir", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "data_dir" in done.stderr
    assert not (tmp_path / "a").exists()


# --- other programs' checks ---


def checked(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def proxied(server: Server, tmp_path: Path) -> Iterator[tuple[str, Authority]]:
    """nginx with our configuration in front of a service: its address, and whom to believe."""
    assert NGINX is not None
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.pair("DNS:localhost")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    text = (DEPLOY / "proxy" / "nginx.conf").read_text(encoding="utf-8")
    for old, new in (
        ("/etc/atlatl/fullchain.pem", str(certificate)),
        ("/etc/atlatl/key.pem", str(key)),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8081", server.url.removeprefix("http://")),
        ("127.0.0.1:50052", server.grpc),
    ):
        assert old in text
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"{user}daemon off;\npid {tmp_path}/pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{text}\n}}\n"
    )
    checked(NGINX, "-t", "-e", "stderr", "-c", whole)
    process = subprocess.Popen([NGINX, "-e", "stderr", "-c", whole])
    try:
        eventually(lambda: answers(port) or process.poll() is not None)
        yield f"localhost:{port}", authority
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


STREAM = """
import os, time

def main(go: str):
    yield "first"
    while not os.path.exists(go):
        time.sleep(0.01)
    yield "last"
"""


@needs_openssl
@pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed; get it with: sudo apt-get install nginx"
)
def test_nginx_in_front_of_a_service(server: Server, tmp_path: Path) -> None:
    server.deployed("hello", "def main(text: str = ''):\n    return len(text)\n")
    server.deployed("stream", STREAM, confinement={"level": "none"})
    with proxied(server, tmp_path) as (address, authority):
        own = {"authorization": f"Bearer {server.token}"}
        trust = authority.trusting()
        with httpx.Client(base_url=f"https://{address}", verify=trust, timeout=60) as client:
            assert client.get("/healthz").status_code == 200
            assert client.post("/functions/hello").status_code == 401
            client.headers = httpx.Headers(own)
            assert client.post("/functions/hello", json={"text": "x" * 10**6}).json() == 10**6
            assert client.post("/functions/hello", content=b"x" * (33 << 20)).status_code == 413
            go = tmp_path / "go"
            events = {"accept": "text/event-stream"}
            with client.stream(
                "POST", "/functions/stream", json={"go": str(go)}, headers=events
            ) as answer:
                lines = (line for line in answer.iter_lines() if line.startswith("data:"))
                assert "first" in next(lines)  # before the last one is made
                go.touch()
                assert "last" in next(lines)
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        with grpc.secure_channel(address, credentials) as channel:
            stub = pb_grpc.FunctionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetHealth(pb.GetHealthRequest(), timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
            metadata = [("authorization", own["authorization"])]
            assert stub.GetHealth(pb.GetHealthRequest(), timeout=20, metadata=metadata).healthy


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_caddy_takes_its_configuration() -> None:
    caddyfile = DEPLOY / "proxy" / "Caddyfile"
    checked("caddy", "validate", "--adapter", "caddyfile", "--config", caddyfile)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("drop_in", [False, True])
def test_systemd_takes_the_unit(tmp_path: Path, drop_in: bool) -> None:
    unit = (DEPLOY / "systemd" / "atlatl.service").read_text(encoding="utf-8")
    (tmp_path / "atlatl.service").write_text(unit.replace("/opt/atlatl/bin/atlatl", str(ATLATL)))
    if drop_in:
        (tmp_path / "atlatl.service.d").mkdir()
        shutil.copy(DEPLOY / "systemd" / "ordinary-user.conf", tmp_path / "atlatl.service.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "./atlatl.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


PROMTOOL = shutil.which(
    "promtool", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
)


@pytest.mark.skipif(
    PROMTOOL is None,
    reason="promtool is not installed; get it with: sudo apt-get install prometheus",
)
def test_prometheus_takes_its_configuration() -> None:
    assert PROMTOOL is not None
    folder = DEPLOY / "prometheus"
    checked(PROMTOOL, "check", "config", "--syntax-only", "prometheus.yml", cwd=folder)


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_scripts_of_other_shells_are_read(name: str, tmp_path: Path) -> None:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    script = tmp_path / "script"
    done = subprocess.run([ATLATL, "completion", name], capture_output=True, text=True, timeout=60)
    script.write_text(done.stdout)
    checked(program, "-n", script)
