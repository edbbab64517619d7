"""Training that goes on from a saved position equals training that never stopped; other positions are refused."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from hamcl.config import HAMConfig
from hamcl.errors import DataError
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.training.position import Trained

CPU = torch.device("cpu")


class Stop(Exception):
    pass


class Memory:
    """Keeps every position in memory, through JSON where it must be plain, and stops after `stop` steps."""

    def __init__(self, stop: int, start: dict[str, Any] | None = None) -> None:
        self.stop, self.start = stop, start
        self.saved: list[dict[str, Any]] = []

    def load(self) -> dict[str, Any] | None:
        return self.start

    def due(self, *, epoch_done: bool) -> bool:
        return True

    def save(self, position: dict[str, Any]) -> None:
        self.saved.append({**position, "meta": json.loads(json.dumps(position["meta"]))})
        if len(self.saved) == self.stop:
            raise Stop


@pytest.fixture(params=["image", "text"])
def learner(request, toy, bert_folder):
    """A function that makes a learner which knows one task, and the second task."""

    def make():
        text = request.param == "text"
        backbone = load_backbone(str(bert_folder)) if text else toy.vit()
        options = {"rank": 2, "epochs": 3, "batch_size": 4, "dropout": 0.3}
        model = HAM(backbone, HAMConfig(**options, projection=16))
        kind = {"modality": request.param, "augmentation": "none" if text else "photo"}
        model.learn(toy.task("one", ("a", "b"), 5, **kind))
        return model, toy.task("two", ("c", "d"), 7, **kind)

    return make


@pytest.mark.parametrize("stop", [3, 4, 5])  # of 6 steps, half of 3 epochs of 4: inside, at and after an epoch's end
def test_going_on_equals_never_having_stopped(learner, toy, stop):
    whole, task = learner()
    report = whole.learn(task)

    stopped, task = learner()
    kept = Memory(stop)
    with pytest.raises(Stop):
        stopped.learn(task, keeper=kept)

    again, task = learner()
    going_on = Memory(100, kept.saved[-1])
    torch.rand(3)  # the generators need not be where they were
    resumed = again.learn(task, keeper=going_on)
    assert toy.same(whole.state_dict(), again.state_dict())
    assert resumed.losses == report.losses
    assert len(going_on.saved) == 5 - stop


def test_keeping_positions_changes_nothing(learner, toy):
    plain, task = learner()
    plain.learn(task)
    keeping, task = learner()
    keeper = Memory(100)
    keeping.learn(task, keeper=keeper)
    assert len(keeper.saved) == 5
    assert toy.same(plain.state_dict(), keeping.state_dict())


@pytest.fixture
def trained():
    """One parameter after two steps."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    found = Trained(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0), CPU)
    for _ in range(2):
        parameter.square().sum().backward()
        found.step(clip=100.0)
    return found


def test_a_position_is_put_back(trained):
    (parameter,) = trained.parameters
    position = trained.capture({"step": 2})
    wanted = parameter.detach().clone()
    with torch.no_grad():
        parameter.zero_()
    trained.restore(position)
    assert torch.equal(parameter, wanted)
    assert trained.optimizer.state_dict()["state"][0]["step"] == 2 and trained.schedule.last_epoch == 2


@pytest.mark.parametrize("steps", [-7.0, 3.0, float("nan")])
def test_an_optimizer_that_counted_other_steps_is_refused(trained, steps):
    position = trained.capture({"step": 2})
    position["optimizer.0.step"].fill_(steps)
    with pytest.raises(DataError, match=r"does not fit this training \(its optimizer counts (-7|3|nan) steps\)"):
        trained.restore(position)
