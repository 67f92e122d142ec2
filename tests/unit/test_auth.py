"""Tokens, and who needs one for what."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from atlatl.errors import SettingInvalid, Unauthenticated
from atlatl.front.auth import Authorizer, Grant, Scope, admin_token, bearer, is_loopback
from tests.unit.front_fakes import BEARER, FakeService, ask, hello


def check(
    scope: Scope, token: str = "", *, loopback: bool = True, required: object = "auto"
) -> bool:
    try:
        granted("secret", token, required, loopback=loopback).require(scope)
    except Unauthenticated:
        return False
    return True


def granted(admin: str, token: str, required: object = "auto", *, loopback: bool = True) -> Grant:
    authorizer = Authorizer(admin, required)  # type: ignore[arg-type]
    header = f"Bearer {token}" if token else ""
    return authorizer.known(header) or authorizer.without(header, loopback=loopback)


def test_what_needs_a_token() -> None:
    assert all(check(scope, "secret", loopback=False) for scope in Scope)
    assert [scope for scope in Scope if check(scope)] == [Scope.PROBE, Scope.CALL, Scope.WATCH]
    assert [scope for scope in Scope if check(scope, loopback=False)] == [Scope.PROBE]
    assert [scope for scope in Scope if check(scope, required=True)] == [Scope.PROBE]
    assert all(check(scope, loopback=False, required=False) for scope in Scope)


def test_a_wrong_token_is_no_token() -> None:
    assert check(Scope.CALL, "wrong")
    assert not check(Scope.ADMIN, "wrong")
    assert not check(Scope.ADMIN, "secre\udcff")
    with pytest.raises(Unauthenticated, match="not one of this service's"):
        granted("secret", "wrong").require(Scope.ADMIN)
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        granted("secret", "").require(Scope.ADMIN)


def test_bearer() -> None:
    assert bearer("Bearer abc") == bearer("  bearer   abc ") == "abc"
    assert bearer("Basic abc") == bearer("Bearer") == bearer("") == ""


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "localhost.evil.example", "::"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_the_first_start_makes_a_token_that_only_the_owner_reads(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    token = admin_token(directory)
    assert len(token) >= 43  # 256 bits in base64
    assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["token"]
    assert admin_token(directory) == token
    assert admin_token(tmp_path / "other") != token


def test_a_token_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("kept\n")
    path.chmod(0o644)
    assert admin_token(tmp_path) == "kept"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_or_unreachable_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(SettingInvalid, match="delete it"):
        admin_token(tmp_path)
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(SettingInvalid, match="no text: delete it"):
        admin_token(tmp_path)
    with pytest.raises(SettingInvalid, match="cannot be used"):
        admin_token(tmp_path / "token")


# --- where a request without a token may come from ---


def call(headers: dict[str, str], **more: object) -> int:
    return ask(hello(), "POST", "/functions/hello", headers=headers, **more).status_code


def test_a_rebound_name_is_refused_without_a_token() -> None:
    assert call({"Host": "localhost:8081"}) == 200
    assert call({"Host": "[::1]:8081"}) == 200
    assert call({"Host": "evil.example:8081"}) == 403
    assert call({"Host": "[bad"}) == 403
    assert call({"Host": "evil.example:8081", **BEARER}) == 200
    assert call({"Host": "evil.example"}, required=False) == 200


def test_other_sites_pages_are_refused_without_a_token() -> None:
    own = "127.0.0.1:8081"
    assert call({"Host": own, "Origin": f"http://{own}"}) == 200
    assert call({"Host": own, "Origin": "https://evil.example"}) == 403
    assert call({"Host": own, "Origin": "http://127.0.0.1:3000"}) == 403
    assert call({"Host": own, "Origin": "null"}) == 403
    assert call({"Host": own, "Origin": "https://evil.example", **BEARER}) == 200
    assert call({"Sec-Fetch-Site": "cross-site"}) == 403
    assert call({"Sec-Fetch-Site": "same-origin"}) == 200


def test_what_a_proxy_on_this_machine_hands_on_is_not_local() -> None:
    assert call({"X-Forwarded-For": "10.0.0.7"}) == 401
    assert call({"Forwarded": "for=10.0.0.7"}) == 401
    assert call({"X-Forwarded-For": "10.0.0.7", **BEARER}) == 200


def test_off_loopback_calls_need_a_token_too() -> None:
    assert call({}, peer="10.0.0.7") == 401
    service = FakeService(http={"host": "0.0.0.0"})
    assert ask(service, "POST", "/functions/hello", headers={}).status_code == 401
    assert ask(service, "GET", "/healthz", headers={"Host": "any.example"}).status_code == 200


def test_401_says_how_to_authenticate() -> None:
    answer = ask(FakeService(), "GET", "/api/v1/tasks", headers={})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "UNAUTHENTICATED"


def test_the_functions_never_see_the_services_token() -> None:
    service = hello()
    ask(service, "POST", "/functions/hello", headers=BEARER)
    ask(service, "POST", "/functions/hello", headers={"Authorization": "Bearer the-caller's"})
    with_ours, with_theirs = (ticket.call for ticket in service.tickets)
    assert "authorization" not in with_ours.headers
    assert with_theirs.headers["authorization"] == "Bearer the-caller's"
