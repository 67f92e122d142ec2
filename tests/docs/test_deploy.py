"""What `deploy/` names is there: settings, commands, paths, ports, users, as the code has them."""

from __future__ import annotations

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from atlatl import cli
from atlatl.configuration import load_settings
from atlatl.console import WRONG_USAGE
from atlatl.front.access import FORWARDED
from atlatl.settings import Group, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "atlatl.service"
IMAGE = DEPLOY / "container" / "Containerfile"
GUIDE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
DEFAULTS = Settings()


def text_of(*parts: str) -> str:
    return DEPLOY.joinpath(*parts).read_text(encoding="utf-8")


def own_settings() -> Settings:
    return load_settings(DEPLOY / "atlatl.toml", {}, {})


def options_of(command: str) -> set[str]:
    """What is given to a command of ours; fails when there is none of that name."""
    [found] = [
        each
        for each in cli.app.registered_commands
        if (each.name or each.callback.__name__) == command
    ]
    return {f"--{name.replace('_', '-')}" for name in found.callback.__annotations__}


# --- settings ---


def test_the_settings_of_a_server_are_settings() -> None:
    settings = own_settings()
    assert settings.auth.required is True
    commented = re.sub(r"^# (?=\[|\w+ = )", "", text_of("atlatl.toml"), flags=re.MULTILINE)
    assert "[tls]\ncert_file" in commented
    assert set(tomllib.loads(commented)) == set(tomllib.loads(text_of("atlatl.toml"))) | {"tls"}
    load_settings(None, {"ATLATL__TLS__CERT_FILE": "a", "ATLATL__TLS__KEY_FILE": "b"}, {})


def test_every_setting_that_is_named_exists() -> None:
    """In comments, too: `group.member`, and variables."""
    groups = {n: getattr(DEFAULTS, n) for n in Settings.__struct_fields__ if n != "data_dir"}
    pattern = re.compile(rf"(?<![\w./-])({'|'.join(groups)})\.([a-z_]+)\b(?!\.)")
    endings = {"conf", "toml", "md", "yml", "yaml", "service", "json", "pem"}
    unknown, named = [], 0
    for path in [*DEPLOY.rglob("*"), ROOT / "docs" / "deploying.md"]:
        if path.suffix == ".json" or not path.is_file():
            continue
        for group, member in pattern.findall(path.read_text(encoding="utf-8")):
            if member in endings:
                continue
            named += 1
            if member not in groups[group].__struct_fields__:
                unknown.append(f"{path.name}: {group}.{member}")
    assert unknown == []
    assert named > 15


VARIABLE = re.compile(r"\bATLATL__(\w+)(?:=([^\s'\"]*\w))?")


def test_every_variable_that_is_set_is_one() -> None:
    found = 0
    for path in DEPLOY.rglob("*"):
        if not path.is_file() or path.suffix == ".json":
            continue
        text = path.read_text(encoding="utf-8")
        for name, _ in VARIABLE.findall(text):
            kind: Any = DEFAULTS
            for part in name.lower().split("__"):
                kind = getattr(kind, part)
            assert not isinstance(kind, Group), name
            found += 1
        load_settings(None, {f"ATLATL__{n}": v for n, v in VARIABLE.findall(text) if v}, {})
    assert found >= 5


# --- systemd ---


def unit() -> dict[str, dict[str, list[str]]]:
    """Sections, names and all values, as systemd.syntax(7) has them."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and line[0] not in "#;":
            name, is_setting, value = line.partition("=")
            assert is_setting, line
            section.setdefault(name, []).append(value)
    return found


def seconds(value: str) -> float:
    number, name = re.fullmatch(r"([\d.]+)(ms|s|min|h|)", value).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "": 1, "min": 60, "h": 3600}[name]


def test_the_unit_starts_the_service_with_settings_that_are_installed() -> None:
    service = unit()["Service"]
    [[command]] = [service["ExecStart"]]
    program, name, *rest = shlex.split(command)
    assert program in GUIDE
    assert set(rest[::2]) <= options_of(name)
    assert rest == ["--config", "/etc/atlatl/atlatl.toml"]
    assert f"deploy/atlatl.toml {rest[1]}" in GUIDE
    assert own_settings().data_dir == f"/var/lib/{service['StateDirectory'][0]}"
    assert service["EnvironmentFile"][0].lstrip("-") in GUIDE


def test_the_unit_stops_the_service_as_it_wants_to_be_stopped() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == ["mixed"]
    for settings in (DEFAULTS, own_settings()):
        assert seconds(service["TimeoutStopSec"][0]) > settings.drain.timeout_s + 10
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert seconds(service["WatchdogSec"][0]) >= 10
    assert service["RestartPreventExitStatus"] == [str(WRONG_USAGE)]


def test_the_unit_leaves_what_confinement_needs() -> None:
    service = unit()["Service"]
    assert service["Delegate"] == ["yes"]
    assert "DelegateSubgroup" not in service
    assert "ProtectControlGroups" not in service
    assert set(service["RestrictNamespaces"][0].split()) == {"mnt", "net", "ipc", "uts", "user"}
    refused = service["SystemCallFilter"][0]
    assert refused.startswith("~")
    assert not {"@mount", "@privileged", "@setuid", "@resources"} & set(refused[1:].split())
    families = set(service["RestrictAddressFamilies"][0].split())
    assert families == {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}
    assert set(service["CapabilityBoundingSet"][0].split()) >= {
        f"CAP_{name}" for name in ("SYS_ADMIN", "SETUID", "SETGID", "KILL", "SYS_PTRACE", "CHOWN")
    }


# --- the image ---


def instructions() -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", IMAGE.read_text(encoding="utf-8")).splitlines()
    kept = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in kept]


def of(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


def ignored(path: str) -> bool:
    """As .containerignore says: the last line that matches counts, and all that is below it."""
    verdict = False
    for line in (ROOT / ".containerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#"):
            above = [path, *map(str, Path(path).parents)]
            if any(fnmatch.fnmatch(each, pattern) for each in above):
                verdict = not line.startswith("!")
    return verdict


def copied() -> set[str]:
    """Sources of the first stage."""
    return {
        source
        for rest in of("COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }


def test_the_image_copies_what_there_is_and_what_the_package_is_built_from() -> None:
    assert {source for source in copied() if not (ROOT / source).exists()} == set()
    assert {source for source in copied() if ignored(source)} == set()
    assert ignored("tests")
    assert ignored(".git")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    build = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*build["packages"], *build["force-include"], "pyproject.toml", "README.md", "LICENSE"}
    assert {
        name for name in wanted if not {name, *map(str, Path(name).parents)} & copied()
    } == set()


def test_both_kinds_of_engines_leave_out_the_same() -> None:
    assert (ROOT / ".dockerignore").read_bytes() == (ROOT / ".containerignore").read_bytes()


def test_the_image_runs_the_service_as_its_own_user() -> None:
    [user] = of("USER")
    made = " ".join(of("RUN"))
    assert re.search(rf"useradd .*\b{user}\b", made)
    [volume] = of("VOLUME")
    assert f"install -d -o {user} -g {user} -m 0700 {volume}" in made
    [environment] = of("ENV")
    variables = dict(part.split("=", 1) for part in shlex.split(environment))
    settings = load_settings(None, variables, {})
    assert settings.data_dir == volume
    assert of("EXPOSE") == [f"{settings.http.port} {settings.grpc.port}"]
    assert settings.http.host == settings.grpc.host == "0.0.0.0"
    assert variables["PATH"].startswith("/opt/atlatl/bin:")


def test_the_commands_of_the_image_exist() -> None:
    [entry], [command] = of("ENTRYPOINT"), of("CMD")
    assert entry == '["atlatl"]'
    options_of(command.strip('[]"'))
    [check] = of("HEALTHCHECK")
    assert check.endswith('CMD ["atlatl", "health"]')
    options_of("health")


def test_the_images_python_is_one_that_is_supported() -> None:
    [base] = [rest.partition("=")[2] for rest in of("ARG")]
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)
    assert version is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]


# --- what stands around it ---


def read_yaml(*parts: str) -> Any:
    return pytest.importorskip("yaml").safe_load(text_of(*parts))


def test_compose_starts_the_image_with_what_lies_here() -> None:
    compose = read_yaml("container", "compose.yaml")
    service = compose["services"]["atlatl"]
    here = DEPLOY / "container"
    context = (here / service["build"]["context"]).resolve()
    assert context == ROOT
    assert context / service["build"]["dockerfile"] == IMAGE
    ports = {int(port.split(":")[-1]) for port in service["ports"]}
    assert ports == {DEFAULTS.http.port, DEFAULTS.grpc.port}
    assert of("VOLUME") == [service["volumes"][0].partition(":")[2]]
    assert seconds(service["stop_grace_period"]) > DEFAULTS.drain.timeout_s + 10
    for name in ("prometheus", "grafana"):
        for volume in compose["services"][name]["volumes"]:
            source = volume.split(":")[0]
            assert source == "./metrics-token" or (here / source).exists(), volume


def test_prometheus_and_grafana_find_what_they_are_told_of() -> None:
    prometheus = read_yaml("prometheus", "prometheus.yml")
    for name in prometheus["rule_files"]:
        assert (DEPLOY / "prometheus" / name).exists()
    [scraped] = prometheus["scrape_configs"]
    compose = read_yaml("container", "compose.yaml")["services"]
    [target] = scraped["static_configs"][0]["targets"]
    assert target == f"atlatl:{DEFAULTS.http.port}"
    mounted = {volume.split(":")[1] for volume in compose["prometheus"]["volumes"]}
    assert scraped["authorization"]["credentials_file"] in mounted
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/alerts.yml"} <= mounted
    [source] = read_yaml("grafana", "provisioning", "datasources", "atlatl.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = read_yaml("grafana", "provisioning", "dashboards", "atlatl.yaml")["providers"]
    inside = {volume.split(":")[1] for volume in compose["grafana"]["volumes"]}
    assert f"{provider['options']['path']}/atlatl.json" in inside


MIB = {"m": 2**20, "MiB": 2**20}


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_proxies_let_through_what_the_service_takes(name: str) -> None:
    text = text_of("proxy", name)
    settings = own_settings()
    assert f"127.0.0.1:{settings.http.port}" in text
    assert f"127.0.0.1:{settings.grpc.port}" in text
    sizes = re.findall(r"(?:client_max_body_size|max_size) (\d+)(m|MiB)\b", text)
    n_bytes = sorted(int(number) * MIB[unit] for number, unit in sizes)
    assert n_bytes[0] == settings.http.max_body_bytes
    assert n_bytes[-1] > settings.artifacts.max_bytes
    timeouts = set(re.findall(r"read_timeout (\d+)s", text))
    assert len(timeouts) == 1
    assert int(timeouts.pop()) * 1000 > settings.task.max_timeout_ms
    assert "X-Forwarded-For".lower() in FORWARDED
    assert "X-Forwarded-For" in text


def test_nginx_neither_buffers_answers_nor_repeats_calls() -> None:
    text = text_of("proxy", "nginx.conf")
    assert "proxy_buffering off;" in text
    assert "proxy_next_upstream off;" in text
    assert "grpc_next_upstream off;" in text
    assert f"client_max_body_size {DEFAULTS.grpc.max_message_bytes >> 20}m;" in text
    assert "flush_interval -1" in text_of("proxy", "Caddyfile")


# --- the guides ---


@pytest.mark.parametrize("page", ["deploying.md", "upgrading.md"])
def test_commands_in_the_guides_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"(?:^|[ /(])atlatl ([a-z]+)\b", "".join(blocks), re.MULTILINE))
    groups = {group.name for group in cli.app.registered_groups}
    there = {each.name or each.callback.__name__ for each in cli.app.registered_commands}
    assert named
    assert named - there - groups - {"atlatl"} == set()


def test_files_in_the_guide_exist() -> None:
    named = re.findall(r"(?<![\w/])(?:deploy|docs)/[\w./-]*\w", GUIDE)
    assert len(named) > 8
    assert {name for name in named if not (ROOT / name).exists()} == set()
