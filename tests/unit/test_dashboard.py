"""The page's files, what they may do in a browser, and the code that signs one in."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from atlatl.errors import Unauthenticated
from atlatl.front import sessions as signing
from atlatl.front.asgi import asgi
from atlatl.front.auth import Authorizer
from atlatl.front.dashboard import STATIC, static_files
from atlatl.front.sessions import Sessions
from tests.unit.front_fakes import BEARER, LOCAL, TOKEN, FakeService, bearing, make_token, run

OURS = [path for path in sorted(STATIC.rglob("*")) if path.is_file() and "vendor" not in path.parts]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """The HTTP front of a service without processes, with a clock for its sessions."""

    def __init__(self, *, required: Any = "auto") -> None:
        self.clock = Clock()
        self.authorizer = Authorizer(TOKEN, required)
        self.sessions = Sessions(self.authorizer, self.clock)
        self._app = asgi(
            FakeService(),  # type: ignore[arg-type]
            authorizer=self.authorizer,
            sessions=self.sessions,
        )

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=("127.0.0.1", 4000))
            async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as client:
                return await client.request(method, path, **options)

        answer: httpx.Response = run(asked())
        return answer

    def sign_in(self, code: str) -> httpx.Response:
        return self.ask("POST", "/api/v1/dashboard/session", json={"code": code})

    def manages(self, token: str) -> int:
        return self.ask("GET", "/api/v1/pools", headers=bearing(token)).status_code


# --- files ---


def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in() -> None:
    answer = Site().ask("GET", "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["trusted-types"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_every_file_is_served_once_and_then_known() -> None:
    site = Site()
    for name in static_files():
        answer = site.ask("GET", f"/static/{name}")
        assert answer.status_code == 200, name
        assert answer.content == (STATIC / name).read_bytes()
        assert answer.headers["cache-control"] == "no-cache"
        again = {"If-None-Match": answer.headers["etag"]}
        known = site.ask("GET", f"/static/{name}", headers=again)
        assert (known.status_code, known.content) == (304, b"")
        assert known.headers["etag"] == answer.headers["etag"]
    old = site.ask("GET", "/", headers={"If-None-Match": '"of-another-version"'})
    assert old.status_code == 200


@pytest.mark.parametrize("path", ["none.js", "", "../dashboard.py", "%2e%2e/dashboard.py"])
def test_nothing_but_these_files_is_served(path: str) -> None:
    answer = Site().ask("GET", f"/static/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_all_files_are_of_kinds_that_are_served() -> None:
    served = set(static_files())
    there = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert served == there
    assert "vendor/uPlot-LICENSE.txt" in served


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_a_file_names_no_other_site_and_makes_no_html_of_texts(path: Any) -> None:
    text = path.read_text()
    assert set(re.findall(r"https?://[^\s\"'>]*", text)) <= {"http://www.w3.org/2000/svg"}
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in text
    assert not re.search(r"<[^>]+\s(style|on\w+)=", text), "the policy refuses these"


def test_what_a_file_imports_is_there() -> None:
    for path in OURS:
        for name in re.findall(r'(?:from|import) "(\.[^"]+)"', path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """By WCAG 2: from 1 to 21; texts need 4.5."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    text = (STATIC / "style.css").read_text()
    blocks = re.findall(r"\{([^{}]*--back:[^{}]*)\}", text)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def test_every_text_stands_out_from_what_is_behind_it() -> None:
    light, dark, chosen_dark = themes()
    assert dark == chosen_dark
    for theme in (light, dark):
        pairs = [
            (word, behind)
            for word in ("text", "muted", "accent", "ok", "warn", "bad")
            for behind in ("surface", "back", "raised")
        ]
        pairs += [(word, f"{word}-soft") for word in ("ok", "warn", "bad", "busy")]
        pairs.append(("on-accent", "accent"))
        for word, behind in pairs:
            assert contrast(theme[word], theme[behind]) >= 4.5, (word, behind)


# --- signing in ---


def test_a_code_works_once() -> None:
    site = Site()
    code = site.sessions.new_code()
    answer = site.sign_in(code)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["expires_in_s"] == 12 * 3600
    assert site.manages(answer.json()["token"]) == 200
    again = site.sign_in(code)
    assert again.status_code == 401
    assert "works once" in again.json()["detail"]


def test_a_code_is_good_for_ten_minutes() -> None:
    site = Site()
    early, late = site.sessions.new_code(), site.sessions.new_code()
    site.clock.now += 599
    assert site.sign_in(early).status_code == 200
    site.clock.now += 1
    assert site.sign_in(late).status_code == 401


@pytest.mark.parametrize("code", ["", "wrong", TOKEN, "\ud800"])
def test_a_code_that_never_was_one_is_refused(code: str) -> None:
    site = Site()
    site.sessions.new_code()
    body = b'{"code": "\\ud800"}' if code == "\ud800" else None
    options = {"content": body} if body else {"json": {"code": code}}
    answer = site.ask("POST", "/api/v1/dashboard/session", **options)
    assert answer.status_code in (400, 401)


def test_only_so_many_codes_wait_at_once() -> None:
    site = Site()
    codes = [site.sessions.new_code() for _ in range(signing.MOST_CODES + 1)]
    with pytest.raises(Unauthenticated):
        site.sessions.exchange(codes[0])
    assert site.sessions.exchange(codes[1])


def test_only_so_many_are_signed_in_at_once() -> None:
    site = Site()
    tokens = [
        site.sessions.exchange(site.sessions.new_code()) for _ in range(signing.MOST_SESSIONS + 1)
    ]
    assert [site.manages(token) for token in (tokens[0], tokens[1], tokens[-1])] == [401, 200, 200]


def test_a_session_ends_after_half_a_day_and_what_was_known_of_it_is_void() -> None:
    site = Site()
    token = site.sign_in(site.sessions.new_code()).json()["token"]
    site.clock.now += signing.SESSION_S - 1
    site.sessions.look()
    assert site.manages(token) == 200
    before = site.authorizer.generation
    site.clock.now += 1
    site.sessions.look()
    assert site.manages(token) == 401
    assert site.authorizer.generation > before


def test_a_change_of_other_tokens_ends_no_session() -> None:
    site = Site()
    token = site.sign_in(site.sessions.new_code()).json()["token"]
    site.authorizer.hold([make_token("another", "deploy")])
    assert site.manages(token) == 200


def test_signing_out_ends_this_session_only() -> None:
    site = Site()
    first, second = (site.sign_in(site.sessions.new_code()).json()["token"] for _ in range(2))
    left = site.ask("DELETE", "/api/v1/dashboard/session", headers=bearing(first))
    assert left.status_code == 204
    assert [site.manages(token) for token in (first, second)] == [401, 200]
    # A token that is no session stays as it is.
    assert site.ask("DELETE", "/api/v1/dashboard/session", headers=BEARER).status_code == 204
    assert site.manages(TOKEN) == 200


def test_the_admin_token_alone_makes_codes() -> None:
    site = Site()
    site.authorizer.hold([make_token("temporary", "admin", name="temporary")])
    made = site.ask("POST", "/api/v1/dashboard/codes", headers=BEARER)
    assert made.status_code == 201
    assert made.json()["expires_in_s"] == 600
    session = site.sign_in(made.json()["code"]).json()["token"]
    # What expires or is revoked must not live on in what it has let in.
    for token in ("temporary", session):
        refused = site.ask("POST", "/api/v1/dashboard/codes", headers=bearing(token))
        assert refused.status_code == 403
        assert "admin token" in refused.json()["detail"]
    assert site.ask("POST", "/api/v1/dashboard/codes").status_code == 401


def test_a_service_that_is_open_to_all_makes_codes_for_all() -> None:
    assert Site(required=False).ask("POST", "/api/v1/dashboard/codes").status_code == 201
