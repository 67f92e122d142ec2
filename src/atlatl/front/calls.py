"""An HTTP request read as a call: what its headers ask for. Knows no web framework."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from atlatl.core.moments import parse_moment
from atlatl.errors import InvalidRequest
from atlatl.model import Call, HttpRequest, Mode, check_execution_id

LARGEST_NUMBER = 2**53
"""Of a header; larger ones are not exact in JSON."""

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_URGENCY = re.compile(r"u=([0-9]{1,15})(?:;.*)?")
_SAY_HOW = frozenset(
    {
        "atlatl-callback-url",
        "atlatl-max-retries",
        "atlatl-not-before",
        "atlatl-timeout-ms",
        "idempotency-key",
        "priority",
        "traceparent",
    }
)
_ONLY_ASYNC = ("atlatl-not-before", "atlatl-callback-url")
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,2048}")
"""The characters of RFC 3986: what two readers of a URL disagree about stands outside of them."""


def headers_of(raw: Iterable[tuple[bytes, bytes]], *, without: frozenset[str]) -> dict[str, str]:
    """Headers by lower-case name; repeated ones are joined as RFC 9110 (5.3) says.

    Args:
        raw: as received.
        without: names to leave out.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in without:
            continue
        if name in headers:
            separator = "; " if name == "cookie" else ", "
            headers[name] += separator + value
        else:
            headers[name] = value
    return headers


def call_from(task_name: str, request: HttpRequest, *, mode: Mode, new_execution_id: str) -> Call:
    """The call that a request to a function stands for.

    Args:
        task_name: which function.
        request: the whole of it; its headers say how to call.
        mode: how the answer is wanted.
        new_execution_id: used unless the caller chose one.

    Raises:
        InvalidRequest: a header has a value that it cannot have; the message names it.
    """
    options = call_options(request.headers, mode)
    return make_call(task_name, request, mode, options, new_execution_id)


def make_call(
    task_name: str,
    request: HttpRequest,
    mode: Mode,
    options: Mapping[str, Any],
    new_execution_id: str,
) -> Call:
    """The call out of its parts; see `call_from` and `call_options`."""
    if "execution_id" in options:
        return Call(
            task_name=task_name,
            payload=request,
            mode=mode,
            headers=request.headers,
            id_given=True,
            **options,
        )
    return Call(
        execution_id=new_execution_id,
        task_name=task_name,
        payload=request,
        mode=mode,
        headers=request.headers,
        **options,
    )


def call_options(headers: Mapping[str, str], mode: Mode) -> dict[str, Any]:
    """What the headers of a call say about it, as fields of Call; nothing for what they don't say.

    Args:
        headers: names in lower case.
        mode: of the call.

    Raises:
        InvalidRequest: a header has a value that it cannot have; the message names it.
    """
    if _SAY_HOW.isdisjoint(headers):
        return {}
    key = _idempotency_key(headers)
    traceparent = headers.get("traceparent", "").strip()
    traced = _TRACEPARENT.fullmatch(traceparent) is not None
    options = {
        "execution_id": key,
        "timeout_ms": _whole_number(headers, "atlatl-timeout-ms", lowest=1),
        "max_retries": _whole_number(headers, "atlatl-max-retries", lowest=0),
        "priority": _urgency(headers),
        "traceparent": traceparent if traced else None,
        "tracestate": headers.get("tracestate") if traced else None,
        **deferral(headers, mode),
    }
    return {name: value for name, value in options.items() if value not in (None, "")}


def deferral(headers: Mapping[str, str], mode: Mode) -> dict[str, Any]:
    """`not_before` and `callback_url` for a Call, whichever front its headers came by.

    Args:
        headers: of the call, names in lower case.
        mode: of the call: both go with async ones only.

    Raises:
        InvalidRequest: one has a value that it cannot have, or goes with a call that its caller
            waits for; the message names it.
    """
    for name in _ONLY_ASYNC:
        if name in headers and mode is not Mode.ASYNC:
            rule = "goes with async calls only (`Prefer: respond-async`, over gRPC mode ASYNC)"
            raise _refused(headers, name, rule)
    return {"not_before": _not_before(headers), "callback_url": _callback_url(headers)}


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Whether `Prefer` has `respond-async` (RFC 7240)."""
    return "respond-async" in _members(headers.get("prefer", ""))


def accepts(headers: Mapping[str, str], media_type: str) -> bool:
    """Whether `Accept` names the media type itself."""
    ranges = (member.partition(";")[0].strip() for member in _members(headers.get("accept", "")))
    return media_type in ranges


def _members(value: str) -> list[str]:
    return [member.strip().lower() for member in value.split(",")]


def _idempotency_key(headers: Mapping[str, str]) -> str:
    """The key; the draft writes it as a quoted string, and many clients send it bare."""
    if "idempotency-key" not in headers:
        return ""
    key = headers["idempotency-key"].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    try:
        return check_execution_id(key)
    except InvalidRequest as error:
        raise _refused(headers, "idempotency-key", f"is the execution id: {error}") from None


def _urgency(headers: Mapping[str, str]) -> int | None:
    """`u` of `Priority` (RFC 9218); its other members are for others."""
    for member in _members(headers.get("priority", "")):
        if member.partition("=")[0].strip() != "u":
            continue
        match = _URGENCY.fullmatch(member)
        if match is None or int(match[1]) > 7:
            raise _refused(headers, "priority", "has an urgency from u=0 to u=7")
        return int(match[1])
    return None


def _not_before(headers: Mapping[str, str]) -> float | None:
    """A moment that is over already is as good as none: the call begins when it can."""
    name = "atlatl-not-before"
    if name not in headers:
        return None
    try:
        return parse_moment(headers[name].strip())
    except ValueError:
        rule = "is a moment as in RFC 3339, with its offset, like 2026-01-31T09:00:00Z"
        raise _refused(headers, name, rule) from None


def _callback_url(headers: Mapping[str, str]) -> str:
    """Well formed as far as text alone tells; where it leads to is looked at by who calls it."""
    name = "atlatl-callback-url"
    if name not in headers:
        return ""
    url = headers[name].strip()
    if not _is_callable(url):
        rule = "is an absolute http or https URL of at most 2048 characters, without a user name"
        raise _refused(headers, name, rule)
    return url


def _is_callable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port, or of brackets
        return False
    return bool(whole) and "@" not in parts.netloc and _URL.fullmatch(url) is not None


def _whole_number(headers: Mapping[str, str], name: str, *, lowest: int) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    value = value.strip()
    number = int(value) if value.isascii() and value.isdigit() and len(value) <= 16 else -1
    if not lowest <= number <= LARGEST_NUMBER:
        raise _refused(headers, name, f"is a whole number from {lowest}")
    return number


def _refused(headers: Mapping[str, str], name: str, rule: str) -> InvalidRequest:
    shown = "-".join(part.capitalize() for part in name.split("-"))
    return InvalidRequest(f"header `{shown}` {rule}; it is {headers[name][:200]!r}")
