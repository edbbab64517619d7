"""The training loop and the passes without gradients, on a ViT and a BERT of two layers."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hamcl.config import HAMConfig
from hamcl.errors import TrainingError
from hamcl.ham import Factors
from hamcl.heads import Rows, TaskRows
from hamcl.learning.classify import HeldCrossEntropy
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.rng import generator, scoped
from hamcl.streams.base import Augmentation, Samples, Task
from hamcl.training import loop
from hamcl.training.features import extract
from hamcl.training.lesson import Lesson, Progress, Step, TaskReport
from hamcl.training.loop import Plan, train

CPU = torch.device("cpu")
SETTINGS = HAMConfig(epochs=2, batch_size=6, importance_lr=1e-2)
BASE = Plan(SETTINGS, share=1.0, hold=10.0, machine=Machine("cpu", "fp32"), device=CPU)


def plan(**options: Any) -> Plan:
    """BASE with other settings, or with another share or hold."""
    own = {name: options.pop(name) for name in ("share", "hold", "machine") if name in options}
    return replace(BASE, settings=replace(SETTINGS, **options), **own)


def factor(step: int, steps: int, warmup: float) -> float:
    """What the learning rates are multiplied by at a step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    return plan(warmup=warmup).schedule(optimizer, steps).lr_lambdas[0](step)


@dataclass
class Setting:
    """A model with two groups and a new task adapter, the rows of three classes, and 18 samples of them."""

    model: AdaptedBackbone
    rows: TaskRows
    samples: Samples

    def fit(
        self,
        goal: Plan = BASE,
        *,
        anchors: Tensor | None = None,
        progress: Progress | None = None,
        augmentation: Augmentation = "none",
        index: int = 0,
    ) -> TaskReport:
        preprocess = self.model.backbone.preprocess
        task = Task("a", ("x", "y", "z"), self.samples, modality=preprocess.modality, augmentation=augmentation)
        lesson = Lesson(task, index, self.samples, 0, TaskReport("a", ["x", "y", "z"]), progress)
        train(self.model, HeldCrossEntropy(self.model, self.rows, goal.hold, anchors), lesson, goal, preprocess)
        return lesson.report

    def features(self, machine: Machine = BASE.machine, **options: Any) -> Tensor:
        return extract(self.model, self.samples, self.model.backbone.preprocess, machine, CPU, **options)

    def trained(self) -> dict[str, Tensor]:
        state = self.model.state_dict() | {f"rows.{name}": value for name, value in self.rows.state_dict().items()}
        return {name: value.clone() for name, value in state.items()}


@pytest.fixture
def setting(toy, bert_folder):
    """A function that makes a `Setting` of images or texts."""

    def make(modality: str = "image", *, groups: int = 2, dropout: float = 0.0) -> Setting:
        backbone: Backbone = toy.vit() if modality == "image" else load_backbone(str(bert_folder))
        model = AdaptedBackbone(backbone, rank=2, max_groups=3, dropout=dropout)
        g = generator(0, "groups")
        layers = [
            {
                name: Factors(*(0.2 * torch.randn(s, generator=g) for s in ((2, layer.shape[1]), (layer.shape[0], 2))))
                for name, layer in model.layers.items()
            }
            for _ in range(groups)
        ]
        model.load_groups(layers, [1.0] * groups)
        model.start_task()
        rows = Rows(backbone.width)
        rows.add_classes(3)
        samples = toy.task("a", ["red", "green", "blue"], 6, modality).train
        return Setting(model, rows.trainable(torch.arange(3), generator(0, "rows")), samples)

    return make


@contextmanager
def watched() -> Iterator[list[SimpleNamespace]]:
    """What every optimizer step inside the block starts from: the learning rates, and the norm of all gradients."""
    steps: list[SimpleNamespace] = []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        steps.append(SimpleNamespace(rates=[group["lr"] for group in optimizer.param_groups], norm=norm))

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield steps
    finally:
        hook.remove()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_loss_falls_on_classes_that_can_be_told_apart(setting, modality):
    run = setting(modality)
    report = run.fit(plan(epochs=8, lr=2e-2, head_lr=5e-2, hold=0.0))
    assert len(report.losses) == 8
    assert report.losses[-1] < 0.5 * report.losses[0]
    with torch.no_grad():
        predicted = run.rows(run.features()).argmax(1)
    assert (predicted == torch.tensor(run.samples.labels)).float().mean() > 0.85


@pytest.mark.parametrize(("modality", "augmentation"), [("image", "photo"), ("text", "none")])
def test_two_runs_are_identical_whatever_is_drawn_in_between(setting, modality, augmentation):
    first = setting(modality, dropout=0.3)
    losses = first.fit(augmentation=augmentation).losses

    def draw(step: Step) -> None:
        generator(0, "elsewhere")

    second = setting(modality, dropout=0.3)
    random.random(), np.random.rand(), torch.rand(7)
    assert second.fit(augmentation=augmentation, progress=draw).losses == losses
    assert same(first.trained(), second.trained())

    third = setting(modality, dropout=0.3)
    assert third.fit(plan(seed=1), augmentation=augmentation).losses != losses


def test_the_position_of_a_task_is_part_of_its_seeds(setting):
    runs = [setting(dropout=0.3), setting(dropout=0.3)]
    for index, run in enumerate(runs):
        run.fit(index=index)
    assert not same(runs[0].trained(), runs[1].trained())


def test_training_leaves_the_global_generators_alone(setting):
    run = setting(dropout=0.3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    run.fit(augmentation="photo")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_is_frozen_stays(setting):
    run = setting()
    before = run.trained()
    groups = [layer.group_A.clone() for layer in run.model.layers.values()]
    run.fit()
    after = run.trained()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    adapter = {name for name in before if ".lora_" in name}
    assert changed == adapter | {"importance", "group_importance", "rows.weight", "rows.bias"}
    assert all(torch.equal(a, layer.group_A) for a, layer in zip(groups, run.model.layers.values(), strict=True))


def test_the_importances_train_and_the_adapter_can_do_without(setting):
    run = setting()
    run.fit()
    alphas = [run.model.importance.item(), *run.model.group_importance.tolist()]
    # Adam moves a scalar by at most its learning rate a step; the third slot holds no group.
    assert all(1e-3 < abs(alpha - 1) <= 6 * SETTINGS.importance_lr for alpha in alphas[:3])
    assert alphas[3] == 1

    frozen = setting()
    frozen.fit(plan(importance_lr=0.0))
    assert [frozen.model.importance.item(), *frozen.model.group_importance.tolist()] == [1, 1, 1, 1]
    assert frozen.model.importance.requires_grad, "only the optimizer leaves it out"
    assert any(layer.task_B.any() for layer in frozen.model.layers.values())


def test_importances_do_not_decay(setting):
    run = setting()
    start = run.trained()
    run.fit(plan(weight_decay=20.0, lr=1e-2))
    assert min(run.model.importance, run.model.group_importance.min()) > 1 - 6 * SETTINGS.importance_lr
    for name in start:
        if ".lora_A." in name:
            assert run.trained()[name].norm() < 0.8 * start[name].norm()


@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_every_group_of_parameters_follows_the_schedule_from_its_own_rate(setting, warmup):
    run = setting()
    with watched() as steps:
        run.fit(plan(warmup=warmup, lr=1e-3, head_lr=2e-2, importance_lr=3e-2))
    assert len(steps) == 6
    for i, step in enumerate(steps):
        assert step.rates == pytest.approx([factor(i, 6, warmup) * rate for rate in (1e-3, 2e-2, 3e-2)])


def test_gradients_are_clipped_all_together(setting, monkeypatch):
    with watched() as free:
        monkeypatch.setattr(loop, "CLIP", 1e9)
        setting().fit()
    with watched() as clipped:
        monkeypatch.setattr(loop, "CLIP", 1e-2)
        setting().fit()
    assert min(step.norm for step in free) > 2e-2
    assert all(step.norm == pytest.approx(1e-2, rel=1e-3) for step in clipped)


@given(st.integers(1, 300), st.floats(0, 0.99))
def test_the_schedule_rises_to_one_and_falls_to_zero(steps, warmup):
    rates = [factor(s, steps, warmup) for s in range(steps + 1)]
    rising = max(1, round(warmup * steps)) if warmup > 0 else 0
    assert rates[:rising] == pytest.approx([(s + 1) / rising for s in range(rising)])
    assert all(a >= b for a, b in pairwise(rates[rising:]))
    assert max(rates) == pytest.approx(1)
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert rates[-1] == pytest.approx(0, abs=1e-12) or rising == steps


class Counted(Sequence[Any]):
    """Inputs that count how often each is read."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs, self.reads = inputs, Counter[int]()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: Any) -> Any:
        value = self.inputs[i]
        self.reads[i] += 1
        return value


@pytest.mark.parametrize(("modality", "reads"), [("image", 2), ("text", 1)])
def test_images_are_transformed_anew_and_texts_once(setting, modality, reads):
    run = setting(modality)
    counted = Counted(run.samples.inputs)
    run.samples = Samples(counted, run.samples.labels)
    run.fit()
    assert counted.reads == {i: reads for i in range(18)}


def test_progress_tells_every_step(setting):
    run, steps = setting(), []
    report = run.fit(progress=steps.append)
    assert [(s.task, s.epoch, s.epochs, s.step, s.steps) for s in steps] == [
        ("a", 1 + i // 3, 2, 1 + i, 6) for i in range(6)
    ]
    assert report.losses == pytest.approx([sum(s.loss for s in steps[i : i + 3]) / 3 for i in (0, 3)])
    assert all(s.samples_per_second > 0 for s in steps)


@pytest.mark.parametrize(("share", "taken"), [(1.0, 6), (0.8, 5), (0.5, 3), (0.3, 2), (0.01, 1)])
def test_a_share_of_the_steps(setting, share, taken):
    run, steps = setting(), []
    with watched() as seen:
        report = run.fit(plan(share=share), progress=steps.append)
    assert [step.rates[0] for step in seen] == pytest.approx(
        [factor(i, taken, SETTINGS.warmup) * SETTINGS.lr for i in range(taken)]
    )
    epochs = 1 + (taken > 3)
    assert [(s.epoch, s.epochs, s.step, s.steps) for s in steps] == [
        (1 + i // 3, epochs, 1 + i, taken) for i in range(taken)
    ]
    whole = [[s.loss for s in steps[i : i + 3]] for i in range(0, taken, 3)]
    assert report.losses == pytest.approx([sum(part) / len(part) for part in whole])


@pytest.mark.parametrize("text", [False, True])
def test_distillation_keeps_the_features_near(setting, text):
    drifts = []
    for weight in (0.0, 30.0):
        run = setting("text" if text else "image")
        with run.model.without_task():
            anchors = run.features()
        config = plan(epochs=4, lr=1e-2, importance_lr=0.0, hold=weight)
        run.fit(config, anchors=anchors if text else None)
        drifts.append(float((run.features() - anchors).square().sum(1).div(anchors.square().sum(1)).mean()))
    assert 0 < drifts[1] < 0.3 * drifts[0]


def test_given_anchors_replace_the_second_pass(setting):
    given, computed = setting("text"), setting("text")
    config = plan(importance_lr=0.0, hold=3.0, lr=1e-2)
    with given.model.without_task():
        anchors = given.features()
    assert given.fit(config, anchors=anchors).losses == pytest.approx(computed.fit(config).losses, rel=1e-4)
    shifted = setting("text")
    assert shifted.fit(config, anchors=anchors + 1).losses[0] > 1.1 * computed.fit(config).losses[0]


def test_the_loss_is_cross_entropy_plus_weighted_relative_distance(setting):
    first = []
    for weight in (0.0, 5.0):
        run, steps = setting(groups=0), []
        adapter = run.model.task_adapter("a")
        run.model.load_task({name: Factors(f.A, f.B + 0.1) for name, f in adapter.layers.items()})
        with torch.no_grad():
            features = run.features()
            with run.model.without_task():
                anchors = run.features()
            entropy = torch.nn.functional.cross_entropy(run.rows(features), torch.tensor(run.samples.labels)).item()
        distance = ((features - anchors).norm(dim=1) / anchors.norm(dim=1)).square().mean().item()
        run.fit(plan(batch_size=18, epochs=1, hold=weight), progress=steps.append)
        assert distance > 1e-3
        assert steps[0].loss == pytest.approx(entropy + weight * distance, rel=1e-4)
        first.append(steps[0].loss)
    assert first[1] > first[0]


def test_a_loss_that_is_not_finite_names_the_task_and_the_batch(setting):
    run = setting()
    with pytest.raises(TrainingError, match=r"task 'a' is (nan|inf) at batch 2 of epoch 1; lower lr \(now 1e\+30\)"):
        run.fit(plan(lr=1e30, warmup=0.0))
    assert not run.model.training


def test_the_last_step_is_checked_too(setting):
    run = setting()
    with pytest.raises(TrainingError, match=r"task 'a' .*not finite.* after its last batch; lower lr \(now 1e\+30\)"):
        run.fit(plan(lr=1e30, warmup=0.0, epochs=1, batch_size=18))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_features_come_in_the_order_of_the_samples(setting, modality, batch_size):
    run = setting(modality)
    preprocess = run.model.backbone.preprocess
    transform = preprocess.transform(train=False, augmentation="none")
    with torch.no_grad():
        alone = torch.cat([run.model(preprocess.collate([transform(x)])) for x in run.samples.inputs])
    features = run.features(Machine("cpu", "fp32", batch_size))
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features, alone, rtol=1e-4, atol=1e-5)
    assert torch.pdist(alone).min() > 1e-2, "the samples must be told apart for their order to show"


def test_augmented_views_depend_on_the_scope(setting):
    run = setting()
    clean = run.features(augmentation="photo")
    with scoped(0, "view", 1):
        view = run.features(train=True, augmentation="photo")
    torch.rand(5)
    with scoped(0, "view", 1):
        assert torch.equal(run.features(train=True, augmentation="photo"), view)
    with scoped(0, "view", 2):
        assert not torch.allclose(run.features(train=True, augmentation="photo"), view)
    assert not torch.allclose(clean, view)
    assert torch.equal(clean, run.features(augmentation="photo"))


def test_there_must_be_samples_to_compute_features_of(setting):
    run = setting()
    run.samples = Samples()
    with pytest.raises(TrainingError, match="no samples"):
        run.features()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_half_precision_trains_float32_weights(setting, modality):
    run, full = setting(modality), setting(modality)
    half = Machine("cpu", "bf16")
    assert run.fit(plan(machine=half)).losses == pytest.approx(full.fit().losses, rel=0.1)
    assert {value.dtype for name, value in run.trained().items() if value.is_floating_point()} == {torch.float32}
    assert run.features(half).dtype == torch.float32
    assert not torch.equal(run.features(half), run.features())
