"""Code from other machines: from hosts that are listed, within size and time (D105)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest

from atlatl.core.hosts import Address
from atlatl.engine.fetching import Fetcher
from atlatl.engine.sources import Source
from atlatl.errors import (
    ArtifactInvalid,
    ArtifactNotFound,
    AtlatlError,
    ChecksumMismatch,
    FetchFailed,
    InvalidRequest,
    UnsupportedOperation,
)
from atlatl.settings import ArtifactSettings
from tests.file_host import FileHost, file_host
from tests.shelf_samples import CODE, on_shelf, zipped
from tests.store_samples import sha256

PUBLIC = "93.184.216.34"


@pytest.fixture
def host() -> Iterator[FileHost]:
    with file_host() as host:
        host.files["/hello.py"] = CODE
        yield host


def fetch(location: str, directory: Path, checksum: str = "", **limits: object) -> Source:
    return on_shelf(directory, lambda shelf, _: shelf.fetch(location, checksum), **limits)


def fetch_from(host: FileHost, path: str, directory: Path, **limits: object) -> Source:
    return fetch(host.url + path, directory, allowed_hosts=(host.address,), **limits)


def test_a_file_of_a_listed_host(host: FileHost, tmp_path: Path) -> None:
    host.files["/latest"] = zipped({"app.py": CODE})
    assert fetch_from(host, "/hello.py?v=1#top", tmp_path) == Source(
        content=CODE, filename="hello.py", checksum=sha256(CODE)
    )
    assert fetch_from(host, "/latest", tmp_path).filename == "main.zip"
    path, headers = host.asked[0]
    assert path == "/hello.py?v=1"
    assert headers["host"] == host.address
    assert headers["accept-encoding"] == "identity"


def test_a_host_is_refused_unless_it_is_listed(host: FileHost, tmp_path: Path) -> None:
    for allowed in ((), ("127.0.0.1",), ("localhost",), ("*.example.org",)):
        with pytest.raises(InvalidRequest, match=r"`artifacts\.allowed_hosts`"):
            fetch(f"{host.url}/hello.py", tmp_path, allowed_hosts=allowed)
    assert host.asked == []


def test_a_listed_name_that_leads_to_a_private_address_d105(host: FileHost, tmp_path: Path) -> None:
    port = host.server_port
    with pytest.raises(InvalidRequest, match=r"leads to (127\.0\.0\.1|::1), which is no public"):
        fetch(f"http://localhost:{port}/", tmp_path, allowed_hosts=(f"localhost:{port}",))
    assert host.asked == []


def test_redirects_are_checked_like_the_first_request_d105(host: FileHost, tmp_path: Path) -> None:
    port = host.server_port
    host.redirects = {
        "/near": "hello.py",
        "/private": "http://10.0.0.1/x.py",
        "/metadata": "//169.254.169.254/x.py",
        "/other-port": "http://127.0.0.1:1/x.py",
        "/by-name": f"http://localhost:{port}/hello.py",
        "/file": "file:///etc/passwd",
        "/user": f"http://example.org:secret@{host.address}/hello.py",
    }
    assert fetch_from(host, "/near", tmp_path).content == CODE
    for path in set(host.redirects) - {"/near"}:
        with pytest.raises(InvalidRequest):
            fetch_from(host, path, tmp_path)


def test_redirects_end(host: FileHost, tmp_path: Path) -> None:
    host.redirects = {"/circle": "/circle"}
    with pytest.raises(FetchFailed, match="more than 5 redirects"):
        fetch_from(host, "/circle", tmp_path)
    assert len(host.asked) == 6


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("/endless", ArtifactInvalid, r"`artifacts\.max_bytes` \(2000\)"),
        ("/large.py", ArtifactInvalid, r"`artifacts\.max_bytes` \(2000\)"),
        ("/packed.py", ArtifactInvalid, "Content-Encoding 'gzip'"),
        ("/nothing", ArtifactNotFound, "answered 404"),
        ("/status/403", ArtifactNotFound, "answered 403"),
        ("/status/503", FetchFailed, "answered 503"),
        ("/module.wasm", UnsupportedOperation, r"module\.wasm"),
    ],
)
def test_hosts_that_do_not_give_what_is_wanted(
    host: FileHost, tmp_path: Path, path: str, error: type[AtlatlError], says: str
) -> None:
    host.files |= {"/large.py": b"#" * 2001, "/module.wasm": b"\0asm"}
    with pytest.raises(error, match=says):
        fetch_from(host, path, tmp_path, max_bytes=2000)


@pytest.mark.parametrize("path", ["/silent", "/endless"])
def test_the_time_limit_holds_whether_a_host_keeps_sending_or_not(
    host: FileHost, tmp_path: Path, path: str
) -> None:
    with pytest.raises(FetchFailed, match=r"`artifacts\.fetch_timeout_s` \(0\.2 s\)"):
        fetch_from(host, path, tmp_path, max_bytes=10**12, fetch_timeout_s=0.2)


def test_another_checksum_than_stated(host: FileHost, tmp_path: Path) -> None:
    location, allowed = f"{host.url}/hello.py", (host.address,)
    assert fetch(location, tmp_path, sha256(CODE), allowed_hosts=allowed).content == CODE
    with pytest.raises(ChecksumMismatch):
        fetch(location, tmp_path, "0" * 64, allowed_hosts=allowed)


def test_a_host_that_does_not_listen(tmp_path: Path) -> None:
    with file_host() as host:
        pass
    with pytest.raises(FetchFailed, match=r"/hello\.py can't be read"):
        fetch_from(host, "/hello.py", tmp_path)


@pytest.mark.parametrize(
    "location",
    [
        "http://",
        "https:///x.py",
        "http://example.org:secret@example.org/x.py",
        "http://example.org:99999/x.py",
        "http://[::1/x.py",
        "http://example.org\n.test/",
        "http://" + "a" * 70_000,
    ],
)
def test_urls_that_are_none_d105(tmp_path: Path, location: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        fetch(location, tmp_path, allowed_hosts=("example.org",))
    assert "secret" not in str(refused.value)
    assert len(str(refused.value)) < 500


class Net:
    """Names that lead where a test says, and hosts that answer what a test says."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names
        """For each name the answers to be given in turn."""
        self.requests: list[httpx.Request] = []
        self.answer: Callable[[httpx.Request], httpx.Response] = lambda _: httpx.Response(
            200, stream=httpx.ByteStream(CODE)
        )

    async def resolve(self, host: str) -> Sequence[Address]:
        return [ip_address(address) for address in self.names[host].pop(0)]

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer(request)

    def fetch(self, location: str, *allowed: str) -> Source:
        fetcher = Fetcher(
            ArtifactSettings(allowed_hosts=allowed),
            resolve=self.resolve,
            transport=httpx.MockTransport(self.handle),
        )
        return asyncio.run(fetcher.fetch(location))


def test_the_address_that_was_checked_is_connected_to_d105() -> None:
    """A second look-up would lead to this machine: DNS rebinding."""
    net = Net({"example.org": [[PUBLIC], ["127.0.0.1"]]})
    assert net.fetch("https://example.org/hello.py", "example.org").content == CODE
    (request,) = net.requests
    assert request.url == f"https://{PUBLIC}/hello.py"
    assert request.headers["host"] == "example.org"
    assert request.extensions["sni_hostname"] == "example.org"


def test_each_redirect_is_looked_up_and_checked_anew_d105() -> None:
    net = Net({"a.test": [[PUBLIC], ["127.0.0.1"]]})
    net.answer = lambda _: httpx.Response(307, headers={"location": "/again"})
    with pytest.raises(InvalidRequest, match=r"a\.test leads to 127\.0\.0\.1"):
        net.fetch("https://a.test/x", "a.test")
    assert len(net.requests) == 1


@pytest.mark.parametrize("text", ["http://[::1", "http://[fe80::1%\udce3]/x"])
def test_what_is_no_url_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no URL"):
        Net({}).fetch(text, "a.test")


def test_a_redirect_to_what_is_no_url_is_the_hosts_fault() -> None:
    net = Net({"a.test": [[PUBLIC]]})
    net.answer = lambda _: httpx.Response(307, headers={"location": "s:////["})
    with pytest.raises(FetchFailed, match="redirects to what is no URL"):
        net.fetch("https://a.test/x", "a.test")


def test_a_redirect_takes_neither_cookies_nor_encryption_away() -> None:
    net = Net({"a.test": [[PUBLIC]], "b.test": [[PUBLIC]]})
    cookie = {"set-cookie": "id=1; Path=/"}
    replies = iter(
        [
            httpx.Response(302, headers={"location": "https://b.test/x", **cookie}),
            httpx.Response(302, headers={"location": "http://b.test/x"}),
        ]
    )
    net.answer = lambda _: next(replies)
    with pytest.raises(InvalidRequest, match="from https to http"):
        net.fetch("https://a.test/x", "*.test")
    assert "cookie" not in net.requests[1].headers


def test_an_address_that_does_not_answer_gives_way_to_the_next() -> None:
    net = Net({"a.test": [["2606:4700::1", PUBLIC]]})

    def answer(request: httpx.Request) -> httpx.Response:
        if ":" in request.url.host:
            raise httpx.ConnectError("network is unreachable")
        return httpx.Response(200, stream=httpx.ByteStream(CODE))

    net.answer = answer
    assert net.fetch("http://a.test:81/x.py", "a.test:81").content == CODE
    assert [str(one.url) for one in net.requests] == [
        "http://[2606:4700::1]:81/x.py",
        f"http://{PUBLIC}:81/x.py",
    ]
    assert {one.headers["host"] for one in net.requests} == {"a.test:81"}


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    label = "a" * 64  # longer than a name server may be asked for: no look-up leaves the machine
    with pytest.raises(FetchFailed, match="can't be looked up"):
        fetch(f"http://{label}.test/x.py", tmp_path, allowed_hosts=("*.test",))
