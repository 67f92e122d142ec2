"""The door of the HTTP front: token, and where a request without one may come from."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from atlatl.errors import PermissionDenied
from atlatl.front.auth import Authorizer, Scope, bearer, is_loopback

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""A proxy on this machine hands on what strangers ask: its requests are not local."""


class Gate:
    """Lets a request in or raises.

    Args:
        authorizer: knows the tokens.
        host: address that the HTTP front listens on, as set.
    """

    def __init__(self, authorizer: Authorizer, host: str) -> None:
        self._authorizer = authorizer
        self._host = host

    def check(self, request: Request, scope: Scope) -> None:
        """Returns when the request may have what `scope` stands for.

        Raises:
            Unauthenticated: it needs a token, and has none or a wrong one.
            PermissionDenied: it has none, and comes from another site's page.
        """
        if self._authorizer.disabled or self.holds_token(request):
            return
        loopback = self._is_local(request)
        if loopback:
            self._refuse_other_sites(request)
        token = bearer(request.headers.get("authorization", ""))
        self._authorizer.check(scope, token, loopback=loopback)

    def holds_token(self, request: Request) -> bool:
        """Whether the request carries one of the service's own tokens."""
        token = bearer(request.headers.get("authorization", ""))
        return bool(token) and self._authorizer.knows(token)

    def _is_local(self, request: Request) -> bool:
        return (
            is_loopback(self._host)
            and request.client is not None
            and is_loopback(request.client.host)
            and not any(name in request.headers for name in FORWARDED)
        )

    def _refuse_other_sites(self, request: Request) -> None:
        """A page in this machine's browser can reach loopback too, and must not call functions.

        `Host` gives away a page whose own name was rebound to 127.0.0.1. `Origin` gives away
        scripts and forms of other sites; images and links carry none, but `Sec-Fetch-Site`.
        """
        host = request.headers.get("host", "")
        name = _host_name(host)
        if not is_loopback(name):
            raise PermissionDenied(
                f"host {name[:140]!r} is not this service's: ask for it as localhost, or send a "
                "token"
            )
        origin = request.headers.get("origin")
        if origin is not None and _authority(origin) != host.lower():
            raise PermissionDenied(
                f"pages of {origin[:140]!r} may not call this service without a token"
            )
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise PermissionDenied("pages of other sites may not call this service without a token")


def _authority(origin: str) -> str:
    """Host and port of an `Origin`; empty, which is no host, when it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
