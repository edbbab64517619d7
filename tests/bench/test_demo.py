"""The demonstration at a fraction of its size, on random weights."""

from functools import partial
from itertools import pairwise

import pytest

from hamcl.bench import demo as module
from hamcl.bench.demo import JOINT, Part, demo
from hamcl.errors import UsageError
from hamcl.machine import Machine
from hamcl.nn.backbones import load_backbone
from hamcl.report.records import Result

PARTS = (
    Part(
        "digits",
        "timm/test_efficientnet",
        {"tasks": 2, "train_per_class": 4, "test_per_class": 2},
        {"image_size": 32},
        {"epochs": 1, "projection": 32},
        {"joint": 2.0},
    ),
    Part(
        "icd10",
        "minilm",
        {"tasks": 2, "classes_per_task": 2, "train_per_class": 4, "test_per_class": 2},
        {"max_length": 8},
        {"epochs": 1, "projection": 32},
    ),
)
METHODS = {"ham": {}, "joint": {**JOINT, "epochs": 1}}


@pytest.fixture
def demonstration(monkeypatch):
    monkeypatch.setattr(module, "load_backbone", partial(load_backbone, pretrained=False))
    return partial(demo, parts=PARTS, methods=METHODS, machine=Machine("cpu"))


def test_the_demonstration_leaves_runs_plots_and_models(tmp_path, demonstration):
    started, learned = [], []
    options = {"on_start": lambda *run: started.append(run), "on_task": lambda result: learned.append(result.method)}
    settings = demonstration(tmp_path, **options)
    runs = ["digits: ham", "digits: joint", "icd10: ham", "icd10: joint"]
    parts = [0.0, 0.2, 0.6, 0.8, 1.0]  # as PARTS says: 1, 2, 1 and 1 of 5 seconds
    assert [(label, tasks) for label, tasks, *_ in started] == [(label, 2) for label in runs]
    assert [share for *_, share in started] == pytest.approx([b - a for a, b in pairwise(parts)])
    assert [before for *_, before, _ in started] == pytest.approx(parts[:-1])
    assert learned == ["ham"] * 2 + ["joint"] * 3 + ["ham"] * 2 + ["joint"] * 3
    assert [setting.title.split(",")[0] for setting in settings] == ["digits", "icd10"]
    assert [[row.label for row in setting.rows] for setting in settings] == [["ham", "joint"]] * 2
    for stream in ("digits", "icd10"):
        assert Result.read(tmp_path / stream / "joint").status == "complete"
        assert (tmp_path / stream / "comparison.png").stat().st_size > 10_000
        assert (tmp_path / stream / "ham" / "curve.png").exists()
        assert not (tmp_path / stream / "joint" / "curve.png").exists(), "one dot is no curve"
        own, bound = (Result.read(tmp_path / stream / name).config for name in ("ham", "joint"))
        assert {name: bound[name] for name in JOINT} == {name: own[name] for name in JOINT}, "a bound needs the head"
        assert {path.name for path in (tmp_path / stream / "model").iterdir()} >= {"peft", "merged"}

    with pytest.raises(UsageError, match="--overwrite"):
        demonstration(tmp_path)
    learned.clear()
    again = demonstration(tmp_path, resume=True, **options)
    assert learned == [] and [s.markdown() for s in again] == [s.markdown() for s in settings]
