"""Installs a package whose build does harm: `python -m tests.fault.hostile_install DIR MODE ...`.

A process of its own, so that it can be run as any user. Prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from atlatl.engine.artifacts import ArtifactShelf
from atlatl.errors import ArtifactInvalid
from atlatl.settings import ArtifactSettings, Settings
from atlatl.stores.memory import MemoryStore
from tests.running import alive
from tests.shelf_samples import CODE, shelved, zipped

PYPROJECT = b"""
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = '''
import glob, json, os, signal, subprocess, sys, time, zipfile

DATA, SERVICE, MODE = {data!r}, {service!r}, {mode!r}

def attempt(action):
    try:
        return repr(action())
    except BaseException as error:
        return "refused: " + type(error).__name__

def read(path):
    with open(path, "rb") as file:
        return file.read(1000)

def write(path):
    with open(path, "wb") as file:
        file.write(b"evil")
    return "written"

def daemon():
    """Leaves its session, its group and its parent."""
    mine, theirs = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(theirs, b"%d" % os.getpid())
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for number in range(3):
                os.close(number)
            time.sleep(1000)
        os._exit(0)
    return int(os.read(mine, 100))

def kill_all():
    for pid in (os.getppid(), SERVICE):
        os.kill(pid, signal.SIGKILL)

def fill(folder):
    with open(os.path.join(folder, "full"), "wb") as file:
        while True:
            file.write(bytes(1 << 20))

def deep():
    for _ in range(5000):
        os.mkdir("d" * 100)
        os.chdir("d" * 100)
    time.sleep(1000)

def hide():
    os.mkdir("hidden")
    os.chmod("hidden", 0)
    time.sleep(1000)

def unlinked():
    files = []
    while True:
        file = open("gone", "wb")
        os.unlink("gone")
        files.append(file)
        for _ in range(100):
            file.write(bytes(1 << 20))
            file.flush()

def files():
    for number in range(10**9):
        open(str(number), "w").close()

def findings():
    neighbours = glob.glob(DATA + "/code/*/other.py") + glob.glob(DATA + "/deps/*/x")
    return {{
        "uid": os.getuid(),
        "token": attempt(lambda: read(DATA + "/token")),
        "database": attempt(lambda: read(DATA + "/atlatl.db")),
        "neighbours": [attempt(lambda: read(path)) for path in neighbours],
        "other": attempt(lambda: read({other!r})),
        "shadow": attempt(lambda: read("/etc/shadow")),
        "home": attempt(lambda: os.listdir({home!r})),
        "environment": "of the service" in str(dict(os.environ)),
        "environ": attempt(lambda: b"of the service" in read("/proc/%d/environ" % SERVICE)),
        "memory": attempt(lambda: open("/proc/%d/mem" % SERVICE, "rb").close()),
        "write code": attempt(lambda: write({code!r} + "/app.py")),
        "write data": attempt(lambda: write(DATA + "/evil")),
        "write token": attempt(lambda: write(DATA + "/token")),
        "write tmp": attempt(lambda: write("/var/tmp/atlatl-was-here-" + str(SERVICE))),
        "signal": attempt(lambda: os.kill(SERVICE, signal.SIGUSR1)),
        "mount": attempt(lambda: subprocess.check_call(["mount", "-t", "tmpfs", "x", "/mnt"])),
        "privileges": read("/proc/self/status").count(b"NoNewPrivs:\\t1"),
        "daemon": daemon(),
    }}

def harm():
    if MODE == "loop":
        print("begun", flush=True)
        while True: pass
    elif MODE == "ignores":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        daemon()
        time.sleep(1000)
    elif MODE in ("deep", "hide", "unlinked", "files"):
        os.chdir(os.environ["TMPDIR"])
        globals()[MODE]()
    elif MODE == "fill":
        fill(os.environ["TMPDIR"])
    elif MODE == "fill home":
        fill(os.environ["HOME"])
    elif MODE == "prints":
        while True: print("x" * 100_000, file=sys.__stderr__)
    elif MODE == "kills":
        print(attempt(kill_all), attempt(lambda: os.killpg(0, 9)))

def build_wheel(folder, config_settings=None, metadata_directory=None):
    harm()
    name, info = "hostile-1.0-py3-none-any.whl", "hostile-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("hostile.py", "FOUND = " + repr(findings() if MODE == "looks" else {{}}))
        told = ["Metadata-Version: 2.1", "Name: hostile", "Version: 1.0", ""]
        wheel.writestr(info + "/METADATA", "\\n".join(told))
        told = ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any", ""]
        wheel.writestr(info + "/WHEEL", "\\n".join(told))
        wheel.writestr(info + "/RECORD", "")
    return name
'''


async def scenario(directory: Path, mode: str, limits: dict[str, Any]) -> dict[str, Any]:
    data = directory / "data"
    data.mkdir(mode=0o700)
    for name in ("token", "atlatl.db"):
        (data / name).write_text("a secret")
        (data / name).chmod(0o600)
    other = directory / "other.txt"
    other.write_text("a secret")
    settings = Settings(artifacts=ArtifactSettings(**limits))
    store = MemoryStore()
    await store.open()
    shelf = ArtifactShelf(data, settings, store)
    await shelf.open()
    try:
        neighbour = await shelf.read_source(zipped({"other.py": b"SECRET = 1"}), "other.zip")
        await shelved(shelf, store, neighbour)
        place = "a place that is not known yet"
        backend = BACKEND.format(
            data=str(data), service=os.getpid(), mode=mode, other=str(other), code=place,
            home=str(Path.home()),
        )  # fmt: skip
        files = {
            "app.py": CODE,
            "requirements.txt": b"./hostile\n",
            "hostile/pyproject.toml": PYPROJECT,
            "hostile/backend.py": backend.encode(),
        }
        code = await shelved(shelf, store, await shelf.read_source(zipped(files), "app.zip"))
        began = time.monotonic()
        log = error = ""
        found: dict[str, Any] = {}
        try:
            deps, log = await shelf.dependencies(code)
            names: dict[str, Any] = {}
            assert deps is not None
            exec((deps / "hostile.py").read_text(), names)
            found = names["FOUND"]
        except ArtifactInvalid as refused:
            error = refused.message
        return {
            "found": found,
            "log": log,
            "error": error,
            "took_s": time.monotonic() - began,
            "daemon_lives": bool(found) and alive(found["daemon"]),
            "left": sorted(path.name for path in data.rglob(".new-*")),
            "uid": os.getuid(),
            "intact": (data / "token").read_text() == "a secret" and not (data / "evil").exists(),
        }
    finally:
        await shelf.close()


if __name__ == "__main__":
    told = asyncio.run(scenario(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
    print(json.dumps(told))
