"""The service's settings: one frozen typed tree, parsed once.

The same paths are used in `atlatl.toml`, in `ATLATL__GROUP__NAME` environment
variables and, for the groups that a task may override, in the `settings` of a
task. Unknown keys are refused with their path. Reading files and variables is
`app.py`'s; this module only turns mappings into a checked tree.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from atlatl.errors import SettingInvalid


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named group of settings."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _non_negative(group: Group, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        _require(value >= 0, f"`{name}` must be 0 or more, it is {value!r}")  # as NaN is not


def _positive(group: Group, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        _require(value > 0, f"`{name}` must be above 0, it is {value!r}")


def _port(group: Group, name: str) -> None:
    value = getattr(group, name)
    _require(0 <= value <= 65535, f"`{name}` must be from 0 to 65535, it is {value!r}")


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises ValueError naming the variable that no process can have."""
    for name, value in environment.items():
        both = name + value
        _require(
            bool(name) and "=" not in name and "\0" not in both and _is_unicode(both),
            f"environment variable {name!r} cannot be set: a name is not empty and has no `=`, "
            "and neither name nor value may have a NUL or a lone surrogate",
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class HttpSettings(Group, frozen=True):
    host: str = "127.0.0.1"
    """Address to listen on; off loopback everything needs a token."""
    port: int = 8081
    """0 lets the system choose."""
    max_body_bytes: int = 33_554_432
    """Largest body of a call; beyond it 413."""
    header_timeout_s: float = 10.0
    """Longest time for the head of a request to arrive."""
    body_timeout_s: float = 30.0
    """How long the body of a request may stop coming, or altogether fall behind 500 bytes a
    second; beyond it 408."""
    idle_timeout_s: float = 75.0
    """A kept-alive connection without a request is closed after this."""
    sandbox_pages: bool = True
    """A page that a function answers with gets an origin of its own in browsers, not the
    dashboard's; false where all functions are trusted, and their pages call the service."""

    def __post_init__(self) -> None:
        _port(self, "port")
        _positive(self, "max_body_bytes", "header_timeout_s", "body_timeout_s", "idle_timeout_s")


class GrpcSettings(Group, frozen=True):
    enabled: bool = True
    """Whether gRPC is served."""
    host: str = "127.0.0.1"
    """Address to listen on; off loopback everything needs a token."""
    port: int = 50052
    """0 lets the system choose."""
    max_message_bytes: int = 67_108_864
    """Largest message, either way."""

    def __post_init__(self) -> None:
        _port(self, "port")
        _positive(self, "max_message_bytes")


MIN_RETENTION_S = 180.0
"""Records of executions live at least this long after the end, whatever their number."""


class LimitSettings(Group, frozen=True):
    max_concurrent_executions: int = 1000
    """Calls that run at the same time, all tasks together."""
    max_queued_executions: int = 1000
    """Calls that wait for an instance, all tasks together; beyond it 429."""
    max_durable_pending: int = 100_000
    """Accepted async executions that have not ended, all tasks together; beyond it 429."""
    max_artifacts: int = 100
    """Bounds only what InvokeFunction calls create."""
    max_tasks_per_artifact: int = 10
    """Bounds only what InvokeFunction calls create."""
    max_instances_per_task: int = 50
    """Caps every `pool.max_size`."""
    max_deployed_tasks: int = 10_000
    """Tasks that were deployed; beyond it a deploy is refused."""
    instance_creation_timeout_ms: int = 30_000
    """Longest time that an instance may take to start."""
    artifact_idle_timeout_ms: int = 300_000
    """Of artifacts that a call created; 0 keeps them."""
    task_idle_timeout_ms: int = 180_000
    """Of tasks that a call created; 0 keeps them."""
    max_inflight_bytes: int = 268_435_456
    """Bodies and unread answers, over both fronts; beyond it 503."""
    memory_budget_bytes: int = 0
    """All instances together; 0 is half of the smaller of RAM and the cgroup's limit."""
    execution_retention_s: float = 86_400.0
    """Age at which the record of an ended execution is forgotten; at least 180."""
    execution_retention_count: int = 100_000
    """Stored records of executions; beyond it the oldest go, successes without an id first."""

    def __post_init__(self) -> None:
        _positive(
            self,
            "max_concurrent_executions",
            "max_durable_pending",
            "max_artifacts",
            "max_tasks_per_artifact",
            "max_instances_per_task",
            "max_deployed_tasks",
            "instance_creation_timeout_ms",
            "max_inflight_bytes",
        )
        _non_negative(
            self,
            "max_queued_executions",
            "artifact_idle_timeout_ms",
            "task_idle_timeout_ms",
            "memory_budget_bytes",
            "execution_retention_count",
        )
        _require(
            self.execution_retention_s >= MIN_RETENTION_S,
            f"`execution_retention_s` must be at least {MIN_RETENTION_S:g}",
        )


_HOST = re.compile(
    r"(?P<name>(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


def split_host(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry of `artifacts.allowed_hosts`.

    Returns:
        The name in lower case, an IPv6 address without its brackets; and the port, None
        when the entry has none.

    Raises:
        ValueError: it is no such entry.
    """
    found = _HOST.fullmatch(entry.lower())
    if found is None:
        raise ValueError(
            f"`allowed_hosts` has {entry!r}, which is no host: write `example.org`, "
            "`example.org:8443`, `*.example.org` or `[::1]:8443` (names in ASCII: `xn--...`)"
        )
    name = found["name"].rstrip(".")
    if name.startswith("["):
        name = str(ipaddress.IPv6Address(name.strip("[]")))
    if found["port"] is None:
        return name, None
    port = int(found["port"])
    _require(0 < port < 65536, f"`allowed_hosts` has {entry!r}: a port is from 1 to 65535")
    return name, port


class ArtifactSettings(Group, frozen=True):
    allowed_dirs: tuple[str, ...] = ()
    """Directories below which InvokeFunction may name a local path as location."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts of which InvokeFunction may name an `http(s)://` URL as location: `example.org` (ports
    80 and 443), `example.org:8443`, `*.example.org` (all below it). A name that leads to a private
    address is refused, on redirects too; an address listed as such (`127.0.0.1:9000`) may be
    private."""
    fetch_timeout_s: float = 60.0
    """Longest time that reading from one of `allowed_hosts` may take, redirects included."""
    max_bytes: int = 268_435_456
    """Of an archive, and of what it unpacks to."""
    max_files: int = 20_000
    """Files and directories in an archive or directory."""
    install_timeout_s: float = 300.0
    """Longest time that installing a `requirements.txt` may take."""
    max_install_bytes: int = 4_294_967_296
    """Of all files that an installation writes, those that it needs only on the way included."""

    def __post_init__(self) -> None:
        _positive(
            self,
            "max_bytes",
            "max_files",
            "install_timeout_s",
            "max_install_bytes",
            "fetch_timeout_s",
        )
        for entry in self.allowed_hosts:
            split_host(entry)


class PoolSettings(Group, frozen=True):
    min_size: int = 0
    """Instances that are always up."""
    max_size: int = 16
    """Instances at most."""
    max_concurrent_requests: int = 1
    """Executions in flight per instance."""
    max_waiting: int = 1000
    """Calls of this task that wait for an instance; beyond it 429."""
    max_wait_s: float = 0.0
    """Longest wait for an instance; 0 is until the deadline."""
    idle_timeout_s: float = 300.0
    """An instance that was idle this long retires, unless `min_size` needs it."""
    max_uses: int = 0
    """Executions after which an instance retires; 0 is no limit."""
    max_age_s: float = 0.0
    """Age at which an instance retires; 0 is no limit."""
    max_memory_bytes: int = 0
    """PSS at which an instance retires; 0 is no limit."""
    health_check_interval_s: float = 15.0
    """Between pings of an idle instance."""
    health_check_timeout_s: float = 5.0
    """A ping without an answer by then has failed."""
    health_check_failures: int = 3
    """Failed pings in a row after which an instance is replaced."""
    health_check_successes: int = 1
    """Good pings in a row, after a failed one, until calls come to it again."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.min_size <= self.max_size,
            f"`min_size` must be from 0 to `max_size` ({self.max_size}), it is {self.min_size}",
        )
        _positive(
            self,
            "max_size",
            "max_concurrent_requests",
            "idle_timeout_s",
            "health_check_interval_s",
            "health_check_timeout_s",
            "health_check_failures",
            "health_check_successes",
        )
        _non_negative(
            self, "max_waiting", "max_wait_s", "max_uses", "max_age_s", "max_memory_bytes"
        )


class ScalingSettings(Group, frozen=True):
    policy: Literal["threshold", "target_concurrency"] = "threshold"
    """Which rule decides on the size: usage, or the concurrency over two windows."""
    scale_up_threshold: float = 0.8
    """Usage above which the pool grows: (in use + waiting) / capacity."""
    scale_down_threshold: float = 0.3
    """Usage below which the pool shrinks."""
    scale_interval_s: float = 10.0
    """Between two decisions; growth on demand does not wait for it."""
    scale_up_cooldown_s: float = 0.0
    """Since the last step in either direction."""
    scale_down_cooldown_s: float = 60.0
    """Since the last step in either direction."""
    stable_window_s: float = 60.0
    """Of `target_concurrency`, as are the three below."""
    panic_window_s: float = 6.0
    """A short window, in which a burst shows."""
    panic_threshold: float = 2.0
    """Times the capacity that the burst must ask for."""
    target_utilization: float = 0.7
    """Share of an instance that should be in use, above 0 to 1."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.scale_down_threshold < self.scale_up_threshold <= 1,
            "thresholds must satisfy 0 <= scale_down_threshold < scale_up_threshold <= 1, "
            f"they are {self.scale_down_threshold!r} and {self.scale_up_threshold!r}",
        )
        _positive(
            self,
            "scale_interval_s",
            "stable_window_s",
            "panic_window_s",
            "panic_threshold",
            "target_utilization",
        )
        _non_negative(self, "scale_up_cooldown_s", "scale_down_cooldown_s")
        _require(self.target_utilization <= 1, "`target_utilization` must be at most 1")
        _require(
            self.panic_window_s <= self.stable_window_s,
            "`panic_window_s` must be at most `stable_window_s`",
        )


SchedulingPolicyName = Literal[
    "round_robin",
    "least_connections",
    "least_response_time",
    "weighted_round_robin",
    "resource_based",
    "random",
    "power_of_two",
    "most_recently_used",
]


class SchedulerSettings(Group, frozen=True):
    policy: SchedulingPolicyName = "round_robin"
    """How an instance is picked among those that have room."""


class CircuitBreakerSettings(Group, frozen=True):
    """Settings of a circuit breaker; 0 for a threshold or the timeout is the default."""

    enabled: bool = True
    """Whether the breaker refuses calls at all."""
    failure_threshold: int = 5
    """Consecutive failures that open it."""
    success_threshold: int = 3
    """Successful probes that close it."""
    timeout_s: float = 30.0
    """Open time before probes are admitted."""
    half_open_max_calls: int = 1
    """Probes in flight at once."""
    probe_timeout_s: float = 30.0
    """A probe that has not reported by then counts as failed."""
    failure_rate_threshold: float | None = None
    """Share of failures in the window that opens it, above 0 to 1; None is off."""
    slow_call_rate_threshold: float | None = None
    """Share of slow calls in the window that opens it, above 0 to 1; None is off."""
    slow_call_duration_s: float = 60.0
    """A call that takes longer is slow."""
    window_s: float = 60.0
    """Of the two rates."""
    minimum_calls: int = 100
    """Calls in the window below which the rates do not open it."""
    max_timeout_s: float | None = None
    """The open time doubles with each reopening up to this; None is `timeout_s`: no growth."""
    jitter_ratio: float = 0.0
    """The open time varies by up to this share of itself, 0 to 1."""

    def __post_init__(self) -> None:
        defaults = {
            "failure_threshold": 5,
            "success_threshold": 3,
            "timeout_s": 30.0,
            "half_open_max_calls": 1,
            "probe_timeout_s": 30.0,
            "slow_call_duration_s": 60.0,
            "window_s": 60.0,
            "minimum_calls": 100,
        }
        _non_negative(self, *defaults)
        for name, default in defaults.items():
            if getattr(self, name) == 0:
                msgspec.structs.force_setattr(self, name, default)
        for name in ("failure_rate_threshold", "slow_call_rate_threshold"):
            rate = getattr(self, name)
            _require(
                rate is None or 0 < rate <= 1,
                f"`{name}` must be above 0 and at most 1, it is {rate!r}",
            )
        _require(0 <= self.jitter_ratio <= 1, "`jitter_ratio` must be from 0 to 1")
        _require(
            self.max_timeout_s is None or self.max_timeout_s >= self.timeout_s,
            "`max_timeout_s` must be at least `timeout_s`",
        )


class RetrySettings(Group, frozen=True):
    max_retries: int = 0
    """Further attempts after the first one."""
    initial_backoff_s: float = 0.1
    """Wait before the second attempt."""
    multiplier: float = 2.0
    """Each further wait is this many times the one before."""
    max_backoff_s: float = 10.0
    """Longest wait."""
    jitter_ratio: float = 0.1
    """The wait varies by up to this share of itself, 0 to 1."""
    budget_ratio: float = 0.2
    """Retries may be at most this share of a task's calls."""

    def __post_init__(self) -> None:
        _non_negative(self, "max_retries", "initial_backoff_s", "max_backoff_s", "jitter_ratio")
        _require(self.multiplier >= 1, "`multiplier` must be at least 1")
        _require(0 <= self.jitter_ratio <= 1, "`jitter_ratio` must be from 0 to 1")
        _require(0 <= self.budget_ratio <= 1, "`budget_ratio` must be from 0 to 1")


LEAST_CONFINEMENT = {
    "memory_bytes": 16_777_216,
    "processes": 4,
    "open_files": 32,
    "tmp_bytes": 65_536,
}
"""Below this an instance could not even start."""


class ConfinementSettings(Group, frozen=True):
    level: Literal["none", "standard", "strict"] = "standard"
    """How far a function is kept from all else: `none` is a process of its own and no more, and
    only an administrator may deploy it; `standard` keeps what this machine can keep; `strict` has
    no network, and refuses to run where anything of it can't be kept."""
    memory_bytes: int = 536_870_912
    """Memory of an instance and all that it starts, its temporary files included."""
    cpu_s: float = 0.0
    """CPU time of an execution; 0 is no limit but the deadline."""
    processes: int = 64
    """Processes and threads of an instance, itself included."""
    open_files: int = 256
    """Files and connections that a process may have open."""
    tmp_bytes: int = 536_870_912
    """Size of an instance's temporary directory, and of any file that it writes (there 64 MiB at
    least)."""
    network: bool = True
    """Whether there are connections to other machines and to this one; Unix sockets there are."""
    output_bytes: int = 1_048_576
    """Of what a call prints, kept with its execution."""
    response_bytes: int = 33_554_432
    """Largest result of a call, and largest chunk of a stream."""

    def __post_init__(self) -> None:
        _non_negative(self, "output_bytes", "cpu_s")
        _positive(self, "response_bytes")
        for name, least in LEAST_CONFINEMENT.items():
            value = getattr(self, name)
            _require(value >= least, f"`{name}` must be at least {least}, it is {value!r}")


class BlankPoolSettings(Group, frozen=True):
    """The shared stock of instances that have no task yet."""

    min_size: int = 2
    """Forked processes without a task, ready for any: at least."""
    max_size: int = 16
    """At most."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.min_size <= self.max_size,
            f"`min_size` must be from 0 to `max_size` ({self.max_size}), it is {self.min_size}",
        )
        _positive(self, "max_size")


class ZygoteSettings(Group, frozen=True):
    """Processes that have imported one task's artifact and fork its further instances."""

    max_task_zygotes: int = 16
    """How many may be kept; the one used least recently goes. 0: all instances come from blanks."""
    min_import_ms: float = 25.0
    """A task gets one when an instance took this long to import the artifact."""
    idle_timeout_s: float = 300.0
    """One that has forked nothing for this long goes."""

    def __post_init__(self) -> None:
        _non_negative(self, "max_task_zygotes", "min_import_ms")
        _positive(self, "idle_timeout_s")


class RecordSettings(Group, frozen=True):
    recent_executions: int = 10_000
    """Executions remembered in memory, the newest ones."""
    record_writes_per_s: int = 1000
    """Successes of calls without an id that are stored, a second; the rest is only in memory."""
    execution_retention_bytes: int = 1_073_741_824
    """Stored results and output of executions; beyond it the oldest records go."""
    dead_letter_retention_s: float = 1_209_600.0
    """Age at which a dead letter becomes an ordinary record: it cannot be redriven any more."""

    def __post_init__(self) -> None:
        _positive(self, "recent_executions")
        _non_negative(self, "record_writes_per_s", "execution_retention_bytes")
        _positive(self, "dead_letter_retention_s")


class CallbackSettings(Group, frozen=True):
    allowed_hosts: tuple[str, ...] = ()
    """Hosts besides the public ones that an `Atlatl-Callback-Url` may name: `10.0.0.7`,
    `127.0.0.1:9000`, `hooks.internal`, `*.internal` (all below it). Without an entry here a host
    that leads to a private address is refused."""
    timeout_s: float = 10.0
    """Longest time that one try may take."""
    max_tries: int = 8
    """Beyond it a callback is given up; the result can still be fetched."""

    def __post_init__(self) -> None:
        _positive(self, "timeout_s", "max_tries")
        for entry in self.allowed_hosts:
            split_host(entry)


class DrainSettings(Group, frozen=True):
    timeout_s: float = 30.0
    """Longest time that started calls may go on after SIGTERM."""

    def __post_init__(self) -> None:
        _non_negative(self, "timeout_s")


class TelemetrySettings(Group, frozen=True):
    log_executions: bool = True
    """Whether the log has a line for each execution that ended."""
    max_task_names: int = 1000
    """Tasks with figures of their own; those of the others are one sum, called `/other`."""
    traces_endpoint: str = ""
    """A collector's address for traces by OTLP over HTTP: `http://127.0.0.1:4318/v1/traces`. Empty
    is off. Needs `pip install "atlatl[traces]"`."""
    traces_sample_ratio: float = 0.01
    """Share of the calls that are traced, 0 to 1, of those that come without a trace of their
    caller; the others are traced when their caller's trace is."""

    def __post_init__(self) -> None:
        _positive(self, "max_task_names")
        _require(0 <= self.traces_sample_ratio <= 1, "`traces_sample_ratio` must be from 0 to 1")
        _require(
            not self.traces_endpoint or _ENDPOINT.fullmatch(self.traces_endpoint) is not None,
            f"`traces_endpoint` must be a http or https URL, it is {self.traces_endpoint!r}",
        )


_ENDPOINT = re.compile(r"https?://[^\s/?#]+\S*")


class AuthSettings(Group, frozen=True):
    required: bool | Literal["auto"] = "auto"
    """`auto`: on loopback only management needs a token, elsewhere everything does."""


class TlsSettings(Group, frozen=True):
    """Of both fronts; the files are read again when they change."""

    cert_file: str = ""
    """PEM: the certificate and those that lead to its authority. Empty: both fronts speak without
    TLS."""
    key_file: str = ""
    """PEM, without a password: the key of the certificate."""
    client_ca_file: str = ""
    """PEM: clients have to show a certificate of one of these authorities, besides their token."""

    def __post_init__(self) -> None:
        _require(
            bool(self.cert_file) == bool(self.key_file),
            "`cert_file` and `key_file` go together: one of them is missing",
        )
        _require(
            bool(self.cert_file) or not self.client_ca_file,
            "`client_ca_file` needs `cert_file` and `key_file`",
        )


class TaskOptions(Group, frozen=True):
    """The members of the group `task`."""

    handler: str = ""
    """`file:function`; empty is `main` of the only file, or of `main.py` or `app.py`."""
    runtime: str = "process"
    """What runs it; `process` for now."""
    description: str = ""
    """For people."""
    labels: dict[str, str] = {}
    """For people and their tools."""
    env: dict[str, str] = {}
    """Environment variables of the function."""
    timeout_ms: int = 30_000
    """Deadline of a call that names none."""
    max_timeout_ms: int = 900_000
    """Longest deadline that a call may name."""
    expires_after_s: float = 0.0
    """Time from acceptance in which an async execution has to end, all attempts and waiting
    included; 0 is no limit. `timeout_ms` bounds each of its attempts."""
    cancel_grace_s: float = 1.0
    """Time that a cancelled coroutine has to end before its instance is drained and killed."""
    priority: int = 3
    """0 is the most urgent, 7 the least."""
    rate_limit_per_s: float = 0.0
    """Calls a second; 0 is no limit."""
    weight: float = 1.0
    """Share between tasks when the service is at its execution limit."""

    def __post_init__(self) -> None:
        _positive(self, "timeout_ms", "max_timeout_ms", "weight")
        _require(
            self.timeout_ms <= self.max_timeout_ms,
            f"`timeout_ms` ({self.timeout_ms}) must be at most `max_timeout_ms` "
            f"({self.max_timeout_ms})",
        )
        _non_negative(self, "expires_after_s", "cancel_grace_s", "rate_limit_per_s")
        check_environment(self.env)
        _require(0 <= self.priority <= 7, "`priority` must be from 0 to 7")


class TaskSettings(TaskOptions, frozen=True):
    """All settings of one task: the members of `task` at the top, the other groups by name."""

    pool: PoolSettings = PoolSettings()
    scaling: ScalingSettings = ScalingSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    breaker: CircuitBreakerSettings = CircuitBreakerSettings()
    retry: RetrySettings = RetrySettings()
    confinement: ConfinementSettings = ConfinementSettings()


class Settings(Group, frozen=True):
    """All settings of a service."""

    data_dir: str = ""
    """Empty is the platform's user data directory."""
    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    limits: LimitSettings = LimitSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    task: TaskOptions = TaskOptions()
    pool: PoolSettings = PoolSettings()
    scaling: ScalingSettings = ScalingSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    breaker: CircuitBreakerSettings = CircuitBreakerSettings()
    retry: RetrySettings = RetrySettings()
    confinement: ConfinementSettings = ConfinementSettings()
    blank_pool: BlankPoolSettings = BlankPoolSettings()
    zygote: ZygoteSettings = ZygoteSettings()
    records: RecordSettings = RecordSettings()
    callbacks: CallbackSettings = CallbackSettings()
    drain: DrainSettings = DrainSettings()
    auth: AuthSettings = AuthSettings()
    tls: TlsSettings = TlsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


MAX_INTEGER = 2**63 - 1

TASK_GROUPS = ("pool", "scaling", "scheduler", "breaker", "retry", "confinement")
"""Groups that a task may override under their own name."""

S = TypeVar("S", bound=Group)


def parse(kind: type[S], tree: Mapping[str, Any]) -> S:
    """Turns a mapping into settings of `kind`.

    Raises:
        SettingInvalid: a key is unknown or a value is wrong; the message has the path.
    """
    try:
        settings = msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise SettingInvalid(f"setting refused: {error}") from None
    for path, value in _numbers(settings, "$"):
        if isinstance(value, int):
            # No store keeps a larger one, and no clock can be asked for it.
            wanted = "" if abs(value) <= MAX_INTEGER else f"a number of at most {MAX_INTEGER}"
        else:
            # JSON has no other: what is stored with it could not be read again.
            wanted = "" if math.isfinite(value) else "a finite number"
        if wanted:
            raise SettingInvalid(f"setting refused: {wanted} is wanted - at `{path}`")
    return settings


def _numbers(group: Group, path: str) -> Iterator[tuple[str, float]]:
    """All numbers, and where they stand."""
    for name in group.__struct_fields__:
        value = getattr(group, name)
        if isinstance(value, Group):
            yield from _numbers(value, f"{path}.{name}")
        elif isinstance(value, int | float):
            yield f"{path}.{name}", value


def task_settings(defaults: Settings, overrides: Mapping[str, Any]) -> TaskSettings:
    """The full settings of a task: the service's defaults with the task's own on top.

    Args:
        defaults: the service's settings.
        overrides: the `settings` of a deploy, for example
            `{"timeout_ms": 5000, "pool": {"max_size": 4}}`.

    Raises:
        SettingInvalid: a key is unknown, a value is wrong, or two do not fit together.
    """
    tree: dict[str, Any] = msgspec.to_builtins(defaults.task)
    for name in TASK_GROUPS:
        tree[name] = msgspec.to_builtins(getattr(defaults, name))
    return parse(TaskSettings, merge(tree, overrides))


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the members of `top` laid over it; groups merge, all else is replaced."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if key not in ("labels", "env") and isinstance(below, dict) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged
