"""What goes to a tracker, read back from tensorboard's files."""

import importlib.util

import pytest

from hamcl.config import HAMConfig
from hamcl.errors import UsageError
from hamcl.nn import backbones
from hamcl.report import tracking
from hamcl.report.records import Result
from hamcl.report.tracking import Tracking
from hamcl.training.lesson import Step


def scalars(folder):
    """tag -> (step, value) of every event below a folder of tensorboard."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def learn(track, losses):
    for i, loss in enumerate(losses, 1):
        track.step(Step("a", 1, 1, i, len(losses), loss, 10.0))


def test_steps_and_tasks_share_one_axis(tmp_path):
    pytest.importorskip("tensorboard")
    with Tracking("tensorboard", tmp_path, HAMConfig().to_dict()) as track:
        learn(track, [0.5, 0.25])
        track.task(
            {"average_accuracy": 0.75, "opened": True, "forgetting": float("nan"), "scores": [1.0], "task": "a"}
        )
        learn(track, [1.0])
        track.task({"average_accuracy": 0.5})
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss"] == [(1, 0.5), (2, 0.25), (3, 1.0)]
    assert found["task/average_accuracy"] == [(2, 0.75), (3, 0.5)]
    assert found["task/opened"] == [(2, 1.0)]
    assert {tag for tag in found if tag.startswith("task/")} == {"task/average_accuracy", "task/opened"}
    assert "head: auto" in next(tmp_path.glob("tensorboard/*/hparams.yml")).read_text()

    with Tracking("tensorboard", tmp_path, {}, fresh=True) as track:
        learn(track, [2.0])
    assert scalars(tmp_path / "tensorboard")["train/loss"] == [(1, 2.0)]


def test_no_tracker_writes_nothing(tmp_path):
    with Tracking(None, tmp_path, {}) as track:
        learn(track, [0.5])
        track.task({"average_accuracy": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="tracker wandb needs the package of that name, which is missing: pip"):
        Tracking("wandb", tmp_path, {})
    with pytest.raises(UsageError, match="there is no tracker 'pencil'; choose tensorboard, wandb, mlflow, trackio"):
        Tracking("pencil", tmp_path, {})  # type: ignore[arg-type]


def test_a_run_is_tracked(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pytest.importorskip("sklearn")
    from functools import partial

    from typer.testing import CliRunner

    from hamcl.cli.main import app

    monkeypatch.setattr(backbones, "load_backbone", partial(backbones.load_backbone, pretrained=False))
    line = (
        "run --stream digits --tasks 2 --train-per-class 6 --test-per-class 3 --epochs 1 --device cpu --image-size 32"
    )
    options = ["--backbone", "timm/test_efficientnet", "--out", str(tmp_path), "--tracker"]
    result = CliRunner().invoke(app, [*line.split(), *options, "tensorboard"])
    assert result.exit_code == 0, result.output
    found, record = scalars(tmp_path / "tensorboard"), Result.read(tmp_path)
    assert [value for _, value in found["task/average_accuracy"]] == pytest.approx(record.curve["average_accuracy"])
    assert [value for _, value in found["task/seen_classes"]] == [5, 10]
    assert [step for step, _ in found["train/loss"]] == [1, 2]
    assert "task/merge_error" in found and "task/importance" in found

    if importlib.util.find_spec("wandb") is None:
        result = CliRunner().invoke(app, [*line.split(), *options, "wandb", "--overwrite"])
        assert (result.exit_code, "needs the package of that name" in result.output) == (2, True)
