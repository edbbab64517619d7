"""How a record is laid out in JSON: small, one line a part, and the layout of earlier versions read, too.

Class names are written once, and a task holds their positions. Accuracies are written as what they were counted from,
the number of right answers among the test samples of a task, one row for each task learned. The tasks of the stream
and the steps are tables of columns. Of what follows from the rest only the final figures are written; times,
losses and the like have five digits.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hamcl.config import MACHINE, current
from hamcl.errors import UsageError
from hamcl.metrics import Floats

FORMAT = 2
DIGITS = 5  # of figures that were measured: times, losses, similarities
TOLD = ("task", "classes", "seconds", "scores")
"""What a method reports and the record holds elsewhere, or what follows from it (the scores from similarities)."""


def rounded(value: Any) -> Any:
    """A plain value with its numbers to so many digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def reported(report: dict[str, Any]) -> dict[str, Any]:
    """What the record keeps of a plain report: neither what it holds elsewhere nor what says nothing."""
    return {key: value for key, value in report.items() if key not in TOLD and value not in (None, [], {})}


def counts(accuracy: Floats, tests: Sequence[int], steps: int) -> list[list[int] | None]:
    """The right answers to each task seen after each task learned; None for a step that was not evaluated."""
    return [
        None if np.isnan(row[: t + 1]).any() else [round(a * n) for a, n in zip(row[: t + 1], tests, strict=False)]
        for t, row in enumerate(accuracy[:steps])
    ]


def fractions(right: Sequence[Sequence[int] | None], tests: Sequence[int]) -> Floats:
    """Undo `counts`: the accuracy matrix, NaN where not evaluated."""
    matrix = np.full((len(tests), len(tests)), np.nan)
    for t, row in enumerate(right):
        if row is not None:
            matrix[t, : t + 1] = np.array(row) / np.array(tests[: t + 1])
    return matrix


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A table of rows as lists of equal length, nested where the rows are; None where a row has no such entry.

    A column that would hold nothing but None is left out.
    """
    table: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row if row[key] is not None):
        values = [row.get(key) for row in rows]
        nested = any(isinstance(value, dict) for value in values)
        table[key] = columns([value or {} for value in values]) if nested else values
    return table


def rows(table: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Undo `columns`.

    Raises:
        ValueError: a column is not of this length.
    """
    split = {key: rows(column, count) if isinstance(column, dict) else column for key, column in table.items()}
    for key, column in split.items():
        if len(column) != count:
            raise ValueError(f"{key!r} has {len(column)} entries for {count} rows")
    return [{key: column[i] for key, column in split.items()} for i in range(count)]


def present(report: dict[str, Any]) -> dict[str, Any]:
    """The entries of one step, of those that any step has."""
    nested = {key: present(value) if isinstance(value, dict) else value for key, value in report.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def text(record: dict[str, Any]) -> str:
    """A record as JSON, with a line for each part, and for each entry of the parts that are long."""
    parts = []
    for key, value in record.items():
        lines = _lines(value) if key in ("stream", "classes", "correct", "correct_told", "steps") else _short(value)
        parts.append(f" {json.dumps(key)}: {lines}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _lines(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {_short(item)}" for key, item in value.items()) + "\n }"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {_short(item)}" for item in value) + "\n ]"
    return _short(value)


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a `result.json` in today's layout, whichever version wrote it.

    Raises:
        ValueError: no version of hamcl up to this one wrote it.
        KeyError, TypeError: an entry is missing.
    """
    if values.get("format") == FORMAT:
        return values
    if values.get("format") != 1:
        raise ValueError(f"format {values.get('format')!r} is not {FORMAT}")
    tasks, steps = values["stream"]["tasks"], values["steps"]
    names = list(dict.fromkeys(name for task in tasks for name in task["classes"]))
    place = {name: i for i, name in enumerate(names)}
    tests = [task["test"] for task in tasks]
    matrices = {
        new: counts(np.array(values[old], dtype=np.float64), tests, len(steps))
        for old, new in (("accuracy", "correct"), ("task_accuracy", "correct_told"))
    }
    table = [{**step, "report": reported(step["report"])} for step in steps]
    for step in table:
        del step["task"], step["seen_classes"]
    return {
        **values,
        **matrices,
        "classes": names,
        "stream": {
            **values["stream"],
            "tasks": columns([{**task, "classes": [place[name] for name in task["classes"]]} for task in tasks]),
        },
        "steps": columns(table),
        "notes": values.get("notes", []),  # the first records had none
    }


def current_options(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a record under the names of today, without those that belong to the machine.

    Raises:
        ValueError: one asks for what is no more.
    """
    # An option that came later had no effect before.
    parts = {} if "later_tasks" in config else {"distill_growth": False, "settle": False, "shorten": "never"}
    try:
        return current({**parts, **{name: value for name, value in config.items() if name not in MACHINE}})
    except UsageError as error:
        raise ValueError(str(error)) from error
