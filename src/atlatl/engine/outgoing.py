"""Requests to hosts that somebody else names, at addresses that were checked.

A name is looked up once per request, and the connection goes to an address of that answer: one
that is checked and then looked up again could lead elsewhere the second time (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial

import httpx

from atlatl.core.hosts import Address, as_address
from atlatl.errors import InvalidRequest

CONNECT_TIMEOUT_S = 5.0
"""For each address of a host, so that one that does not answer leaves time for the next."""

MAX_URL_CHARS = 4096
"""Percent-encoded they are up to twelve times as many, and there is a limit to that too."""

PORTS = {"http": 80, "https": 443}
"""Of the schemes that there are."""

_UNKNOWN_ISSUER = (18, 19, 20, 21)
"""Of OpenSSL's `X509_V_ERR_...`: nobody who is trusted has signed it."""
_OWN_AUTHORITY = (
    "; to trust an authority of your own, start the service with `SSL_CERT_FILE` naming a file "
    "with its certificate and those of all other authorities that are needed"
)

_OWN_HEADERS = {"accept-encoding": "identity"}

Resolve = Callable[[str], Awaitable[Sequence[Address]]]


async def resolve(host: str, threads: Executor | None = None) -> Sequence[Address]:
    """All addresses of a name, the preferred one first.

    Args:
        host: the name, in ASCII.
        threads: where the look-up waits; None is the loop's own.

    Raises:
        httpx.ConnectError: it has none, or the name servers don't answer.
    """
    look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(threads, look_up)
    except (OSError, UnicodeError) as error:  # the latter from a label of more than 63 characters
        raise httpx.ConnectError(f"its host can't be looked up: {error}") from None
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


class Outgoing:
    """Sends requests.

    Args:
        resolve: looks names up.
        transport: what requests go through; None is the network.
    """

    def __init__(
        self, *, resolve: Resolve = resolve, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._resolve = resolve
        self._transport = transport
        self._trusted: ssl.SSLContext | None = None

    async def addresses(self, url: httpx.URL) -> Sequence[Address]:
        """What the URL's host leads to; raises httpx.ConnectError when that is nothing."""
        host, _ = place_of(url)
        literal = as_address(host)
        return await self._resolve(host) if literal is None else [literal]

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        url: httpx.URL,
        addresses: Sequence[Address],
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """The answer to one request, its body not read yet.

        A client of its own for each, so that neither cookies nor connections serve another host.
        Proxies from the environment are not used: they would look the name up again. Redirects
        are not followed. There is no limit of time but for connecting.

        Args:
            method: of HTTP.
            url: whose host is asked by its name.
            addresses: of the host, checked; the first one that can be connected to is used.
            headers: besides those that every request has.
            content: of the request.

        Raises:
            httpx.HTTPError: the host can't be reached, or breaks off.
        """
        async with httpx.AsyncClient(
            transport=self._transport,
            verify=await self._certificates(),
            trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        ) as client:
            requests = [
                client.build_request(
                    method,
                    url.copy_with(host=str(address)),
                    headers={**_OWN_HEADERS, **(headers or {}), "host": url.netloc.decode("ascii")},
                    content=content,
                    # The name that the certificate has to be for.
                    extensions={"sni_hostname": url.raw_host.decode("ascii")},
                )
                for address in addresses
            ]
            answer = await _sent(client, requests)
            try:
                yield answer
            finally:
                await answer.aclose()

    async def _certificates(self) -> ssl.SSLContext:
        if self._trusted is None:
            # In a thread, and once: reading them takes 20 ms and more.
            self._trusted = await asyncio.to_thread(httpx.create_ssl_context)
        return self._trusted


async def _sent(client: httpx.AsyncClient, requests: Sequence[httpx.Request]) -> httpx.Response:
    """Sends the first request whose address can be connected to."""
    failure: httpx.TransportError = httpx.ConnectError("its host has no address")
    for request in requests:
        try:
            return await client.send(request, stream=True)
        except httpx.ConnectTimeout:
            failure = httpx.ConnectTimeout(f"no connection within {CONNECT_TIMEOUT_S:g} s")
        except httpx.ConnectError as error:
            failure = _of_certificate(error) or error
    raise failure


def _of_certificate(error: BaseException | None) -> httpx.ConnectError | None:
    """What a connection failed by, in words, when that is the other side's certificate."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__context__  # httpcore names no cause
    if error is None:
        return None
    hint = _OWN_AUTHORITY if error.verify_code in _UNKNOWN_ISSUER else ""
    return httpx.ConnectError(f"its certificate is refused: {error.verify_message}{hint}")


def parsed(text: str, what: str) -> httpx.URL:
    """An `http(s)://` URL with a host and without a user name.

    Args:
        text: the URL.
        what: it is, for the error.

    Raises:
        InvalidRequest: it is none.
    """
    if len(text) > MAX_URL_CHARS:
        raise InvalidRequest(f"{what} {text[:200]!r}... has more than {MAX_URL_CHARS} characters")
    try:
        return proper(httpx.URL(text), what)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest(f"{what} {text[:200]!r} is no URL: {error}") from None


def proper(url: httpx.URL, what: str) -> httpx.URL:
    """The URL itself.

    Raises:
        InvalidRequest: as `parsed` does.
        ValueError: its host is none that could be looked up.
    """
    if url.scheme not in PORTS or not url.raw_host:  # `host` fails at punycode that is none
        raise InvalidRequest(f"{what} {shown(url)!r} is no http(s) URL with a host")
    if url.port is not None and not 0 < url.port < 65536:
        raise InvalidRequest(f"{what} {shown(url)} has a port that is not from 1 to 65535")
    if url.userinfo:
        raise InvalidRequest(f"{what} {shown(url)} has a user name in it: it is stored and shown")
    return url


def place_of(url: httpx.URL) -> tuple[str, int]:
    """The host in ASCII, an IPv6 address without brackets; and the port."""
    return url.raw_host.decode("ascii"), url.port or PORTS[url.scheme]


def shown(url: httpx.URL) -> str:
    """The URL without what may be secret in it."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))[:200]
