"""The file of tokens: written by some, read by others, and never with a token in it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from atlatl import cli
from atlatl.errors import AtlatlError, Conflict, InvalidRequest, RateLimited, SettingInvalid
from atlatl.front.asgi import asgi
from atlatl.front.auth import Scope
from atlatl.front.tokens import TokenFile, TokenKeeper, parse_expiry
from atlatl.front.watching import EVERY_S, Watch
from tests.unit.front_fakes import LOCAL, FakeService, bearing

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    """A wall clock that stands."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> float:
        return self.at.timestamp()


def keeper(directory: Path, clock: Clock | None = None) -> TokenKeeper:
    return TokenKeeper(directory, True, clock or Clock())


def may(kept: TokenKeeper, secret: str, scope: Scope = Scope.CALL) -> bool:
    grant = kept.authorizer.known(f"Bearer {secret}")
    if grant is None:
        return False
    try:
        grant.require(scope)
    except AtlatlError:
        return False
    return True


# --- the file ---


def test_what_is_kept_tells_no_token_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "data")
    secret, token = file.create("deploy", now=NOW, tasks=["billing-*"], name="ci")
    assert len(secret) >= 43 + len("atlatl_")
    assert secret not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.path.parent.iterdir()] == ["tokens"]
    assert file.read() == (token,)
    other, _ = file.create("deploy", now=NOW)
    assert other != secret


def test_a_token_is_good_from_its_making_to_its_revocation(tmp_path: Path) -> None:
    file, kept = TokenFile(tmp_path), keeper(tmp_path)
    secret, token = file.create("deploy", now=NOW, name="ci")
    assert not may(kept, secret)
    kept.look()
    assert may(kept, secret, Scope.DEPLOY)
    assert not may(kept, secret, Scope.ADMIN)
    assert may(keeper(tmp_path), secret)  # after a restart too
    assert file.revoke("ci") == token
    kept.look()
    assert not may(kept, secret)
    assert not may(keeper(tmp_path), secret)


def test_the_admin_token_goes_on_and_cannot_be_named(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    first = (tmp_path / "token").read_text().strip()
    TokenFile(tmp_path).create("invoke", now=NOW)
    kept.look()
    assert may(kept, first, Scope.ADMIN)
    with pytest.raises(InvalidRequest, match="not `admin`"):
        TokenFile(tmp_path).create("admin", now=NOW, name="admin")


def test_a_token_ends_at_its_time(tmp_path: Path) -> None:
    clock = Clock()
    secret, _ = TokenFile(tmp_path).create("invoke", now=NOW, expires_at=NOW + HOUR)
    kept = keeper(tmp_path, clock)
    clock.at = NOW + HOUR - timedelta(seconds=1)
    before = kept.authorizer.generation
    kept.look()
    assert may(kept, secret)
    assert kept.authorizer.generation == before
    clock.at = NOW + HOUR
    kept.look()
    assert not may(kept, secret)
    assert kept.authorizer.generation > before
    grant = kept.authorizer.without(f"Bearer {secret}", loopback=True)
    with pytest.raises(AtlatlError, match="expired"):
        grant.require(Scope.CALL)
    assert not may(keeper(tmp_path, clock), secret)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"scope": "nothing"}, "'nothing': it is `invoke`, `deploy` or `admin`"),
        ({"scope": "call"}, "call"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"tasks": [""]}, "1 to 128"),
        ({"tasks": ["a/b"]}, "a/b"),
        ({"rate_limit_per_s": -1.0}, "rate limit"),
        ({"rate_limit_per_s": float("nan")}, "rate limit"),
        ({"expires_at": NOW}, "expired"),
    ],
)
def test_what_no_token_can_have_is_refused(
    tmp_path: Path, wanted: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        TokenFile(tmp_path).create(**{"scope": "invoke", "now": NOW, **wanted})
    assert not (tmp_path / "tokens").exists()


def test_names_are_unique_and_revoking_names_one_that_is_there(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.create("invoke", now=NOW, name="ci")
    with pytest.raises(Conflict, match="ci"):
        file.create("admin", now=NOW, name="ci")
    with pytest.raises(InvalidRequest, match="no token 'else'"):
        file.revoke("else")
    assert [token.name for token in file.read()] == ["ci"]


def test_many_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def create() -> None:
        for _ in range(10):
            TokenFile(tmp_path).create("invoke", now=NOW)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({token.sha256 for token in TokenFile(tmp_path).read()}) == 40


def test_one_that_died_while_writing_is_in_nobodys_way(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.create("invoke", now=NOW, name="ci")
    (tmp_path / "tokens.new").write_text("half of")
    (tmp_path / "tokens.new").chmod(0o644)
    assert len(file.read()) == 1
    file.create("invoke", now=NOW)
    assert len(file.read()) == 2
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert not (tmp_path / "tokens.new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_writes_belongs_to_who_owns_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    TokenFile(tmp_path).create("invoke", now=NOW)
    assert (tmp_path / "tokens").stat().st_uid == 65534


def test_a_directory_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingInvalid, match="cannot be written"):
        TokenFile(tmp_path / "file").create("invoke", now=NOW)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"tokens": [{}]}',
        '{"tokens": [], "version": 2}',
        '{"tokens": [{"name": "a", "scope": "invoke", "sha256": "00", "created_at": '
        '"2026-01-31T09:00:00Z"}]}',
        '{"tokens": [{"name": "a", "scope": "root", "sha256": "%s", "created_at": '
        '"2026-01-31T09:00:00Z"}]}' % ("0" * 64),
        '{"tokens": [{"name": "a", "scope": "admin", "sha256": "%s", "created_at": '
        '"2026-01-31T09:00:00"}]}' % ("0" * 64),
    ],
)
def test_a_file_that_somebody_broke_starts_nothing_and_changes_nothing(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, kept = TokenFile(tmp_path), keeper(tmp_path)
    secret, _ = file.create("invoke", now=NOW)
    gone, token = file.create("invoke", now=NOW)
    kept.look()
    file.revoke(token.name)
    kept.look()
    file.path.write_text(content)
    with pytest.raises(SettingInvalid, match="tokens"):
        keeper(tmp_path)
    kept.look()
    kept.look()
    assert may(kept, secret)
    assert not may(kept, gone)
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1
    file.path.unlink()
    kept.look()
    assert not may(kept, secret)


def test_a_file_that_could_not_be_read_for_a_moment_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_many_files(_: TokenFile) -> None:
        raise SettingInvalid("tokens cannot be read: Too many open files")

    file, kept = TokenFile(tmp_path), keeper(tmp_path)
    secret, token = file.create("invoke", now=NOW)
    kept.look()
    file.revoke(token.name)
    with monkeypatch.context() as patched:
        patched.setattr(TokenFile, "read", too_many_files)
        kept.look()
        kept.look()
        assert may(kept, secret)
    kept.look()
    assert not may(kept, secret)
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_a_rate_is_not_refilled_by_a_change_of_other_tokens(tmp_path: Path) -> None:
    file, kept = TokenFile(tmp_path), keeper(tmp_path)
    secret, _ = file.create("invoke", now=NOW, rate_limit_per_s=0.001, name="slow")

    def take() -> None:
        grant = kept.authorizer.known(f"Bearer {secret}")
        assert grant is not None
        grant.take()

    kept.look()
    take()
    file.create("invoke", now=NOW)
    kept.look()
    with pytest.raises(RateLimited, match=r"'slow' may ask 0\.001 times a second") as caught:
        take()
    assert caught.value.retry_after_s == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("2w", timedelta(weeks=2)),
        ("2026-01-31T10:00:00Z", HOUR),
        ("2026-01-31T12:00:00+02:00", HOUR),
    ],
)
def test_when_a_token_ends(text: str, after: timedelta) -> None:
    assert parse_expiry(text, NOW) == NOW + after


@pytest.mark.parametrize("text", ["tomorrow", "5", "1y", "-1d", "2026-01-31T10:00:00", "999999w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no time"):
        parse_expiry(text, NOW)
    assert parse_expiry("", NOW) is None


# --- watching ---


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVERY_S <= 0.5  # in earnest
    monkeypatch.setattr("atlatl.front.watching.EVERY_S", 0.001)


@pytest.mark.usefixtures("looks_often")
def test_a_change_is_seen_within_a_second_and_a_bug_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen, going = threading.Semaphore(0), True

    def broken() -> None:
        raise RuntimeError("a bug")

    def look() -> None:
        seen.release()

    watch = Watch(broken, look, as_long_as=lambda: going)
    watch.start()
    thread = watch._thread
    watch.start()
    assert watch._thread is thread is not None
    for _ in range(3):
        assert seen.acquire(timeout=10)
    assert "a bug" in caplog.text
    going = False
    thread.join(10)
    assert not thread.is_alive()
    watch.stop()


@pytest.mark.usefixtures("looks_often")
def test_a_look_that_hangs_holds_no_stop_up_and_the_thread_ends_when_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atlatl.front.watching.STOP_S", 0.01)
    first, hangs, go = threading.Event(), threading.Event(), threading.Event()

    def look() -> None:
        if first.is_set():
            hangs.set()
            assert go.wait(10)
        first.set()

    watch = Watch(look)
    watch.start()
    left = watch._thread
    assert left is not None
    assert hangs.wait(10)
    watch.stop()
    assert left.is_alive()
    go.set()
    left.join(10)
    assert not left.is_alive()


@pytest.mark.usefixtures("looks_often")
def test_a_front_that_is_mounted_sees_changes_too_and_its_thread_ends_with_the_service(
    tmp_path: Path,
) -> None:
    before = watching()  # of services that other tests have left
    service = FakeService(data_dir=str(tmp_path))
    service.is_open = False
    app = asgi(service)  # type: ignore[arg-type]
    assert watching() == before  # nothing may be started before the service is
    service.is_open = True

    async def main() -> None:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as client:

            async def status() -> int:
                return (await client.get("/api/v1/tasks", headers=bearing(secret))).status_code

            secret, token = TokenFile(tmp_path).create("deploy", now=NOW)
            assert await status() == 200  # what happened before the first request is known
            TokenFile(tmp_path).revoke(token.name)
            await until_async(status, 401)
            secret, token = TokenFile(tmp_path).create("deploy", now=NOW)
            await until_async(status, 200)

    asyncio.run(main())
    (thread,) = set(watching()) - set(before)
    service.is_open = False
    thread.join(10)
    assert not thread.is_alive()


def watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watch"]


async def until_async(status: Callable[[], Awaitable[int]], wanted: int) -> None:
    async with asyncio.timeout(10):
        while await status() != wanted:
            await asyncio.sleep(0.02)


# --- the command line ---


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["token", *arguments])


def test_a_token_is_printed_once(tmp_path: Path) -> None:
    where = ["--data-dir", str(tmp_path)]
    made = run(
        "create", "--scope", "deploy", "--task", "a-*", "--task", "b", "--name", "ci", *where
    )
    secret = made.stdout.strip()
    assert secret.startswith("atlatl_")
    assert " " not in secret
    listed = run("list", *where)
    assert secret not in listed.output
    assert listed.output.splitlines()[1].split()[:4] == ["ci", "deploy", "a-*", "b"]
    described = json.loads(run("list", "--json", *where).stdout)
    (row,) = described["tokens"]
    assert (row["name"], row["tasks"], row["expired"]) == ("ci", ["a-*", "b"], False)
    assert "sha256" not in row
    assert run("revoke", "ci", *where).exit_code == 0
    assert run("list", *where).output.strip() == "there are no tokens"
    assert run("revoke", "ci", *where).exit_code == 1


def test_as_json_the_token_stands_beside_what_is_kept(tmp_path: Path) -> None:
    made = run(
        "create", "--scope", "invoke", "--expires", "1h", "--json", "--data-dir", str(tmp_path)
    )
    row = json.loads(made.stdout)
    assert may(keeper(tmp_path, Clock()), row["token"])
    assert row["expires_at"] > row["created_at"]


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    done = run("create", "--scope", "nothing", "--data-dir", str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "no token has scope 'nothing': it is `invoke`, `deploy` or `admin`" in done.stderr
