"""What a kernel keeps is found out as instances will use it: also by those who may do little."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from atlatl.core.confinement import Kept
from atlatl_worker.means import FIRST_UID, INSTANCES, LAST_PID
from tests.ordinary import NOBODY, python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what root may do"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed"),
]

ROOT = Path(__file__).parents[2]
ASKS = """
import asyncio, json, msgspec, os, signal, sys
from pathlib import Path
from tests.running import alive, call, opened, process_runtime, task_of, until, value

SOURCE = '''
import os
def main(closed: str):
    try:
        listed = os.listdir(closed)
    except OSError as error:
        listed = type(error).__name__
    return [os.getresuid(), os.getgroups(), listed]
def leaves():
    import subprocess
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
'''

async def main(data_dir):
    runtime = process_runtime({"data_dir": data_dir})
    async with opened(runtime):
        found = {"kept": msgspec.to_builtins(runtime.kept)}
        task, code = task_of(Path(data_dir), SOURCE)
        found["not_kept"] = runtime.not_kept(task.settings)
        channel = await runtime.start(task, code, None)
        found["pid"] = channel.pid
        found["instance"] = value(await call(channel, {"closed": data_dir}))
        channel.usage.measure()
        found["pss_bytes"] = channel.usage.measure()
        left = value(await call(channel, function="leaves"))
        os.kill(runtime.pids()[0], signal.SIGKILL)  # the zygote, which would have ended it
        for pid in (found["pid"], left):
            await until(lambda: not alive(pid), "the end of what the zygote left")
    print(json.dumps(found))

os.umask(0o022)
asyncio.run(main(sys.argv[1]))
"""
CONTAINER = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,sys_chroot"
)
"""What root in a container usually has."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter; those of pytest are closed."""
    with tempfile.TemporaryDirectory(prefix="atlatl-kept-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


FILTERED = """
import os, sys
from atlatl_worker import kernel, seccomp
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
machine = seccomp.MACHINES[kernel.MACHINE]
seccomp.Filter(seccomp.program(machine, network=True, own_user=True)).install()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Refuses namespaces and mounts, as the engines of containers do."""


def found(data_dir: Path, *before: str, first: Sequence[str] = ()) -> dict[str, Any]:
    """What a runtime keeps and its instances see, with a Python that any user may run.

    Args:
        data_dir: of the runtime.
        before: the command that starts Python.
        first: arguments of Python, which has to start it once more.
    """
    done = subprocess.run(
        [*before, python(), *first, "-c", ASKS, data_dir],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["kept"] = msgspec.convert(answer["kept"], Kept)
    return answer


def with_only(*capabilities: str) -> list[str]:
    names = ",".join(f"+{name}" for each in capabilities for name in each.split(","))
    return ["setpriv", f"--bounding-set=-all{',' if names else ''}{names}"]


def test_without_the_right_to_mount_calls_and_files_are_still_filtered(place: Path) -> None:
    """Such is root in a container, unless it is given more: instances are users of their own."""
    all_of_it = found(place / "all")["kept"]
    assert all_of_it.mounts
    data_dir = place / "data"
    answer = found(data_dir, *with_only(CONTAINER))
    little = answer["kept"]
    assert not little.mounts
    assert (little.landlock, little.seccomp) == (all_of_it.landlock, all_of_it.seccomp)
    assert (little.uids, little.as_root) == (True, False)
    assert "user" not in {each.partition(":")[0] for each in answer["not_kept"]}
    uid = FIRST_UID + answer["pid"] % LAST_PID
    assert answer["instance"] == [[uid] * 3, [INSTANCES], "PermissionError"]
    assert answer["pss_bytes"] > 2**20
    # Who may pass to the code sees nothing else.
    status = data_dir.stat()
    assert (status.st_mode & 0o777, status.st_gid) == (0o710, INSTANCES)


def test_an_ordinary_user_in_a_container_has_rules_and_a_filter(place: Path) -> None:
    data_dir = place / "data"
    data_dir.mkdir(0o700)
    os.chown(data_dir, NOBODY, NOBODY)
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    kept = found(data_dir, *user, first=["-c", FILTERED])["kept"]
    assert (kept.uids, kept.as_root, kept.mounts, kept.network_namespaces) == (False,) * 4
    assert kept.seccomp
    assert kept.landlock == found(place / "all")["kept"].landlock


def test_a_directory_that_was_opened_by_others_is_left_as_it_is(place: Path) -> None:
    place.chmod(0o750)
    data_dir = place / "data"
    answer = found(data_dir, *with_only(CONTAINER))
    assert place.stat().st_mode & 0o777 == 0o750
    assert answer["kept"].as_root  # nobody else reaches what lies in it


@pytest.mark.parametrize(
    "capabilities",
    [
        "",
        CONTAINER.replace("kill,", ""),  # what cannot be ended must not be begun
        CONTAINER.replace("setuid,", ""),
        CONTAINER.replace("chown,", ""),
    ],
)
def test_where_instances_stay_root_it_is_said(place: Path, capabilities: str) -> None:
    answer = found(place / "data", *with_only(*filter(None, [capabilities])))
    kept = answer["kept"]
    assert (kept.uids, kept.as_root) == (False, True)
    [said] = [each for each in answer["not_kept"] if each.startswith("user: ")]
    assert "runs as root, without root's rights" in said
    assert answer["instance"][0] == [0, 0, 0]


def test_the_capabilities_of_the_unit_are_all_that_it_takes(place: Path) -> None:
    unit = (ROOT / "deploy" / "systemd" / "atlatl.service").read_text(encoding="utf-8")
    [line] = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    names = line.partition("=")[2].lower().replace("cap_", "").split()
    allowed = found(place / "unit", *with_only(*names))
    assert allowed["kept"] == found(place / "all")["kept"]
    assert allowed["instance"][1] == []
    assert 0 < allowed["pss_bytes"] < 50 * 2**20
