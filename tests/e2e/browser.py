"""A headless Chromium for tests, driven by chromedriver over HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no browser; get it with: sudo apt-get install chromium chromium-driver",
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars",
    "--font-render-hinting=none",
)  # fmt: skip

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
LONG_S = 20.0
ENTER = "\ue007"


class Browser:
    """One window.

    Args:
        driver: address of chromedriver.
        profile: an empty directory.
    """

    def __init__(self, driver: str, profile: Path) -> None:
        self._http = httpx.Client(base_url=driver, timeout=60)
        options = {
            "binary": CHROMIUM,
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        answer = self._send("POST", "/session", capabilities={"alwaysMatch": wanted})
        self._session = f"/session/{answer['sessionId']}"

    def _send(self, method: str, path: str, **body: Any) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def close(self) -> None:
        self._send("DELETE", self._session)
        self._http.close()

    def tell(self, command: str, **params: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._send("POST", self._session + "/goog/cdp/execute", cmd=command, params=params)

    def run(self, script: str, *args: Any) -> Any:
        """What a script returns, with its arguments in `arguments`."""
        return self._send("POST", self._session + "/execute/sync", script=script, args=list(args))

    def open(self, address: str) -> None:
        self._send("POST", self._session + "/url", url=address)

    def alone(self) -> None:
        """Closes what pages have opened; a window behind another one does not draw."""
        own = self._send("GET", self._session + "/window")
        for handle in self._send("GET", self._session + "/window/handles"):
            if handle != own:
                self._send("POST", self._session + "/window", handle=handle)
                self._send("DELETE", self._session + "/window")
        self._send("POST", self._session + "/window", handle=own)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def colours(self, name: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": name}
        self.tell("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._send("GET", self._session + "/screenshot")))

    def log(self) -> list[dict[str, Any]]:
        """What the console was told since the last time: errors, broken policies, missing files."""
        lines: list[dict[str, Any]] = self._send("POST", self._session + "/se/log", type="browser")
        return lines

    # --- what a person does ---

    def find(self, selector: str) -> str:
        """The first such element; waits for it."""
        there = "return document.querySelector(arguments[0]) !== null"
        self.until_true(there, selector)
        found: str = self._send(
            "POST", self._session + "/element", using="css selector", value=selector
        )[_ELEMENT]
        return found

    def click(self, selector: str) -> None:
        """Clicks, and waits for the element to be there, at rest, and not covered."""
        ends = time.monotonic() + LONG_S
        while True:
            try:
                self._send("POST", f"{self._session}/element/{self.find(selector)}/click")
            except AssertionError as error:
                passing = ("stale element", "click intercepted", "not interactable")
                if time.monotonic() > ends or not any(each in str(error) for each in passing):
                    raise
                time.sleep(0.05)
            else:
                return

    def type(self, selector: str, text: str, *, anew: bool = False) -> None:
        element = f"{self._session}/element/{self.find(selector)}"
        if anew:
            self._send("POST", element + "/clear")
        self._send("POST", element + "/value", text=text)

    def press(self, key: str) -> None:
        """A key for whatever has the focus."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        actions = [{"type": "key", "id": "keyboard", "actions": keys}]
        self._send("POST", self._session + "/actions", actions=actions)

    def point_at(self, selector: str) -> None:
        """Moves the mouse there."""
        there = {"type": "pointerMove", "origin": {_ELEMENT: self.find(selector)}, "x": 0, "y": 0}
        self._send(
            "POST",
            self._session + "/actions",
            actions=[{"type": "pointer", "id": "mouse", "actions": [there]}],
        )

    def name_of(self, selector: str) -> tuple[str, str]:
        """Role and name of an element, as a screen reader is told them."""
        element = f"{self._session}/element/{self.find(selector)}"
        return self._send("GET", element + "/computedrole"), self._send(
            "GET", element + "/computedlabel"
        )

    def text(self, selector: str = "body") -> str:
        """What is to be read in the first such element; empty when there is none."""
        text: str = self.run(
            "const node = document.querySelector(arguments[0]); return node ? node.innerText : ''",
            selector,
        )
        return text

    def until(self, text: str, selector: str = "body", within_s: float = LONG_S) -> None:
        """Waits until an element shows a text."""
        ends = time.monotonic() + within_s
        while text not in (shown := self.text(selector)):
            if time.monotonic() > ends:
                said = [line["message"] for line in self.log()]
                raise AssertionError(f"{selector} does not say {text!r} but:\n{shown}\n{said}")
            time.sleep(0.05)

    def until_true(self, script: str, *args: Any, within_s: float = LONG_S) -> Any:
        """Waits until a script returns something true, and gives it."""
        ends = time.monotonic() + within_s
        while not (value := self.run(script, *args)):
            if time.monotonic() > ends:
                said = [line["message"] for line in self.log()]
                raise AssertionError(f"{script} stays {value!r}; {said}; {self.text()[:2000]}")
            time.sleep(0.05)
        return value


@contextmanager
def browsing(tmp_path: Path) -> Iterator[Browser]:
    """A browser with an empty profile; it and its driver end with the block."""
    assert DRIVER is not None
    log = (tmp_path / "chromedriver.log").open("w+")
    process = subprocess.Popen(
        [DRIVER, "--port=0"],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    try:
        browser = Browser(f"http://127.0.0.1:{_port(log.name)}", tmp_path / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        log.close()


def _port(log: str) -> int:
    ends = time.monotonic() + LONG_S
    while True:
        said = Path(log).read_text()
        if "started successfully on port " in said:
            return int(said.rpartition("successfully on port ")[2].split(".")[0])
        assert time.monotonic() < ends, f"chromedriver did not start: {said}"
        time.sleep(0.05)
