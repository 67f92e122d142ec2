"""Writes the reference pages of docs/ from the code that they describe.

python scripts/gen_reference.py            writes all
python scripts/gen_reference.py --check    writes nothing; exit status 1 if one is out of date
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence, Set
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import reference_events as events
import reference_fronts as fronts
import reference_grpc as grpc
import reference_numbers as numbers
import reference_states as states

from atlatl import errors, settings

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = (
    f"<!-- Written by `make docs` from {{source}} of atlatl {version('atlatl')}; "
    "edit that file instead. -->"
)

SETTINGS_INTRO = """\
# Settings

One typed tree. Lowest to highest: the defaults below, a file `atlatl.toml`, environment variables,
flags of `atlatl serve`. Unknown keys are refused with their path.

```toml
[pool]
max_size = 4
```

is the same as `ATLATL__POOL__MAX_SIZE=4`; lists and maps are given as JSON in a variable.

A task may override the groups marked (task) with its own settings, given at deploy: the members
of `task` at the top, the other groups by name, for example
`{"timeout_ms": 5000, "pool": {"max_size": 4}}`.

Durations end in `_s` or `_ms`, sizes in `_bytes`.
"""

ERRORS_INTRO = """\
# Errors

Every failure has one leaf class, and the class decides everything else: the HTTP status, the
`code` of the problem document and of the gRPC answer, whether the same call may succeed later,
how the execution is counted, and whether the circuit breaker counts it as a failure of the
function. All are importable from `atlatl.errors`.

Callers may catch a group: `ArtifactError`, `TaskError`, `InstanceError`, `RuntimeFailure` or
`ConfigurationError`. All but the two access errors are an `ExecutionError`, all are an
`AtlatlError`.
"""


class Member(NamedTuple):
    name: str
    kind: str
    default: str
    meaning: str


def main(arguments: list[str]) -> int:
    pages = {
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "commands.md": commands_page(),
        "http.md": page("src/atlatl/front/", fronts.HTTP_INTRO, fronts.http_table()),
        "grpc.md": grpc_page(),
        "events.md": page("src/atlatl/events.py", events.INTRO, (events.HEAD, [*events.rows()])),
        "metrics.md": page(
            "src/atlatl/telemetry/prometheus.py", fronts.METRICS_INTRO, fronts.metrics_table()
        ),
    }
    for path in numbers.pages(DOCS):
        text = path.read_text(encoding="utf-8")
        pages[str(path.relative_to(DOCS))] = numbers.filled(text, described, table)
    pages |= {f"concepts/{name}": picture for name, picture in states.pictures().items()}
    stale = [name for name, text in pages.items() if not is_current(DOCS / name, text)]
    if "--check" in arguments:
        for name in stale:
            print(f"docs/{name} is out of date: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(pages[name], encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


def is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def settings_page() -> str:
    defaults = settings.Settings()
    named = [(name, getattr(defaults, name)) for name in settings.Settings.__struct_fields__]
    groups = [(name, type(value)) for name, value in named if isinstance(value, settings.Group)]
    parts = [NOTE.format(source="src/atlatl/settings.py"), SETTINGS_INTRO, "## Top level\n"]
    parts.append(member_table(settings.Settings, leave_out={name for name, _ in groups}))
    for name, group in groups:
        parts.append(f"## `{name}`{marks(name)}\n")
        parts.append(member_table(group))
    return "\n".join(parts)


def marks(name: str) -> str:
    return " (task)" if name == "task" or name in settings.TASK_GROUPS else ""


def members(group: type[settings.Group]) -> Iterator[Member]:
    """The members of a group in order."""
    docs = attribute_docs(group)
    kinds = inspect.get_annotations(group) | literals(group)
    for name in group.__struct_fields__:
        yield Member(name, kinds[name], as_toml(getattr(group(), name)), docs.get(name, ""))


def literals(group: type[settings.Group]) -> dict[str, str]:
    """The values of members that allow only certain texts."""
    found = {}
    for field in msgspec.structs.fields(group):
        described = msgspec.json.schema(field.type)
        if "enum" in described:
            found[field.name] = "one of " + ", ".join(f"`{v}`" for v in described["enum"])
    return found


def described(group: type[settings.Group]) -> Iterator[Member]:
    """The members that hold a value, and not a group of their own."""
    return (each for each in members(group) if each.default)


def attribute_docs(group: type[settings.Group]) -> dict[str, str]:
    """The strings that stand right below the members in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for member, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(member, ast.AnnAssign)
            and isinstance(member.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            docs[member.target.id] = " ".join(str(text.value.value).split())
    return docs


def as_toml(value: Any) -> str:
    if isinstance(value, settings.Group):
        return ""
    return "none" if value is None else f"`{json.dumps(value)}`"


def member_table(group: type[settings.Group], leave_out: Set[str] = frozenset()) -> str:
    rows = [row for row in members(group) if row.name not in leave_out]
    return table(
        ("member", "type", "default", "meaning"),
        [(f"`{row.name}`", row.kind, row.default, row.meaning) for row in rows],
    )


def errors_page() -> str:
    leaves = [leaf for leaf in vars(errors).values() if is_leaf(leaf)]
    rows = [
        (
            f"`{leaf.__name__}`",
            group_of(leaf),
            f"`{leaf.code}`",
            str(leaf.http_status),
            leaf.grpc_status,
            "yes" if leaf.retryable else "no",
            leaf.outcome,
            "failure" if leaf.trips_breaker else "ignored",
        )
        for leaf in sorted(leaves, key=lambda leaf: (leaf.http_status, leaf.__name__))
    ]
    head = ("class", "group", "code", "HTTP", "gRPC", "retryable", "counted as", "breaker")
    return page("src/atlatl/errors.py", ERRORS_INTRO, (head, rows))


def commands_page() -> str:
    parts = [NOTE.format(source="src/atlatl/cli.py"), fronts.COMMANDS_INTRO]
    for command in fronts.commands():
        parts += [f"## `{command.usage}`\n", f"{command.summary}\n", table(*command.table)]
    return "\n".join(parts)


def grpc_page() -> str:
    text = page("src/atlatl/front/proto/function.proto", grpc.INTRO, (grpc.RPC_HEAD, grpc.rpcs()))
    parts = [text, "## Messages\n"]
    for part in grpc.parts():
        parts.append(f"### `{part.name}`\n")
        parts += [f"{part.meaning}\n"] if part.meaning else []
        parts += [table(part.head, part.rows)] if part.rows else ["No field.\n"]
    return "\n".join(parts)


def page(source: str, intro: str, rows: fronts.Table) -> str:
    return "\n".join([NOTE.format(source=source), intro, table(*rows)])


def is_leaf(value: object) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, errors.AtlatlError)
        and value.code != errors.AtlatlError.code
    )


def group_of(leaf: type[errors.AtlatlError]) -> str:
    """Name of the group that a caller would catch, the last one below ExecutionError."""
    above = [base for base in leaf.__mro__ if errors.ExecutionError in base.__bases__]
    return f"`{above[0].__name__}`" if above else "-"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
