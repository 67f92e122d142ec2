"""Items about what was installed: alert rules, benchmark, documentation."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import httpx
import msgspec

import atlatl
from atlatl import errors
from atlatl.checks.item import Item, failed, judged, warned
from atlatl.model import Record
from atlatl.settings import Group, Settings

VERSION = package_version("atlatl")

ALERTS, BASELINE = "deploy/prometheus/alerts.yml", "bench/baseline.json"
SETTINGS_PAGE, ERRORS_PAGE = "docs/settings.md", "docs/errors.md"

PROMTOOL_S = 30.0
PROMETHEUS_S = 10.0


def shipped(place: str) -> Path | None:
    """A file that comes with atlatl; None when it does not lie where it should.

    Args:
        place: in the source tree. An installed package has it by its name in `atlatl/shipped`.
    """
    package = Path(atlatl.__file__).parent
    candidates = (package / "shipped" / Path(place).name, package.parents[1] / place)
    return next((path for path in candidates if path.is_file()), None)


# --- alert rules ---


class Alert(Record, frozen=True):
    """One rule of the shipped file."""

    name: str
    expression: str


_NAME = re.compile(r"\b(?!faas_name\b)(?:atlatl|faas)_[a-z_]+")
"""Of what is exported; `faas_name` is a label."""
_SERIES = re.compile(r"_(?:bucket|sum|count)$")


def alerts_in(text: str) -> list[Alert]:
    """The alerts of a file in the style of ours: one member a line, in the usual order.

    Raises:
        ValueError: one lacks something, or there is none.
    """
    _, *blocks = re.split(r"^ +- alert: ", text, flags=re.MULTILINE)
    if not blocks:
        raise ValueError("there is no alert in it")
    return [_alert(block) for block in blocks]


def _alert(block: str) -> Alert:
    name = block.split(maxsplit=1)[0]
    for member in ("expr", "labels", "severity", "annotations", "summary"):
        if not re.search(rf"^ +{member}:", block, re.MULTILINE):
            raise ValueError(f"alert {name} has no `{member}`")
    expression = re.split(r"^ +expr:|^ +(?:for|labels):", block, flags=re.MULTILINE)[1]
    return Alert(name, expression.strip().removeprefix("|").strip())


def alert_rules(exposition: str, prometheus_url: str) -> Item:
    """The shipped rules can be loaded, name what is exported, and are loaded where that is asked.

    Args:
        exposition: what the service tells Prometheus; empty when none was asked.
        prometheus_url: of a Prometheus server; empty asks none.
    """
    path = shipped(ALERTS)
    if path is None:
        return failed("alert rules", f"{ALERTS} is missing: install atlatl again")
    try:
        alerts = alerts_in(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return failed("alert rules", f"{path} can't be loaded: {error}")
    verdict, faults = _promtool(path)
    faults += _unknown_names(alerts, exposition)
    figures = f"{len(alerts)} alerts in {path}, {verdict}"
    if prometheus_url:
        found = _not_loaded(alerts, prometheus_url)
        figures += "" if found else f", loaded by {prometheus_url}"
        faults += found
    return judged("alert rules", faults, [], figures)


def _promtool(path: Path) -> tuple[str, list[str]]:
    """What Prometheus' own tool says of the file, and the faults that it finds."""
    tool = shutil.which("promtool")
    if tool is None:
        return "complete (promtool is not installed, which would check the expressions)", []
    try:
        done = subprocess.run(
            [tool, "check", "rules", str(path)],
            capture_output=True,
            text=True,
            timeout=PROMTOOL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not checked: promtool does not run ({error})", []
    faults = [] if done.returncode == 0 else [" ".join((done.stderr or done.stdout).split())]
    return "checked by promtool", faults


def _unknown_names(alerts: list[Alert], exposition: str) -> list[str]:
    """A name that nobody exports makes an alert that can never fire."""
    exported = set(re.findall(r"^# TYPE (\S+)", exposition, re.MULTILINE))
    if not exported:
        return []
    used = {_SERIES.sub("", name) for each in alerts for name in _NAME.findall(each.expression)}
    return [f"the service does not export {name}" for name in sorted(used - exported)]


def _not_loaded(alerts: list[Alert], url: str) -> list[str]:
    """What is wrong with the alerts on a Prometheus server."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/rules", timeout=PROMETHEUS_S)
        answer.raise_for_status()
        loaded = dict(_loaded(msgspec.json.decode(answer.content)))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [f"{url} can't be asked: {str(error) or type(error).__name__}"]
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return [f"what answers at {url} is no Prometheus server"]
    missing = [each.name for each in alerts if each.name not in loaded]
    sick = [f"{each.name} fails on {url}" for each in alerts if loaded.get(each.name) == "err"]
    if missing:
        sick.insert(0, f"{url} has not loaded {', '.join(missing)}: name the file in `rule_files`")
    return sick


def _loaded(answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of alerts with their health: `ok`, `err`, or `unknown` before the first time."""
    for group in answer["data"]["groups"]:
        for rule in group["rules"]:
            if rule.get("type") == "alerting":
                yield rule["name"], rule["health"]


# --- benchmark ---


def benchmark() -> Item:
    """There is a stored result of this version to compare with; a warning when there is none."""
    path = shipped(BASELINE)
    try:
        stored = msgspec.json.decode(path.read_bytes()) if path else {}
        figures = (
            f"of atlatl {stored['version']}: breaker, pool, figures and choice together "
            f"{stored['together_ns']:,.0f} ns on {stored['machine']['cpu']}, {stored['at']}"
        )
    except (OSError, msgspec.DecodeError, LookupError, TypeError):
        return warned("benchmark", "there is no stored result: run `make bench`")
    old = [] if stored["version"] == VERSION else [f"the result is not of {VERSION}: run it again"]
    return judged("benchmark", [], old, figures)


# --- documentation ---


def documentation() -> Item:
    """The reference is of this version, and has every setting and every error."""
    pages = {}
    for place in (SETTINGS_PAGE, ERRORS_PAGE):
        path = shipped(place)
        if path is None:
            return failed("documentation", f"{place} is missing: install atlatl again")
        pages[place] = path.read_text(encoding="utf-8")
    faults = [
        f"{place} is not of {VERSION}"
        for place, page in pages.items()
        if f"of atlatl {VERSION};" not in page.partition("\n")[0]
    ]
    members, codes = list(_members()), _codes()
    faults += [
        f"{SETTINGS_PAGE} lacks `{group}.{member}`"
        for group, member in members
        if f"| `{member}` |" not in _section(pages[SETTINGS_PAGE], group)
    ]
    faults += [f"{ERRORS_PAGE} lacks {code}" for code in codes if code not in pages[ERRORS_PAGE]]
    figures = f"reference of {VERSION}: {len(members)} settings, {len(codes)} error codes"
    return judged("documentation", faults, [], figures)


def _members() -> Iterator[tuple[str, str]]:
    """Every setting, by its group."""
    defaults = Settings()
    for group in Settings.__struct_fields__:
        value = getattr(defaults, group)
        if isinstance(value, Group):
            yield from ((group, member) for member in value.__struct_fields__)


def _section(page: str, group: str) -> str:
    _, _, rest = page.partition(f"\n## `{group}`")
    return rest.partition("\n## ")[0]


def _codes() -> list[str]:
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    codes = {kind.code for kind in kinds if issubclass(kind, errors.AtlatlError)}
    return sorted(codes - {errors.AtlatlError.code})
