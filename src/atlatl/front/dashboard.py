"""The dashboard: one page of static files, and how a browser gets a token for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from atlatl.errors import PermissionDenied
from atlatl.front.answers import bounded, json_answer, read_json
from atlatl.front.auth import Scope
from atlatl.front.problems import RouteNotFound, path_of
from atlatl.front.reach import Reach, grant_of
from atlatl.front.routes import Endpoint
from atlatl.front.sessions import CODE_S, SESSION_S, Sessions

STATIC = Path(__file__).parent / "static"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # The browser itself refuses to make a text into elements or into code.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for again each time, and mostly answered with 304: a new version is seen at once.
    "Cache-Control": "no-cache",
}

MAX_SIGN_IN_BYTES = 4096

_CODE = {
    "application/json": {
        "type": "object",
        "properties": {"code": {"type": "string"}},
        "required": ["code"],
        "additionalProperties": False,
    }
}


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a request for a token."""

    code: str


class Served(NamedTuple):
    """A file of the page."""

    content: bytes
    media_type: str
    tag: str
    """`ETag` of the content."""


def static_files() -> dict[str, Served]:
    """The files of the page by their names below `static/`."""
    return {
        path.relative_to(STATIC).as_posix(): _served(path)
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }


def _served(path: Path) -> Served:
    content = path.read_bytes()
    tag = hashlib.sha256(content).hexdigest()[:32]
    return Served(content, _MEDIA_TYPES[path.suffix], f'"{tag}"')


class Dashboard:
    """Answers `/`, everything below `/static/`, and `/api/v1/dashboard`.

    Args:
        sessions: who is signed in.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        # Read once: no request waits for a disk, and an upgrade does not mix two versions.
        self._files = static_files()

    def endpoints(self) -> list[Endpoint]:
        base, none = "/api/v1/dashboard", Reach.NONE
        page, any_file = {"200": ["text/html"], "304": []}, {"200": ["*/*"], "304": []}
        return [
            Endpoint("GET", "/", self.page, Scope.PROBE, answers=page, reach=none),
            Endpoint(
                "GET", "/static/{path:path}", self.file, Scope.PROBE, answers=any_file, reach=none
            ),
            Endpoint(
                "POST",
                base + "/codes",
                self.new_code,
                Scope.ADMIN,
                answers={"201": ["application/json"]},
            ),
            Endpoint("POST", base + "/session", self.sign_in, Scope.PROBE, body=_CODE, reach=none),
            Endpoint("DELETE", base + "/session", self.sign_out, Scope.ADMIN, answers={"204": []}),
        ]

    async def page(self, request: Request) -> Response:
        """The dashboard, for browsers."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """A file that the dashboard is made of."""
        return self._answer(request, request.path_params["path"])

    def _answer(self, request: Request, name: str) -> Response:
        served = self._files.get(name)
        if served is None:
            raise RouteNotFound(f"nothing is served at {path_of(request)}; the dashboard is at /")
        headers = {**_HEADERS, "ETag": served.tag}
        if served.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(served.content, headers={**headers, "Content-Type": served.media_type})

    async def new_code(self, request: Request) -> Response:
        """Makes a code that signs one browser in; only with the admin token itself."""
        token = grant_of(request).token
        # Else a token that expires or is revoked would live on in what it has let in.
        if token is not None and token.name != "admin":
            raise PermissionDenied(
                "an address of the dashboard is made with the admin token of the data directory; "
                f"token {token.name!r} can be pasted into the page"
            )
        code = self._sessions.new_code()
        return json_answer({"code": code, "expires_in_s": CODE_S}, status=201)

    async def sign_in(self, request: Request) -> Response:
        """Gives a token of scope `admin` for a code, which works once."""
        body = await bounded(request, MAX_SIGN_IN_BYTES, "of a sign-in").body()
        wish = read_json(body, SignIn, 'the body is JSON like {"code": "..."}')
        token = self._sessions.exchange(wish.code)
        return json_answer(
            {"token": token, "expires_in_s": SESSION_S}, headers={"Cache-Control": "no-store"}
        )

    async def sign_out(self, request: Request) -> Response:
        """Ends the session whose token asks; other tokens stay as they are."""
        token = grant_of(request).token
        if token is not None:
            self._sessions.end(token.sha256)
        return Response(status_code=204)
