"""A tour of atlatl: starts a service, deploys the examples, calls them by every door, stops it.

Every answer is checked against a value worked out here; exit status 1 if one is wrong.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import demo_input
import grpc
import httpx
from google.protobuf import wrappers_pb2

from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto import function_pb2_grpc as pb_grpc

ROOT = Path(__file__).resolve().parent.parent
ATLATL = [str(Path(sys.executable).with_name("atlatl"))]


class Wrong(Exception):
    """The service did not do what it should."""


class Service(NamedTuple):
    url: str
    grpc_address: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    http: httpx.Client

    @property
    def environment(self) -> dict[str, str]:
        """Tells the command line which service is meant, and where its token is."""
        return os.environ | {"ATLATL_URL": self.url, "ATLATL__DATA_DIR": str(self.data_dir)}


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="atlatl-demo-") as directory:
        try:
            with running(Path(directory)) as service:
                tour(service)
        except Exception as problem:
            reason = problem if isinstance(problem, Wrong) else repr(problem)
            print(f"\nWRONG: {reason}", file=sys.stderr)
            print(log_tail(Path(directory)), file=sys.stderr)
            return 1
    print(f"\nAll answers were right. {time.monotonic() - began:.1f} s in all.")
    return 0


def tour(service: Service) -> None:
    skipped = deploy_examples(service)
    greet(service)
    analyse_text(service)
    summarise_table(service)
    if not skipped:
        make_thumbnail(service)
    stream(service)
    use_grpc(service)
    fail_honestly(service)
    open_and_close_the_breaker(service)
    title("What the service has to say")
    type_command(service, "ps")
    type_command(service, "stats")
    for name in skipped:
        print(f"\nSKIPPED: {name} (its requirements.txt could not be installed here)")


# The service


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Service]:
    """A service on free ports with a data directory of its own, ended by SIGTERM."""
    http_port, grpc_port = free_ports(2)
    settings = {
        "ATLATL__DATA_DIR": str(directory / "data"),
        "ATLATL__HTTP__PORT": str(http_port),
        "ATLATL__GRPC__PORT": str(grpc_port),
    }
    title("Starting the service")
    say("$ atlatl serve")
    began = time.monotonic()
    with (directory / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [*ATLATL, "serve"], env=os.environ | settings, stdout=log, stderr=log, cwd=directory
        )
    url = f"http://127.0.0.1:{http_port}"
    with httpx.Client(base_url=url, timeout=60) as http:
        service = Service(url, f"127.0.0.1:{grpc_port}", directory / "data", process, http)
        try:
            wait_until(lambda: is_ready(service), 30, "the service to be ready")
            say(f"ready at {url} and, for gRPC, {service.grpc_address}", since=began)
            yield service
            stop(service)
        finally:
            process.kill()
            process.wait()


def stop(service: Service) -> None:
    title("Stopping the service (SIGTERM)")
    began = time.monotonic()
    service.process.terminate()
    try:
        status = service.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        raise Wrong("the service did not end within 20 s of SIGTERM") from None
    expect(status == 0, f"the service ended with exit status {status}")
    say("ended with exit status 0", since=began)


def is_ready(service: Service) -> bool:
    status = service.process.poll()
    expect(status is None, f"`atlatl serve` ended at once, with exit status {status}")
    with contextlib.suppress(httpx.TransportError):
        return service.http.get("/readyz").status_code == 200
    return False


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def log_tail(directory: Path) -> str:
    log = directory / "service.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(["The service's own last words:", *(line[:400] for line in lines[-10:])])


# The steps of the tour


def deploy_examples(service: Service) -> list[str]:
    """Deploys all examples; returns the names of those that this machine can't have."""
    title("Deploying the examples")
    for path in ("hello.py", "wordstats.py", "csvstats.py", "countdown.py"):
        type_command(service, f"deploy examples/{path}")
    type_command(service, "deploy examples/flaky --settings examples/flaky/atlatl.toml")
    command = "deploy examples/thumbnail --settings examples/thumbnail/atlatl.toml"
    done = type_command(service, command, excuse="requirements.txt can't be installed")
    return [] if done else ["thumbnail"]


def greet(service: Service) -> None:
    title("hello: over HTTP, and from the command line")
    first = call(service, "hello", json={"name": "Ada"})
    expect(first.text == "Hello, Ada!", f"hello answered {first.text!r}")
    took = []
    for number in range(200):
        began = time.perf_counter()
        answer = service.http.get("/functions/hello", params={"name": str(number), "times": 2})
        took.append((time.perf_counter() - began) * 1000)
        expect(answer.text == f"Hello, Hello, {number}!", f"hello answered {answer.text!r}")
    median, slowest = statistics.median(took), max(took)
    say(f"200 more, one after another: median {median:.2f} ms, slowest {slowest:.2f} ms")
    printed = type_command(service, """invoke hello --data '{"name": "Grace"}'""")
    expect("Hello, Grace!" in printed, f"`atlatl invoke` printed {printed!r}")


def analyse_text(service: Service) -> None:
    text = demo_input.long_text()
    title(f"wordstats: Python's own language reference, {len(text) // 1000} kB of text")
    answer = call(service, "wordstats", content=text, headers={"content-type": "text/plain"})
    found = answer.json()
    letter = r"[^\W\d_]"
    the = re.findall(rf"(?<!{letter})(?<!{letter}')the(?!{letter}|'{letter})", text.lower())
    expect(found["characters"] == len(text), "wordstats counted the characters wrong")
    expect(found["top_words"].get("the") == len(the), "wordstats counted `the` wrong")
    say(", ".join(f"{name} {found[name]}" for name in ("words", "distinct_words", "longest_word")))
    say("most used: " + ", ".join(f"{word} {n}" for word, n in found["top_words"].items()))


def summarise_table(service: Service) -> None:
    rows = demo_input.readings(12_000)
    title(f"csvstats: {len(rows)} rows made with seed {demo_input.SEED}")
    body = io.StringIO()
    csv.writer(body).writerows([("city", "celsius"), *rows])
    answer = call(
        service,
        "csvstats?group=city&value=celsius",
        content=body.getvalue(),
        headers={"content-type": "text/csv"},
    )
    groups = answer.json()["groups"]
    for city in demo_input.CITIES:
        values = [value for name, value in rows if name == city]
        right = {
            "count": len(values),
            "mean": statistics.fmean(values),
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
        }
        expect(groups[city] == right, f"csvstats says {groups[city]} of {city}, not {right}")
        say(f"{city:8}" + "  ".join(f"{name} {value:6.6g}" for name, value in right.items()))


def make_thumbnail(service: Service) -> None:
    title("thumbnail: a PNG of 1200 x 800 drawn here, Pillow from its requirements.txt")
    picture = demo_input.gradient_png(1200, 800)
    answer = call(service, "thumbnail?size=120", content=picture)
    kind, size = answer.headers["content-type"], demo_input.png_size(answer.content)
    expect(kind == "image/png" and size == (120, 80), f"thumbnail gave {kind} of size {size}")
    say(f"{len(picture)} bytes became {len(answer.content)}, {size[0]} x {size[1]} pixels")


def stream(service: Service) -> None:
    title("countdown: a generator streams, line by line")
    began = time.monotonic()
    arrived: list[tuple[float, str]] = []
    with service.http.stream("GET", "/functions/countdown?start=4&pause_s=0.15") as answer:
        for line in answer.iter_lines():
            arrived.append((time.monotonic() - began, line))
            say(f"{line:10}", since=began)
    lines = [line for _, line in arrived]
    expect(lines == ["4", "3", "2", "1", "lift-off"], f"countdown streamed {lines}")
    expect(arrived[-1][0] - arrived[0][0] > 0.3, "the lines came all at once")


def use_grpc(service: Service) -> None:
    title("gRPC: the same functions, for clients of spearlet.FunctionService")
    token = (service.data_dir / "token").read_text().strip()
    access = (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = pb_grpc.FunctionServiceStub(channel)
        tasks = stub.ListTasks(pb.ListTasksRequest(), metadata=access).tasks
        ids = {task.task_name: task.task_id for task in tasks}
        say(f"ListTasks: {', '.join(sorted(ids))}")
        expect("hello" in ids, "ListTasks does not know hello")
        existing = pb.InvokeFunctionRequest(
            invocation_type=pb.INVOCATION_TYPE_EXISTING_TASK,
            task_id=ids["hello"],
            execution_mode=pb.EXECUTION_MODE_SYNC,
            parameters=[text_parameter("name", "Edsger")],
        )
        invoke(stub, existing, b"Hello, Edsger!", "InvokeFunction, hello")
        code = b"def main(a: float, b: float) -> float:\n    return a * b\n"
        new = pb.InvokeFunctionRequest(
            invocation_type=pb.INVOCATION_TYPE_NEW_TASK,
            task_name="times",
            artifact_spec=pb.ArtifactSpec(
                artifact_id="times",
                location="data:text/x-python;base64," + base64.b64encode(code).decode(),
            ),
            execution_mode=pb.EXECUTION_MODE_SYNC,
            parameters=[number_parameter("a", 6), number_parameter("b", 7)],
        )
        invoke(stub, new, b"42.0", "InvokeFunction, a new task sent along", access)
        health = stub.GetHealth(pb.GetHealthRequest())
        say(f"GetHealth: {health.status}, {health.details.total_executions} executions so far")
        expect(health.status == "healthy", f"GetHealth says {health.status}: {health.message}")


def fail_honestly(service: Service) -> None:
    title("flaky: a function that goes wrong, and what the caller gets")
    for how, status, code, named in (
        ("raise", 500, "EXECUTION_ERROR", "the function itself went wrong"),
        ("return a set", 500, "SERIALIZATION_ERROR", "set"),
        ("work", 200, "", ""),
        ("exit", 502, "INSTANCE_CRASHED", "code 7"),
        ("crash", 502, "INSTANCE_CRASHED", "SIGSEGV"),
        ("work", 200, "", ""),
        ("hang", 504, "EXECUTION_TIMEOUT", "1000 ms"),
    ):
        answer = fail(service, how, status, code)
        expect(named in answer.text, f"the answer does not name {named!r}: {answer.text}")
    answer = fail(service, "raise", 500, "EXECUTION_ERROR")
    printed = type_command(service, f"logs {answer.json()['execution_id']}")
    expect("asked to raise" in printed, "`atlatl logs` lacks what the function printed")
    expect("ValueError" in printed, "`atlatl logs` lacks the traceback")


def open_and_close_the_breaker(service: Service) -> None:
    title("The circuit breaker: three failures in a row, closed again after a good probe")
    fail(service, "work", 200, "")
    for _ in range(3):
        fail(service, "raise", 500, "EXECUTION_ERROR")
    refused = fail(service, "work", 503, "CIRCUIT_OPEN")
    expect(breaker_state(service) == "open", f"the breaker is {breaker_state(service)}")
    say(f"breaker: open; Retry-After: {refused.headers.get('retry-after')} s")
    call(service, "hello", json={"name": "the others"})
    began = time.monotonic()
    wait_until(
        lambda: flaky(service, "work").status_code == 200, 10, "the breaker to admit a probe"
    )
    say("a probe was let through and worked", since=began)
    expect(breaker_state(service) == "closed", f"the breaker is {breaker_state(service)}")
    say("breaker: closed")


# Doing and checking


def type_command(service: Service, line: str, *, excuse: str = "") -> str:
    """Runs `atlatl LINE` as a person would.

    Returns:
        What it printed, or "" if it failed and gave `excuse` as its reason.
    """
    began = time.monotonic()
    print(f"  $ atlatl {line}", flush=True)
    done = subprocess.run(
        [*ATLATL, *shlex.split(line)],
        env=service.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    took = f"  ({time.monotonic() - began:.2f} s)"
    for printed in (done.stdout + done.stderr).rstrip().splitlines():
        print(f"    {printed}{took}", flush=True)
        took = ""
    if excuse and excuse in done.stderr:
        return ""
    expect(done.returncode == 0, f"`atlatl {line}` ended with exit status {done.returncode}")
    return done.stdout


def call(service: Service, target: str, **body: Any) -> httpx.Response:
    """POSTs to a function, and shows what the call took."""
    began = time.perf_counter()
    answer = service.http.post(f"/functions/{target}", **body)
    took = (time.perf_counter() - began) * 1000
    cold = ", first call on a fresh process" if "atlatl-cold-start" in answer.headers else ""
    say(f"POST /functions/{target}: {answer.status_code} in {took:.1f} ms{cold}")
    expect(answer.status_code == 200, f"{target} answered {answer.status_code}: {answer.text}")
    return answer


def flaky(service: Service, how: str) -> httpx.Response:
    return service.http.post("/functions/flaky", json={"how": how})


def fail(service: Service, how: str, status: int, code: str) -> httpx.Response:
    answer = flaky(service, how)
    problem = {} if answer.status_code == 200 else answer.json()
    found = (answer.status_code, problem.get("code", ""))
    expect(found == (status, code), f"flaky, told to {how}, answered {found}: {answer.text}")
    say(f"{how:13} {status} {code:20} {problem.get('detail', answer.text)}")
    return answer


def breaker_state(service: Service) -> str:
    answer = service.http.get("/api/serverless/metrics", params={"task": "flaky"})
    return str(answer.json()["circuit_breaker"]["state"])


def invoke(
    stub: pb_grpc.FunctionServiceStub,
    request: pb.InvokeFunctionRequest,
    right: bytes,
    what: str,
    access: tuple[tuple[str, str], ...] = (),
) -> None:
    began = time.perf_counter()
    answer = stub.InvokeFunction(request, metadata=access, timeout=30)
    took = (time.perf_counter() - began) * 1000
    value = answer.result.result.value
    expect(answer.success, f"{what}: {answer.result.error_code} {answer.result.error_message}")
    expect(value == right, f"{what} answered {value!r}")
    say(f"{what}: {value.decode()} in {took:.1f} ms")


def text_parameter(name: str, value: str) -> pb.FunctionParameter:
    parameter = pb.FunctionParameter(name=name)
    parameter.value.Pack(wrappers_pb2.StringValue(value=value))
    return parameter


def number_parameter(name: str, value: float) -> pb.FunctionParameter:
    parameter = pb.FunctionParameter(name=name)
    parameter.value.Pack(wrappers_pb2.DoubleValue(value=value))
    return parameter


def wait_until(holds: Callable[[], bool], bound_s: float, what: str) -> None:
    end = time.monotonic() + bound_s
    while not holds():
        expect(time.monotonic() < end, f"waited {bound_s:.0f} s for {what}")
        time.sleep(0.05)


def expect(ok: bool, otherwise: str) -> None:
    if not ok:
        raise Wrong(otherwise)


def title(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}", flush=True)


def say(text: str, since: float | None = None) -> None:
    took = "" if since is None else f"  ({time.monotonic() - since:.2f} s)"
    print(f"  {text}{took}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
