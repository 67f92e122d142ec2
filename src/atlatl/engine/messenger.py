"""One try of a callback: what a receiver is sent, where it may be, and whether it took it.

It is sent a POST. `Atlatl-Status` says how the execution ended; the body is the function's result
with its own media type, or the problem document (RFC 9457) of its failure. A result that is not
kept any more is an empty body and `Atlatl-Result-Omitted: 1`. Any 2xx takes it; any other answer
may say in `Retry-After` when it is to be tried again. Redirects are not followed, because they
could lead to where a callback may not go.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from atlatl.core.hosts import (
    CALLBACK_HEADER,
    Address,
    check_callback_addresses,
    check_callback_host,
)
from atlatl.core.tracing import TraceContext, callback_part, span_id
from atlatl.engine import outgoing
from atlatl.engine.outgoing import Outgoing, Resolve, parsed, place_of, proper, shown
from atlatl.errors import InvalidRequest
from atlatl.model import Callback, Execution
from atlatl.problem import MEDIA_TYPE, problem
from atlatl.settings import CallbackSettings

log = logging.getLogger(__name__)

MAX_URL = 2048
MAX_TRACESTATE = 512
"""Characters that have to be passed on (W3C Trace Context, 3.3.1.5); longer ones are not."""
READ_BYTES = 4096
"""Of the receiver's answer, so that it can finish writing it."""
LOOK_UPS = 64
"""Threads for them: one whose try has run out of time waits on for its name server."""

USER_AGENT = f"atlatl/{version('atlatl')}"

_NAMED = f"`{CALLBACK_HEADER}`"
_SAFE_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""Of a header, wherever it came from."""
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<parent>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)


def check_callback_url(url: str, allowed_hosts: Sequence[str]) -> None:
    """Raises InvalidRequest when a callback to this URL could never be made.

    Names are not looked up here: what they lead to is checked at each try.

    Args:
        url: as the caller gave it.
        allowed_hosts: the setting `callbacks.allowed_hosts`.
    """
    if len(url) > MAX_URL:
        raise InvalidRequest(f"{_NAMED} has {len(url)} characters; at most {MAX_URL} are allowed")
    host, port = place_of(parsed(url, _NAMED))
    check_callback_host(host, port, allowed_hosts)


class Message(NamedTuple):
    headers: dict[str, str]
    body: bytes


class Refusal(NamedTuple):
    """Why a receiver did not take it."""

    reason: str
    retry_after: str = ""
    """The header, when it sent one."""


class Messenger:
    """Tells receivers.

    Args:
        settings: which hosts may be private, and how long a try may take.
        resolve: looks names up; None asks the machine's name servers.
        transport: what requests go through; None is the network.
    """

    def __init__(
        self,
        settings: CallbackSettings,
        *,
        resolve: Resolve | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        # Not the loop's own threads: names that nobody answers for would hold up all else there.
        self._threads = ThreadPoolExecutor(LOOK_UPS, "callback-look-up")
        resolve = resolve or partial(outgoing.resolve, threads=self._threads)
        self._outgoing = Outgoing(resolve=resolve, transport=transport)

    def close(self) -> None:
        """Looks no more names up; does not wait for those that are being looked up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def tell(
        self, callback: Callback, execution: Execution, span: str = ""
    ) -> Refusal | None:
        """Tries once.

        Args:
            callback: whom to tell.
            execution: that has ended.
            span: id of the try in the callback's trace, if it has one.

        Returns:
            None when the receiver took it.
        """
        try:
            url = parsed(callback.url, _NAMED)
            answer = await self._post(url, message(execution, callback, span))
        except TimeoutError:
            limit_s = self._settings.timeout_s
            return Refusal(f"it did not answer within `callbacks.timeout_s` ({limit_s:g} s)")
        except InvalidRequest as error:
            return Refusal(error.message)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Refusal(str(error) or type(error).__name__)
        except Exception as error:
            log.exception("the callback of execution %s failed", callback.execution_id)
            return Refusal(f"the service failed at it: {type(error).__name__}")
        return None if answer.is_success else _refusal(url, answer)

    async def _post(self, url: httpx.URL, sent: Message) -> httpx.Response:
        answer: httpx.Response | None = None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                addresses = await self._checked(url)
                async with self._outgoing.opened(
                    "POST", url, addresses, headers=sent.headers, content=sent.body
                ) as answer:
                    await _skim(answer)
        except (TimeoutError, httpx.HTTPError):
            if answer is None:
                raise
        return answer  # its status counts, and not how the rest of it arrives

    async def _checked(self, url: httpx.URL) -> Sequence[Address]:
        """The addresses that may be connected to."""
        host, port = place_of(url)
        addresses = await self._outgoing.addresses(url)
        check_callback_addresses(host, port, addresses, self._settings.allowed_hosts)
        return addresses


async def _skim(answer: httpx.Response) -> None:
    left = READ_BYTES
    async for chunk in answer.aiter_raw(READ_BYTES):
        left -= len(chunk)
        if left <= 0:
            return


def _refusal(url: httpx.URL, answer: httpx.Response) -> Refusal:
    said = f"it answered {answer.status_code} {answer.reason_phrase[:50]}".rstrip()
    if answer.is_redirect:
        target = _target(url, answer.headers.get("location"))
        said = f"{said}, and redirects are not followed{target}"
    return Refusal(said, answer.headers.get("retry-after", ""))


def _target(url: httpx.URL, location: str | None) -> str:
    if location is None:
        return ""
    try:
        return f" (to {shown(proper(url.join(location), 'its target'))})"
    except (InvalidRequest, httpx.InvalidURL, ValueError):
        return " (to no http(s) URL)"


def span_of_try(callback: Callback, execution: Execution, tries: int) -> str:
    """Id of the span that a try to tell of an execution is; empty without a trace."""
    found = _TRACEPARENT.fullmatch(callback.traceparent)
    if found is None:
        return ""
    context = TraceContext(found["trace"], found["parent"], found["flags"])
    return span_id(context, execution.execution_id, callback_part(execution.attempt, tries))


def message(execution: Execution, callback: Callback, span: str) -> Message:
    """What is sent about an execution that has ended.

    Args:
        execution: with its outcome.
        callback: whom to tell, and in which trace.
        span: id of this try in the trace.
    """
    body, about_body = _body(execution)
    headers = {
        "User-Agent": USER_AGENT,
        "Connection": "close",
        "Atlatl-Execution-Id": execution.execution_id,
        "Atlatl-Task": quote(execution.task_name, safe=""),
        "Atlatl-Status": execution.status.value,
        "Atlatl-Attempt": str(execution.attempt),
        # Not the id alone: an execution that is redriven ends a second time, perhaps differently.
        "Idempotency-Key": f"{execution.execution_id}:{execution.attempt}",
        **about_body,
        **_trace(callback, span),
    }
    return Message(headers, body)


def _body(execution: Execution) -> tuple[bytes, dict[str, str]]:
    outcome = execution.outcome
    if outcome is not None and outcome.error is not None:
        document = problem(outcome.error, execution_id=execution.execution_id)
        return msgspec.json.encode(document), {"Content-Type": MEDIA_TYPE}
    if outcome is None or outcome.result is None:
        return b"", {"Atlatl-Result-Omitted": "1"}
    stated = outcome.result.content_type  # a function's own may be anything
    safe = stated if _SAFE_VALUE.fullmatch(stated) else "application/octet-stream"
    return outcome.result.body, {"Content-Type": safe}


def _trace(callback: Callback, span: str) -> dict[str, str]:
    """The caller's trace goes on in the receiver."""
    found = _TRACEPARENT.fullmatch(callback.traceparent)
    if found is None or not span:
        return {}
    headers = {"traceparent": f"00-{found['trace']}-{span}-{found['flags']}"}
    state = callback.tracestate.strip()
    if len(state) <= MAX_TRACESTATE and _SAFE_VALUE.fullmatch(state):
        headers["tracestate"] = state
    return headers
