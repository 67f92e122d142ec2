"""The certificate of both fronts: what is refused, and what new connections get after a change."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvloop

from atlatl.checks import configured
from atlatl.errors import SettingInvalid
from atlatl.front import tls as module
from atlatl.front.auth import Authorizer
from atlatl.front.grpc import GrpcServer
from atlatl.front.listener import HttpListener
from atlatl.front.tls import Certificates, expiry, trusting_only
from atlatl.settings import GrpcSettings, HttpSettings, Settings, TlsSettings, parse
from tests import ordinary
from tests.certificates import Authority, needs_openssl
from tests.unit import test_grpc_front as rpc
from tests.unit.fast_fakes import asks, fast_path, served
from tests.unit.front_fakes import TOKEN, front
from tests.unit.test_checks import seen

pytestmark = [needs_openssl, pytest.mark.slow]  # real sockets: `make test`

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "stranger")


class Files:
    """What the settings name; `show` replaces both, as a renewal does."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key, self.clients = (directory / n for n in ("c.pem", "k.pem", "ca.pem"))

    def show(self, pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, (self.cert, self.key), strict=True):
            fresh = target.with_suffix(".new")
            shutil.copy(source, fresh)
            fresh.rename(target)

    def settings(self, *, clients: bool = False) -> TlsSettings:
        return TlsSettings(
            cert_file=str(self.cert),
            key_file=str(self.key),
            client_ca_file=str(self.clients) if clients else "",
        )


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    made = Files(tmp_path)
    made.show(authority.pair("IP:127.0.0.1"))
    return made


def run(work: Callable[[], Coroutine[Any, Any, None]], loop: Any = uvloop.new_event_loop) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(work(), 60))


async def serial(port: int, tls: ssl.SSLContext) -> str:
    """Of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    await writer.wait_closed()
    return str(found)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture, loop: Any
) -> None:
    certificates = Certificates(files.settings())
    tls = authority.trusting()

    async def main() -> None:
        service = served()
        listener = HttpListener(
            front(service), HttpSettings(port=0), fast_path(service), certificates.context
        )
        server = GrpcServer(
            GrpcSettings(port=0),
            rpc.FakeService(),
            Authorizer(TOKEN),
            certificates.for_grpc(),  # type: ignore[arg-type]
        )
        await listener.start()
        await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=tls)
            before = await serial(listener.port, tls)
            assert await serial(listener.port, tls) == before
            await grpc_says_hello(server.port, authority)
            # What does not fit together changes nothing.
            files.cert.write_bytes(authority.pair("IP:127.0.0.1")[0].read_bytes())
            certificates.look()
            assert await serial(listener.port, tls) == before
            await grpc_says_hello(server.port, authority)
            files.key.write_bytes(b"nonsense")
            certificates.look()
            files.key.unlink()
            certificates.look()
            certificates.look()
            assert await serial(listener.port, tls) == before
            files.show(authority.pair("IP:127.0.0.1"))
            certificates.look()
            after = await serial(listener.port, tls)
            assert after != before
            # gRPC takes it too: with the old one, a client that trusts only the new would fail.
            only = files.cert.read_bytes()
            await grpc_says_hello(server.port, only)
            writer.write(asks("echo", b"still here", b"Connection: close"))
            assert (await reader.read()).endswith(b"still here")
            writer.close()
            await writer.wait_closed()
        finally:
            await server.stop(0)
            await listener.stop()

    run(main, loop)
    warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 3, warnings
    assert all("stays as it was" in each and str(files.key) in each for each in warnings)


async def grpc_says_hello(port: int, trusted: Authority | bytes, **keys: bytes) -> None:
    roots = trusted if isinstance(trusted, bytes) else trusted.file.read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=roots, **keys)
    # A channel of its own each time: others share connections.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call: Any = channel.unary_unary("/spearlet.FunctionService/GetHealth")
        await call(b"", timeout=10)


def test_a_call_over_tls_goes_the_short_way(files: Files, authority: Authority) -> None:
    certificates = Certificates(files.settings())

    async def main() -> None:
        service = served()
        long_way = []
        application = front(service)

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            long_way.append((scope["path"], scope["scheme"]))
            await application(scope, receive, send)

        listener = HttpListener(
            counted, HttpSettings(port=0), fast_path(service), certificates.context
        )
        await listener.start()
        url = f"https://127.0.0.1:{listener.port}"
        async with httpx.AsyncClient(verify=authority.trusting(), base_url=url) as client:
            for _ in range(3):
                assert (await client.post("/functions/echo", content=b"1")).content == b"1"
            large = await client.post("/functions/large", content=b"1")
            assert len(large.content) > 100_000
            assert long_way == []
            assert (await client.get("/healthz")).status_code == 200
            assert long_way == [("/healthz", "https")]
            # Without TLS there is nothing to be had, and nothing to be logged.
            with pytest.raises(httpx.TransportError):
                await client.get(url.replace("https", "http") + "/healthz")
        await listener.stop()

    run(main)


def test_clients_show_a_certificate_where_that_is_asked_for(
    files: Files, authority: Authority, stranger: Authority
) -> None:
    shutil.copy(authority.file, files.clients)
    certificates = Certificates(files.settings(clients=True))

    def showing(pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        tls = authority.trusting()
        if pair is not None:
            tls.load_cert_chain(*pair)
        return tls

    def keys(pair: tuple[Path, Path]) -> dict[str, bytes]:
        return {"certificate_chain": pair[0].read_bytes(), "private_key": pair[1].read_bytes()}

    async def main() -> None:
        service = served()
        listener = HttpListener(front(service), HttpSettings(port=0), None, certificates.context)
        server = GrpcServer(
            GrpcSettings(port=0),
            rpc.FakeService(),
            Authorizer(TOKEN),
            certificates.for_grpc(),  # type: ignore[arg-type]
        )
        await listener.start()
        await server.start()

        async def asks_with(pair: tuple[Path, Path] | None) -> bool:
            try:
                async with httpx.AsyncClient(verify=showing(pair)) as client:
                    answer = await client.get(f"https://127.0.0.1:{listener.port}/healthz")
            except httpx.TransportError:
                return False
            return answer.status_code == 200

        async def calls_with(pair: tuple[Path, Path] | None) -> bool:
            try:
                await grpc_says_hello(server.port, authority, **(keys(pair) if pair else {}))
            except grpc.aio.AioRpcError:
                return False
            return True

        ours, theirs = authority.pair("DNS:client"), stranger.pair("DNS:client")
        for attempt in (asks_with, calls_with):
            assert await attempt(ours)
            assert not await attempt(None)
            assert not await attempt(theirs)
        # Whom to believe may change too.
        shutil.copy(stranger.file, files.clients)
        certificates.look()
        for attempt in (asks_with, calls_with):
            assert await attempt(theirs)
            assert not await attempt(ours)
        await server.stop(0)
        await listener.stop()

    run(main)


def test_a_pair_that_could_not_be_read_for_a_moment_is_taken_at_the_next_look(
    files: Files, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many_files(_: TlsSettings) -> None:
        raise SettingInvalid("`tls.cert_file` cannot be read: Too many open files")

    certificates = Certificates(files.settings())
    before = certificates._pair.chain
    files.show(authority.pair("IP:127.0.0.1"))
    with monkeypatch.context() as patched:
        patched.setattr(module, "load", too_many_files)
        certificates.look()
        assert certificates._pair.chain == before
    certificates.look()
    assert certificates._pair.chain == files.cert.read_bytes() != before


def test_what_cannot_be_shown_is_refused_at_the_start(
    files: Files, authority: Authority, tmp_path: Path
) -> None:
    key = files.key.read_bytes()
    for content, told in ((b"", "key"), (authority.pair("DNS:x")[1].read_bytes(), "MISMATCH")):
        files.key.write_bytes(content)
        with pytest.raises(SettingInvalid, match=r"tls\.key_file") as caught:
            Certificates(files.settings())
        assert told in caught.value.message
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-out", files.key],
        input=key, check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(SettingInvalid, match="the key has a password"):
        Certificates(files.settings())
    files.key.unlink()
    with pytest.raises(SettingInvalid, match=r"`tls\.key_file` .* cannot be read: No such file"):
        Certificates(files.settings())
    files.key.write_bytes(key)
    files.clients.write_text("nobody")
    with pytest.raises(SettingInvalid, match=r"tls\.client_ca_file"):
        Certificates(files.settings(clients=True))
    with pytest.raises(SettingInvalid, match="go together"):
        parse(Settings, {"tls": {"cert_file": "a.pem"}})
    with pytest.raises(SettingInvalid, match="needs `cert_file`"):
        parse(Settings, {"tls": {"client_ca_file": "a.pem"}})


def test_certificates_may_have_words_of_any_script_between_them(
    files: Files, authority: Authority
) -> None:
    named = "# Főtanúsítvány\n".encode()
    files.cert.write_bytes(named + files.cert.read_bytes())
    files.clients.write_bytes(named + authority.file.read_bytes())
    Certificates(files.settings(clients=True))
    assert expiry(files.settings(clients=True)) > datetime.now(UTC).timestamp()


AS_NOBODY = """
import ctypes, json, pathlib, sys, tempfile
from atlatl.front.tls import load
from atlatl.settings import TlsSettings
with tempfile.TemporaryDirectory() as directory:
    named = {}
    for name, content in json.load(sys.stdin).items():
        path = pathlib.Path(directory, name)
        path.write_text(content)
        named[name] = str(path)
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
    load(TlsSettings(**named))
print("read")
"""


def test_the_pair_can_be_read_by_an_ordinary_user_whom_nobody_may_trace(files: Files) -> None:
    """The bytes go through a descriptor of the process, which such a process may still open."""
    contents = {"cert_file": files.cert.read_text(), "key_file": files.key.read_text()}
    root = os.geteuid() == 0
    done = subprocess.run(
        [ordinary.python() if root else sys.executable, "-c", AS_NOBODY],
        input=json.dumps(contents),
        capture_output=True,
        text=True,
        **(ordinary.as_user() if root else {}),
    )
    assert (done.stdout, done.stderr) == ("read\n", "")


# --- for those who look from outside ---


def test_when_a_certificate_ends(files: Files, authority: Authority) -> None:
    now = datetime.now(UTC).timestamp()
    files.show(authority.pair("DNS:a", days=90))
    assert expiry(files.settings()) == pytest.approx(now + 90 * DAY_S, abs=1000)


def test_a_client_that_trusts_one_certificate_trusts_no_other_of_its_authority(
    files: Files, authority: Authority
) -> None:
    certificates = Certificates(files.settings())

    async def main() -> None:
        listener = HttpListener(front(served()), HttpSettings(port=0), None, certificates.context)
        await listener.start()
        chain = files.cert.read_bytes() + authority.file.read_bytes()
        await serial(listener.port, trusting_only(chain))
        other = authority.pair("IP:127.0.0.1")[0].read_bytes() + authority.file.read_bytes()
        with pytest.raises(ssl.SSLCertVerificationError):
            await serial(listener.port, trusting_only(other))
        await listener.stop()

    run(main)
    with pytest.raises(ValueError, match=r"NO_|no start line|not enough"):
        trusting_only(b"nothing")


@pytest.mark.parametrize(
    ("days", "verdict", "said"),
    [(90, "ok", "90 days"), (5, "warning", "renew"), (-1, "FAILED", "expired")],
)
def test_atlatl_check_looks_at_the_certificate(
    files: Files, authority: Authority, tmp_path: Path, days: int, verdict: str, said: str
) -> None:
    files.show(authority.pair("DNS:a", days=days) if days > 0 else authority.expired())
    tree: dict[str, Any] = {
        "data_dir": str(tmp_path),
        "http": {"host": "0.0.0.0"},
        "tls": {"cert_file": str(files.cert), "key_file": str(files.key)},
    }
    now = datetime.now(UTC)
    item = configured.access(parse(Settings, tree), seen(guarded=True), now)
    assert item.verdict == verdict, item.detail
    assert said in item.detail
    assert "unencrypted" not in item.detail
