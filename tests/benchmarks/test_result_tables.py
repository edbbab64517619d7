"""The published records: runs of a grid are taken in as they are, and what they share is written once."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from hamcl.bench import run as runner
from hamcl.bench.run import RunOptions, run
from hamcl.config import HAMConfig
from hamcl.report.records import Result

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ICD10 = "icd10-20x8"


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """benchmarks/result_tables.py with a folder of its own for the published records."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = import_module("result_tables")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "published")
    (tmp_path / "published").mkdir()
    yield module
    sys.modules.pop("result_tables")


@pytest.fixture
def cell(tmp_path, stream, method, monkeypatch):
    """Make a run in the folder of a grid's cell, and return its record."""
    monkeypatch.setattr(runner, "_draw", lambda out, result: None)

    def make(name, seed=0, fail_at=None, **options):
        given = {"spec": "numbers", "seed": seed}
        learner = method(HAMConfig(seed=seed, **options), fail_at=fail_at)
        return run(stream, learner, tmp_path / "runs" / name / f"s{seed}", options=RunOptions("ham", given))

    return make


def test_runs_of_a_grid_are_published_without_loss_and_share_their_stream(tables, cell, tmp_path):
    made = {name: cell(name, seed) for name, seed in ((f"{ICD10}/ham", 0), (f"{ICD10}/frozen/head=ridge", 0))}
    made["second"] = cell(f"{ICD10}/ham", 1)
    tables.add(tmp_path / "runs")
    held = json.loads((tmp_path / "published" / f"{ICD10}.json").read_text(encoding="utf-8"))
    assert [*held["runs"]] == ["frozen-ridge-s0", "ham-s0", "ham-s1"]
    assert [held["runs"][name]["stream"] for name in held["runs"]] == [0, 0, 1], "one stream for each seed"
    found = tables.runs(ICD10)
    assert {name: len(runs) for name, runs in found.items()} == {"ham": 2, "frozen-ridge": 1}
    for own, other in zip(found["ham"], (made[f"{ICD10}/ham"], made["second"]), strict=True):
        np.testing.assert_array_equal(own.accuracy, other.accuracy)
        assert (own.stream, own.config) == (other.stream, other.config)

    anew = cell_of(tmp_path / "runs" / ICD10 / "ham" / "s0", accuracy=0.0)
    tables.add(tmp_path / "runs")
    assert tables.runs(ICD10)["ham"][0].metrics["average_accuracy"] == anew.metrics["average_accuracy"] == 0
    assert len(tables.load(ICD10)["runs"]) == 3, "a new run takes the place of its like"


def cell_of(folder, accuracy):
    """Give a finished run another accuracy."""
    result = Result.read(folder)
    result = replace(result, accuracy=np.where(np.isnan(result.accuracy), np.nan, accuracy))
    result.write(folder)
    return result


def test_a_row_is_of_one_configuration(tables, cell, tmp_path):
    cell(f"{ICD10}/ham", 0)
    cell(f"{ICD10}/ham", 1, shrinkage=0.5)
    tables.add(tmp_path / "runs")
    with pytest.raises(SystemExit, match="the runs of ham differ in more than their seed: shrinkage was None and is"):
        tables.runs(ICD10)


def test_what_is_no_row_is_refused_and_what_is_not_finished_is_left_out(tables, cell, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cell(f"{ICD10}/ham", fail_at=1)
    tables.add(tmp_path / "runs")
    assert tables.runs(ICD10) == {}
    cell(f"{ICD10}/ham/lr=3")
    with pytest.raises(SystemExit, match="lr=3/s0 is no row of a table"):
        tables.add(tmp_path / "runs")
