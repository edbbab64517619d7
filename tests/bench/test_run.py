"""The runner: its figures against predictions, its record, exact resume, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from hamcl import metrics
from hamcl.bench import run as runner
from hamcl.bench.run import RunOptions, run
from hamcl.bench.state import load_state
from hamcl.config import MACHINE, HAMConfig
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.report.records import Result
from hamcl.streams.base import Samples, Stream

OPTIONS = RunOptions("centres", stream={"spec": "numbers", "tasks": 4}, command=["ham", "run"])
RESUME = replace(OPTIONS, resume=True)
DRAW = runner._draw


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """The folders that would get plots (drawn in test_plots.py): drawing would take most of the time here."""
    folders = []
    monkeypatch.setattr(runner, "_draw", lambda out, result: folders.append(out))
    return folders


def outcome(out):
    """The record without what differs from run to run: times and memory."""
    record = json.loads((out / "result.json").read_text())
    del record["finish_seconds"]
    for key in ("training_seconds", "evaluation_seconds", "peak_memory"):
        record["steps"].pop(key, None)  # there are none before the first task
    return record


def learned(out):
    """How many tasks the record knows."""
    return len(Result.read(out).steps)


def test_a_run_leaves_its_whole_record(tmp_path, stream, method):
    told = []
    result = run(stream, method(), tmp_path / "a", options=OPTIONS, on_task=lambda r: told.append(len(r.steps)))
    assert told == [1, 2, 3, 4]
    record = json.loads((tmp_path / "a" / "result.json").read_text())
    assert record["status"] == "complete" and record["error"] is None
    assert record["classes"] == [str(i) for i in range(8)]
    assert record["stream"]["tasks"]["classes"] == [[0, 1], [2, 3, 4], [5, 1], [6, 7]]
    assert [step.seen_classes for step in Result.read(tmp_path / "a").steps] == [2, 5, 6, 8]
    assert [len(row) for row in record["correct"]] == [1, 2, 3, 4]
    tests = [len(task.test) for task in stream]
    np.testing.assert_array_equal(result.accuracy[3], np.array(record["correct"][3]) / tests)
    assert record["steps"]["parameters"] == {"trainable": [1] * 4, "stored": record["steps"]["parameters"]["stored"]}
    assert record["steps"]["parameters"]["stored"][-1] == 8
    assert record["steps"]["report"]["losses"][1] == [None, 0.5]
    assert record["config"] == HAMConfig().to_dict()  # as asked
    settled = {"head": "ridge", "depths": "all", "projection": 4096, "views": 1}
    assert record["resolved"] == {**record["config"], **settled} and result.config["head"] == "auto"
    assert not set(MACHINE) & {*record["config"], *record["resolved"]}
    assert (record["provenance"]["device"], record["provenance"]["precision"]) in [("cpu", "fp32"), ("cpu", "bf16")]
    assert record["stream"]["options"] == {"spec": "numbers", "tasks": 4}
    assert record["backbone"]["fingerprint"] == "abc"
    assert record["provenance"]["packages"]["torch"].startswith("2.")
    assert record["steps"]["peak_memory"]["host"][-1] > 1e6
    assert record["command"] == ["ham", "run"]
    assert record["metrics"]["forgetting"] == pytest.approx(metrics.forgetting(result.accuracy))
    assert record["metrics"]["sample_accuracy"] == pytest.approx(
        metrics.sample_accuracy(result.accuracy, [8, 15, 12, 14])
    )
    assert record["metrics"]["task_average_accuracy"] > record["metrics"]["average_accuracy"]
    assert result.curve["average_accuracy"][-1] == pytest.approx(record["metrics"]["average_accuracy"])


def test_a_link_as_the_folder_of_a_run_stays_one(tmp_path, stream, method):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "runs")  # where nothing is yet
    run(stream, method(), tmp_path / "link", options=OPTIONS)
    run(stream, method(), tmp_path / "link", options=replace(OPTIONS, overwrite=True))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "runs" / "result.json").is_file()


def test_the_accuracy_matrix_agrees_with_the_predictions(tmp_path, stream, method):
    result = run(stream, method(), tmp_path, options=OPTIONS)
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert 0 < np.nanmin(result.accuracy) < np.nanmax(result.accuracy)
    for step, task in zip(*np.tril_indices(4), strict=True):
        own = [row for row in rows if (row["step"], row["task"]) == (step, task)]
        assert [row["sample"] for row in own] == list(range(len(stream[task].test)))
        assert [row["label"] for row in own] == [stream[task].classes[y] for y in stream[task].test.labels]
        right = [row["predicted"] == row["label"] for row in own]
        assert result.accuracy[step, task] == pytest.approx(sum(right) / len(right))
        assert all(0 < row["probability"] <= 1 and row["logit"] <= 0 for row in own)
    assert {(row["step"], row["task"]) for row in rows} == set(zip(*np.tril_indices(4), strict=True))


def test_a_record_survives_reading_and_writing(tmp_path, stream, method):
    result = run(stream, method(), tmp_path, options=OPTIONS)
    again = Result.read(tmp_path)
    assert again.to_dict() == result.to_dict()
    np.testing.assert_array_equal(again.accuracy, result.accuracy)


@pytest.mark.parametrize("kind", ["method", "late"])
@pytest.mark.parametrize("stop", range(4))
def test_a_run_that_was_stopped_resumes_to_the_same_result(tmp_path, stream, request, kind, stop):
    build = request.getfixturevalue(kind)
    run(stream, build(), tmp_path / "whole", options=OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        run(stream, build(fail_at=stop), tmp_path / "cut", options=OPTIONS)
    record = outcome(tmp_path / "cut")
    assert record["status"] == "interrupted" and learned(tmp_path / "cut") == stop
    run(stream, build(), tmp_path / "cut", options=RESUME)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    tables = [pq.read_table(tmp_path / name / "predictions.parquet") for name in ("whole", "cut")]
    assert tables[0].equals(tables[1])
    states = [load_state(tmp_path / name, 4) for name in ("whole", "cut")]
    assert states[0]["meta"] == states[1]["meta"] and states[0]["centres"].equal(states[1]["centres"])


@pytest.mark.parametrize("function", ["save_state", "append_predictions", "drop_states"])
def test_a_death_between_two_files_is_harmless(tmp_path, stream, method, monkeypatch, function):
    run(stream, method(), tmp_path / "whole", options=OPTIONS)
    kept, calls = getattr(runner, function), []

    def dies(*args, **options):
        kept(*args, **options)
        calls.append(args)
        if len(calls) == 3:
            patch.setattr(Result, "write", lambda self, out: None)  # the dead write nothing
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(runner, function, dies)
        with pytest.raises(SystemExit):
            run(stream, method(), tmp_path / "cut", options=OPTIONS)
    assert outcome(tmp_path / "cut")["status"] == "partial"
    run(stream, method(), tmp_path / "cut", options=RESUME)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    assert pq.read_table(tmp_path / "cut/predictions.parquet").equals(
        pq.read_table(tmp_path / "whole/predictions.parquet")
    )


def test_resume_learns_only_what_is_missing(tmp_path, stream, method):
    with pytest.raises(KeyboardInterrupt):
        run(stream, method(fail_at=2), tmp_path, options=OPTIONS)
    again = method()
    run(stream, again, tmp_path, options=RESUME)
    assert again.learned == ["n-2", "n-3"]
    idle = method()
    assert run(stream, idle, tmp_path, options=RESUME).status == "complete"
    assert idle.learned == []


def test_only_the_newest_state_is_kept(tmp_path, stream, method):
    run(stream, method(), tmp_path, options=OPTIONS)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["0004.safetensors"]


def test_a_task_that_cannot_be_learned_leaves_the_tasks_before_it(tmp_path, stream, method, drawn):
    with pytest.raises(TrainingError):
        run(stream, method(fail_at=2, error=TrainingError("the loss is nan")), tmp_path, options=OPTIONS)
    record = outcome(tmp_path)
    assert record["status"] == "failed" and record["error"] == "the loss is nan"
    assert learned(tmp_path) == 2 and record["metrics"]["average_accuracy"] > 0
    assert drawn == [tmp_path]


def test_logits_that_are_not_numbers_are_an_error(tmp_path, stream, method, monkeypatch):
    monkeypatch.setattr(
        method, "logits", lambda self, samples: self.centres * float("nan") + 0 * self.centres[:, None]
    )
    with pytest.raises(TrainingError, match="n-0"):
        run(stream, method(), tmp_path, options=OPTIONS)


def test_a_method_known_only_at_the_end_fills_the_last_row(tmp_path, stream, late):
    told = []
    result = run(stream, late(), tmp_path, options=OPTIONS, on_task=lambda r: told.append(r.status))
    assert told == ["partial"] * 4 + ["complete"]
    assert np.isnan(result.accuracy[:3]).all() and not np.isnan(result.accuracy[3]).any()
    record = outcome(tmp_path)
    assert record["metrics"]["average_accuracy"] > 0 and record["metrics"]["forgetting"] is None
    assert record["correct"][:3] == [None] * 3 and len(record["correct"][3]) == 4


def test_a_run_is_not_overwritten_by_accident(tmp_path, stream, method):
    run(stream, method(), tmp_path, options=OPTIONS)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"--resume.*--overwrite"):
        run(stream, method(), tmp_path, options=OPTIONS)
    with pytest.raises(UsageError, match="exclude"):
        run(stream, method(), tmp_path, options=replace(OPTIONS, resume=True, overwrite=True))
    short = Stream("numbers", stream.tasks[:2])
    run(short, method(), tmp_path, options=replace(OPTIONS, overwrite=True))
    assert len(Result.read(tmp_path).steps) == 2
    assert max(pq.read_table(tmp_path / "predictions.parquet")["step"].to_pylist()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_refuses_another_experiment_and_says_why(tmp_path, stream, method, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(stream, method(fail_at=2), tmp_path, options=OPTIONS)
    with pytest.raises(UsageError, match=r"config\.lr was .* and is now 0\.1;"):
        run(stream, method(HAMConfig(lr=0.1)), tmp_path, options=RESUME)
    with pytest.raises(UsageError, match=r"stream\.options\.tasks was 4 and is now 5"):
        run(stream, method(), tmp_path, options=replace(RESUME, stream={"spec": "numbers", "tasks": 5}))
    with pytest.raises(UsageError, match=r"stream\.tasks differ"):
        run(Stream("numbers", stream.tasks[::-1]), method(), tmp_path, options=RESUME)
    with pytest.raises(UsageError, match=r"method was 'centres' and is now 'other'"):
        run(stream, method(), tmp_path, options=replace(RESUME, method="other"))
    monkeypatch.setattr("hamcl.__version__", "9.9")
    with pytest.raises(UsageError, match=r"versions\.hamcl .* is now '9\.9'"):
        run(stream, method(), tmp_path, options=RESUME)


def test_resume_takes_defaults_for_what_they_are_and_data_from_wherever_it_lies(tmp_path, stream, method):
    with pytest.raises(KeyboardInterrupt):
        given = {"spec": "numbers", "tasks": 4, "data_dir": "/there/numbers"}
        run(stream, method(fail_at=2), tmp_path, options=replace(OPTIONS, stream=given))
    spelled = {**given, "data_dir": "numbers", "val_fraction": 0.0, "class_order": "random"}
    assert run(stream, method(), tmp_path, options=replace(RESUME, stream=spelled)).status == "complete"


def test_resume_in_an_empty_folder_starts(tmp_path, stream, method):
    assert run(stream, method(), tmp_path / "new", options=RESUME).status == "complete"


@pytest.mark.parametrize("damaged", ["result.json", "state/0002.safetensors"])
def test_damaged_files_are_named(tmp_path, stream, method, damaged):
    with pytest.raises(KeyboardInterrupt):
        run(stream, method(fail_at=2), tmp_path, options=OPTIONS)
    (tmp_path / damaged).write_bytes(b"{")
    with pytest.raises(DataError, match=damaged):
        run(stream, method(), tmp_path, options=RESUME)


def test_a_record_of_another_format_is_refused(tmp_path, stream, method):
    run(stream, method(), tmp_path, options=OPTIONS)
    record = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        Result.read(tmp_path)
    del record["steps"]
    (tmp_path / "result.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="steps"):
        Result.read(tmp_path)


def test_a_task_without_test_samples_is_refused_before_anything_is_written(tmp_path, stream, method):
    bare = Stream("numbers", (*stream.tasks[:1], replace(stream[1], test=Samples())))
    with pytest.raises(DataError, match="n-1"):
        run(bare, method(), tmp_path / "a", options=OPTIONS)
    assert not (tmp_path / "a").exists()


def test_a_backbone_for_other_inputs_is_refused(tmp_path, stream, method):
    other = method()
    other.backbone.modality = "image"
    with pytest.raises(UsageError, match=r"text samples.*reads image"):
        run(stream, other, tmp_path / "a", options=OPTIONS)
    assert not (tmp_path / "a").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, stream, method):
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        run(stream, method(), tmp_path / "a", options=OPTIONS)


def test_predictions_of_the_last_step_only(tmp_path, stream, method):
    run(stream, method(), tmp_path, options=replace(OPTIONS, predictions="last"))
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert set(table["step"].to_pylist()) == {3} and set(table["task"].to_pylist()) == {0, 1, 2, 3}


def test_a_plot_that_cannot_be_drawn_does_not_cost_the_run(tmp_path, stream, method, monkeypatch):
    def full(path, result):
        raise DataError("no space left")

    drawn = []
    monkeypatch.setattr(runner, "_draw", DRAW)
    monkeypatch.setattr(runner, "plot_matrix", full)
    monkeypatch.setattr(runner, "plot_curve", lambda path, result: drawn.append(path.name))
    result = run(stream, method(), tmp_path / "a", options=OPTIONS)
    assert result.status == "complete" and drawn == ["curve.png"]
    assert result.notes[-1].startswith("matrix.png was not drawn (no space left)")


def test_scores_that_are_infinite_are_an_error(tmp_path, stream, method, monkeypatch):
    learner = method()
    real = learner.logits
    monkeypatch.setattr(learner, "logits", lambda samples: real(samples) + float("inf"))
    with pytest.raises(TrainingError, match="are not finite after learning"):
        run(stream, learner, tmp_path / "a", options=OPTIONS)
