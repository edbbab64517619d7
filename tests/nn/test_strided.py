"""Strided depthwise convolutions: full precision in training alone, the right gradient, and no trace elsewhere."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hamcl.nn.backbones import Backbone
from hamcl.nn.strided import train_in_full_precision
from hamcl.reading.prepare import ImagePreprocess


class Same(nn.Conv2d):
    """Convolves without `nn.Conv2d.forward`, as timm's layers with TensorFlow's padding do."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1, 0, 1))
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), Same(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
    )


def in_bf16(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return forward(x)


def test_only_strided_depthwise_layers_are_changed():
    layers = {
        "strided": nn.Conv2d(4, 4, 3, stride=2, groups=4),
        "stride 1": nn.Conv2d(4, 4, 3, groups=4),
        "one group": nn.Conv2d(4, 4, 3, stride=2),
        "groups of two": nn.Conv2d(4, 4, 3, stride=2, groups=2),
        "one channel": nn.Conv2d(1, 4, 3, stride=2),
    }
    assert train_in_full_precision(nn.ModuleDict(layers)) == [layers["strided"]]


def test_training_leaves_bf16_and_inference_does_not():
    plain, changed = network(), network()
    train_in_full_precision(changed)
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(in_bf16(changed.eval(), x), in_bf16(plain.eval(), x))
    assert in_bf16(changed, x).dtype == torch.bfloat16
    trained = in_bf16(changed.train(), x)
    assert trained.dtype == torch.float32
    assert torch.equal(changed(x), plain(x)), "without autocast nothing changes"
    assert in_bf16(changed[0], x).dtype == torch.bfloat16, "autocast is on again for other layers"


def test_the_gradient_is_that_of_float64_up_to_the_other_layers_rounding():
    exact, changed = network().double(), network()
    train_in_full_precision(changed)
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    y = x.detach().double().requires_grad_()
    in_bf16(changed.train(), x).square().sum().backward()
    exact(y).square().sum().backward()
    assert x.grad is not None and y.grad is not None
    assert torch.allclose(x.grad.double(), y.grad, rtol=0, atol=0.02 * y.grad.abs().max().item())


def test_a_copy_runs_with_its_own_weights():
    changed = network()
    train_in_full_precision(changed)
    twin = copy.deepcopy(changed)
    nn.init.zeros_(twin[2].weight)
    nn.init.zeros_(twin[2].bias)
    x = torch.randn(2, 3, 9, 9)
    assert not twin(x).any() and changed(x).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backbone_of_any_precision_trains_through_them(dtype: torch.dtype):
    module = nn.Sequential(network(), nn.Flatten()).to(dtype)
    preprocess = ImagePreprocess(9, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)

    def features(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return module(batch["pixel_values"].to(dtype))

    backbone = Backbone("toy", module, features, preprocess)
    batch = {"pixel_values": torch.randn(2, 3, 9, 9, requires_grad=True)}
    with torch.autocast("cpu", torch.bfloat16):
        backbone.train()(batch).sum().backward()
    assert batch["pixel_values"].grad is not None and batch["pixel_values"].grad.isfinite().all()
    assert [m.training for m in module[0]] == [False, True, True], "only the changed layers follow train()"
    assert not any(m.training for m in backbone.eval().modules())
