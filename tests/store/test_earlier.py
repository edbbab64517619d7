"""Stores that an earlier hamcl wrote open, answer as they did, and learn on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from hamcl.store import Store

STORES = Path(__file__).parents[1] / "fixtures" / "stores"


@pytest.fixture(params=["image", "text"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def earlier(kind, tmp_path) -> Store:
    """A copy of the store, with its backbone where it lies now."""
    shutil.copytree(STORES / kind / "model.ham", tmp_path / "model.ham")
    return Store.open(tmp_path / "model.ham", backbone=str(STORES / kind / "backbone"))


def asked(kind):
    """What the earlier version was asked, and what it answered."""
    rows = json.loads((STORES / kind / "expected.json").read_text())
    names = [row["input"] for row in rows]
    return [Image.open(STORES / kind / "inputs" / n).convert("RGB") for n in names] if kind == "image" else names, rows


def test_it_answers_as_it_did(earlier, kind):
    inputs, rows = asked(kind)
    model = earlier.model()
    assert model.judged == 0  # it knew no calibration
    answer = model.predict(inputs, 4)
    assert answer.labels == [row["labels"] for row in rows]
    expected = torch.tensor([row["probabilities"] for row in rows])
    torch.testing.assert_close(answer.probabilities, expected, rtol=0, atol=1e-4)


def test_it_verifies_evaluates_learns_on_and_goes_back(earlier, kind, toy):
    assert earlier.manifest.format == 1
    earlier.verify()
    tasks = [
        toy.task(name, classes, 15, modality=kind)
        for name, classes in (("week-1", ("lion", "lynx")), ("week-2", ("seal", "stork")))
    ]
    recorded = earlier.manifest.state.evaluations[0]
    again = earlier.evaluate(tasks)
    assert Store.open(earlier.path).manifest.format == 2
    assert (again.overall, again.tasks, again.classes) == (recorded.overall, recorded.tasks, recorded.classes)
    before, state = earlier.model().state_dict(), earlier.manifest.state
    third = toy.task("week-3", ("tapir", "wolf"), 15, modality=kind)
    earlier.learn(third)
    assert earlier.model().judged == 30
    assert recorded.reliability is None
    assert earlier.evaluate([*tasks, third], record=False).overall.accuracy > 0.5
    earlier.verify()
    assert earlier.undo() == ["week-3"]
    assert toy.same(earlier.model().state_dict(), before)
    assert replace(earlier.manifest.state, evaluations=()) == replace(state, evaluations=())
