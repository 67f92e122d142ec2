"""The doors of the fronts: tokens, and where a request without one may come from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request

from atlatl.errors import PermissionDenied
from atlatl.front.auth import Authorizer, Grant, Scope, is_loopback
from atlatl.front.calls import headers_of

FORWARDED = frozenset(
    {
        "cf-connecting-ip",
        "client-ip",
        "forwarded",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-forwarded",
        "x-forwarded-by",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-original-forwarded-for",
        "x-original-host",
        "x-real-ip",
    }
)
"""A proxy on this machine hands on what strangers ask: its requests are not local."""

LOCAL_PEERS = (
    "ipv4:127.",
    "ipv6:[::1]:",
    "ipv6:%5B::1%5D:",
    "ipv6:[::ffff:127.",
    "ipv6:%5B::ffff:127.",
)
"""How the peers of gRPC on this machine begin; which brackets they have depends on its version."""


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
    """Lets a request of the HTTP front in or raises.

    Args:
        authorizer: knows the tokens.
        host: address that the front listens on, as set.
    """

    def __init__(self, authorizer: Authorizer, host: str) -> None:
        self.authorizer = authorizer
        self._on_loopback = is_loopback(host)

    def admit(self, visitor: Visitor, scope: Scope) -> Grant:
        """What the visitor may do, which is at least what `scope` stands for; counts the request.

        Raises:
            Unauthenticated: it needs a token, and has none or a wrong one.
            PermissionDenied: its token may do less, or it has none and comes from another
                site's page.
            RateLimited: its token has had its share.
        """
        grant = self.look_at(visitor, scope)
        if scope is not Scope.PROBE:
            grant.take()
        return grant

    def look_at(self, visitor: Visitor, scope: Scope) -> Grant:
        """The same without counting."""
        authorization = visitor.headers.get("authorization", "")
        grant = None
        if authorization and not self.authorizer.disabled:
            grant = self.authorizer.known(authorization)
        if grant is None:
            local = self._is_local(visitor)
            if local and not self.authorizer.disabled:
                self._refuse_other_sites(visitor.headers)
            grant = self.authorizer.without(authorization, loopback=local)
        grant.require(scope)
        return grant

    def holds_token(self, visitor: Visitor) -> bool:
        """Whether the visitor carries one of the service's own tokens, however many it has."""
        return self.authorizer.known(visitor.headers.get("authorization", "")) is not None

    def _is_local(self, visitor: Visitor) -> bool:
        return (
            self._on_loopback
            and _is_loopback(visitor.host)
            and FORWARDED.isdisjoint(visitor.headers)
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


class GrpcGate(Gate):
    """The same for gRPC, which serves no pages: whatever a page sends is from another site.

    The name that a caller asked for is not shown to a gRPC server. A page whose name was rebound
    cannot ask without `Origin`, because RPCs are POSTs. `Visitor.host` is what gRPC calls a peer,
    such as `ipv4:127.0.0.1:50000`.
    """

    def _is_local(self, visitor: Visitor) -> bool:
        return (
            self._on_loopback
            and visitor.host.startswith(LOCAL_PEERS)
            and FORWARDED.isdisjoint(visitor.headers)
        )

    def _refuse_other_sites(self, headers: Mapping[str, str]) -> None:
        if "origin" in headers or "sec-fetch-site" in headers:
            raise PermissionDenied("web pages may not call this service without a token")


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
