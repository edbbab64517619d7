import copy

import pytest
import torch
from torch import nn

from hamcl.errors import UsageError
from hamcl.ham import Factors
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import fingerprint
from hamcl.nn.layers import HamLayer
from hamcl.nn.selection import select_layers


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def fill(model: AdaptedBackbone, seed: int = 0) -> None:
    """Give the task adapter a B that does something."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.layers.values():
            layer.task_B.copy_(0.1 * torch.randn(layer.task_B.shape, generator=g))


@pytest.mark.parametrize("kind", ["vit", "conv", "bert"])
def test_features_are_the_bare_backbones_until_something_is_learned(make, kind):
    bare, model = make.backbone(kind), make.model(kind)
    batch = make.batch(bare)
    for step in (lambda: None, model.start_task, model.train, model.eval, model.end_task):
        step()
        torch.testing.assert_close(model(batch).detach(), bare(batch).detach(), rtol=0, atol=2e-6)


def test_layer_names_are_those_of_the_bare_module(make):
    bare, model = make.backbone("vit"), make.model("vit")
    assert set(model.layers) == {f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn.qkv", "mlp.fc1", "mlp.fc2")}
    assert all(isinstance(bare.module.get_submodule(name), nn.Linear) for name in model.layers)
    assert all(model.backbone.module.get_submodule(name) is layer for name, layer in model.layers.items())
    assert not hasattr(model.backbone.module, "peft_config")


def test_all_tasks_share_one_initialisation(make):
    model, other, reseeded = make.model("conv"), make.model("conv"), make.model("conv", seed=1)
    model.start_task()
    first = model.task_adapter("a")
    fill(model)
    model.importance.data.fill_(3.0)
    model.start_task()
    torch.manual_seed(77)
    other.start_task()
    reseeded.start_task()
    for name, factors in first.layers.items():
        bound = factors.shape[1] ** -0.5
        assert factors.A.abs().max() <= bound and factors.A.abs().max() > 0.8 * bound
        assert not factors.B.any()
        assert torch.equal(factors.A, model.task_adapter("b").layers[name].A)
        assert torch.equal(factors.A, other.task_adapter("c").layers[name].A)
        assert not torch.equal(factors.A, reseeded.task_adapter("d").layers[name].A)
    assert model.importance.item() == 1.0
    assert not torch.equal(*(first.layers[name].A[0, :8] for name in ("stem", "wide")))


def test_what_trains_changes_only_with_the_task(make):
    model = make.model("vit")
    assert trainable(model) == set()
    model.start_task()
    adapter = {f"backbone.module.{name}.lora_{x}.ham_task.weight" for name in model.layers for x in "AB"}
    assert trainable(model) == adapter | {"importance"}
    assert [id(p) for p in model.importance_parameters()] == [id(model.importance)]
    model.load_groups([make.layers(model, 1, 2)], [1.0])
    everything = adapter | {"importance", "group_importance"}
    assert trainable(model) == everything

    with model.without_task(), model.frozen(), model.without_task():
        assert trainable(model) == everything
    with pytest.raises(RuntimeError, match="stop"), model.frozen():
        raise RuntimeError("stop")
    model.eval()
    model.train()
    model.backbone.train()
    assert trainable(model) == everything
    parameters = model.adapter_parameters() + model.importance_parameters()
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}
    assert model.trainable_count() == sum(p.numel() for p in parameters) - 3  # three of four slots are empty

    model.end_task()
    with model.without_task(), model.frozen():
        pass
    model.train()
    assert trainable(model) == set()


@pytest.mark.parametrize("backend", ["packed", "dense"])
def test_without_the_task_nothing_shows_of_the_importances_it_trains(make, backend):
    model = make.model("conv", backend=backend)
    batch = make.batch(model.backbone)
    model.load_groups([make.layers(model, 1, 2)], [0.5])
    groups = model(batch).detach()
    model.start_task()
    with torch.no_grad():
        model.group_importance[0] = 3.0
    with model.without_task():
        torch.testing.assert_close(model(batch), groups)
    changed = model(batch).detach()
    assert not torch.allclose(changed, groups)
    model.end_task()
    torch.testing.assert_close(model(batch), changed)
    with model.without_task():
        torch.testing.assert_close(model(batch), changed)


def test_contexts_nest_and_survive_errors(make):
    model = make.model("conv")
    batch = make.batch(model.backbone)
    model.load_groups([make.layers(model, 1, 2)], [1.0])
    model.start_task()
    fill(model)
    full, bare = model(batch).detach(), make.backbone("conv")(batch)
    with model.without_task():
        groups = model(batch).detach()
        with model.frozen(), model.frozen():
            assert torch.equal(model(batch), bare)
        with pytest.raises(RuntimeError), model.without_task():
            raise RuntimeError
        assert torch.equal(model(batch), groups)
    assert torch.equal(model(batch), full)
    model.end_task()
    torch.testing.assert_close(model(batch), groups)
    assert not torch.allclose(full, groups) and not torch.allclose(groups, bare)


def test_ending_a_task_leaves_nothing_of_it(make):
    model = make.model("conv")
    model.start_task()
    fill(model)
    model(make.batch(model.backbone)).sum().backward()
    model.end_task()
    assert not any(layer.task_B.any() for layer in model.layers.values())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(UsageError, match="start_task"):
        model.task_adapter("late")


def test_importances_are_registered_once(make):
    model = make.model("vit")
    model.load_groups([make.layers(model, 1, 2)], [0.5])
    owners = [name for name, _ in model.named_parameters(remove_duplicate=False) if "importance" in name]
    assert owners == ["importance", "group_importance"]
    assert [name for name in model.state_dict() if "importance" in name] == owners
    assert not any("group_A" in name for name in model.state_dict())
    assert model.group_importance.tolist() == [0.5, 1.0, 1.0, 1.0]


def test_state_dict_round_trip(make):
    model, fresh = make.model("conv"), make.model("conv")
    groups = [make.layers(model, 1, 2)]
    model.load_groups(groups, [0.5])
    model.start_task()
    fill(model)
    batch = make.batch(model.backbone)
    fresh.load_groups(groups, [1.0])
    fresh.start_task()
    for assign in (False, True):
        fresh.load_state_dict(model.state_dict(), assign=assign)
        torch.testing.assert_close(fresh(batch), model(batch))


def test_references_follow_moves_and_copies(make):
    model = make.model("vit")
    groups = [make.layers(model, 1, 2), make.layers(model, 2, 60)]
    model.load_groups(groups, [0.5, 0.7])
    model.start_task()
    fill(model)
    batch = make.batch(model.backbone)
    expected = model(batch).detach()

    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.importance.fill_(5.0)
        twin.group_importance.fill_(3.0)
        assert not torch.allclose(twin(batch), expected)
        torch.testing.assert_close(model(batch), expected)
        twin.load_groups([], [])
        twin.end_task()
        torch.testing.assert_close(twin(batch), make.backbone("vit")(batch))
        torch.testing.assert_close(model(batch), expected)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}

    model.double()
    double = model.backbone.module(batch["pixel_values"].double())
    torch.testing.assert_close(double.float(), expected)
    double.sum().backward()
    assert model.importance.grad is not None and model.group_importance.grad is not None

    names = trainable(model)
    model.to("meta")
    assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert trainable(model) == names
    features = model({"pixel_values": torch.empty(2, 3, 16, 16, device="meta", dtype=torch.float64)})
    features.sum().backward()
    assert features.device.type == "meta" and model.importance.grad.device.type == "meta"
    with torch.no_grad():
        assert model.eval()({"pixel_values": torch.empty(2, 3, 16, 16, device="meta").double()}).shape == (2, 192)


def test_groups_may_have_any_ranks_and_leave_layers_out(make):
    model = make.model("conv")
    batch = make.batch(model.backbone)
    a, b = make.layers(model, 1, 1), make.layers(model, 2, 30)
    b = {"fc": b["fc"], "stem": make.layers(model, 3, 7)["stem"]}
    model.load_groups([a, b], [0.5, -2.0])
    total = {name: f.scaled(0.5).delta() for name, f in a.items()}
    for name, f in b.items():
        total[name] = total[name] - 2.0 * f.delta()
    identity = {name: Factors(torch.eye(delta.shape[1]), delta) for name, delta in total.items()}
    for mode in (model.train, model.eval):
        mode()
        torch.testing.assert_close(model(batch), model.folded(identity)(batch))
    model.load_groups([], [])
    assert torch.equal(model(batch), make.backbone("conv")(batch))


def test_without_a_limit_the_importances_grow(make):
    model = make.model("conv", max_groups=None)
    assert model.group_importance.shape == (0,)
    model.start_task()
    for count in (1, 3, 7):
        groups = [make.layers(model, seed, 1) for seed in range(count)]
        model.load_groups(groups, [0.1 * j for j in range(count)])
        assert model.group_importance.shape == (count,) and model.group_importance.requires_grad
        assert model.importance_parameters()[1] is model.group_importance
        model.zero_grad()
        model(make.batch(model.backbone)).square().sum().backward()
        assert (model.group_importance.grad != 0).all()
    model.load_groups([], [])
    assert model.group_importance.shape == (0,) and not model.group_importance.requires_grad


def test_an_adapter_comes_out_and_goes_back(make):
    model, other = make.model("conv", scale=2.0), make.model("conv", scale=0.5)
    batch = make.batch(model.backbone)
    model.start_task()
    fill(model)
    model.importance.data.fill_(0.7)
    adapter = model.task_adapter("t")
    assert adapter.task == "t" and adapter.importance == pytest.approx(0.7)
    wide = model.layers["wide"]
    torch.testing.assert_close(adapter.layers["wide"].B, 2.0 * wide.task_B.detach().flatten(1))
    assert adapter.layers["wide"].shape == (12, 8 * 9)
    expected = model(batch).detach()
    folded = model.folded({name: f.scaled(adapter.importance) for name, f in adapter.layers.items()})
    torch.testing.assert_close(folded(batch), expected, rtol=1e-4, atol=1e-5)

    before = {name: f.B.clone() for name, f in adapter.layers.items()}
    fill(model, seed=9)
    assert all(torch.equal(f.B, before[name]) for name, f in adapter.layers.items())
    other.load_task(adapter.layers, adapter.importance)
    torch.testing.assert_close(other(batch).detach(), expected)
    started = make.model("conv")
    started.start_task()
    assert trainable(other) == trainable(started)

    half = make.model("conv").to(torch.bfloat16)
    half.start_task()
    assert all(f.A.dtype == torch.float32 for f in half.task_adapter("h").layers.values())


def test_folding_gives_a_plain_copy_of_the_same_class(make):
    model = make.model("conv")
    bare = make.backbone("conv")
    layers = make.layers(model, 4, 3)
    model.load_groups([make.layers(model, 1, 2)], [1.0])
    folded = model.folded(layers)
    assert type(folded) is type(bare) and type(folded.module) is type(bare.module)
    assert [(n, type(m)) for n, m in folded.named_modules()] == [(n, type(m)) for n, m in bare.named_modules()]
    assert list(folded.state_dict()) == list(bare.state_dict())
    for name, weight in bare.module.state_dict().items():
        layer = name.removesuffix(".weight")
        expected = weight + layers[layer].delta().view_as(weight) if layer in layers else weight
        torch.testing.assert_close(folded.module.state_dict()[name], expected)
    folded.train()
    assert not any(m.training for m in folded.module.modules()) and not trainable(folded)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for p in folded.parameters():
            p.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_moves_no_statistics_of_the_backbone(make):
    model = make.model("conv")
    before = {name: value.clone() for name, value in model.backbone.module.norm.state_dict().items()}
    model.start_task()
    model.train()
    model(make.batch(model.backbone)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.module.norm.state_dict().items())


@pytest.mark.parametrize(
    "targets, chosen",
    [
        ("fc", ["fc"]),
        ("wide|fc", ["wide", "fc"]),
        (["point", "stem"], ["stem", "point"]),
        (r"s\w+", ["stem"]),
    ],
)
def test_targets_of_a_plain_network(make, targets, chosen):
    model = make.model("conv", targets=targets)
    assert list(model.layers) == chosen and model.skipped == []


def test_targets_match_names_and_their_endings():
    net = nn.ModuleDict(
        {
            "fc": nn.Linear(2, 2),
            "block": nn.ModuleDict({"fc": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}),
            "fc_old": nn.Linear(2, 2),
        }
    )
    assert select_layers(net, "fc")[0] == ["fc", "block.fc"]
    assert select_layers(net, r"block\.fc")[0] == ["block.fc"]
    assert select_layers(net, ["fc"])[0] == ["fc"]  # a full name, though it is an ending too
    assert select_layers(net, ["block.fc", "fc_old"])[0] == ["block.fc", "fc_old"]
    assert select_layers(nn.ModuleDict({"a": net}), ["fc"])[0] == ["a.fc", "a.block.fc"]
    assert select_layers(net, None, ["fc_old"])[0] == ["fc_old"]
    for wrong in ("f", "norm", ["fc", "norm"], ["c"], []):
        with pytest.raises(UsageError, match=r"choose among fc, block\.fc, fc_old"):
            select_layers(net, wrong)
    with pytest.raises(UsageError, match="regular expression"):
        select_layers(net, "(")
    many = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(50)))
    with pytest.raises(UsageError, match=r"choose among \*\.\*$"):
        select_layers(many, "fc")


def test_only_the_named_layers_are_replaced():
    """PEFT on its own would adapt every layer whose name ends like a target."""
    from hamcl.nn.attach import _inject

    net = nn.ModuleDict({"fc": nn.Linear(2, 2), "block": nn.ModuleDict({"fc": nn.Linear(2, 2)})})
    assert list(_inject(net, ["fc"], 1, 0.0)) == ["fc"]
    assert not isinstance(net["block"]["fc"], HamLayer)


def test_grouped_convolutions_are_skipped_or_refused(make):
    model = make.model("conv", targets=".*")
    assert model.skipped == ["depthwise"] and list(model.layers) == ["stem", "wide", "point", "fc"]
    for targets in ("depthwise", ["fc", "depthwise"]):
        with pytest.raises(UsageError, match="8 groups"):
            make.model("conv", targets=targets)
    backbone = make.backbone("conv")
    backbone._targets = ("fc", "depthwise")
    assert AdaptedBackbone(backbone, rank=2, max_groups=1).skipped == ["depthwise"]


def test_other_linear_layers_are_refused():
    class Quantized(nn.Linear):
        pass

    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": Quantized(2, 2)})
    for targets in (".*", ["b"], ["a", "b"]):
        with pytest.raises(UsageError, match=r"layer 'b' cannot be adapted: it is a Quantized"):
            select_layers(net, targets)
    assert select_layers(net, "a")[0] == ["a"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 0}, "rank must be"),
        ({"max_groups": 0}, "max_groups must be"),
        ({"scale": 0.0}, "scale must be"),
        ({"scale": float("nan")}, "scale must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"backend": "fast"}, "unknown backend 'fast': choose one of auto, packed, dense"),
    ],
)
def test_wrong_options_are_one_sentence(make, options, message):
    with pytest.raises(UsageError, match=message):
        make.model("conv", **options)


def test_wrong_updates_are_refused_and_change_nothing(make):
    model = make.model("conv")
    good = make.layers(model, 1, 3)
    model.load_groups([good], [1.0])
    batch = make.batch(model.backbone)
    before = model(batch)
    foreign = {**good, "head": good["fc"]}
    misshapen = {**good, "fc": good["point"]}
    for load in (
        lambda layers: model.load_groups([good, layers], [1.0, 1.0]),
        lambda layers: model.load_task(layers),
        lambda layers: model.folded(layers),
    ):
        with pytest.raises(UsageError, match="'head', which is not adapted here"):
            load(foreign)
        with pytest.raises(UsageError, match=r"does not fit layer 'fc': \(out, in\) is \(16, 12\), not \(10, 16\)"):
            load(misshapen)
    with pytest.raises(UsageError, match="its rank is 4, not 3"):
        model.load_task(make.layers(model, 1, 4))
    with pytest.raises(UsageError, match="does not update layer 'point'"):
        model.load_task({name: f for name, f in good.items() if name != "point"})
    with pytest.raises(UsageError, match="as many importances"):
        model.load_groups([good], [])
    with pytest.raises(UsageError, match="max_groups is 4"):
        model.load_groups([good] * 5, [1.0] * 5)
    assert torch.equal(model(batch), before)


def test_a_backbone_is_adapted_once(make):
    model = make.model("conv")
    with pytest.raises(UsageError, match="adapted already"):
        AdaptedBackbone(model.backbone, rank=2, max_groups=1, targets="fc")


def test_a_folded_copy_has_a_fingerprint_of_its_own(make):
    model = make.model("conv")
    folded = model.folded(make.layers(model, 1, 2))
    assert folded.fingerprint == fingerprint(folded.module) != model.backbone.fingerprint
    assert model.folded({}).fingerprint == model.backbone.fingerprint
