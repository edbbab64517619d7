"""Stores that an earlier hamcl wrote open, answer as they did, learn on, and move to today's format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from hamcl.config import MACHINE, RETIRED, HAMConfig
from hamcl.errors import DataError
from hamcl.machine import Machine
from hamcl.store import Store
from hamcl.store.manifest import sealed

STORES = Path(__file__).parents[1] / "fixtures" / "stores"
THEN = Machine(device="cpu", precision="fp32")
"""What the machine was told when they were made."""


@pytest.fixture(params=["v1", "v2"])
def generation(request) -> str:
    return request.param


@pytest.fixture(params=["image", "text"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def earlier(generation, kind, tmp_path) -> Store:
    """A copy of the store, with its backbone where it lies now."""
    shutil.copytree(STORES / kind / generation / "model.ham", tmp_path / "model.ham")
    return Store.open(tmp_path / "model.ham", backbone=str(STORES / kind / "backbone"), machine=THEN)


@pytest.fixture
def tasks(kind, toy):
    """The two tasks that it has learned."""
    classes = {"week-1": ("lion", "lynx"), "week-2": ("seal", "stork")}
    return [toy.task(name, names, 15, modality=kind) for name, names in classes.items()]


def asked(generation, kind):
    """What the earlier version was asked, and what it answered."""
    rows = json.loads((STORES / kind / generation / "expected.json").read_text())
    names = [row["input"] for row in rows]
    return [Image.open(STORES / kind / "inputs" / n).convert("RGB") for n in names] if kind == "image" else names, rows


def rewritten(store, change):
    """Change the manifest as another user of the earlier version would have had it, and open it again."""
    path = store.path / "manifest.json"
    value = json.loads(path.read_bytes())
    del value["checksum"]
    change(value)
    path.write_bytes(sealed(value))
    return Store.open(store.path, backbone=store.model().backbone.spec, machine=THEN)


def test_it_answers_as_it_did(earlier, generation, kind):
    assert earlier.manifest.format == int(generation[1:])
    inputs, rows = asked(generation, kind)
    model = earlier.model()
    recorded = earlier.manifest.state.evaluations[0].reliability
    assert model.judged == (recorded.judged if recorded else 0)  # the first format knew no calibration
    answer = model.predict(inputs, 4)
    assert answer.labels == [row["labels"] for row in rows]
    expected = torch.tensor([row["probabilities"] for row in rows])
    torch.testing.assert_close(answer.probabilities, expected, rtol=0, atol=1e-4)


KEYS = {
    "v1": {"image": "b222f529cad1f85e", "text": "0c962833588b1226"},
    "v2": {"image": "56f816e9865d215e", "text": "14275652e983b2a9"},
}


def test_its_state_has_the_key_it_had(earlier, generation, kind):
    """By which a `learn` that was under way knows the model it began from."""
    assert earlier.manifest.state.key.startswith(KEYS[generation][kind])


def test_it_verifies_evaluates_learns_on_and_goes_back(earlier, generation, kind, tasks, toy):
    earlier.verify()
    assert earlier.diff(earlier) == []
    recorded = earlier.manifest.state.evaluations[0]
    assert (recorded.reliability is None) == (generation == "v1")
    again = earlier.evaluate(tasks)
    assert (again.overall, again.tasks, again.classes) == (recorded.overall, recorded.tasks, recorded.classes)
    assert again.confusions == recorded.confusions
    before, state = earlier.model().state_dict(), earlier.manifest.state
    third = toy.task("week-3", ("tapir", "wolf"), 15, modality=kind)
    earlier.learn(third)
    assert earlier.model().judged == {"v1": 30, "v2": 40}[generation]
    assert earlier.evaluate([*tasks, third], record=False).overall.accuracy > 0.5
    earlier.verify()
    assert earlier.undo() == ["week-3"]
    assert toy.same(earlier.model().state_dict(), before)
    assert replace(earlier.manifest.state, evaluations=()) == replace(state, evaluations=())
    assert earlier.undo() == ["week-2"]  # written by the earlier version
    assert earlier.model().classes == ("lion", "lynx")
    assert earlier.evaluate(tasks[:1], record=False).overall.accuracy > 0.9


def test_the_next_write_brings_it_to_todays_format_and_changes_nothing_of_the_model(earlier, generation, kind, toy):
    old, model = earlier.manifest, earlier.model()
    assert old.config["clip_norm"] == 1.0 and old.config["device"] == "auto" and old.resolved == {}
    assert old.dropped == {"precision": "fp32"}
    earlier.gc(2)
    assert earlier.manifest.format == old.format  # there was nothing to write
    earlier.gc(1)
    new = Store.open(earlier.path, backbone=earlier.model().backbone.spec, machine=THEN)
    assert new.manifest == earlier.manifest
    assert new.manifest.format == 3 and new.manifest.dropped == {}
    assert new.manifest.config == HAMConfig.from_dict(new.manifest.config).to_dict()
    assert not {*MACHINE, *RETIRED, "settle"} & new.manifest.config.keys()
    assert new.manifest.config["later_tasks"] == "hold" and new.manifest.config["projection"] == 16
    assert new.manifest.config["head"] == old.config["head"]
    assert new.manifest.state == old.state and new.manifest.state.key == old.state.key
    assert new.manifest.history[: len(old.history)] == old.history
    inputs = asked(generation, kind)[0]
    assert toy.same(new.model().state_dict(), model.state_dict())
    assert torch.equal(new.model().predict(inputs, 4).probabilities, model.predict(inputs, 4).probabilities)
    assert new.model().settings == model.settings


def test_learning_on_keeps_what_the_options_came_to(earlier, kind, toy):
    earlier.learn(toy.task("week-3", ("tapir", "wolf"), 15, modality=kind))
    manifest = Store.open(earlier.path).manifest
    assert manifest.resolved.keys() == manifest.config.keys() and "auto" not in manifest.resolved.values()
    assert manifest.resolved["head"] == {"image": "stack", "text": "ridge"}[kind]
    assert [task.options for task in manifest.state.tasks][-1] == {"precision": "fp32"}
    assert manifest.state.tasks[:2] == Store.open(earlier.path).manifest.state.tasks[:2]


def test_an_option_that_did_nothing_is_no_obstacle(earlier, kind, toy):
    """An earlier version took every option with every head; today one that does nothing is refused."""
    idle = {"image": {}, "text": {"shrinkage": 0.1}}[kind]
    store = rewritten(earlier, lambda manifest: manifest["config"].update(idle, head="auto"))
    assert toy.same(store.model().state_dict(), earlier.model().state_dict())
    store.learn(toy.task("week-3", ("tapir", "wolf"), 15, modality=kind))
    found, then = Store.open(store.path).manifest.options, earlier.manifest.config["shrinkage"]
    assert (found.head, found.shrinkage) == ("auto", {"image": then, "text": None}[kind])


ASKED = {
    "task_scores": 0.5,
    "head_features": "both",
    "memory_per_class": 3,
    "similarity": "cka",
    "threshold_kind": "raw",
    "clip_norm": 0.5,
    "compile": True,
    "drift": "map",
    "distill_growth": False,
    "settle": False,
    "shorten": "never",
}


@pytest.mark.parametrize("name", ASKED)
def test_what_asks_for_an_option_that_is_no_more_is_refused_in_one_sentence(earlier, name):
    with pytest.raises(DataError, match=rf"\b{name}=.*hamcl 0\.1\.0") as caught:
        rewritten(earlier, lambda manifest: manifest["config"].update({name: ASKED[name]}))
    assert "\n" not in str(caught.value) and str(earlier.path / "manifest.json") in str(caught.value)


def test_every_option_that_is_no_more_is_tried():
    assert RETIRED.keys() <= ASKED.keys()


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"merge": "magnitude"}, {"merge": "svd", "prune_on": "delta"}),
        ({"distill_growth": False, "settle": False, "shorten": "never"}, {"later_tasks": "free"}),
    ],
    ids=["magnitude", "free"],
)
def test_what_has_another_name_today_is_found_under_it(earlier, then, now):
    store = rewritten(earlier, lambda manifest: manifest["config"].update(then))
    assert {name: getattr(store.model().config, name) for name in now} == now
    store.gc()
    assert {name: store.manifest.config[name] for name in now} == now and store.manifest.format == 3
