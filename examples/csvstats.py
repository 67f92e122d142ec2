"""Summary of a CSV file per group: count, mean, median, least and greatest value.

The body is the file, its first line names the columns. `?group=` is the column to group by,
`?value=` the column of numbers. Rows whose value is no number are counted and left out.
"""

import csv
import io
import math
from collections import defaultdict
from statistics import fmean, median

from atlatl_worker import Request, Response


def main(request: Request) -> dict[str, object] | Response:
    group, value = request.query.get("group", ""), request.query.get("value", "")
    table = csv.DictReader(io.StringIO(request.body.decode("utf-8-sig")))
    missing = {group, value} - set(table.fieldnames or ())
    if missing:
        return Response(f"no column {sorted(missing)} in {table.fieldnames}", status=400)
    values, skipped = grouped(table, group, value)
    return {
        "rows": sum(map(len, values.values())),
        "skipped": skipped,
        "groups": {name: summary(values[name]) for name in sorted(values)},
    }


def grouped(table: csv.DictReader, group: str, value: str) -> tuple[dict[str, list[float]], int]:
    values: dict[str, list[float]] = defaultdict(list)
    skipped = 0
    for row in table:
        number = as_number(row[value])
        if number is None:
            skipped += 1
        else:
            values[row[group]].append(number)
    return values, skipped


def as_number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def summary(values: list[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "mean": fmean(values),
        "median": median(values),
        "min": min(values),
        "max": max(values),
    }
