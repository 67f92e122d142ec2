"""The file `tokens` of the data directory: who besides the admin may do what.

The command line writes it, whether a service runs or not; a running one looks at it twice a
second. It holds no token, only their hashes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from atlatl.core.moments import parse_moment
from atlatl.errors import Conflict, InvalidRequest, SettingInvalid
from atlatl.front.auth import OF_TOKENS, TOKEN_BYTES, Authorizer, Token, admin_token, sha256
from atlatl.model import check_task_name

log = logging.getLogger(__name__)

MARK = "atlatl_"
"""Every token begins with it, so that one that got into a text can be found there."""

_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds."""

    tokens: tuple[Token, ...] = ()
    version: Literal[1] = 1


Stamp = tuple[int, int, int, int] | None
"""What is another whenever a file was replaced or written to; None without a file."""


def stamp_of(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class TokenFile:
    """Reads and writes the file.

    Args:
        data_dir: of the service.
    """

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir
        self.path = data_dir / "tokens"

    def read(self) -> tuple[Token, ...]:
        """All tokens, the oldest first; none without a file.

        Raises:
            SettingInvalid: it cannot be read, or somebody has broken it.
        """
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=Content)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SettingInvalid(f"{self.path} cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingInvalid(
                f"{self.path} is not as `atlatl token` writes it: {error}; bring back a copy, or "
                "delete it and make the tokens anew"
            ) from None
        for token in content.tokens:
            if fault := _fault(token):
                raise SettingInvalid(f"{self.path}: token {token.name[:80]!r}: {fault}")
        return content.tokens

    def create(
        self,
        scope: str,
        *,
        now: datetime,
        tasks: Sequence[str] = (),
        name: str = "",
        rate_limit_per_s: float = 0.0,
        expires_at: datetime | None = None,
    ) -> tuple[str, Token]:
        """Makes a token; gives it, which nobody can do a second time, and what is kept of it.

        Args:
            scope: `invoke`, `deploy` or `admin`.
            now: with its timezone.
            tasks: patterns of task names; none is all tasks.
            name: empty takes one that is free.
            rate_limit_per_s: 0 is no limit.
            expires_at: None is never.

        Raises:
            InvalidRequest: something that no token can have.
            Conflict: there is one of this name.
            SettingInvalid: the file cannot be read or written.
        """
        if scope not in OF_TOKENS:
            raise InvalidRequest(
                f"no token has scope {scope[:40]!r}: it is `invoke`, `deploy` or `admin`"
            )
        if expires_at is not None and expires_at <= now:
            raise InvalidRequest(f"the token would have expired already, at {expires_at}")
        secret = MARK + secrets.token_urlsafe(TOKEN_BYTES)
        token = msgspec.convert(
            {
                "name": name or f"token-{secrets.token_hex(4)}",
                "scope": scope,
                "sha256": sha256(secret),
                "tasks": tuple(map(check_task_name, tasks)),
                "rate_limit_per_s": rate_limit_per_s,
                "created_at": now,
                "expires_at": expires_at,
            },
            Token,
        )
        if fault := _fault(token):
            raise InvalidRequest(f"token {token.name[:80]!r}: {fault}")
        with self._locked():
            others = self.read()
            if any(other.name == token.name for other in others):
                raise Conflict(
                    f"there is a token {name!r} already: revoke it first, or choose another name"
                )
            self._write((*others, token))
        return secret, token

    def revoke(self, name: str) -> Token:
        """Forgets a token; gives what was kept of it.

        Raises:
            InvalidRequest: there is none of this name.
            SettingInvalid: the file cannot be read or written.
        """
        with self._locked():
            tokens = self.read()
            gone = next((token for token in tokens if token.name == name), None)
            if gone is None:
                raise InvalidRequest(
                    f"there is no token {name[:140]!r}; `atlatl token list` shows them"
                )
            self._write(tuple(token for token in tokens if token is not gone))
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; readers see the file before or after, never in between."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
                yield
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise SettingInvalid(
                f"{self.path} cannot be written: {error.strerror}; run this as the user of the "
                "service, or name its directory with --data-dir"
            ) from None

    def _write(self, tokens: tuple[Token, ...]) -> None:
        content = msgspec.json.format(msgspec.json.encode(Content(tokens=tokens)), indent=2)
        fresh = self.path.with_name("tokens.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if os.geteuid() == 0:
                # The service must be able to read what the administrator writes.
                owner = self._directory.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(content + b"\n")
            file.flush()
            os.fsync(descriptor)
        fresh.rename(self.path)


class TokenKeeper:
    """Keeps an authorizer up to date with the files of a data directory.

    Args:
        data_dir: of the service.
        required: as `auth.required`.
        wall: Unix seconds.

    Raises:
        SettingInvalid: a file cannot be used.

    Attributes:
        authorizer: knows what the files held when they were last looked at.
    """

    def __init__(
        self, data_dir: Path, required: bool | Literal["auto"], wall: Callable[[], float]
    ) -> None:
        self.authorizer = Authorizer(admin_token(data_dir), required)
        self._file = TokenFile(data_dir)
        self._wall = wall
        self._stamp = stamp_of(self._file.path)
        self._tokens = self._file.read()
        self._told = ""
        self._good = self._hold()

    def look(self) -> None:
        """Takes over what has changed, and lets go of what has expired; never raises.

        A file that cannot be read changes nothing: what was revoked before stays revoked, and
        nobody is locked out by a slip. It is read again at each look, because what was in the
        way may pass, too many open files for example, and a revocation must not be missed.
        """
        stamp = stamp_of(self._file.path)
        if stamp != self._stamp:
            try:
                self._tokens = self._file.read()
            except SettingInvalid as error:
                if error.message != self._told:
                    self._told = error.message
                    log.warning("%s; the tokens stay as they were", error.message)
            else:
                self._stamp, self._told = stamp, ""
        if self._good != self._unexpired():
            self._good = self._hold()

    def _hold(self) -> tuple[Token, ...]:
        good = self._unexpired()
        self.authorizer.hold(good, [each for each in self._tokens if each not in good])
        return good

    def _unexpired(self) -> tuple[Token, ...]:
        now = datetime.fromtimestamp(self._wall(), UTC)
        return tuple(each for each in self._tokens if not has_expired(each, now))


def has_expired(token: Token, now: datetime) -> bool:
    return token.expires_at is not None and token.expires_at <= now


def parse_expiry(text: str, now: datetime) -> datetime | None:
    """When a token ends: a duration such as `90d` or `12h`, or a moment of RFC 3339.

    Args:
        text: empty is never.
        now: with its timezone.

    Raises:
        InvalidRequest: it is neither.
    """
    if not text:
        return None
    duration = _DURATION.fullmatch(text)
    try:
        if duration is not None:
            return now + timedelta(**{_UNITS[duration[2]]: int(duration[1])})
        return datetime.fromtimestamp(parse_moment(text), UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{text[:80]!r} is no time: give a duration like 90d, 12h or 30m, or a moment like "
            "2026-01-31T09:00:00Z"
        ) from None


def _fault(token: Token) -> str:
    """What no token can have; empty when there is nothing wrong."""
    moments = (token.created_at, token.expires_at or token.created_at)
    if _NAME.fullmatch(token.name) is None or token.name == "admin":
        return "a name has 1 to 64 letters, digits and `._@-`, and is not `admin`"
    if re.fullmatch("[0-9a-f]{64}", token.sha256) is None:
        return "`sha256` has 64 hexadecimal digits"
    if not 0 <= token.rate_limit_per_s < float("inf"):
        return "a rate limit is 0 (none) or above"
    return "" if all(each.tzinfo for each in moments) else "times need their offset"
