import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from hamcl.errors import UsageError
from hamcl.ham import Factors

TOLERANCE = 1e-5


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    scale = max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * scale)


def weigh(features: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient differs from feature to feature."""
    return (features * torch.linspace(-1, 2, features.shape[1], dtype=features.dtype)).square().mean()


def prepared(make, kind, ranks, **options):
    """A model with groups and a task, and what was put into it."""
    model = make.model(kind, **options)
    groups = [make.layers(model, seed, rank) for seed, rank in enumerate(ranks)]
    importances = [1.0 - 0.3 * j for j in range(len(groups))]
    task = make.layers(model, 99, model.rank)
    model.load_groups(groups, importances)
    model.load_task(task, importance=0.8)
    return model, groups, importances, task


@pytest.mark.parametrize("kind", ["vit", "conv", "bert"])
@pytest.mark.parametrize(
    "backend, ranks",
    [("packed", (2, 5, 1)), ("dense", (2, 5, 1)), ("dense", (40, 41)), ("auto", (3, 4)), ("auto", ())],
)
def test_outputs_and_all_gradients_are_those_of_naive_peft(make, naive_peft, kind, backend, ranks):
    model, groups, importances, task = prepared(make, kind, ranks, backend=backend)
    if max(ranks, default=0) >= 40:
        assert all(layer.group_deltas.numel() for layer in model.layers.values())
    bare = model.folded({})
    reference = naive_peft(bare.module, groups, task, importances, 0.8)
    batch = make.batch(model.backbone)

    model.train()
    reference.model.eval()
    features, expected = model(batch), bare.features(reference.model, batch)
    close(features, expected)
    weigh(features).backward()
    weigh(expected).backward()

    for name, layer in model.layers.items():
        a, b = reference.gradients(name)
        close(layer.task_A.grad.flatten(1), a)
        close(layer.task_B.grad.flatten(1), b)
    close(model.importance.grad, reference.importance.grad)
    if ranks:
        expected_grads = [p.grad for p in reference.group_importances]
        close(model.group_importance.grad[: len(ranks)], torch.stack(expected_grads))
        assert not model.group_importance.grad[len(ranks) :].any()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("backend", ["packed", "dense"])
def test_dropout_is_on_the_task_alone(make, naive_peft, backend):
    model, groups, importances, task = prepared(make, "vit", (2, 4), backend=backend, dropout=0.4)
    bare = model.folded({})
    reference = naive_peft(bare.module, groups, task, importances, 0.8, dropout=0.4)
    batch = make.batch(model.backbone)
    model.train()
    for module in reference.model.modules():
        module.training = type(module) is nn.Dropout and module.p == 0.4
    torch.manual_seed(3)
    features = model(batch)
    torch.manual_seed(3)
    expected = bare.features(reference.model, batch)
    close(features, expected)
    weigh(features).backward()
    weigh(expected).backward()
    close(model.importance.grad, reference.importance.grad)
    close(model.group_importance.grad[:2], torch.stack([p.grad for p in reference.group_importances]))
    model.eval()
    assert not torch.allclose(model(batch), features)
    torch.testing.assert_close(model(batch), model(batch), rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["packed", "dense"])
@pytest.mark.parametrize("net", [{"dilation": 2}, {"padding_mode": "reflect"}, {"padding_mode": "circular"}])
def test_convolutions_keep_dilation_and_padding(make, backend, net):
    """Against the bare network called with the summed weights, which autograd differentiates."""
    model, groups, importances, task = prepared(make, "conv", (2, 3), backend=backend, net=net)
    bare, batch = model.folded({}), make.batch(model.backbone)
    alphas = torch.tensor([*importances, 0.8], requires_grad=True)
    weights = {
        f"{name}.weight": bare.module.get_submodule(name).weight
        + sum(
            alpha * update[name].delta().view_as(bare.module.get_submodule(name).weight)
            for alpha, update in zip(alphas, [*groups, task], strict=True)
        )
        for name in model.layers
    }
    expected = functional_call(bare.module, weights, batch["pixel_values"])
    features = model.train()(batch)
    close(features, expected)
    weigh(expected).backward()
    weigh(features).backward()
    close(torch.cat([model.group_importance.grad[:2], model.importance.grad[None]]), alphas.grad)


def test_a_small_update_in_the_direction_of_the_inputs_survives_half_precision(make):
    """It changes outputs by 1.5 %, but weights by less than half a unit in bfloat16's last place."""
    model = make.model("vit", backend="dense", targets="qkv", rank=1)
    layer = model.layers["blocks.0.attn.qkv"]
    out, width = layer.shape
    direction = torch.full((1, width), width**-0.5)
    model.load_task({name: Factors(direction, torch.full((out, 1), 3e-4)) for name in model.layers})
    x = torch.randn(500, width, generator=torch.Generator().manual_seed(0)) + 50 * direction
    with torch.no_grad():
        change = layer(x) - layer.base_layer(x)
        model.to(torch.bfloat16)
        half = layer(x.to(torch.bfloat16)).float() - layer.base_layer(x.to(torch.bfloat16)).float()
    assert float((half * change).sum() / change.square().sum()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("backend", ["packed", "dense"])
def test_autocast_agrees_with_full_precision(make, backend):
    model, *_ = prepared(make, "vit", (2, 4), backend=backend)
    batch = make.batch(model.backbone)
    model.train()
    weigh(model(batch)).backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        features = model(batch)
    weigh(features).backward()
    for name, p in model.named_parameters():
        if name in exact:
            close(p.grad, exact[name], 0.08)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_a_weight_folded_under_autocast_is_exact(make):
    model, *_ = prepared(make, "vit", (2, 4))
    batch = make.batch(model.backbone)
    expected = model(batch).detach()
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(batch)
    with torch.no_grad():
        close(model(batch), expected)


def test_inference_folds_once_and_never_uses_a_stale_weight(make):
    model, groups, _, task = prepared(make, "vit", (2, 4))
    batch, layer = make.batch(model.backbone), model.layers["blocks.0.mlp.fc1"]
    model.eval()

    with torch.no_grad():
        first = model(batch)
        folded = layer._folded
        assert folded is not None and torch.equal(model(batch), first) and layer._folded is folded

        seen = [first]
        for change in (
            lambda: layer.task_B.add_(0.1),
            lambda: model.importance.mul_(2),
            lambda: model.group_importance[1].add_(1),
            lambda: layer.base_layer.weight.mul_(1.1),
            lambda: setattr(layer.task_A, "data", layer.task_A.data * 2),
            lambda: model.load_groups(groups[:1], [0.5]),
            lambda: model.load_task(task, 0.1),
            lambda: model.load_state_dict({n: v + 0.01 for n, v in model.state_dict().items()}),
            lambda: model.load_state_dict({n: v * 0.9 for n, v in model.state_dict().items()}, assign=True),
            model.end_task,
        ):
            change()
            features = model(batch)  # with what may be a weight folded before the change
            with torch.enable_grad():
                close(features, model.train()(batch).detach())
            model.eval()
            assert not torch.allclose(features, seen[-1])
            seen.append(features)
            model(batch)


def test_contexts_do_not_share_a_folded_weight(make):
    model, *_ = prepared(make, "conv", (2,))
    batch = make.batch(model.backbone)
    bare = model.folded({})(batch)
    model.eval()
    with torch.no_grad():
        both = model(batch)
        with model.without_task():
            groups = model(batch)
        with model.frozen():
            assert torch.equal(model(batch), bare)
        close(model(batch), both)
    assert not torch.allclose(groups, both) and not torch.allclose(groups, bare)


def test_inference_mode_does_not_spoil_training(make):
    model, *_ = prepared(make, "vit", (2,))
    batch = make.batch(model.backbone)
    model.eval()
    with torch.inference_mode():
        expected = model(batch).clone()
    model.end_task()
    with torch.inference_mode():
        model(batch)
    pixels = batch["pixel_values"].clone().requires_grad_()
    model({"pixel_values": pixels}).sum().backward()  # nothing trains here, so the folded weight is used
    assert pixels.grad is not None and torch.isfinite(expected).all()


def test_training_and_copies_keep_no_folded_weight(make):
    model, *_ = prepared(make, "vit", (2,))
    batch = make.batch(model.backbone)
    model.eval()
    with torch.no_grad():
        model(batch)
    assert all(layer._folded is not None for layer in model.layers.values())
    assert all(layer._folded is None for layer in copy.deepcopy(model).layers.values())
    model.train()
    with torch.no_grad():
        model(batch)
    assert all(layer._folded is None for layer in model.layers.values())


@pytest.mark.parametrize("backend", ["packed", "dense"])
def test_compiles_once_whatever_the_importances(make, backend):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model, *_ = prepared(make, "vit", (2, 4), backend=backend)
    batch, counter = make.batch(model.backbone), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)
    model.train()
    for value in (1.0, 0.5, 2.0):
        with torch.no_grad():
            model.importance.fill_(value)
            model.group_importance.mul_(value)
        model.zero_grad()
        weigh(model(batch)).backward()
        expected = model.group_importance.grad.clone()
        model.zero_grad()
        features = compiled(batch)
        weigh(features).backward()
        close(features, model(batch))
        close(model.group_importance.grad, expected)
    assert counter.frame_count == 1


def test_auto_goes_by_rank_and_rows(make):
    """Low ranks on few rows are added to the output, high ranks on many rows to the weight."""
    model, *_ = prepared(make, "vit", (40, 40))
    layer, x = model.layers["blocks.0.attn.qkv"], torch.randn(4096, 192)
    assert layer._dense_pays(x, True, True)
    assert not layer._dense_pays(x[:16], False, True)


def test_peft_cannot_merge_in_place(make):
    model, *_ = prepared(make, "conv", (2,))
    with pytest.raises(UsageError, match="folded"):
        model.layers["fc"].merge()
