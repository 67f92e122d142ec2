"""The dashboard in a real browser: deploy, call, watch, break, reset; with pictures of it.

The pictures are kept in `build/screenshots`; `make screenshots` takes them into the documents.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.browser import ENTER, Browser, browsing, needs_chromium
from tests.e2e.pretended import pretending
from tests.e2e.server import Server, eventually, serving

pytestmark = [needs_chromium, pytest.mark.timeout(300)]

SHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
FOR_THE_DOCUMENTS = bool(os.environ.get("ATLATL_SCREENSHOTS"))
"""The pictures are to be looked at: they are taken when there is something to see."""

SEEN_S = 5.0
"""What is promised: so soon is a broken function seen."""

BREAKABLE = """
import os, time

def main(how: str = "", name: str = "world"):
    print("asked to", how or "greet", name)
    if how == "raise":
        raise ValueError("the card was declined")
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os.kill(os.getpid(), 9)
    if how == "memory":
        bytearray(1 << 44)
    return f"hello {name}"
"""

BUSY = {
    "greet": "def main(name='world'):\n    return f'hello {name}'\n",
    "resize-image": "import time\n\ndef main(width: int = 640):\n    time.sleep(0.012)\n",
    "convert-currency": "RATES = {'eur': 0.9}\n\ndef main(amount: float, to: str):\n"
    "    return amount * RATES[to]\n",
    "send-receipt": "import time\n\ndef main():\n    time.sleep(0.004)\n",
    "nightly-report": "def main(part: int = 1):\n    print('part', part)\n",
}


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Browser:
    """On an empty page: who was signed in is not any more."""
    window.alone()
    window.open("about:blank")
    window.size(1360, 900)
    window.log()
    return window


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For those who do not mind what others have deployed."""
    with serving(tmp_path_factory.mktemp("service") / "data") as server:
        yield server


def printed_address(server: Server) -> str:
    """The one-time address that the service printed."""
    found = eventually(lambda: re.search(r"dashboard.* (http://\S+#code=\S+)", server.output))
    return str(found[1])


def address(server: Server) -> str:
    """A fresh one-time address."""
    return f"{server.url}/#code={server.http.post('/api/v1/dashboard/codes').json()['code']}"


def go(browser: Browser, page: str, shows: str) -> None:
    browser.run("location.hash = arguments[0]", page)
    browser.until(shows, "main")


@contextmanager
def traffic(server: Server) -> Iterator[None]:
    """Calls, again and again, until the block ends."""
    over = threading.Event()

    def call(phase: int) -> None:
        number = 0
        while not over.wait(0.03 + 0.02 * math.sin(number / 60 + phase)):
            number += 1
            server.call("greet", {"name": f"n{number}"})
            if number % 2 == 0:
                server.call(
                    "convert-currency", {"amount": number, "to": "eur" if number % 50 else "?"}
                )
            if number % 3 == phase:
                server.call("resize-image")
            if number % 7 == phase:
                server.call("send-receipt")

    threads = [threading.Thread(target=call, args=(phase,)) for phase in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def failures(browser: Browser) -> list[str]:
    """What the console complains of, but for answers that are failures on purpose."""
    return [
        line["message"]
        for line in browser.log()
        if line["level"] == "SEVERE" and "Failed to load resource" not in line["message"]
    ]


def test_deploy_call_watch_break_and_reset(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        once = printed_address(server)
        browser.open(once)
        browser.until("Nothing is deployed")
        assert "code=" not in browser.run("return location.href")

        deploys(browser, tmp_path)
        calls(browser)
        with traffic_of_all(server):
            watches(browser)
            breaks(browser, server)
            pictures(browser, server)
            resets(browser, server)
        explains(browser, server)
        tries_dead_letters_again(browser, server)
        deletes(browser, server)
        assert failures(browser) == []

        # The address has worked; it does not do so again.
        browser.run("document.getElementById('leave').click()")
        browser.until("Sign in", "h1")
        browser.open("about:blank")
        browser.open(once)
        browser.until("it works once")
        browser.type("#token", server.token)
        browser.press(ENTER)
        browser.until("Tasks", "nav")


def deploys(browser: Browser, tmp_path: Path) -> None:
    source = tmp_path / "charge-card.py"
    source.write_text(BREAKABLE)
    go(browser, "#/deploy", "Drop a file here")
    browser.type("#deploy-file", str(source))
    assert browser.run("return document.getElementById('deploy-name').value") == "charge-card"
    browser.type("#deploy-settings", '{"timeout_ms": 700, "nonsense": 1}')
    browser.click("#deploy-go")
    browser.until("nonsense", ".panel")
    settings = '{"timeout_ms": 700, "breaker": {"failure_threshold": 6}}'
    browser.type("#deploy-settings", settings, anew=True)
    browser.click("#deploy-go")
    browser.until("charge-card is deployed", ".panel")
    # Deployed again it has the settings that it had, unless they are changed.
    go(browser, "#/deploy?task=charge-card", "Drop a file here")
    told = browser.until_true("return document.getElementById('deploy-settings').value")
    assert json.loads(told) == json.loads(settings)
    drops(browser, "nightly-report.py", BUSY["nightly-report"])


def drops(browser: Browser, name: str, code: str) -> None:
    """A file is let fall onto a page that has nothing to do with it."""
    go(browser, "#/executions", "Executions")
    browser.run(
        "const data = new DataTransfer(); data.items.add(new File([arguments[1]], arguments[0]));"
        "for (const kind of ['dragenter', 'drop']) document.body.dispatchEvent("
        "new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}))",
        name,
        code,
    )
    browser.until(name, ".zone")
    browser.click("#deploy-go")
    browser.until(f"{name.removesuffix('.py')} is deployed", ".panel")


def calls(browser: Browser) -> None:
    go(browser, "#/tasks/charge-card", "Try it")
    browser.until("how: str = …", ".signature")
    browser.type("#try-value", '{"name": "Ada"}', anew=True)
    browser.click("#try-call")
    browser.until("hello Ada", ".result")
    browser.until("200", ".result")
    browser.until("COMPLETED", "table.executions")
    browser.until("Why this size: ", ".reason")


@contextmanager
def traffic_of_all(server: Server) -> Iterator[None]:
    for name, code in BUSY.items():
        server.deployed(name, code)
    with traffic(server):
        yield


def watches(browser: Browser) -> None:
    go(browser, "#/", "What failed")
    browser.until("live", "#link")
    row = "return [...document.querySelectorAll('table.tasks tr')].find(row => row.innerText"
    row += ".startsWith(arguments[0]))?.cells[arguments[1]].innerText"
    browser.until_true(row + ".endsWith('/s')", "greet", 1)
    browser.until_true(row + ".endsWith('ms')", "greet", 4)
    browser.until_true(row + ".endsWith('ms')", "greet", 5)
    browser.until_true(row + ".includes('busy')", "greet", 6)
    browser.until_true(row + " === 'closed'", "greet", 7)
    assert browser.run("return document.querySelectorAll('.plot canvas').length") == 2


def breaks(browser: Browser, server: Server) -> None:
    """Each way to break a function is seen in time, and named."""
    ways = {
        "raise": ("EXECUTION_ERROR", "the card was declined"),
        "hang": ("EXECUTION_TIMEOUT", "700"),
        "crash": ("INSTANCE_CRASHED", "signal 9"),
        "memory": ("RESOURCE_LIMIT_EXCEEDED", "memory"),
    }
    for how, (code, cause) in ways.items():
        assert server.call("charge-card", {"how": how}).status_code >= 500
        told = "return [...document.querySelectorAll('.feed li')].some(item => "
        told += "[...arguments].every(word => item.innerText.toLowerCase().includes(word)))"
        browser.until_true(told, "charge-card", code.lower(), cause.lower(), within_s=SEEN_S)
    for _ in range(2):
        server.call("charge-card", {"how": "raise"})
    browser.until("breaker closed → open", "main", within_s=SEEN_S)
    browser.until("1 breaker not closed", ".tiles", within_s=SEEN_S)
    assert server.call("charge-card").status_code == 503


def pictures(browser: Browser, server: Server) -> None:
    if FOR_THE_DOCUMENTS:
        drawn = "return [...document.querySelectorAll('.spark-line')].filter(line => "
        drawn += "line.points.length > 55).length >= 4"
        browser.until_true(drawn, within_s=90)
        server.call("charge-card", {"how": "crash"})
    browser.point_at(".brand")
    browser.screenshot(SHOTS / "dashboard.png")
    browser.colours("dark")
    browser.until_true(
        "return getComputedStyle(document.body).backgroundColor === 'rgb(14, 17, 22)'"
    )
    browser.screenshot(SHOTS / "dashboard-dark.png")
    browser.colours("light")
    browser.size(390, 844, mobile=True)
    browser.until_true("return document.querySelector('.plot canvas').clientWidth < 390")
    browser.screenshot(SHOTS / "dashboard-phone.png")
    browser.size(1360, 900)


RESET = "[aria-label='Reset the breaker of charge-card']"


def resets(browser: Browser, server: Server) -> None:
    go(browser, "#/tasks/charge-card", "Calls are refused")
    browser.screenshot(SHOTS / "task.png")
    browser.click("#breaker-reset")
    browser.until("Calls are admitted", "main")
    assert server.call("charge-card").status_code == 200
    # It can be done where all are seen, too.
    server.http.post("/api/v1/breakers/charge-card/open")
    go(browser, "#/", "What failed")
    browser.until_true("return !document.querySelector(arguments[0]).hidden", RESET)
    browser.click(RESET)
    browser.until_true("return document.querySelector(arguments[0]).hidden", RESET)
    assert server.call("charge-card").status_code == 200


def explains(browser: Browser, server: Server) -> None:
    go(browser, "#/executions?status=FAILED&task=charge-card", "the card was declined")
    browser.until_true("return document.querySelectorAll('table.executions tbody tr').length >= 3")
    browser.type("#find", "declined")
    browser.until_true("return document.querySelectorAll('table.executions tbody tr').length === 3")
    browser.screenshot(SHOTS / "executions.png")
    browser.click("table.executions tbody a")
    browser.until("FAILED with EXECUTION_ERROR", ".timeline")
    browser.until("ValueError: the card was declined", ".cause-line")
    browser.until("asked to raise world", ".log")
    browser.until("Traceback", "main")
    browser.screenshot(SHOTS / "execution.png")
    browser.type("main [type=search]", "no such line")
    browser.until("0 of 1 line", "main")
    # One that is still under way is watched to its end, and can be cancelled.
    server.deployed("slow", "import time\n\ndef main():\n    time.sleep(50)\n", timeout_ms=60000)
    later = server.call("slow", headers={"prefer": "respond-async"}).json()["execution_id"]
    go(browser, f"#/executions/{later}", later)
    browser.until("RUNNING", ".title")
    browser.click(".title .danger")
    browser.until("Cancel this execution?", "dialog")
    browser.run("document.querySelector('dialog [value=yes]').click()")
    browser.until("CANCELLED", ".title")


def tries_dead_letters_again(browser: Browser, server: Server) -> None:
    for _ in range(2):
        server.call("charge-card", {"how": "raise"}, headers={"prefer": "respond-async"})

    def dead() -> int:
        return len(server.http.get("/api/v1/dead-letters").json()["dead_letters"])

    eventually(lambda: dead() == 2)
    server.deployed("charge-card", "def main(how: str = ''):\n    return 'better'\n")
    go(browser, "#/dead-letters", "Try again")
    browser.until("2", "#dead")
    browser.screenshot(SHOTS / "dead-letters.png")
    browser.click("td .actions button")
    eventually(lambda: dead() == 1)
    browser.until_true("return document.querySelectorAll('tbody tr').length === 1")
    browser.click("td .actions .danger")
    browser.until("Let this dead letter go?", "dialog")
    browser.run("document.querySelector('dialog [value=yes]').click()")
    browser.until("There are no dead letters")
    assert dead() == 0


def deletes(browser: Browser, server: Server) -> None:
    go(browser, "#/tasks/greet", "About")
    browser.click(".title .danger")
    browser.until("Delete greet?", "dialog")
    browser.run("document.querySelector('dialog [value=no]').click()")
    assert server.http.get("/api/v1/tasks/greet").status_code == 200
    browser.click(".title .danger")
    browser.until("Delete greet?", "dialog")
    browser.run("document.querySelector('dialog [value=yes]').click()")
    eventually(lambda: server.http.get("/api/v1/tasks/greet").status_code == 404)
    browser.until("convert-currency", "table.tasks")
    browser.until_true("return !document.querySelector('table.tasks').innerText.includes('greet')")


HOSTILE = "<img src=x onerror=hacked=1>"


def test_what_users_write_is_text_and_nothing_else(browser: Browser, server: Server) -> None:
    code = f"def main():\n    print({HOSTILE!r})\n    raise ValueError({HOSTILE!r})\n"
    deployed = server.http.put(
        "/api/v1/tasks/" + HOSTILE.replace(" ", "%20"), content=code.encode()
    )
    assert deployed.status_code == 201, deployed.text
    failed = server.http.post("/functions/" + HOSTILE.replace(" ", "%20"), json={})
    assert failed.status_code == 500
    browser.open(address(server))
    browser.until(HOSTILE, "table.tasks")
    browser.until(f"ValueError: {HOSTILE}", ".feed")
    browser.click("table.tasks tbody a[href*=onerror]")
    browser.until(HOSTILE, "h1")
    browser.click("#try-call")
    browser.until(HOSTILE, ".result")
    browser.click("table.executions tbody a")
    browser.until(HOSTILE, ".log")
    browser.until(HOSTILE, ".timeline")
    assert browser.run("return typeof hacked") == "undefined"
    assert browser.run("return document.querySelectorAll('main img').length") == 0
    # Nor can a script that got in by some other way make elements or code out of a text.
    refused = "try { document.body.innerHTML = 'x'; return 'done' } catch (e) { return e.name }"
    assert browser.run(refused) == "TypeError"


def test_by_keyboard_and_as_a_screen_reader_is_told(browser: Browser, server: Server) -> None:
    server.deployed("alpha", "def main():\n    return 1\n")
    server.deployed("beta", "def main():\n    return 1\n")
    browser.open(address(server))
    browser.until("beta", "table.tasks")
    focused = "return document.activeElement.innerText || document.activeElement.id"
    browser.press("\ue004")
    assert browser.run(focused) == "Skip to content"
    browser.press("/")
    assert browser.run(focused) == "find"
    browser.type("#find", "alp")
    browser.until_true("return document.querySelectorAll('table.tasks tbody tr').length === 1")
    assert browser.name_of("#find") == ("searchbox", "Find a task")
    assert browser.name_of("table.tasks") == ("table", "Tasks")
    assert browser.name_of("nav")[1] == "Pages"
    pages = ("#/tasks/alpha", "#/executions", "#/dead-letters", "#/deploy", "#/")
    for page in pages:
        browser.run("location.hash = arguments[0]", page)
        browser.until_true("return document.activeElement.id === 'main'")
        assert nameless(browser) == [], page
        assert browser.run("return document.querySelectorAll('main h1').length") == 1
    # A dialog takes the focus, and Escape leaves it without doing anything.
    go(browser, "#/tasks/alpha", "About")
    browser.click(".title .danger")
    browser.until_true("return document.activeElement.closest('dialog') !== null")
    assert browser.run(focused) == "Keep it"
    browser.press("\ue00c")
    browser.until_true("return !document.querySelector('dialog')")
    assert server.http.get("/api/v1/tasks/alpha").status_code == 200


def nameless(browser: Browser) -> list[str]:
    """What can be used on the page and has no name."""
    browser.tell("Accessibility.enable")
    nodes = browser.tell("Accessibility.getFullAXTree")["nodes"]
    used = {"button", "link", "textbox", "searchbox", "checkbox", "combobox", "spinbutton"}
    return [
        str(node["role"]["value"])
        for node in nodes
        if not node.get("ignored")
        and node["role"]["value"] in used
        and not node.get("name", {}).get("value")
    ]


def test_a_phone_never_scrolls_sideways(browser: Browser, server: Server) -> None:
    long = "a-task-with-a-very-long-name-" * 4
    server.deployed(long, "def main():\n    raise ValueError('x' * 300)\n")
    failed = server.call(long)
    execution_id = failed.json()["execution_id"]
    browser.size(360, 740, mobile=True)
    browser.open(address(server))
    browser.until("a-task-with", "table.tasks")
    pages = {
        "#/": "a-task-with",
        f"#/tasks/{long}": "About",
        "#/executions": "EXECUTION_ERROR",
        f"#/executions/{execution_id}": "accepted",
        "#/dead-letters": "There are no dead letters",
        "#/deploy": "Drop a file here",
    }
    for page, shows in pages.items():
        go(browser, page, shows)
        wide = "return document.documentElement.scrollWidth - document.documentElement"
        assert browser.run(wide + ".clientWidth") <= 0, page


def test_a_service_that_goes_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("alpha", "def main():\n    return 1\n")
        browser.open(server.url)
        browser.type("#token", server.token)
        browser.press(ENTER)
        browser.until("alpha", "table.tasks")
        port = server.url.rpartition(":")[2]
    browser.until("No connection to the service since", "#lost")
    assert "alpha" in browser.text("table.tasks"), "what was known stays to be read"
    with serving(tmp_path / "data", "--port", port) as server:
        server.deployed("beta", "def main():\n    return 1\n")
        browser.until("beta", "table.tasks")
        browser.until("live", "#link")
        assert browser.text("#lost") == ""


def test_a_sign_in_that_ends_is_said(browser: Browser, server: Server) -> None:
    browser.open(address(server))
    browser.until("live", "#link")
    bearer = {"authorization": "Bearer " + browser.run("return history.state.token")}
    assert server.http.delete("/api/v1/dashboard/session", headers=bearer).status_code == 204
    browser.run("location.hash = '#/executions'")
    browser.until("You are signed out", "main")
    assert browser.run("return document.activeElement.id") == "token"
    browser.type("#token", server.token)
    browser.press(ENTER)
    browser.until("Executions", "h1")


PAGE = """
from atlatl_worker import Response

def main():
    return Response("<title>mine</title><p>waits</p><script>" + SCRIPT + "</script>",
                    content_type="text/html")

SCRIPT = '''
const tried = {};
const attempt = (name, work) => {
  try { tried[name] = String(work()) } catch (e) { tried[name] = e.name }
};
attempt("origin", () => self.origin);
attempt("storage", () => localStorage.length);
attempt("cookie", () => document.cookie);
attempt("state", () => history.state);
const opened = window.open("/");
fetch("/", {credentials: "include"}).then(a => a.text(), e => e.name).then(text => {
  tried.page = text;
  attempt("window", () => opened.document.title);
  document.querySelector("p").textContent = JSON.stringify(tried);
});
'''
"""


def test_a_page_that_a_function_answers_with_has_no_part_in_the_dashboard(
    browser: Browser, server: Server
) -> None:
    server.deployed("page", PAGE)
    browser.open(address(server))
    browser.until("page", "table.tasks")
    browser.open(f"{server.url}/functions/page")
    browser.until("}", "p")
    assert json.loads(browser.text("p")) == {
        "origin": "null",
        "storage": "SecurityError",
        "cookie": "SecurityError",
        "state": "null",
        "page": "TypeError",
        "window": "SecurityError",
    }


def test_a_reload_keeps_who_is_signed_in_and_leaving_ends_it(
    browser: Browser, server: Server
) -> None:
    fresh = server.cli("dashboard", "--url", server.url)
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.startswith(server.url + "/#code=")
    browser.open(fresh.stdout.strip())
    browser.until("live", "#link")
    go(browser, "#/deploy", "Drop a file here")
    browser.run("location.reload()")
    browser.until("Drop a file here")
    # What functions answer on this origin finds no token, wherever it looks.
    assert browser.run("return [localStorage.length, sessionStorage.length, document.cookie]")[
        1:
    ] == [0, ""]
    browser.run("document.getElementById('leave').click()")
    browser.until("Sign in", "h1")
    browser.run("location.reload()")
    browser.until("Sign in", "h1")


KEPT = """
return import('/static/store.js').then(({store, seriesOf}) => ({
  points: Math.max(...[...store.series.values()].map(each => each.p99.length)),
  series: store.series.size, failures: store.failures.length, since: seriesOf('').at[0],
}))
"""


def test_what_the_page_keeps_is_bounded(browser: Browser) -> None:
    """Figures of six minutes within seconds: five of them are kept."""
    with pretending(3, 3) as service:
        service.hurried = True
        browser.open(service.url)
        browser.until("live", "#link")
        began = browser.run(KEPT)["since"]
        eventually(lambda: service.seconds >= 360, within_s=30)
        kept = browser.until_true(
            KEPT.replace("}))", "})).then(all => all.since > arguments[0] && all)"), began
        )
        assert 250 < kept["points"] <= 301
        assert (kept["series"], kept["failures"]) == (1 + 3, 3)


def test_without_events_it_polls_and_takes_them_up_again(browser: Browser) -> None:
    with pretending(3, 3) as service:
        service.events = False
        browser.open(service.url)
        browser.until("polling", "#link")
        browser.until("3.5/s", ".tiles")
        service.events = True
        browser.open("about:blank")
        browser.open(service.url)
        browser.until("live", "#link")
