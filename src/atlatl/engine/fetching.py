"""Code from other machines: `http(s)://` locations of hosts that `artifacts.allowed_hosts` lists.

A name is looked up once per request, and the connection goes to an address of that answer: one
that is checked and then looked up again could lead elsewhere the second time (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from atlatl.core.hosts import Address, as_address, check_addresses, check_host
from atlatl.engine.sources import Source, from_bytes
from atlatl.errors import ArtifactInvalid, ArtifactNotFound, FetchFailed, InvalidRequest
from atlatl.settings import ArtifactSettings

MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 5.0
"""For each address of a host, so that one that does not answer leaves time for the next."""

Resolve = Callable[[str], Awaitable[Sequence[Address]]]

_SCHEMES = {"http": 80, "https": 443}
_NOT_THERE = (401, 403, 404, 410)


def is_remote(location: str) -> bool:
    """Whether a location is one of those that are fetched."""
    return location.partition("://")[0].lower() in _SCHEMES


async def resolve(host: str) -> Sequence[Address]:
    """All addresses of a name, the preferred one first.

    Raises:
        FetchFailed: it has none, or the name servers don't answer.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter from a label of more than 63 characters
        raise FetchFailed(f"the location's host {host[:200]} can't be looked up: {error}") from None
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


class Fetcher:
    """Reads code over HTTP.

    Args:
        limits: `allowed_hosts`, `fetch_timeout_s` and `max_bytes` count.
        resolve: looks names up.
        transport: what requests go through; None is the network.
    """

    def __init__(
        self,
        limits: ArtifactSettings,
        *,
        resolve: Resolve = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._limits = limits
        self._resolve = resolve
        self._transport = transport

    async def fetch(self, location: str) -> Source:
        """The file behind an `http(s)://` URL.

        Raises:
            InvalidRequest: a malformed URL, or a host that may not be read from.
            ArtifactNotFound: the host says that it is not there, or not for us.
            ArtifactInvalid: too large or encoded; and what `from_bytes` raises.
            FetchFailed: the host can't be reached, fails or is too slow.
        """
        limit_s = self._limits.fetch_timeout_s
        url = _parsed(location)
        try:
            async with asyncio.timeout(limit_s):
                content = await self._read(url)
        except TimeoutError:
            raise FetchFailed(
                f"{_shown(url)} was not read within `artifacts.fetch_timeout_s` ({limit_s:g} s)"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise FetchFailed(f"{_shown(url)} can't be read: {reason}") from error
        return await asyncio.to_thread(from_bytes, content, _filename(url), self._limits)

    async def _read(self, url: httpx.URL) -> bytes:
        # In a thread: reading the certificates takes 20 ms and more.
        trusted = await asyncio.to_thread(httpx.create_ssl_context)
        for _ in range(MAX_REDIRECTS + 1):
            async with self._opened(url, trusted) as answer:
                if not answer.has_redirect_location:
                    return await self._body(url, answer)
                url = _redirected(url, answer.headers["location"])
        raise FetchFailed(f"more than {MAX_REDIRECTS} redirects, the last one to {_shown(url)}")

    @asynccontextmanager
    async def _opened(
        self, url: httpx.URL, trusted: ssl.SSLContext
    ) -> AsyncIterator[httpx.Response]:
        """The answer to one request, its body not read yet.

        A client of its own for each, so that neither cookies nor connections serve another host.
        Proxies from the environment are not used: they would look the name up again.
        """
        addresses = await self._checked(url)
        async with httpx.AsyncClient(
            transport=self._transport,
            verify=trusted,
            trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        ) as client:
            answer = await _connected(client, url, addresses)
            try:
                yield answer
            finally:
                await answer.aclose()

    async def _checked(self, url: httpx.URL) -> Sequence[Address]:
        """The addresses that may be connected to."""
        host = url.raw_host.decode("ascii")
        check_host(host, url.port or _SCHEMES[url.scheme], self._limits.allowed_hosts)
        literal = as_address(host)
        addresses = await self._resolve(host) if literal is None else [literal]
        check_addresses(host, addresses)
        return addresses

    async def _body(self, url: httpx.URL, answer: httpx.Response) -> bytes:
        _check_status(url, answer)
        limit = self._limits.max_bytes
        too_large = ArtifactInvalid(
            f"{_shown(url)} is larger than `artifacts.max_bytes` ({limit}) allows"
        )
        if int(answer.headers.get("content-length", 0)) > limit:
            raise too_large
        content = bytearray()
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > limit:
                raise too_large
        return bytes(content)


async def _connected(
    client: httpx.AsyncClient, url: httpx.URL, addresses: Sequence[Address]
) -> httpx.Response:
    """Asks the first address that can be connected to, in the name of the URL's host."""
    failure: httpx.TransportError | None = None
    for address in addresses:
        request = client.build_request(
            "GET",
            url.copy_with(host=str(address)),
            headers={"host": url.netloc.decode("ascii"), "accept-encoding": "identity"},
            # The name that the certificate has to be for.
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
    raise failure or FetchFailed(f"{_shown(url)}: its host has no address")


def _check_status(url: httpx.URL, answer: httpx.Response) -> None:
    said = f"{_shown(url)} answered {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in _NOT_THERE:
        raise ArtifactNotFound(said)
    if answer.status_code != 200:
        raise FetchFailed(said)
    # Not asked for, and unpacking it could make any size of it.
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise ArtifactInvalid(f"{_shown(url)} came with Content-Encoding {encoding[:50]!r}")


def _parsed(location: str) -> httpx.URL:
    try:
        url = httpx.URL(location)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"location {location[:200]!r} is no URL: {error}") from None
    return _proper(url)


def _redirected(url: httpx.URL, target: str) -> httpx.URL:
    found = _proper(url.join(target))
    if (url.scheme, found.scheme) == ("https", "http"):
        raise InvalidRequest(f"{_shown(url)} redirects from https to http, which is not followed")
    return found


def _proper(url: httpx.URL) -> httpx.URL:
    if url.scheme not in _SCHEMES or not url.host:
        raise InvalidRequest(f"location {_shown(url)!r} is no http(s) URL with a host")
    if url.userinfo:
        raise InvalidRequest(f"{_shown(url)} has a user name in it: locations are stored and shown")
    return url


def _shown(url: httpx.URL) -> str:
    """The URL without what may be secret in it."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))[:200]


def _filename(url: httpx.URL) -> str:
    """The last part of the path if it has an ending, else empty: told from the content."""
    name = PurePosixPath(unquote(url.path)).name
    return name if PurePosixPath(name).suffix else ""
