"""Code from other machines: locations with `http(s)://`, of hosts in `artifacts.allowed_hosts`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from atlatl.core.hosts import Address, check_addresses, check_host
from atlatl.engine import outgoing
from atlatl.engine.outgoing import Outgoing, Resolve, parsed, place_of, proper, shown
from atlatl.engine.sources import Source, from_bytes
from atlatl.errors import ArtifactInvalid, ArtifactNotFound, FetchFailed, InvalidRequest
from atlatl.settings import ArtifactSettings

MAX_REDIRECTS = 5

_NOT_THERE = (401, 403, 404, 410)


def is_remote(location: str) -> bool:
    """Whether a location is one of those that are fetched."""
    return location.partition("://")[0].lower() in outgoing.PORTS


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
        resolve: Resolve = outgoing.resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._limits = limits
        self._outgoing = Outgoing(resolve=resolve, transport=transport)

    async def fetch(self, location: str) -> Source:
        """The file behind an `http(s)://` URL.

        Raises:
            InvalidRequest: a malformed URL, or a host that may not be read from.
            ArtifactNotFound: the host says that it is not there, or not for us.
            ArtifactInvalid: too large or encoded; and what `from_bytes` raises.
            FetchFailed: the host can't be reached, fails or is too slow.
        """
        limit_s = self._limits.fetch_timeout_s
        url = parsed(location, "location")
        try:
            async with asyncio.timeout(limit_s):
                content = await self._read(url)
        except TimeoutError:
            raise FetchFailed(
                f"{shown(url)} was not read within `artifacts.fetch_timeout_s` ({limit_s:g} s)"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise FetchFailed(f"{shown(url)} can't be read: {reason}") from error
        return await asyncio.to_thread(from_bytes, content, _filename(url), self._limits)

    async def _read(self, url: httpx.URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            addresses = await self._checked(url)
            async with self._outgoing.opened("GET", url, addresses) as answer:
                if not answer.has_redirect_location:
                    return await self._body(url, answer)
                url = _redirected(url, answer.headers["location"])
        raise FetchFailed(f"more than {MAX_REDIRECTS} redirects, the last one to {shown(url)}")

    async def _checked(self, url: httpx.URL) -> Sequence[Address]:
        """The addresses that may be connected to."""
        host, port = place_of(url)
        check_host(host, port, self._limits.allowed_hosts)
        addresses = await self._outgoing.addresses(url)
        check_addresses(host, addresses)
        return addresses

    async def _body(self, url: httpx.URL, answer: httpx.Response) -> bytes:
        _check_status(url, answer)
        limit = self._limits.max_bytes
        too_large = ArtifactInvalid(
            f"{shown(url)} is larger than `artifacts.max_bytes` ({limit}) allows"
        )
        if int(answer.headers.get("content-length", 0)) > limit:
            raise too_large
        content = bytearray()
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > limit:
                raise too_large
        return bytes(content)


def _check_status(url: httpx.URL, answer: httpx.Response) -> None:
    said = f"{shown(url)} answered {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in _NOT_THERE:
        raise ArtifactNotFound(said)
    if answer.status_code != 200:
        raise FetchFailed(said)
    # Not asked for, and unpacking it could make any size of it.
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise ArtifactInvalid(f"{shown(url)} came with Content-Encoding {encoding[:50]!r}")


def _redirected(url: httpx.URL, target: str) -> httpx.URL:
    if len(target) > outgoing.MAX_URL_CHARS:
        raise FetchFailed(f"{shown(url)} redirects to an address of {len(target)} characters")
    try:
        found = proper(url.join(target), "location")
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchFailed(f"{shown(url)} redirects to what is no URL: {error}") from None
    if (url.scheme, found.scheme) == ("https", "http"):
        raise InvalidRequest(f"{shown(url)} redirects from https to http, which is not followed")
    return found


def _filename(url: httpx.URL) -> str:
    """The last part of the path if it has an ending, else empty: told from the content."""
    name = PurePosixPath(unquote(url.path)).name
    return name if PurePosixPath(name).suffix else ""
