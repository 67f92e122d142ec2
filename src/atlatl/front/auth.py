"""Who may do what: one authorizer for both fronts, and the admin token behind it."""

from __future__ import annotations

import enum
import hmac
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Literal

from atlatl.errors import SettingInvalid, Unauthenticated

TOKEN_BYTES = 32
"""256 random bits: guessing is hopeless, so no limit on attempts is needed."""


class Scope(enum.StrEnum):
    """What somebody wants to do; every route and every RPC has exactly one."""

    PROBE = "probe"
    """Is it alive, and how is it spoken to: open everywhere."""
    CALL = "call"
    """Call a deployed function, or read an execution whose id one knows: open on loopback."""
    WATCH = "watch"
    """Read health and figures: open on loopback."""
    INVOKE = "invoke"
    """Cancel an execution, or read what it printed."""
    DEPLOY = "deploy"
    """Add tasks, and list."""
    ADMIN = "admin"
    """All the rest."""


OPEN_ON_LOOPBACK = frozenset({Scope.CALL, Scope.WATCH})


class Authorizer:
    """Checks a caller's token against what the caller wants.

    Args:
        admin_token: the token that may do everything.
        required: `auto`: on loopback the scopes of OPEN_ON_LOOPBACK need no token, all else
            does; `True`: only probes need none; `False`: nothing needs one.
    """

    def __init__(self, admin_token: str, required: bool | Literal["auto"] = "auto") -> None:
        self._admin_token = admin_token.encode()
        self._required = required

    @property
    def disabled(self) -> bool:
        """True when nothing needs a token."""
        return self._required is False

    def knows(self, token: str) -> bool:
        """Whether the token is one of this service's; takes equally long for all of one length."""
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._admin_token)

    def check(self, scope: Scope, token: str, *, loopback: bool) -> None:
        """Returns when the caller may; a token that nothing needs is not looked at.

        Args:
            scope: what the caller wants to do.
            token: as sent by the caller; empty when none was.
            loopback: the caller is on this machine and so is the listener's address.

        Raises:
            Unauthenticated: a token is needed, and this one is missing or wrong.
        """
        if scope is Scope.PROBE or self.disabled or self.knows(token):
            return
        if loopback and scope in OPEN_ON_LOOPBACK and self._required == "auto":
            return
        raise Unauthenticated(
            "the token is not one of this service's; the admin token is in the file `token` of "
            "its data directory"
            if token
            else "this needs a token: send `Authorization: Bearer TOKEN`; the admin token is in "
            "the file `token` of the service's data directory"
        )


def bearer(authorization: str) -> str:
    """The token of an `Authorization` header (RFC 6750); empty when it has none."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address without a port can only mean this machine."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def admin_token(data_dir: Path) -> str:
    """The admin token of the service that owns `data_dir`, made at its first start.

    Raises:
        SettingInvalid: the file is empty, or cannot be read or made.
    """
    path = data_dir / "token"
    try:
        token = _read(path) if path.exists() else _make(path)
    except OSError as error:
        raise SettingInvalid(
            f"the admin token in {path} cannot be used: {error.strerror}; make the data directory "
            "writable, or name another one with `data_dir`"
        ) from None
    if not token:
        raise SettingInvalid(f"{path} is empty: delete it, and the next start makes a new token")
    return token


def _read(path: Path) -> str:
    # A copy of the directory, or a careless umask, may have opened it to others.
    path.chmod(0o600)
    return path.read_text().strip()


def _make(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    # Complete under another name first: a crash in between must not leave an empty token.
    fresh = path.with_name("token.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    return token
