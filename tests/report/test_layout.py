"""The layout of a record: what is written comes back, and records of earlier versions are read."""

import json

import numpy as np
import pytest

from hamcl.errors import DataError
from hamcl.report import layout
from hamcl.report.records import Result

NAN = float("nan")
PROVENANCE = {"hamcl": "0.1.0", "python": "3.11.7", "packages": {}, "device": "cpu"}


def former():
    """A record as the first version wrote it: three tasks, the second of which brings a class back, two learned."""
    tasks = [
        {"name": "a", "classes": ["x", "y"], "train": 9, "val": 0, "test": 7},
        {"name": "b", "classes": ["z", "x"], "train": 9, "val": 1, "test": 3},
        {"name": "c", "classes": ["ü"], "train": 9, "val": 0, "test": 5},
    ]
    step = {
        "training_seconds": 1.23456789,
        "evaluation_seconds": 0.5,
        "parameters": {"trainable": 3, "stored": 4},
        "peak_memory": {"host": 12345678, "device": None},
    }
    reports = [
        {"task": "a", "classes": ["x", "y"], "losses": [0.123456789], "skipped": [], "group": 0, "scores": []},
        {
            "task": "b",
            "classes": ["z", "x"],
            "losses": [0.5, None],
            "skipped": ["no.png"],
            "group": 1,
            "scores": [2.0],
        },
    ]
    steps = [{"task": r["task"], "seen_classes": n, **step, "report": r} for r, n in zip(reports, (2, 3), strict=True)]
    row = [None] * 3
    return {
        "format": 1,
        "status": "interrupted",
        "error": None,
        "method": "ham",
        "seed": 3,
        "metrics": {"average_accuracy": 0.0},
        "curve": {},
        "accuracy": [[5 / 7, None, None], [3 / 7, 1 / 3, None], row],
        "task_accuracy": [[5 / 7, None, None], [6 / 7, 2 / 3, None], row],
        "seconds": {},
        "finish_seconds": 0.0,
        "parameters": {},
        "peak_memory": {},
        "backbone": {"spec": "minilm", "options": {}},
        "config": {"seed": 3},
        "stream": {"name": "letters", "options": {"spec": "letters"}, "tasks": tasks},
        "class_order": ["x", "y", "z", "ü"],
        "steps": steps,
        "provenance": PROVENANCE,
        "command": ["ham", "run"],
    }


def test_a_record_of_the_first_version_is_read_and_written_in_the_present_layout(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(former()))
    result = Result.read(tmp_path)
    wanted = np.array([[5 / 7, NAN, NAN], [3 / 7, 1 / 3, NAN], [NAN] * 3])
    np.testing.assert_array_equal(result.accuracy, wanted)
    assert result.metrics["task_average_accuracy"] == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert result.stream.tasks[1].classes == ["z", "x"] and result.stream.class_order == ["x", "y", "z", "ü"]
    assert [(step.task, step.seen_classes) for step in result.steps] == [("a", 2), ("b", 3)]
    assert result.steps[0].report == {"losses": [0.123456789], "group": 0}
    assert result.steps[1].report == {"losses": [0.5, None], "skipped": ["no.png"], "group": 1}
    assert result.steps[0].peak_memory == {"host": 12345678, "device": None}

    (tmp_path / "again").mkdir()
    result.write(tmp_path / "again")
    again = Result.read(tmp_path / "again")
    np.testing.assert_array_equal(again.accuracy, result.accuracy)
    assert (again.stream, again.notes) == (result.stream, [])
    assert again.steps[0].report == {"losses": [0.12346], "group": 0}
    assert again.to_dict() == result.to_dict()
    assert again.to_dict()["correct"] == [[5], [3, 1]]


def test_a_record_names_each_class_once_and_has_few_lines(tmp_path):
    result = Result.from_dict(former())
    result.write(tmp_path)
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert [text.count(json.dumps(name, ensure_ascii=False)) for name in result.stream.class_order] == [1] * 4
    assert len(text.splitlines()) < 60, "a line for each part and row, not for each number"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "format 3 is not 2"),
        ({"stream": None}, "an entry is missing"),
        ({"steps": [{}]}, "an entry is missing"),
        ({"accuracy": [0.5]}, "an entry is missing"),
    ],
)
def test_what_is_no_record_is_refused_in_one_sentence(tmp_path, changes, words):
    (tmp_path / "result.json").write_text(json.dumps({**former(), **changes}))
    with pytest.raises(DataError, match=words) as refused:
        Result.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_columns_of_another_length_are_refused(tmp_path):
    values = Result.from_dict(former()).to_dict()
    values["steps"]["training_seconds"].pop()
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="'training_seconds' has 1 entries for 2 rows"):
        Result.read(tmp_path)


def test_tables_come_back_from_their_columns():
    table = [{"a": 1, "b": {"c": [1], "d": None}}, {"a": None, "b": {"c": []}}]
    columns = layout.columns(table)
    assert columns == {"a": [1, None], "b": {"c": [[1], []]}}
    assert layout.rows(columns, 2) == [{"a": 1, "b": {"c": [1]}}, {"a": None, "b": {"c": []}}]
    assert layout.rows({}, 0) == [] == layout.rows(layout.columns([]), 0)


def test_options_of_earlier_versions_are_read_under_the_names_of_today(tmp_path):
    harmless = {"similarity": "weight", "memory_per_class": 0, "clip_norm": 1.0, "device": "cpu", "compile": False}
    parts = {"distill_growth": True, "settle": True, "shorten": "auto"}
    values = {**former(), "config": {"seed": 3, "lr": 0.5, **harmless, **parts}}
    (tmp_path / "result.json").write_text(json.dumps(values))
    result = Result.read(tmp_path)
    assert result.config == {"seed": 3, "lr": 0.5, "later_tasks": "hold"}
    assert result.options["lr"] == 0.5 and result.options["views"] == 1, "what came later had no effect"
    for changes, name in (({"memory_per_class": 1}, "memory_per_class=1"), ({"settle": False}, "settle=False")):
        values["config"] = {"seed": 3, **harmless, **parts, **changes}
        (tmp_path / "result.json").write_text(json.dumps(values))
        with pytest.raises(DataError, match=name) as refused:
            Result.read(tmp_path)
        assert "\n" not in str(refused.value) and "0.1.0" in str(refused.value)


def places(value, path=()):
    """The path to every entry of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_record_is_read_or_refused_in_one_sentence(tmp_path, version):
    whole = former() if version == 1 else Result.from_dict(former()).to_dict()
    refused = 0
    for path in places(whole):
        for wrong in (None, -3, "x", [], {}, [[]], 1e400):
            damaged = json.loads(json.dumps(whole))
            at = damaged
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = wrong
            (tmp_path / "result.json").write_text(json.dumps(damaged))
            try:
                Result.read(tmp_path)
            except DataError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 100
