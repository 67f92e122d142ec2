"""The door of the HTTP front: token, and where a request without one may come from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request

from atlatl.errors import PermissionDenied
from atlatl.front.auth import Authorizer, Scope, bearer, is_loopback
from atlatl.front.calls import headers_of

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""A proxy on this machine hands on what strangers ask: its requests are not local."""


class Visitor(NamedTuple):
    """Who asks, as far as a request tells.

    Attributes:
        headers: names in lower case; repeated ones are joined.
        host: address that the request comes from; empty when nothing is known of it.
    """

    headers: Mapping[str, str]
    host: str


def visitor(request: Request) -> Visitor:
    headers = headers_of(request.headers.raw, without=frozenset())
    return Visitor(headers, "" if request.client is None else request.client.host)


class Gate:
    """Lets a request in or raises.

    Args:
        authorizer: knows the tokens.
        host: address that the HTTP front listens on, as set.
    """

    def __init__(self, authorizer: Authorizer, host: str) -> None:
        self._authorizer = authorizer
        self._on_loopback = is_loopback(host)

    def check(self, visitor: Visitor, scope: Scope) -> None:
        """Returns when the visitor may have what `scope` stands for.

        Raises:
            Unauthenticated: it needs a token, and has none or a wrong one.
            PermissionDenied: it has none, and comes from another site's page.
        """
        if self._authorizer.disabled or self.holds_token(visitor):
            return
        loopback = self._is_local(visitor)
        if loopback:
            self._refuse_other_sites(visitor.headers)
        token = bearer(visitor.headers.get("authorization", ""))
        self._authorizer.check(scope, token, loopback=loopback)

    def holds_token(self, visitor: Visitor) -> bool:
        """Whether the visitor carries one of the service's own tokens, however many it has."""
        tokens = map(bearer, visitor.headers.get("authorization", "").split(","))
        return any(token and self._authorizer.knows(token) for token in tokens)

    def _is_local(self, visitor: Visitor) -> bool:
        return (
            self._on_loopback
            and _is_loopback(visitor.host)
            and not any(name in visitor.headers for name in FORWARDED)
        )

    def _refuse_other_sites(self, headers: Mapping[str, str]) -> None:
        """A page in this machine's browser can reach loopback too, and must not call functions.

        `Host` gives away a page whose own name was rebound to 127.0.0.1. `Origin` gives away
        scripts and forms of other sites; images and links carry none, but `Sec-Fetch-Site`.
        """
        host = headers.get("host", "")
        if not _names_loopback(host):
            name = _host_name(host)
            raise PermissionDenied(
                f"host {name[:140]!r} is not this service's: ask for it as localhost, or send a "
                "token"
            )
        origin = headers.get("origin")
        if origin is not None and _authority(origin) != host.lower():
            raise PermissionDenied(
                f"pages of {origin[:140]!r} may not call this service without a token"
            )
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise PermissionDenied("pages of other sites may not call this service without a token")


def _authority(origin: str) -> str:
    """Host and port of an `Origin`; empty, which is no host, when it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


_is_loopback = lru_cache(256)(is_loopback)


@lru_cache(256)
def _names_loopback(host: str) -> bool:
    """The same few `Host`s come with every request."""
    return is_loopback(_host_name(host))


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
