"""A real service under attack, and a good function that is called all the while."""

from __future__ import annotations

import io
import json
import os
import pwd
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, alive, eventually
from tests.hostile.not_kept import NOT_KEPT

ROOT, ORDINARY = "root", "ordinary"
USERS = (ROOT, ORDINARY)
ORDINARY_UID = 64_037
"""Nobody's else, so that even an attack that is not contained meets only what is ours."""

FUNCTIONS = Path(__file__).parent / "functions"
GOOD = """
import os
from pathlib import Path


def main(number: int) -> dict:
    note = Path("/tmp/note")
    before = note.read_text() if note.exists() else "0"
    note.write_text(str(number))
    return {"number": number + 1, "before": int(before), "there": sorted(os.listdir("/tmp"))}
"""
LIMITS: dict[str, Any] = {
    "memory_bytes": 128 * 1024 * 1024,
    "processes": 32,
    "tmp_bytes": 16 * 1024 * 1024,
}
"""Of every attack, unless a test says otherwise."""
TIMEOUT_MS = 15_000
LEFT_WITHIN_S = 5.0
SECRET = "ATLATL_TEST_SECRET"


@dataclass(frozen=True)
class Ended:
    """What came of an attack: what its caller got, and what the service wrote down."""

    status: int
    text: str
    headers: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def value(self) -> Any:
        """What the function returned."""
        assert self.status == 200, self
        return json.loads(self.text)

    @property
    def outcome(self) -> tuple[str, str]:
        """As the record names it: outcome and code."""
        return self.record["outcome"], self.record["error_code"] or ""

    @property
    def message(self) -> str:
        return str(self.record["error_message"])

    @property
    def achieved(self) -> dict[str, str]:
        """Attempts that went through, with what they came to."""
        return dict(self.value["achieved"]) if self.status == 200 else {}

    @property
    def refused(self) -> dict[str, str]:
        """Attempts that did not, each with its reason: `EACCES` for example."""
        if self.status == 200:
            return dict(self.value["refused"])
        assert self.message.startswith("Contained: "), self
        return dict(json.loads(self.message.removeprefix("Contained: ")))


class Caller:
    """Calls the good function without a pause, and remembers every answer that is not right."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=20)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._there: list[str] = []
        self.answered = 0
        self.faults: list[str] = []
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._end.wait(0.005):
            number += 1
            try:
                answer = self._http.post("/functions/good", json={"number": number})
                self._check(number, answer)
            except Exception as error:
                self.faults.append(f"call {number}: {error!r}")

    def _check(self, number: int, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said["number"] == number + 1, said
        # What others leave in a directory of the same name is not here.
        self._there = self._there or said["there"]
        assert said["there"] == self._there, said
        self.answered += 1

    def close(self) -> None:
        if self._http.is_closed:
            return
        self._end.set()
        self._thread.join(30)
        self._http.close()


class Stand:
    """A service that runs as one user, with what an attacker may look for.

    Args:
        directory: where its data may lie; belongs to that user.
        user: ROOT or ORDINARY.
    """

    def __init__(self, directory: Path, user: str) -> None:
        self.user = user
        self.secret = secrets.token_hex(16)
        uid = None if user == ROOT or os.geteuid() != 0 else ORDINARY_UID
        self.uid = os.geteuid() if uid is None else uid
        self.directory = directory
        self.outside = directory / "outside"
        self.outside.write_text("a file of the same user\n")
        if uid is not None:
            os.chown(self.outside, uid, uid)
        self.server = Server(
            directory / "data", user=uid, env={SECRET: self.secret, "HOME": str(directory)}
        )
        self.data_dir = self.server.data_dir
        self.pid = self.server.process.pid
        try:
            self.server.deployed("good", GOOD, pool={"min_size": 2, "max_size": 2})
            self.server.deployed("other", f"SECRET = {self.secret!r}\n\n\ndef main(): return 1\n")
        except BaseException:
            self.server.kill()
            raise
        self.good = Caller(self.server.url)
        self._deployed: list[str] = []
        self._count = 0
        self._killed = False

    @property
    def port(self) -> int:
        return httpx.URL(self.server.url).port or 0

    @property
    def zygote(self) -> int:
        """The process that forks instances: the service's first child."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])

    @property
    def pids(self) -> dict[str, int]:
        """Processes that are none of an attacker's business, by what they are."""
        good = self.server.instances("good")[0]["pid"]
        return {
            "init": 1, "the tests": os.getpid(), "the service": self.pid,
            "the zygote": self.zygote, "another instance": good,
        }  # fmt: skip

    @property
    def private_files(self) -> list[Path]:
        """All that the service keeps, artifacts of others among them."""
        return [path for path in self.data_dir.rglob("*") if path.is_file()]

    def well(self) -> dict[str, Any]:
        """What no attack may change."""
        good = sorted(row["instance_id"] for row in self.server.instances("good"))
        return {"service": alive(self.pid), "zygote": self.zygote, "good": good}

    # --- attacks ---

    def deploy(
        self,
        file: str,
        function: str = "main",
        *,
        confinement: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> str:
        """Deploys an attack under a name of its own, which its processes bear too."""
        self._count += 1
        name = f"{file[:9]}{self.user[0]}{self._count}"  # 15 characters at most
        self._deployed.append(name)
        answer = self.server.deploy(
            name,
            _artifact(file),
            **{
                "handler": f"main.py:{function}",
                "timeout_ms": TIMEOUT_MS,
                "env": {"ATTACK": name, **(env or {})},
                "confinement": {**LIMITS, **(confinement or {})},
                "breaker": {"enabled": False},
                **settings,
            },
        )
        assert answer.status_code == 201, answer.text
        return name

    def call(self, name: str, /, **arguments: Any) -> Ended:
        answer = self.server.call(name, arguments)
        execution_id = answer.headers.get("atlatl-execution-id") or answer.json()["execution_id"]
        found = self.server.http.get(f"/api/v1/executions/{execution_id}")
        assert found.status_code == 200, (answer.text, found.text)
        return Ended(answer.status_code, answer.text, answer.headers, found.json())

    def attack(self, file: str, function: str = "main", /, **arguments: Any) -> Ended:
        """Deploys one, calls it once."""
        return self.call(self.deploy(file, function), **arguments)

    def refuses(self, ended: Ended, *, reasons: Iterable[str] = ()) -> dict[str, str]:
        """Fails unless every single attempt was refused and the record says so.

        Args:
            ended: the attack.
            reasons: of which each refusal has to have one; none says that any will do.
        """
        through = [what for what in ended.achieved if not self.not_kept(what)]
        assert not through, {what: ended.achieved[what] for what in through}
        if ended.achieved:
            # Something of it is not kept here, which is said elsewhere; all else was refused.
            return ended.refused
        assert (ended.status, *ended.outcome) == (500, "error", "EXECUTION_ERROR"), ended
        refused = ended.refused
        allowed = set(reasons)
        if allowed:
            assert {what: why for what, why in refused.items() if why not in allowed} == {}
        return refused

    def not_kept(self, attempt: str) -> bool:
        """Whether it goes through because this user's kernel cannot keep it, which is reported."""
        if self.user != ORDINARY:
            return False
        subjects = {subject for begin, subject in NOT_KEPT.items() if attempt.startswith(begin)}
        return bool(subjects & self.reported("good"))

    def reported(self, task: str) -> set[str]:
        """Subjects of what is not kept for a task, as the view of pools has them."""
        rows = self.server.http.get("/api/v1/pools").json()["pools"]
        (row,) = [row for row in rows if row["task_name"] == task]
        return {each.partition(": ")[0] for each in row["confinement"]["not_kept"]}

    # --- afterwards ---

    def delete(self, name: str) -> None:
        answer = self.server.http.delete(f"/api/v1/tasks/{name}?force=true")
        assert answer.status_code in (200, 404), answer.text

    def left(self) -> list[str]:
        """Processes of attacks that were deployed here, alive."""
        return [f"{pid} {name}" for pid, name in _names() if name in self._deployed]

    def nothing_left(self) -> None:
        """Fails when a process of an attack outlives what it belonged to."""
        end = time.monotonic() + LEFT_WITHIN_S
        while left := self.left():
            assert time.monotonic() < end, left
            time.sleep(0.02)

    def clean(self) -> None:
        """Deletes what was deployed, and checks that nothing of it is left."""
        try:
            for name in self._deployed:
                self.delete(name)
            self.nothing_left()
        finally:
            self._deployed.clear()

    def good_goes_on(self) -> None:
        """Fails unless the good function is answered, now too, and always was."""
        answered = self.good.answered
        eventually(lambda: self.good.answered > answered or self.good.faults, 20)
        faults, self.good.faults = self.good.faults, []
        assert not faults, faults[:3]

    def kill(self) -> None:
        """Ends the service as the kernel would, without a chance to tidy up."""
        self._killed = True
        self.good.close()
        self.server.kill()

    def close(self) -> None:
        if not self._killed:
            self.good.close()
            self.server.stop()


def _artifact(file: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("main.py", (FUNCTIONS / f"{file}.py").read_text())
        archive.writestr("trying.py", (FUNCTIONS / "trying.py").read_text())
    return content.getvalue()


def _names() -> Iterator[tuple[int, str]]:
    """Every process with the name that it has given itself."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and alive(int(process.name)):
            try:
                yield int(process.name), (process / "comm").read_text().rstrip("\n")
            except OSError:
                continue


@contextmanager
def standing(user: str, private: Path) -> Iterator[Stand]:
    """A service as that user; skips by name what cannot be had here.

    Args:
        user: ROOT or ORDINARY.
        private: a directory that nobody but whoever runs the tests can enter.
    """
    if user == ROOT and os.geteuid() != 0:
        pytest.skip("only root can run a service as root")
    directory = private
    if user == ORDINARY and os.geteuid() == 0:
        _require_readable()
        directory = Path(tempfile.mkdtemp(prefix="atlatl-hostile-"))
        os.chown(directory, ORDINARY_UID, ORDINARY_UID)
    try:
        stand = Stand(directory, user)
        try:
            yield stand
        finally:
            stand.close()
    finally:
        if directory is not private:
            shutil.rmtree(directory, ignore_errors=True)


def _require_readable() -> None:
    """The code has to be within reach of a stranger."""
    assert ORDINARY_UID not in {entry.pw_uid for entry in pwd.getpwall()}
    for place in FUNCTIONS.parents:
        if not place.stat().st_mode & 0o001:
            pytest.skip(f"an ordinary user cannot enter {place}")
