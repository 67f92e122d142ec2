"""Who may do what: one authorizer for both fronts, and the admin token behind it."""

from __future__ import annotations

import enum
import fnmatch
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from atlatl.core.admission import TokenBucket
from atlatl.errors import PermissionDenied, SettingInvalid, Unauthenticated

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


RECENT = 1000
RECENT_LENGTH = 200
"""Headers with a good token that are known without hashing: how many, and how long, at most."""

MOST_TOKENS = 4
"""Of one header, that are looked at."""

OPEN_ON_LOOPBACK = frozenset({Scope.CALL, Scope.WATCH})

STRANGERS = frozenset({Scope.PROBE})
"""What nobody needs a token for."""
LOCALS = STRANGERS | OPEN_ON_LOOPBACK
OF_TOKENS = {
    Scope.INVOKE: LOCALS | {Scope.INVOKE},
    Scope.DEPLOY: LOCALS | {Scope.INVOKE, Scope.DEPLOY},
    Scope.ADMIN: frozenset(Scope),
}
"""What a token may do by its scope: each has all of the one before."""


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a token: enough to know it again, not to tell it."""

    name: str
    """Unique among those of a service."""
    scope: Literal["invoke", "deploy", "admin"]
    sha256: str
    """Of the token, in hex."""
    tasks: tuple[str, ...] = ()
    """Patterns of the names of tasks that it may touch, such as `billing-*`; none is all."""
    rate_limit_per_s: float = 0.0
    """Requests a second; 0 is no limit."""
    created_at: datetime
    expires_at: datetime | None = None


class Grant:
    """What one caller may do.

    Args:
        may: the scopes.
        told: to a caller without a token who wants more; empty when there is one.
        token: that the caller has; None without one.
        clock: monotonic seconds.
    """

    __slots__ = ("_bucket", "_clock", "_may", "_patterns", "_told", "limited", "metered", "token")

    def __init__(
        self,
        may: frozenset[Scope],
        *,
        told: str = "",
        token: Token | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._may = may
        self._told = told
        self._clock = clock
        self._bucket: TokenBucket | None = None
        self._patterns: Sequence[re.Pattern[str]] = ()
        self.token = token
        if token is not None:
            self._patterns = [re.compile(fnmatch.translate(pattern)) for pattern in token.tasks]
            if rate := token.rate_limit_per_s:
                whose = f"token {token.name!r} may ask {rate:g} times a second"
                self._bucket = TokenBucket(rate, clock(), whose)
        self.limited = bool(self._patterns)
        """Whether there are tasks that it may not touch."""
        self.metered = self._bucket is not None
        """Whether `take` may refuse."""

    def require(self, scope: Scope) -> None:
        """Returns when the caller may do what `scope` stands for.

        Raises:
            Unauthenticated: that needs a token, and there is none or a wrong one.
            PermissionDenied: the token may do less.
        """
        if scope in self._may:
            return
        if self.token is None:
            raise Unauthenticated(self._told)
        raise PermissionDenied(
            f"this needs a token of scope `{scope}`; {self.token.name!r} has scope "
            f"`{self.token.scope}`"
        )

    def sees(self, task_name: str) -> bool:
        """Whether the caller may know of a task of this name."""
        return not self.limited or any(each.match(task_name) for each in self._patterns)

    def touch(self, task_name: str) -> None:
        """Raises PermissionDenied unless the caller may touch a task of this name.

        The name alone decides, so that the refusal does not tell whether there is such a task.
        """
        if self.token is not None and not self.sees(unicodedata.normalize("NFC", task_name)):
            raise PermissionDenied(
                f"token {self.token.name!r} is limited to tasks {', '.join(self.token.tasks)}: "
                f"{task_name[:140]!r} is none of them"
            )

    def touch_all(self) -> None:
        """Raises PermissionDenied when there are tasks that the caller may not touch."""
        if self.token is not None and self.limited:
            raise PermissionDenied(
                "this is about all tasks together, and token "
                f"{self.token.name!r} is limited to {', '.join(self.token.tasks)}"
            )

    def take(self) -> None:
        """Counts a request; raises RateLimited when the token has had its share."""
        if self._bucket is not None:
            self._bucket.take(self._clock())


_MISSING = (
    "this needs a token: send `Authorization: Bearer TOKEN`; `atlatl token create` makes one, and "
    "the admin token is in the file `token` of the service's data directory"
)
_WRONG = (
    "the token is not one of this service's: it is wrong, or was revoked; `atlatl token create` "
    "makes another"
)
_EXPIRED = "the token has expired; `atlatl token create` makes another"

_OPEN = Grant(frozenset(Scope))
_LOCAL = Grant(LOCALS, told=_MISSING)
_STRANGER = Grant(STRANGERS, told=_MISSING)


class Authorizer:
    """Knows the tokens, and what callers without one may do.

    Args:
        admin_token: the token that may do everything.
        required: `auto`: on loopback the scopes of OPEN_ON_LOOPBACK need no token, all else
            does; `True`: only probes need none; `False`: nothing needs one.
        clock: monotonic seconds.

    Attributes:
        disabled: nothing needs a token.
        generation: rises when other tokens are held: what was known of them before is void.
    """

    def __init__(
        self,
        admin_token: str,
        required: bool | Literal["auto"] = "auto",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.disabled = required is False
        self.generation = 0
        self._free_on_loopback = required == "auto"
        self._clock = clock
        admin = Token(
            name="admin",
            scope="admin",
            sha256=sha256(admin_token),
            created_at=datetime.fromtimestamp(0, UTC),
        )
        self._admin = {admin.sha256: self._granted(admin)}
        self._grants = dict(self._admin)
        self._recent: dict[str, Grant] = {}
        self._held: dict[Token, Grant] = {}
        self._sessions: dict[str, Grant] = {}
        self._expired: frozenset[str] = frozenset()

    def hold(self, tokens: Iterable[Token], expired: Iterable[Token] = ()) -> None:
        """From here on these are the tokens besides the admin's; may be called in any thread.

        Args:
            tokens: those that are good.
            expired: those that were; who sends one is told so.
        """
        # One that was held already keeps its bucket: a change of others does not refill it.
        held = {token: self._held.get(token) or self._granted(token) for token in tokens}
        self._held = held
        self._grants = {token.sha256: grant for token, grant in held.items()} | self._admin
        self._recent = {}
        self._expired = frozenset(token.sha256 for token in expired)
        self.generation += 1

    def begin_session(self, token: Token) -> None:
        """From here on this token is good too, until `end_session`; `hold` does not change it."""
        self._sessions[token.sha256] = self._granted(token)

    def end_session(self, digest: str) -> None:
        """The token of `begin_session` with this hash is good no more."""
        del self._sessions[digest]
        self._recent = {}
        self.generation += 1

    def _granted(self, token: Token) -> Grant:
        return Grant(OF_TOKENS[Scope(token.scope)], token=token, clock=self._clock)

    def known(self, authorization: str) -> Grant | None:
        """What the token of an `Authorization` header may do; None when it has none of ours.

        A header may carry several: one for the service, one for the function.
        """
        recent = self._recent
        grant = recent.get(authorization)
        if grant is not None:
            return grant
        for digest in _digests(authorization):
            grant = self._grants.get(digest) or self._sessions.get(digest)
            # Found by a hash of the digest; compared in a time that tells nothing.
            if grant is not None and hmac.compare_digest(_digest_of(grant), digest):
                if len(authorization) <= RECENT_LENGTH:
                    if len(recent) >= RECENT:
                        recent.clear()
                    recent[authorization] = grant
                return grant
        return None

    def without(self, authorization: str, *, loopback: bool) -> Grant:
        """What a caller without a token of ours may do.

        Args:
            authorization: the header, whose tokens are none of ours; mostly empty.
            loopback: the caller is on this machine and so is the listener's address.
        """
        if self.disabled:
            return _OPEN
        local = loopback and self._free_on_loopback
        if not authorization:
            return _LOCAL if local else _STRANGER
        told = _MISSING
        for digest in _digests(authorization):
            told = _EXPIRED if digest in self._expired else _WRONG
        return Grant(LOCALS if local else STRANGERS, told=told)


def _digest_of(grant: Grant) -> str:
    return grant.token.sha256 if grant.token is not None else ""


def sha256(token: str) -> str:
    """What is kept of a token, in hex.

    Passwords need a slow hash because there are few enough to try. A token has 256 random bits:
    no list of them can be gone through, however quick the hash is.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _digests(authorization: str) -> list[str]:
    parts = authorization.split(",", MOST_TOKENS)[:MOST_TOKENS]
    return [sha256(token) for token in map(bearer, parts) if token]


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
        SettingInvalid: the file is empty or no text, or cannot be read or made.
    """
    path = data_dir / "token"
    try:
        token = _read(path) if path.exists() else _make(path)
    except OSError as error:
        raise SettingInvalid(
            f"the admin token in {path} cannot be used: {error.strerror}; make the data directory "
            "writable, or name another one with `data_dir`"
        ) from None
    except UnicodeDecodeError:
        raise SettingInvalid(
            f"{path} is no text: delete it, and the next start makes a new token"
        ) from None
    if not token:
        raise SettingInvalid(f"{path} is empty: delete it, and the next start makes a new token")
    return token


def _read(path: Path) -> str:
    # A copy of the directory, or a careless umask, may have opened it to others.
    path.chmod(0o600)
    return path.read_text().strip()


def _make(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while (token := secrets.token_urlsafe(TOKEN_BYTES)).startswith("-"):
        pass  # after an option of a command it would be taken for another one
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
