"""Whom the service believes to be the host it was told to speak to, over real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from atlatl.core.hosts import Address
from atlatl.engine import outgoing
from atlatl.engine.fetching import Fetcher
from atlatl.engine.messenger import Messenger
from atlatl.errors import FetchFailed
from atlatl.model import Callback, Execution, Mode, Outcome, OutcomeKind, Result
from atlatl.settings import ArtifactSettings, CallbackSettings
from tests.certificates import Authority, needs_openssl
from tests.receiver import Receiver, answers, receiver
from tests.shelf_samples import CODE

pytestmark = needs_openssl

DONE = Outcome(kind=OutcomeKind.SUCCESS, result=Result(kind="json", body=b"1"))
EXECUTION = Execution(
    execution_id="e-1",
    task_id="t-1",
    task_name="hello",
    function_name="main",
    mode=Mode.ASYNC,
    status=DONE.status,
    outcome=DONE,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("trusted") / "authority")


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


async def tell(url: str, *leads_to: str) -> str:
    """Why a receiver did not take a callback; empty when it did."""
    answers = iter([[ip_address(one) for one in leads_to]])

    async def resolve(host: str) -> Sequence[Address]:
        assert host == "hooks.test"
        return next(answers)  # a second look-up is an error

    settings = CallbackSettings(allowed_hosts=(urlsplit(url).netloc,))
    messenger = Messenger(settings, resolve=resolve)
    try:
        refusal = await messenger.tell(Callback(execution_id="e-1", url=url), EXECUTION)
    finally:
        messenger.close()
    return "" if refusal is None else refusal.reason


def told(authority: Authority, *names: str, by_name: bool = True) -> tuple[str, Receiver]:
    """A callback to a receiver with a certificate for these names."""

    async def go() -> tuple[str, Receiver]:
        async with receiver(tls=authority.server(*names)) as it:
            url = f"https://hooks.test:{it.port}/ended" if by_name else it.url
            return await tell(url, "127.0.0.1"), it

    return asyncio.run(go())


def test_a_name_that_its_certificate_is_for_is_told_at_the_address_that_was_checked_d105(
    trusted: Authority,
) -> None:
    refusal, it = told(trusted, "DNS:hooks.test")
    assert refusal == ""
    (request,) = it.received
    assert request.headers["host"] == f"hooks.test:{it.port}"
    assert it.names == ["hooks.test"]


@pytest.mark.parametrize("names", [["DNS:other.test"], ["IP:127.0.0.1"]])
def test_a_certificate_for_something_else_is_refused(trusted: Authority, names: list[str]) -> None:
    """For the address too: what was asked for is the name."""
    refusal, it = told(trusted, *names)
    assert refusal == (
        "its certificate is refused: Hostname mismatch, certificate is not valid for 'hooks.test'."
    )
    assert it.received == []


def test_an_address_needs_a_certificate_for_the_address(trusted: Authority) -> None:
    refusal, it = told(trusted, "IP:127.0.0.1", by_name=False)
    assert refusal == ""
    assert it.names == [None]  # an address is no name (RFC 6066, 3)
    refusal, it = told(trusted, "DNS:hooks.test", by_name=False)
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in refusal
    assert it.received == []


def test_an_authority_that_is_not_trusted_is_refused(trusted: Authority, tmp_path: Path) -> None:
    refusal, it = told(Authority(tmp_path / "unknown"), "DNS:hooks.test")
    assert refusal.startswith(
        "its certificate is refused: unable to get local issuer certificate; to trust an "
        "authority of your own"
    )
    assert "`SSL_CERT_FILE`" in refusal
    assert it.received == []


def test_without_a_word_the_public_authorities_are_trusted_and_no_others(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    refusal, it = told(authority, "DNS:hooks.test")
    assert "its certificate is refused" in refusal
    assert it.received == []


def test_a_receiver_without_encryption_is_told_nothing(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for more of what it takes for a request; the handshake is part of connecting."""
    monkeypatch.setattr(outgoing, "CONNECT_TIMEOUT_S", 0.2)

    async def go() -> tuple[str, Receiver]:
        async with receiver() as it:
            return await tell(f"https://hooks.test:{it.port}/ended", "127.0.0.1"), it

    refusal, it = asyncio.run(go())
    assert refusal == "no connection within 0.2 s"
    assert it.received == []


# --- code ---


def fetched(authority: Authority, *names: str) -> tuple[bytes, Receiver]:
    async def go() -> tuple[bytes, Receiver]:
        async with receiver(answers(200, CODE), tls=authority.server(*names)) as it:
            fetcher = Fetcher(ArtifactSettings(allowed_hosts=(it.address,)))
            return (await fetcher.fetch(f"https://{it.address}/x.py")).content, it

    return asyncio.run(go())


def test_code_comes_from_a_host_with_a_certificate(trusted: Authority) -> None:
    content, it = fetched(trusted, "IP:127.0.0.1")
    assert content == CODE
    assert len(it.received) == 1


def test_no_code_comes_from_a_host_without_a_good_certificate(
    trusted: Authority, tmp_path: Path
) -> None:
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1:\d+/x\.py can't be read: its certificate"):
        fetched(trusted, "DNS:hooks.test")
    with pytest.raises(FetchFailed, match="`SSL_CERT_FILE`"):
        fetched(Authority(tmp_path / "unknown"), "IP:127.0.0.1")
