"""Tokens and TLS of a real service, by the command line and both fronts."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from scripts.stranger import Stranger
from tests.certificates import Authority, needs_openssl
from tests.e2e.server import Server, eventually, serving

pytestmark = pytest.mark.slow  # real processes: `make test`

CODE = "def main(n: int = 0):\n    print('n is', n)\n    return n\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service") / "data", auth__required=True) as server:
        for name in ("billing-a", "billing-b", "other"):
            server.deployed(name, CODE)
        yield server


def token(data_dir: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "atlatl.cli", "token", *arguments, "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def status(server: Server, secret: str, path: str = "/functions/billing-a") -> int:
    return httpx.post(server.url + path, headers=bearing(secret)).status_code


def bearing(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def made(server: Server, *arguments: str) -> str:
    """A token that the running service knows already."""
    secret = token(server.data_dir, "create", *arguments)
    eventually(lambda: status(server, secret, "/api/v1/invocations") != 401)
    return secret


def test_a_running_service_knows_of_tokens_made_and_revoked(server: Server) -> None:
    secret = made(server, "--scope", "invoke", "--name", "ci")
    assert status(server, secret) == 200
    with httpx.Client(base_url=server.url, headers=bearing(secret)) as client:
        assert client.post("/functions/billing-a", json={"n": 1}).json() == 1
        assert client.get("/api/v1/tasks").status_code == 403
        with Stranger(server.grpc, token=secret) as stranger:
            call = {"task_id": "billing-a", "execution_mode": 1}
            assert stranger.ask("InvokeFunction", **call).success
            token(server.data_dir, "revoke", "ci")
            # The very connections that were let in before.
            eventually(lambda: client.post("/functions/billing-a").status_code == 401)
            with pytest.raises(grpc.RpcError) as caught:
                stranger.ask("InvokeFunction", **call)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
    listed = server.cli("token", "list", "--json")
    assert "ci" not in [row["name"] for row in json.loads(listed.stdout)["tokens"]]


def test_a_token_is_written_nowhere(server: Server) -> None:
    secret = made(server, "--scope", "deploy")
    status(server, secret)
    status(server, secret + "x")
    files = [path for path in server.data_dir.rglob("*") if path.is_file()]
    assert server.data_dir / "tokens" in files
    holders = [path for path in files if secret.encode() in path.read_bytes()]
    assert holders == []
    assert secret not in server.output


def test_a_limited_token_sees_its_own_tasks_only(server: Server) -> None:
    for n in range(6):
        server.call("billing-a", {"n": n})
        server.call("other", {"n": n})
        later = {"Prefer": "respond-async"}
        server.call("other", {"n": n}, headers=later)
        server.call("billing-b", {"n": n}, headers=later)
    secret = made(server, "--scope", "admin", "--task", "billing-*")
    with httpx.Client(base_url=server.url, headers=bearing(secret)) as client:
        mine = {"billing-a", "billing-b"}
        assert {row["task_name"] for row in client.get("/api/v1/tasks").json()["tasks"]} == mine
        for what in ("pools", "breakers", "instances"):
            rows = client.get(f"/api/v1/{what}").json()[what]
            assert {row["task_name"] for row in rows} <= mine
            assert rows
        routes = client.get("/api/serverless/functions").json()["routes"]
        assert {row["task_name"] for row in routes} == mine
        assert client.get("/api/v1/dead-letters").json()["dead_letters"] == []

        every = server.http.get("/api/v1/executions?limit=1000").json()["executions"]
        of_others = [row["execution_id"] for row in every if row["task_name"] == "other"]
        # Of tasks that are gone too: the name decides.
        wanted = [row["execution_id"] for row in every if row["task_name"].startswith("billing-")]
        assert len(of_others) >= 12
        assert len(wanted) >= 12
        seen: list[str] = []
        after = ""
        while after is not None:
            page = client.get(f"/api/v1/executions?limit=5&start_after={after}").json()
            assert len(page["executions"]) <= 5
            seen += [row["execution_id"] for row in page["executions"]]
            after = page["next_start_after"]
        assert seen == wanted
        assert client.get(f"/api/v1/executions/{of_others[0]}").status_code == 404
        assert client.get(f"/api/v1/executions/{wanted[0]}").status_code == 200

        assert client.post("/functions/billing-a", json={"n": 2}).json() == 2
        assert client.post("/functions/other").status_code == 403
        for name, expected in (("billing-new", 201), ("other", 403), ("new", 403)):
            answer = client.put(f"/api/v1/tasks/{name}", content=CODE.encode())
            assert answer.status_code == expected, answer.text
        assert client.delete("/api/v1/tasks/billing-new").status_code == 200
        assert client.delete("/api/v1/tasks/other").status_code == 403
    with Stranger(server.grpc, token=secret) as stranger:
        assert {each.task_name for each in stranger.ask("ListTasks").tasks} == mine
        listed = stranger.ask("ListExecutions", limit=1000).executions
        assert {each.execution_id for each in listed} >= set(wanted)
        assert not {each.execution_id for each in listed} & set(of_others)


def test_a_limited_token_cannot_take_the_code_of_others(server: Server) -> None:
    """The artifact of a task is known by its id, which for a deployed one is its name."""
    secret = made(server, "--scope", "deploy", "--task", "billing-*")
    with Stranger(server.grpc, token=secret) as stranger:
        creating: dict[str, Any] = {
            "invocation_type": 1,
            "execution_mode": 1,
            "task_name": "billing-copy",
        }
        with pytest.raises(grpc.RpcError) as caught:
            stranger.ask("InvokeFunction", artifact_spec={"artifact_id": "other"}, **creating)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED  # type: ignore[attr-defined]
        own = {"artifact_id": "billing-a"}
        assert stranger.ask("InvokeFunction", artifact_spec=own, **creating).success
    assert server.http.delete("/api/v1/tasks/billing-copy").status_code == 200


def test_only_an_administrator_deploys_without_confinement(server: Server) -> None:
    free = {"confinement": {"level": "none"}}
    secret = made(server, "--scope", "deploy")

    def put(name: str, settings: dict[str, Any], code: str = CODE) -> httpx.Response:
        return httpx.put(
            f"{server.url}/api/v1/tasks/{name}",
            headers=bearing(secret),
            files={"artifact": ("main.py", code.encode())},
            data={"settings": json.dumps(settings)},
            timeout=60,
        )

    refused = put("free", free)
    assert (refused.status_code, refused.json()["code"]) == (403, "PERMISSION_DENIED")
    assert "admin" in refused.json()["detail"]
    assert server.http.get("/api/v1/tasks/free").status_code == 404
    assert put("kept", {}).status_code == 201
    assert put("kept", free).status_code == 403
    try:
        assert server.deploy("free", CODE, **free).status_code == 201
        # Nor does whoever may only deploy put other code into it: his runs confined.
        assert put("free", free, CODE + "# changed\n").status_code == 403
        assert put("free", {}, CODE + "# changed\n").is_success
        pools = server.http.get("/api/v1/pools").json()["pools"]
        levels = {row["task_name"]: row["confinement"]["level"] for row in pools}
        assert (levels["free"], levels["kept"]) == ("standard", "standard")
    finally:
        for name in ("free", "kept"):
            server.http.delete(f"/api/v1/tasks/{name}")


def test_a_rate_holds_over_both_fronts(server: Server) -> None:
    secret = token(server.data_dir, "create", "--scope", "invoke", "--rate-limit", "0.001")
    # The one request that it has shows that it is known.
    eventually(lambda: status(server, secret) == 200)
    answer = httpx.post(server.url + "/functions/billing-a", headers=bearing(secret))
    assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) > 900
    with Stranger(server.grpc, token=secret) as stranger, pytest.raises(grpc.RpcError) as caught:
        stranger.ask("GetHealth")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_tokens_are_made_before_the_first_start_and_end_by_themselves(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    lasting = token(data_dir, "create", "--scope", "deploy")
    with serving(data_dir, auth__required=True) as server:
        assert httpx.get(server.url + "/api/v1/tasks", headers=bearing(lasting)).status_code == 200
        brief = made(server, "--scope", "deploy", "--expires", "3s")
        eventually(lambda: status(server, brief) == 401)
        assert "expired" in httpx.get(server.url + "/api/v1/tasks", headers=bearing(brief)).text
        listed = json.loads(server.cli("token", "list", "--json").stdout)["tokens"]
        assert [row["expired"] for row in listed] == [False, True]


def test_off_loopback_the_service_says_what_needs_a_token(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--host", "0.0.0.0") as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        server.http.base_url = server.url
        warnings = [line for line in server.lines if line.startswith("warning: ")]
        assert len(warnings) == 2
        assert "HTTP on 0.0.0.0" in warnings[0]
        assert "gRPC" not in warnings[0]
        assert "/healthz, /readyz, /openapi.json and / needs a token" in warnings[0]
        assert "no TLS" in warnings[1]
        server.deployed("open", CODE)
        for path in ("/healthz", "/readyz", "/openapi.json", "/"):
            assert httpx.get(server.url + path).status_code == 200
        for path in ("/functions/open", "/metrics", "/api/v1/health"):
            assert httpx.get(server.url + path).status_code == 401
        with Stranger(server.grpc, token="") as stranger:
            call = {"task_id": "open", "execution_mode": 1}
            assert stranger.ask("InvokeFunction", **call).success


def test_a_service_that_is_open_to_all_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "data", auth__required=False) as server:
        (warning,) = [line for line in server.lines if line.startswith("warning: ")]
        assert "nothing needs a token" in warning
    with serving(tmp_path / "data") as server:
        assert "warning" not in server.output


# --- TLS ---


@needs_openssl
def test_both_fronts_speak_tls_and_take_a_new_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    show(authority.pair("IP:127.0.0.1"), cert, key)
    tls = {"tls__cert_file": str(cert), "tls__key_file": str(key)}
    with serving(tmp_path / "data", ca_file=authority.file, **tls) as server:
        assert server.url.startswith("https://")
        assert "warning" not in server.output
        server.deployed("hello", CODE)
        assert server.call("hello", {"n": 3}).json() == 3
        roots = authority.file.read_bytes()
        assert called(server.grpc, roots) == b"0"
        # The command line: by the authority, or not at all; nor with any other authority.
        good = {"ATLATL_CA_FILE": str(authority.file)}
        assert server.cli("invoke", "hello", env=good).stdout.strip() == "0"
        assert server.cli("invoke", "hello", "--ca-file", str(authority.file)).returncode == 0
        refused = server.cli("invoke", "hello")
        assert refused.returncode == 3
        assert "--ca-file" in refused.stderr
        before = fingerprint(server)
        cert.write_bytes(authority.pair("IP:127.0.0.1")[0].read_bytes())  # without its key
        eventually(lambda: "stays as it was" in server.output)
        assert fingerprint(server) == before
        assert called(server.grpc, roots) == b"0"
        show(authority.pair("IP:127.0.0.1"), cert, key)
        eventually(lambda: fingerprint(server) != before)
        assert called(server.grpc, cert.read_bytes()) == b"0"
        assert server.call("hello", {"n": 4}).json() == 4


@needs_openssl
def test_the_command_line_believes_the_service_that_its_settings_describe(tmp_path: Path) -> None:
    """By its very certificate, though that has another name, and its authority is unknown."""
    authority = Authority(tmp_path / "authority")
    cert, key = authority.pair("DNS:functions.example.org")
    tls = {"tls__cert_file": str(cert), "tls__key_file": str(key)}
    with serving(tmp_path / "data", ca_file=authority.file, **tls) as server:
        port = server.url.rpartition(":")[2]
        env = {
            "ATLATL_URL": "",
            "ATLATL__HTTP__PORT": port,
            "ATLATL__TLS__CERT_FILE": str(cert),
            "ATLATL__TLS__KEY_FILE": str(key),
        }
        assert server.cli("health", env=env).returncode == 0
        checked = json.loads(server.cli("check", "--json", env=env).stdout)["items"]
        (item,) = [each for each in checked if each["item"] == "access"]
        assert item["ok"]
        for words in ("TLS with a certificate for", "a call without one was refused", "0 tokens"):
            assert words in item["detail"], item
        others, other_key = authority.pair("DNS:functions.example.org")
        env |= {"ATLATL__TLS__CERT_FILE": str(others), "ATLATL__TLS__KEY_FILE": str(other_key)}
        assert server.cli("health", env=env).returncode == 3


@needs_openssl
def test_a_certificate_that_does_not_fit_is_no_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, _ = authority.pair("IP:127.0.0.1")
    _, key = authority.pair("IP:127.0.0.1")
    with pytest.raises(AssertionError, match="are no certificate and its key"):
        Server(tmp_path / "data", tls__cert_file=str(cert), tls__key_file=str(key))


def show(pair: tuple[Path, Path], *targets: Path) -> None:
    for source, target in zip(pair, targets, strict=True):
        fresh = target.with_suffix(".new")
        shutil.copy(source, fresh)
        fresh.rename(target)


def fingerprint(server: Server) -> str:
    """Of the certificate that a new connection is shown."""
    url = httpx.URL(server.url)
    return ssl.get_server_certificate((url.host, url.port or 0), timeout=10)


def called(address: str, roots: bytes) -> bytes:
    """What `hello` answers over gRPC to somebody who believes these."""
    from atlatl.front.proto import function_pb2 as pb

    request = pb.InvokeFunctionRequest(task_id="hello", execution_mode=1)
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), options) as channel:
        call: Any = channel.unary_unary("/spearlet.FunctionService/InvokeFunction")
        answer = pb.InvokeFunctionResponse.FromString(call(request.SerializeToString(), timeout=20))
    return bytes(answer.result.result.value)
