"""What tells each rival from the others, checked against its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hamcl.config import HAMConfig
from hamcl.errors import UsageError
from hamcl.ham import Adapter, Factors
from hamcl.heads import Rows
from hamcl.learning.learner import Learner
from hamcl.machine import Machine
from hamcl.methods.ease import Prototypes
from hamcl.methods.inflora import InfLoRAConfig, Used, _inputs
from hamcl.methods.registry import METHODS, load_method
from hamcl.methods.sd_lora import _decoupled
from hamcl.methods.slca import Aligned, SLCAConfig
from hamcl.nn.attach import AdaptedBackbone
from hamcl.rng import generator
from hamcl.streams.base import Task

SMALL = {"epochs": 2, "batch_size": 4, "rank": 2, "lr": 1e-2, "projection": 40}
Build = Callable[..., Any]


@pytest.fixture
def build(toy: Any) -> Build:
    def make(name: str, **options: Any) -> Learner:
        kind = load_method(name)
        return kind(toy.vit(), kind.configured(options, SMALL), Machine("cpu", "fp32"))

    return make


@pytest.fixture
def tasks(toy: Any) -> list[Task]:
    return [toy.task("one", ["red", "green"], 4), toy.task("two", ["blue", "cyan"], 4), toy.task("three", ["pink"], 4)]


def test_options_of_one_method_do_not_collide_with_those_of_all():
    common = HAMConfig().to_dict().keys()
    for name in METHODS:
        kind = load_method(name).config_type
        assert set(kind.__annotations__) == kind().to_dict().keys() - common or kind is HAMConfig


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ranpac", {"adapt": -1}),
        ("ease", {"alpha": -0.1}),
        ("inflora", {"energy": 0.0}),
        ("inflora", {"horizon": 0}),
        ("slca", {"align_samples": 0}),
        ("slca", {"logit_norm": 0.0}),
        ("ease", {"alpha": "big"}),
    ],
)
def test_options_out_of_range_are_refused(name, option):
    with pytest.raises(UsageError, match=f"option '{next(iter(option))}' must be "):
        load_method(name).config_type.from_dict(option)


def test_ranpac_without_adaptation_is_the_frozen_backbone(build, tasks):
    ranpac, frozen = build("ranpac", adapt=0), build("frozen")
    for task in tasks:
        ranpac.learn(task)
        frozen.learn(task)
    assert torch.equal(ranpac.logits(tasks[0].test), frozen.logits(tasks[0].test))


def test_ranpac_settles_after_its_first_tasks(build, toy, tasks):
    method, states = build("ranpac", adapt=2), []
    for task in tasks:
        report = method.learn(task)
        states.append({k: v for k, v in method.state_dict().items() if k.startswith("model.")})
        assert bool(report.losses) == (len(states) < 3)
    assert not toy.same(states[0], states[1])
    assert toy.same(states[1], states[2])
    linear = build("ranpac", head="linear")
    linear.learn(tasks[0])
    before = {k: v for k, v in linear.state_dict().items() if k.startswith("model.")}
    assert linear.learn(tasks[1]).losses, "the rows go on training"
    assert toy.same({k: v for k, v in linear.state_dict().items() if k.startswith("model.")}, before)


def test_an_update_is_its_magnitude_times_its_direction():
    random = generator(0, "factors")
    layers = {
        name: Factors(torch.randn(2, width, generator=random), torch.randn(5, 2, generator=random))
        for name, width in (("a", 3), ("b", 7))
    }
    direction, magnitude = _decoupled(Adapter("t", layers, 0.5))
    for name, factors in layers.items():
        torch.testing.assert_close(magnitude * direction[name].delta(), 0.5 * factors.delta())
    sizes = torch.stack([(f.A.norm() * f.B.norm()) ** 2 for f in direction.values()])
    assert sizes.mean().item() == pytest.approx(1)
    still = {name: f.scaled(0.0) for name, f in layers.items()}
    assert _decoupled(Adapter("t", still, 0.5))[1] == 0


def test_sd_lora_keeps_directions_and_goes_on_learning_magnitudes(build, tasks):
    method = build("sd-lora", importance_lr=0.05)
    method.learn(tasks[0])
    direction, magnitude = method.directions[0], method.magnitudes[0]
    method.learn(tasks[1])
    for name, factors in direction.items():
        assert torch.equal(method.directions[0][name].delta(), factors.delta())
    assert method.magnitudes[0] != magnitude
    assert len(method.directions) == len(method.magnitudes) == 2


def test_inflora_learns_only_in_directions_that_are_not_used(build, tasks):
    method = build("inflora", energy=0.5)
    method.learn(tasks[0])
    first = {name: f.delta() for name, f in method.merged.items()}
    bases = {name: used.basis.float() for name, used in method.used.items() if not used.others}
    assert bases
    method.learn(tasks[1])
    for name, basis in bases.items():
        change = method.merged[name].delta() - first[name]
        assert change.norm() > 0
        assert (change @ basis).norm() < 1e-4 * change.norm()


def test_used_directions_hold_the_energy_asked_for():
    random, size = generator(0, "inputs"), 12
    inputs = [torch.randn(40, size, generator=random).double() * torch.arange(1, size + 1) for _ in range(5)]
    used = Used(torch.zeros(size, 0, dtype=torch.double))
    for i, x in enumerate(inputs):
        moment = x.T @ x / len(x)
        before = used.unused(torch.eye(size, dtype=torch.double))
        used.add(moment, 0.6 + 0.09 * i)
        after = used.unused(torch.eye(size, dtype=torch.double))
        assert 1 - (after @ moment).square().sum() / moment.square().sum() >= 0.6 + 0.09 * i - 1e-9
        torch.testing.assert_close(after @ after, after)
        torch.testing.assert_close(after @ before, after)
        width = used.basis.shape[1]
        torch.testing.assert_close(used.basis.T @ used.basis, torch.eye(width, dtype=torch.double))
        assert width <= size / 2
    assert used.others, "more than half of the directions are used by now"
    used.add(torch.eye(size, dtype=torch.double), 1.0)
    assert used.unused(torch.eye(size, dtype=torch.double)).norm() < 1e-9


def test_the_share_of_energy_rises_over_the_horizon():
    config = InfLoRAConfig(energy=0.9, horizon=10)
    assert [round(config.energy_after(i), 6) for i in (0, 5, 10, 30)] == [0.9, 0.95, 1.0, 1.0]
    assert InfLoRAConfig(energy=0.9).energy_after(30) == 0.9


def test_a_layer_multiplies_the_inputs_that_are_measured():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=1)
            self.linear = torch.nn.Linear(4, 6)

    net, random = Net(), generator(0, "x")
    backbone = torch.nn.Module()
    backbone.module, backbone.spec, backbone.targets = net, "net", ()
    layers = AdaptedBackbone(backbone, rank=2, max_groups=1, targets="conv|linear").layers
    x = torch.randn(2, 3, 8, 8, generator=random)
    conv = layers["conv"].base_layer
    rows = _inputs(layers["conv"], x, None) @ conv.weight.flatten(1).T + conv.bias
    torch.testing.assert_close(rows.view(2, 16, 5).transpose(1, 2).reshape(2, 5, 4, 4), conv(x), atol=1e-5, rtol=1e-4)
    tokens, mask = torch.randn(2, 3, 4, generator=random), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert torch.equal(
        _inputs(layers["linear"], tokens, mask), torch.stack([tokens[0, 0], tokens[0, 1], tokens[1, 0]])
    )
    assert _inputs(layers["linear"], tokens, None).shape == (6, 4)


def test_missing_prototypes_are_made_up_from_similar_classes():
    head, random = Prototypes(6, alpha=0.3), generator(0, "features")
    plan = [[0, 1], [2, 3], [1, 4]]  # class 1 returns in the last task
    samples = []
    for t, columns in enumerate(plan):
        head.add_classes(max(columns) + 1 - len(head.means))
        x = torch.randn(8, t + 1, 6, generator=random) + 1
        labels = torch.tensor(columns).repeat(4)
        head.update(x, labels)
        samples.append((x, labels))
    homes, means = [0, 2, 1, 1, 2], head.complete()
    assert head.homes.tolist() == homes
    for c in range(5):
        for j in range(3):
            rows = [x[labels == c][:, j] for t, (x, labels) in enumerate(samples) if c in plan[t] and j <= t]
            if rows:
                torch.testing.assert_close(means[c, j], torch.cat(rows).mean(0))
                continue
            later = [k for k in range(5) if homes[k] >= j]
            home = homes[c]
            similar = torch.stack([F.cosine_similarity(means[c, home], means[k, home], 0) for k in later]).softmax(0)
            torch.testing.assert_close(means[c, j], sum(s * means[k, j] for s, k in zip(similar, later, strict=True)))
    features = torch.randn(3, 3, 6, generator=random)
    cosines = F.cosine_similarity(features[:, None], means[None], dim=3)  # (n, classes, adapters)
    for c, scores in enumerate(head.logits(features).T):
        others = [j for j in range(3) if j != homes[c]]
        expected = cosines[:, c, homes[c]] + 0.3 * cosines[:, c, others].mean(1)
        torch.testing.assert_close(scores, 16 * expected)


def test_ease_keeps_what_every_adapter_says(build, tasks):
    method = build("ease")
    for task in tasks[:2]:
        method.learn(task)
    assert len(method.adapters) == 2
    assert method.objective.head.means.shape == (4, 2, 32)
    assert method.objective.head.counts.tolist() == [[4, 0], [4, 0], [4, 4], [4, 4]]
    seen, extract = [], method.extract
    method.extract = lambda *args, **options: seen.append(args) or extract(*args, **options)
    samples = tasks[0].test.select(range(len(tasks[0].test)))
    logits = method.logits(samples)
    assert len(seen) == 2
    assert torch.equal(method.logits(samples), logits) and len(seen) == 2, "features that cannot change are kept"


def gaussians(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Six classes of different covariances, 30 features each of width 8."""
    random = generator(seed, "gaussians")
    centres, shapes = torch.randn(6, 8, generator=random) * 2, torch.randn(6, 8, 8, generator=random) / 2
    labels = torch.arange(6).repeat_interleave(30)
    noise = torch.randn(180, 1, 8, generator=random)
    return centres[labels] + (noise @ shapes[labels]).squeeze(1), labels


def test_class_gaussians_are_exact_and_follow_a_class_that_returns():
    x, labels = gaussians(0)
    head = Aligned(8, SLCAConfig())
    head.add_classes(6)
    head.update(x, labels)
    few = labels.new_zeros(len(labels), dtype=torch.bool)
    few[:5] = True  # five samples span four directions
    head.update(x[few] + 1, labels[few])
    for column in range(6):
        own = x[:5] + 1 if column == 0 else x[labels == column]
        axes = head.axes[head.owners == column]
        assert len(axes) == min(len(own) - 1, 8)
        torch.testing.assert_close(head.means[column], own.mean(0))
        torch.testing.assert_close(axes.T @ axes, own.T.cov(), atol=1e-5, rtol=1e-4)
    drawn = head.draw(1, 20_000, generator(0, "draw"))
    torch.testing.assert_close(drawn.mean(0), x[labels == 1].mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), x[labels == 1].T.cov() + 1e-4 * torch.eye(8), atol=0.3, rtol=0.1)


def test_alignment_makes_tasks_comparable():
    x, labels = gaussians(1)
    config = SLCAConfig(align_samples=64, align_epochs=10, head_lr=0.2)
    head, rows = Aligned(8, config), Rows(8)
    for one in (head, rows):
        one.add_classes(6)
    head.update(x, labels)
    tasks = [[0, 1, 2], [3, 4, 5]]
    means = head.means
    rows.weight, rows.bias = means.clone(), -0.5 * means.square().sum(1)
    rows.bias[3:] += 9  # the last task's rows shout the others down
    head.align(rows, tasks[:1])
    assert torch.equal(head.weight, rows.weight) and torch.equal(head.bias, rows.bias)
    before = (head.logits(x).argmax(1) == labels).float().mean()
    kept = rows.weight.clone()
    head.align(rows, tasks)
    assert (head.logits(x).argmax(1) == labels).float().mean() > 0.97 > 0.92 > before
    assert torch.equal(rows.weight, kept), "the next alignment starts from the rows as trained"


def test_slca_scores_with_the_aligned_rows(build, tasks):
    method = build("slca", align_samples=16)
    for task in tasks[:2]:
        method.learn(task)
    features = method.extract(method.model, tasks[0].test)
    torch.testing.assert_close(
        method.logits(tasks[0].test),
        features @ method.objective.head.weight.T + method.objective.head.bias,
        atol=1e-5,
        rtol=1e-5,
    )
    assert not torch.allclose(method.objective.head.weight, method.objective.rows.weight)
