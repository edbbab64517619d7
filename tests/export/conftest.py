import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hamcl.config import HAMConfig
from hamcl.learner import HAM
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.streams.base import Samples, Task

SCRIPT = Path(__file__).parents[1] / "oracles" / "stock.py"
SMALL = {"epochs": 1, "batch_size": 8, "rank": 2, "lr": 5e-3, "projection": 64, "device": "cpu", "precision": "fp32"}


def learned(backbone: Backbone | str, tasks: Sequence[Task], **options: Any) -> HAM:
    """A learner that has learned `tasks` with the smallest settings."""
    if isinstance(backbone, str):
        backbone = load_backbone(backbone)
    model = HAM(backbone, HAMConfig.from_dict({**SMALL, **options}))
    for task in tasks:
        model.learn(task)
    return model


def exported(model: HAM, folder: Path, kinds: Sequence[Any]) -> dict[str, np.ndarray]:
    """Export to `folder-KIND` and give the learner's scores for each; a base in a local folder is laid beside."""
    base = Path(model.backbone.spec)
    inputs = json.loads((folder.parent / "inputs.json").read_text())
    if inputs[0].endswith(".png"):
        from PIL import Image

        inputs = [Image.open(folder.parent / name) for name in inputs]
    scores = model.logits(Samples(inputs, [0] * len(inputs))).numpy()
    for kind in kinds:
        out = folder.with_name(f"{folder.name}-{kind}")
        model.export(out, kind)
        if base.is_dir():
            (out / base.name).symlink_to(base)
    return {f"{folder.name}-{kind}": scores for kind in kinds}


def run_stock(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The scores that the code in each export's card computes, in one process that cannot import hamcl."""
    command = [sys.executable, str(SCRIPT), str(folder / "inputs.json"), *(str(folder / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: np.load(folder / f"{name}.npy") for name in names}


def same_scores(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Below 1e-4 of the scale of the scores, and the same best class for every sample."""
    assert got.keys() == expected.keys()
    for name, scores in expected.items():
        assert len(scores) > 10, name
        assert np.abs(got[name] - scores).max() < 1e-4 * np.abs(scores).max(), name
        assert (got[name].argmax(1) == scores.argmax(1)).all(), name


@pytest.fixture(scope="session")
def work() -> SimpleNamespace:
    """`learned`, `exported`, `run_stock` and `same_scores`, see there."""
    tools: dict[str, Callable[..., Any]] = {
        "learned": learned,
        "exported": exported,
        "run_stock": run_stock,
        "same_scores": same_scores,
    }
    return SimpleNamespace(**tools)
