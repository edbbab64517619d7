"""HAM on streams of images and texts: decisions, constant size, errors, states and exports."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hamcl.bench.state import load_state, save_state
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.ham import final
from hamcl.heads.calibration import TEMPERATURES
from hamcl.machine import Machine
from hamcl.methods.ham import HAM, HAMReport
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.streams.base import Samples, Task
from hamcl.streams.lazy import Lazy
from hamcl.training.features import extract
from hamcl.training.lesson import Step

SMALL = {
    "epochs": 1,
    "batch_size": 4,
    "rank": 2,
    "lora_alpha": 3.0,
    "lr": 5e-3,
    "projection": 40,
    "merge_rank": 3,
}
FULL = Machine("cpu", "fp32")
NAMES = ("red", "green", "blue", "cyan", "pink", "grey", "gold", "teal", "plum", "rose", "sand", "jade")
Build = Callable[..., HAM]


@pytest.fixture
def build(toy, bert_folder) -> Build:
    """A function from a modality and options to a learner that has learned nothing."""

    def make(modality: str = "image", preset: str = "default", machine: Machine = FULL, **options: Any) -> HAM:
        small = SMALL if preset == "default" else {"epochs": SMALL["epochs"]}
        config = HAM.configured(options, small, preset=preset)
        if modality == "image":
            return HAM(toy.vit(), config, machine)
        return HAM(load_backbone(str(bert_folder), depths=config.depths_to_read), config, machine)

    return make


@pytest.fixture
def tasks(toy) -> Callable[..., list[Task]]:
    """A function that makes tasks of two classes each; beyond six, the classes return."""

    def make(count: int, modality: str = "image", each: int = 4, **options: Any) -> list[Task]:
        pairs = [[NAMES[2 * i % 12], NAMES[(2 * i + 1) % 12]] for i in range(count)]
        return [toy.task(f"t{i}", pair, each, modality, **options) for i, pair in enumerate(pairs)]

    return make


def features(learner: HAM, samples: Samples, backbone: Backbone | None = None) -> Tensor:
    model = backbone or learner.model
    return extract(model, samples, learner.backbone.preprocess, learner.machine, learner.device)


def accuracy(learner: HAM, tasks: Sequence[Task]) -> float:
    return sum(learner.evaluate(task) for task in tasks) / len(tasks)


def test_the_report_of_every_task(build, tasks):
    learner = build(density=0.5, max_groups=2, later_tasks="free")
    reports = [learner.learn(task) for task in tasks(4)]
    for i, report in enumerate(reports):
        assert isinstance(report, HAMReport)
        assert (report.task, report.classes) == (f"t{i}", list(NAMES[2 * i : 2 * i + 2]))
        assert len(report.losses) == 1 and report.losses[0] > 0
        assert report.samples_per_second > 0 and report.skipped == []
        assert report.phases.keys() == {"reading", "features before", "training", "merging", "head"}
        assert 0 < sum(report.phases.values()) <= report.seconds
        assert len(report.similarities) == len(report.scores) == len(report.group_importances) == min(i, 2)
        assert all(-1 <= s <= 1 and s != 0 for s in report.similarities)
        assert report.opened == (i < 2)
        assert 0 < report.prune_error < 1
        assert abs(report.importance - 1) > 1e-4
        assert all(abs(alpha - 1) > 1e-4 for alpha in report.group_importances[-1:])
        json.dumps(asdict(report), allow_nan=False)
    assert [report.group for report in reports[:2]] == [0, 1]
    assert reports[1].scores == [None] and all(isinstance(score, float) for score in reports[3].scores)
    for report in reports[2:]:
        assert report.group == max((0, 1), key=report.similarities.__getitem__)
        assert 0 < report.merge_error < 1
    assert [len(group.tasks) for group in learner.groups.groups] == [
        sum(report.group == j for report in reports) for j in (0, 1)
    ]


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"threshold": 1e9}, [0, 1, 2]),
        ({"threshold": 1e9, "max_groups": None}, [0, 1, 2]),
        ({"threshold": 1e9, "max_groups": 1}, [0, 0, 0]),
    ],
)
def test_the_threshold_and_the_limit_decide_the_groups(build, tasks, options, groups):
    learner = build(**options)
    assert [learner.learn(task).group for task in tasks(3)] == groups
    assert len(learner.groups.groups) == len(set(groups))


def test_an_adapter_is_scaled_by_its_importance_and_joins_its_group_as_trained(build, tasks, monkeypatch):
    learner = build(merge="concat", merge_rank=None, max_groups=1, distill=0.0)
    first, second = tasks(2)
    trained = []
    original = learner.model.task_adapter
    monkeypatch.setattr(learner.model, "task_adapter", lambda name: trained.append(original(name)) or trained[-1])
    learner.learn(first)
    report = learner.learn(second)
    assert report.group_importances[0] != 1
    assert (learner.groups.groups[0].importance, learner.groups.groups[0].tasks) == (1.0, ["t0", "t1"])
    assert learner.model.group_importance.item() == 1.0
    one, two = trained
    for name, merged in final(learner.groups.groups).items():
        expected = report.group_importances[0] * one.importance * one.layers[name].delta()
        torch.testing.assert_close(merged.delta(), expected + two.importance * two.layers[name].delta())


def test_the_model_shows_the_groups_and_nothing_else(build, tasks):
    learner = build(max_groups=2, threshold=1e9)
    for task in tasks(3):
        learner.learn(task)
        assert not any(p.requires_grad for p in learner.model.parameters())
        assert not learner.model.training
        shown = learner.model.group_importance[: len(learner.groups.groups)].tolist()
        assert shown == pytest.approx([group.importance for group in learner.groups.groups])
    samples = tasks(1)[0].test
    with learner.model.without_task():
        assert torch.equal(features(learner, samples), features(learner, samples))
    joined = learner.groups.history[-1].index
    assert learner.groups.groups[joined].importance == 1
    assert learner.groups.groups[1 - joined].importance != 1


@pytest.mark.parametrize("head", ["ridge", "lda", "linear"])
def test_the_size_does_not_depend_on_the_number_of_tasks(build, tasks, head):
    learner, shapes = build(head=head, max_groups=2, threshold=1e9, density=0.5), {}
    for i, task in enumerate(tasks(10, each=2), 1):
        learner.learn(task)
        tensors = {k: v for k, v in learner.state_dict().items() if isinstance(v, Tensor)}
        shapes[i] = {name: value.shape for name, value in tensors.items()}, learner.parameter_counts()
    assert shapes[6] == shapes[10]
    assert learner.classes == NAMES
    calibration = 2 * len(TEMPERATURES) + 2
    statistics = {
        "lda": 32 * 32 + 12 * 33 + calibration,
        "ridge": 32 * 40 + 40 * 40 + 40 * 12 + 1 + 4 + calibration,
        "linear": 1,
    }
    groups = sum(2 * 3 * sum(layer.shape) for layer in learner.model.layers.values())
    assert shapes[10][1]["stored"] == 12 * 33 + groups + statistics[head]


def test_a_returning_class_is_updated_in_its_own_columns(build, toy):
    learner = build(head="lda")
    learner.learn(toy.task("a", ["red", "green"], 4))
    learner.learn(toy.task("b", ["blue", "cyan"], 4))
    rows, counts = learner.objective.rows.weight.clone(), learner.objective.head.state_dict()["counts"].tolist()
    report = learner.learn(toy.task("c", ["green", "pink", "red"], [5, 4, 3]))
    assert report.classes == ["green", "pink", "red"]
    assert learner.classes == ("red", "green", "blue", "cyan", "pink")
    assert learner.tasks == [[0, 1], [2, 3], [1, 4, 0]]
    assert counts == [4] * 4
    assert learner.objective.head.state_dict()["counts"].tolist() == [7, 9, 4, 4, 4]
    changed = (learner.objective.rows.weight[:4] != rows).any(1).tolist()
    assert changed == [True, True, False, False]
    assert learner.logits(toy.task("d", ["red"], 1).test).shape == (6, 5)


def test_the_statistics_are_those_of_the_final_features_of_the_task(build, toy):
    learner = build(head="lda")
    learner.learn(toy.task("a", ["red", "green"], 4))
    task = toy.task("b", ["blue", "cyan"], [5, 3])
    learner.learn(task)
    x, y = features(learner, task.train), torch.tensor(task.train.labels)
    means = torch.stack([x[y == c].double().mean(0) for c in (0, 1)])
    torch.testing.assert_close(learner.objective.head.state_dict()["means"][2:], means, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("modality", "steps"), [("text", 3), ("image", 2)])  # of three epochs of three steps a fifth
def test_shortened_training_sees_every_text_at_least_once(build, tasks, modality, steps):
    learner = build(modality, epochs=3, batch_size=4)
    for task in tasks(4, modality):
        learner.learn(task)
    taken: list[Step] = []
    (*_, last) = tasks(5, modality, each=6)
    learner.learn(last, taken.append)
    assert [step.step for step in taken] == list(range(1, steps + 1))
    assert {step.epochs for step in taken} == {1}


@pytest.mark.parametrize(
    ("modality", "head", "fewer"),
    [("image", "auto", True), ("text", "auto", True), ("image", "linear", False)],  # rows that answer need all epochs
)
def test_later_tasks_are_held_the_more_the_more_there_were_before(build, tasks, modality, head, fewer):
    """Twice the classes: half the rates and the epochs, and the distillation counts for as many as were before."""
    first, second, again = tasks(7, modality)[:3]
    rates = {"lr": 0.004, "importance_lr": 0.05}
    held = build(modality, head=head, distill=5.0, epochs=6, **rates)
    free = build(modality, head=head, later_tasks="free")
    for task, parts in ((first, 1), (second, 2), (again, 3)):
        epochs = 6 // parts if fewer else 6
        settled = {name: rate / parts for name, rate in rates.items()}
        free.settings = replace(free.settings, epochs=epochs, distill=5.0 * (parts - 1), **settled)
        one, other = held.learn(task), free.learn(task)
        assert (one.losses, one.importance) == (other.losses, other.importance)
        assert len(one.losses) == epochs
    stored = held.state_dict(), free.state_dict()
    tensors = [{name: value for name, value in state.items() if name != "meta"} for state in stored]
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    free.settings = replace(free.settings, epochs=6, distill=5.0, **rates)
    assert held.learn(first).losses != free.learn(first).losses


def test_a_task_decodes_every_image_once(build, tasks):
    (task,) = tasks(1, each=4, augmentation="photo")
    decoded = []

    def decode(image: object, where: str) -> object:
        decoded.append(where)
        return image

    lazy = Lazy(task.train.inputs, decode, "sample {}".format)
    seen, plain = build(epochs=2, views=3), build(epochs=2, views=3)
    report = seen.learn(replace(task, train=replace(task.train, inputs=lazy)))
    assert sorted(decoded) == [f"sample {i}" for i in range(8)]
    assert report.losses == plain.learn(task).losses
    assert torch.equal(seen.logits(task.test), plain.logits(task.test))


@pytest.mark.parametrize("views", [1, 3])
def test_views_count_every_sample_that_often(build, tasks, views):
    first, second = tasks(2, each=4, augmentation="photo")
    learner, again = build(head="lda", views=views), build(head="lda", views=views)
    for one in (learner, again):
        one.learn(first)
        one.learn(second)
    assert learner.objective.head.state_dict()["counts"].tolist() == [4 * views] * 4
    assert torch.equal(learner.objective.head.state_dict()["scatter"], again.objective.head.state_dict()["scatter"])
    assert accuracy(learner, [first, second]) > 1.3 / 4


def test_drift_is_seen_on_the_clean_samples_alone(build, tasks, monkeypatch):
    first, second = tasks(2, each=4, augmentation="photo")
    learner = build(head="lda", views=3, drift="noise", distill=0.0)
    learner.learn(first)
    before, seen = features(learner, second.train), []
    blur = type(learner.objective.head).blur
    monkeypatch.setattr(
        type(learner.objective.head), "blur", lambda head, *moved: (seen.append(moved), blur(head, *moved))
    )
    learner.learn(second)
    ((old, new),) = seen
    torch.testing.assert_close(old, before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new, features(learner, second.train), rtol=1e-5, atol=1e-5)


def test_tasks_of_any_size_are_learned(build, toy):
    learner = build(views=2)
    sizes = [["red", "green"], ["blue"], ["cyan", "pink", "grey", "gold"], ["teal"], ["plum", "rose"]]
    counts: list[int | list[int]] = [5, 3, [1, 2, 3, 9], 1, 1]
    stream = [toy.task(f"t{i}", names, n) for i, (names, n) in enumerate(zip(sizes, counts, strict=True))]
    for task in stream:
        report = learner.learn(task)
        assert all(math.isfinite(value) for value in [*report.similarities, *report.losses, report.importance])
        assert torch.isfinite(learner.logits(task.test)).all()
    assert learner.classes == tuple(name for names in sizes for name in names)
    assert accuracy(learner, stream) > 2 / 10


def test_one_image_is_a_task(build, toy):
    for head in ("lda", "ncm", "ridge", "linear", "cosine"):
        learner = build(head=head)
        task = toy.task("single", ["red"], 1)
        learner.learn(task)
        assert learner.evaluate(task) == 1.0
        assert torch.isfinite(learner.logits(task.test)).all()


class Damaged(Sequence[Any]):
    """Inputs some of which cannot be read."""

    def __init__(self, inputs: Sequence[Any], bad: set[int]) -> None:
        self.inputs, self.bad = inputs, bad

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: Any) -> Any:
        if i in self.bad:
            raise DataError(f"image {i} of the toy is damaged")
        return self.inputs[i]


def damaged(task: Task, *bad: int) -> Task:
    return replace(task, train=Samples(Damaged(task.train.inputs, set(bad)), task.train.labels))


def test_an_unreadable_sample_is_an_error(build, toy, tasks):
    learner = build()
    first, second = tasks(2)
    learner.learn(first)
    before = learner.state_dict()
    with pytest.raises(DataError, match="image 5 of the toy is damaged"):
        learner.learn(damaged(second, 5))
    assert toy.same(learner.state_dict(), before)


def test_unreadable_samples_can_be_skipped(build, toy, tasks):
    learner, clean = build(machine=replace(FULL, on_bad_sample="skip")), build()
    first, second = tasks(2)
    learner.learn(first)
    clean.learn(first)
    report = learner.learn(damaged(second, 0, 5))
    assert report.skipped == ["image 0 of the toy is damaged", "image 5 of the toy is damaged"]
    clean.learn(replace(second, train=second.train.select([1, 2, 3, 4, 6, 7])))
    assert toy.same(learner.state_dict(), clean.state_dict())
    with pytest.raises(DataError, match=r"no sample of class blue is usable.*image 0 of the toy is damaged"):
        learner.learn(damaged(second, 0, 1, 2, 3))
    assert toy.same(learner.state_dict(), clean.state_dict())


def test_an_unreadable_test_sample_is_named(build, tasks):
    learner, task = build(), tasks(1)[0]
    learner.learn(task)
    bad = Samples(Damaged(task.test.inputs, {3}), task.test.labels)
    with pytest.raises(DataError, match="image 3 of the toy is damaged"):
        learner.evaluate(replace(task, test=bad))
    with pytest.raises(DataError, match="the input is the text 'red'"):
        learner.predict(["red"])


def test_training_that_fails_late_leaves_no_trace(build, toy, tasks):
    """In the merge, after every parameter has changed."""
    learner = build(max_groups=1)
    first, second = tasks(2)
    learner.learn(first)
    before, logits = learner.state_dict(), learner.logits(first.test)
    learner.settings = replace(learner.settings, lr=1e30)
    with pytest.raises(TrainingError, match=r"task 't1'.*lower lr"):
        learner.learn(second)
    assert toy.same(learner.state_dict(), before)
    assert torch.equal(learner.logits(first.test), logits)


@pytest.mark.parametrize(
    "options",
    [
        {"merge": "svd", "head": "lda"},
        {"merge": "dare", "density": 0.5, "max_groups": None},
        {"merge": "ties", "density": 0.5, "head": "lda", "importance_lr": 0.0},
        {"head": "cosine", "dropout": 0.3},
        {"views": 2, "merge": "concat"},
    ],
)
def test_a_saved_learner_goes_on_as_if_never_stopped(build, toy, tasks, tmp_path, options):
    stream = tasks(4, augmentation="photo")
    whole = build(**options)
    for i, task in enumerate(stream):
        whole.learn(task)
        if i == 1:
            save_state(tmp_path, 2, whole.state_dict())
    torch.rand(11)
    resumed = build(**options)
    resumed.load_state_dict(load_state(tmp_path, 2))
    reports = [resumed.learn(task) for task in stream[2:]]
    assert toy.same(resumed.state_dict(), whole.state_dict())
    assert resumed.groups.history == whole.groups.history
    assert [report.group for report in reports] == [a.index for a in whole.groups.history[2:]]
    for task in stream:
        assert torch.equal(resumed.logits(task.test), whole.logits(task.test))


def test_the_state_of_texts_goes_on_too(build, toy, tasks, tmp_path):
    stream = tasks(3, "text")
    whole, resumed = build("text"), build("text")
    whole.learn(stream[0])
    save_state(tmp_path, 1, whole.state_dict())
    resumed.load_state_dict(load_state(tmp_path, 1))
    for learner in (whole, resumed):
        for task in stream[1:]:
            learner.learn(task)
    assert toy.same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_merged_model_is_a_plain_one_with_the_same_features(build, toy, tasks, modality):
    learner = build(modality, max_groups=2, threshold=1e9, lr=2e-2)
    stream = tasks(4, modality)
    for task in stream[:3]:
        learner.learn(task)
    before, samples = learner.state_dict(), stream[0].test
    merged = learner.merged()
    assert type(merged) is Backbone
    assert [name for name, _ in merged.named_parameters() if "lora" in name] == []
    expected = features(learner, samples)
    with learner.model.frozen():
        bare = features(learner, samples)
    scale = expected.abs().max().item()
    torch.testing.assert_close(features(learner, samples, merged), expected, rtol=1e-5, atol=1e-5 * scale)
    assert (expected - bare).abs().max() > 1e-3 * scale
    assert toy.same(learner.state_dict(), before)
    learner.learn(stream[3])
    torch.testing.assert_close(features(learner, samples, merged), expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_learning_goes_on_from_the_merged_model(build, toy, tasks, modality):
    learner = build(modality, max_groups=2, threshold=1e9, lr=2e-2)
    stream = tasks(4, modality)
    for task in stream[:2]:
        learner.learn(task)
    before, samples = learner.state_dict(), stream[0].test
    other = learner.rebased()
    assert other.groups.groups == [] and other.classes == learner.classes and other.tasks == learner.tasks
    expected = learner.logits(samples)
    torch.testing.assert_close(other.logits(samples), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    report = other.learn(stream[2])
    assert report.opened and report.similarities == []
    assert other.classes[:4] == learner.classes and len(other.classes) == 6
    # The merged weights are the new learner's base: without its own adapters it is where the old one stood.
    with other.model.frozen():
        base = features(other, samples)
    old = features(learner, samples)
    torch.testing.assert_close(base, old, rtol=1e-4, atol=1e-4 * old.abs().max().item())
    assert toy.same(learner.state_dict(), before)


def test_a_rebased_state_belongs_to_the_merged_backbone(build, tasks):
    learner = build(lr=2e-2)
    first, second = tasks(2)
    learner.learn(first)
    one, two = learner.rebased(), HAM(learner.merged(), learner.config, FULL)
    one.learn(second)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.logits(first.test), two.logits(first.test))
    assert two.backbone.fingerprint == one.backbone.fingerprint != learner.backbone.fingerprint


def test_nothing_can_be_merged_before_something_is_learned(build, tmp_path):
    learner = build()
    for ask in (learner.merged, learner.rebased, lambda: learner.export(tmp_path / "out")):
        with pytest.raises(UsageError, match=r"nothing was learned yet: call learn\(task\) first"):
            ask()
    assert not (tmp_path / "out").exists()


VARIANTS: list[dict[str, Any]] = [
    {"threshold": 0.0},
    {"merge": "concat"},
    {"merge": "svd", "density": 0.5},
    {"merge": "mean", "density": 0.5, "prune_on": "delta"},
    {"merge": "ties", "density": 0.5},
    {"merge": "dare", "density": 0.5},
    {"merge": "svd", "density": 0.5, "prune_on": "delta"},
    {"head": "linear"},
    {"head": "cosine"},
    {"head": "ncm"},
    {"head": "lda"},
    {"projection": 0},
    {"head": "lda", "shrinkage": 1.0, "drift": "none"},
    {"max_groups": None, "merge_rank": None},
    {"machine": Machine("cpu", "bf16")},
    {"targets": "fc1", "distill": 0.0, "warmup": 0.0},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(str(value) for value in o.values()))
def test_every_choice_learns(build, tasks, options):
    # Heads whose rows are trained task by task are not calibrated against each other; they need the training.
    trained = options.get("head") in ("linear", "cosine")
    learner = build(**({"head_lr": 0.05, "epochs": 5} if trained else {}), **{"max_groups": 2, **options})
    stream = tasks(3)
    for task in stream:
        report = learner.learn(task)
        assert all(math.isfinite(value) for value in [*report.losses, *report.similarities, report.merge_error])
    for i, task in enumerate(stream):
        logits = learner.logits(task.test)
        assert logits.shape == (12, 6)
        assert torch.isfinite(logits).all()
        told = logits[:, learner.tasks[i]].argmax(1) == torch.tensor(task.test.labels)
        assert told.float().mean() > 0.6
    assert accuracy(learner, stream) > (1.5 / 6 if trained else 3 / 6)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_papers_settings_run(build, tasks, modality):
    learner = build(modality, preset="paper")
    assert (learner.config.head, learner.config.merge, learner.config.dropout) == ("linear", "concat", 0.1)
    stream = tasks(3, modality)
    for task in stream:
        report = learner.learn(task)
    assert report.prune_error > 0
    assert learner.objective.head.trained
    assert "head.means" not in learner.state_dict()
    assert all(torch.isfinite(learner.logits(task.test)).all() for task in stream)
