"""Positions in a training that fit no training."""

import pytest
import torch
from torch import nn

from hamcl.checkpoint import capture, restore
from hamcl.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def training():
    """Two steps of an optimizer: the optimizer, its schedule, and the parameter."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    for _ in range(2):
        parameter.square().sum().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return optimizer, schedule, [parameter]


def test_a_position_is_put_back(training):
    optimizer, schedule, (parameter,) = training
    position = capture(optimizer, [parameter], CPU, {"step": 2})
    wanted = parameter.detach().clone()
    with torch.no_grad():
        parameter.zero_()
    restore(position, optimizer, schedule, [parameter], CPU)
    assert torch.equal(parameter, wanted)
    assert optimizer.state_dict()["state"][0]["step"] == 2 and schedule.last_epoch == 2


@pytest.mark.parametrize("steps", [-7.0, 3.0, float("nan")])
def test_an_optimizer_that_counted_other_steps_is_refused(training, steps):
    optimizer, schedule, parameters = training
    position = capture(optimizer, parameters, CPU, {"step": 2})
    position["optimizer.0.step"].fill_(steps)
    with pytest.raises(DataError, match=r"does not fit this training \(its optimizer counts (-7|3|nan) steps\)"):
        restore(position, optimizer, schedule, parameters, CPU)
