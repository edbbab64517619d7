"""What every method promises: see `hamcl.learning.learner.Learner`."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import hamcl.learning.learner
from hamcl.bench.state import load_state, save_state
from hamcl.config import BARE, HAMConfig
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.learning.learner import Learner
from hamcl.machine import Machine
from hamcl.methods.registry import METHODS, load_method
from hamcl.nn.backbones import load_backbone
from hamcl.rng import generator
from hamcl.streams.base import Samples, Stream, Task
from hamcl.training.features import extract
from hamcl.training.lesson import Step
from hamcl.training.loop import train

SMALL = {
    "epochs": 1,
    "batch_size": 4,
    "rank": 2,
    "lora_alpha": 3.0,  # a scale of 1.5, whose rounding would show
    "dropout": 0.2,
    "projection": 40,
    "merge_rank": 3,
}
STEPWISE = [name for name in METHODS if load_method(name).evaluates_every_step]
FULL = Machine("cpu", "fp32")
OWN: dict[str, dict[str, Any]] = {"slca": {"align_samples": 64}}
GROWING = {"lora-per-task", "sd-lora", "inflora", "ease"}
Build = Callable[..., Learner]


def pairs(names: list[str], heads: list[str]) -> list[tuple[str, str]]:
    """Each method with each of the heads it takes, or with its own where it takes none of them."""
    taken = {name: [head for head in heads if head in load_method(name).heads] for name in names}
    return [(name, head) for name in names for head in taken[name] or [load_method(name).defaults["head"]]]


@pytest.fixture
def build(toy, bert_folder) -> Build:
    """A function from a method's name, a modality and options to a method that has learned nothing.

    A head that the method does not take is left out.
    """

    def make(name: str, modality: str = "image", machine: Machine = FULL, **options: Any) -> Learner:
        kind = load_method(name)
        if options.get("head") not in kind.heads:
            options.pop("head", None)
        head = {"head": options.pop("head")} if "head" in options else {}
        config = kind.configured({**OWN.get(name, {}), **head}, {**SMALL, **options})
        if modality == "image":
            return kind(toy.vit(), config, machine)
        return kind(load_backbone(str(bert_folder), depths=config.depths_to_read), config, machine)

    return make


@pytest.fixture
def stream(toy) -> Stream:
    """Three tasks; a class returns in the last."""
    parts = (("first", ["red", "green"]), ("second", ["blue", "cyan", "pink"]), ("third", ["red", "grey"]))
    return Stream("toy", tuple(toy.task(*part, 4, augmentation="photo") for part in parts))


def learn(method: Learner, *tasks: Task) -> Learner:
    for task in tasks:
        method.learn(task)
    method.finish()
    return method


def fresh(samples: Samples, order: list[int] | None = None) -> Samples:
    """The same samples as another object, so that nothing remembered of the first one serves."""
    return samples.select(order or list(range(len(samples))))


def everything(stream: Stream) -> Samples:
    """All test samples."""
    return Samples([x for task in stream for x in task.test.inputs], [0] * sum(len(task.test) for task in stream))


def interrupted(step: Step) -> None:
    if step.step == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
def test_a_method_beats_chance_and_names_its_classes(build, stream, name):
    method = learn(build(name, head="lda", epochs=3, dropout=0.0), *stream)
    assert method.classes == stream.classes == ("red", "green", "blue", "cyan", "pink", "grey")
    assert method.tasks == [[0, 1], [2, 3, 4], [0, 5]]
    assert method.task_names == ["first", "second", "third"]
    accuracies = [method.evaluate(task) for task in stream]
    assert np.mean(accuracies) > 2 / 6
    logits = method.logits(stream[1].test)
    assert logits.shape == (18, 6)
    assert logits.dtype == torch.float32
    truth = [method.classes.index(stream[1].classes[y]) for y in stream[1].test.labels]
    assert accuracies[1] == np.mean(logits.argmax(1).numpy() == truth)


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_changes_nothing(build, toy, stream, name):
    method = learn(build(name), *stream[:2])
    before, samples = method.state_dict(), stream[1].test
    assert all(isinstance(value, torch.Tensor) for key, value in before.items() if key != "meta")
    assert before["meta"]["classes"] == list(stream[0].classes + stream[1].classes)
    logits = method.logits(samples)
    accuracy, prediction = method.evaluate(stream[1]), method.predict(samples.inputs, k=2)
    torch.rand(3)
    assert torch.equal(method.logits(fresh(samples)), logits)
    assert torch.equal(method.logits(samples), logits)
    assert method.evaluate(stream[1]) == accuracy
    assert method.predict(samples.inputs, k=2).labels == prediction.labels
    assert toy.same(method.state_dict(), before)


@pytest.mark.parametrize("name", METHODS)
def test_logits_do_not_depend_on_the_order_or_number_of_samples(build, stream, name):
    method = learn(build(name), *stream[:2])
    samples = everything(stream)
    logits = method.logits(samples)
    order = torch.randperm(len(samples), generator=generator(0, "order")).tolist()
    torch.testing.assert_close(method.logits(fresh(samples, order)), logits[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(method.logits(samples.select([7])), logits[[7]], rtol=1e-4, atol=1e-4)
    for batch_size in (1, 5):
        method.machine = replace(method.machine, eval_batch_size=batch_size)
        torch.testing.assert_close(method.logits(fresh(samples)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_the_best_classes_with_their_probabilities(build, stream, name):
    method = learn(build(name), *stream)
    samples = stream[0].test
    expected = method.logits(samples).softmax(1).sort(descending=True, stable=True)
    prediction = method.predict(list(samples.inputs), k=3)
    assert prediction.labels == [[method.classes[c] for c in row] for row in expected.indices[:, :3].tolist()]
    torch.testing.assert_close(prediction.probabilities, expected.values[:, :3])
    assert method.predict(samples.inputs, k=99).probabilities.sum(1).tolist() == pytest.approx([1] * len(samples))
    nothing = method.predict([], k=3)
    assert nothing.labels == [] and nothing.probabilities.shape == (0, 3)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_can_be_asked_before_something_is_learned(build, stream, name):
    method = build(name)
    with pytest.raises(UsageError, match="nothing was learned yet"):
        method.predict(stream[0].test.inputs)
    with pytest.raises(DataError, match="task 'first' holds classes that were not learned: red, green"):
        method.evaluate(stream[0])
    assert method.logits(stream[0].test).shape == (12, 0)


@pytest.mark.parametrize("name", METHODS)
def test_two_methods_learn_the_same(build, toy, stream, name):
    first = learn(build(name), *stream[:2])
    torch.manual_seed(99)
    torch.rand(7)
    second = learn(build(name), *stream[:2])
    assert toy.same(first.state_dict(), second.state_dict())
    assert torch.equal(first.logits(everything(stream)), second.logits(everything(stream)))
    assert not toy.same(first.state_dict(), learn(build(name, seed=1), *stream[:2]).state_dict())


@pytest.mark.parametrize(
    ("name", "head"), [*pairs(STEPWISE, ["ridge"]), ("ham", "linear"), ("ham", "lda"), ("seq-lora", "linear")]
)
def test_a_loaded_method_goes_on_as_if_never_stopped(build, toy, stream, tmp_path, name, head):
    whole, samples = build(name, head=head), everything(stream)
    for step, task in enumerate(stream):
        whole.learn(task)
        save_state(tmp_path, step + 1, whole.state_dict())
        resumed = build(name, head=head)
        resumed.load_state_dict(load_state(tmp_path, step + 1))
        assert toy.same(resumed.state_dict(), whole.state_dict())
        assert torch.equal(resumed.logits(fresh(samples)), whole.logits(fresh(samples)))
        for rest in stream[step + 1 :]:
            resumed.learn(rest)
        save_state(tmp_path, 10 + step, resumed.state_dict())
    for step in range(2):
        assert toy.same(load_state(tmp_path, 10 + step), whole.state_dict())


@pytest.mark.parametrize("name", sorted(METHODS.keys() - set(STEPWISE)))
def test_a_method_that_learns_at_the_end_is_loaded_after_it(build, toy, stream, tmp_path, name):
    method = learn(build(name), *stream)
    save_state(tmp_path, 3, method.state_dict())
    loaded = build(name)
    loaded.load_state_dict(load_state(tmp_path, 3))
    assert toy.same(loaded.state_dict(), method.state_dict())
    assert torch.equal(loaded.logits(everything(stream)), method.logits(everything(stream)))


@pytest.mark.parametrize("name", STEPWISE)
def test_a_state_is_a_snapshot(build, toy, stream, name):
    method = build(name, head="lda")
    method.learn(stream[0])
    state, samples = method.state_dict(), everything(stream)
    logits = method.logits(fresh(samples))
    kept = {key: value.clone() if isinstance(value, torch.Tensor) else repr(value) for key, value in state.items()}
    method.learn(stream[1])
    assert not toy.same(method.state_dict(), state)
    method.load_state_dict(state)
    assert method.classes == stream[0].classes
    assert torch.equal(method.logits(fresh(samples)), logits)
    method.learn(stream[1])
    assert toy.same(kept, {k: v if isinstance(v, torch.Tensor) else repr(v) for k, v in state.items()})


def wrecked(toy: Any, stream: Stream, method: Learner, error: type, fail: Callable[[], object]) -> None:
    """`fail` raises `error` and leaves no trace in a method that has learned the first task."""
    before, samples = method.state_dict(), everything(stream)
    logits = method.logits(fresh(samples))
    with pytest.raises(error):
        fail()
    assert toy.same(method.state_dict(), before)
    assert torch.equal(method.logits(fresh(samples)), logits)
    assert (method.classes, method.task_names) == (stream[0].classes, ["first"])


@pytest.mark.parametrize(("name", "head"), [*pairs(STEPWISE, ["ridge"]), ("ham", "linear"), ("ranpac", "linear")])
def test_an_interrupted_task_leaves_no_trace(build, toy, stream, monkeypatch, name, head):
    options = {"head": head, "max_groups": None}
    method, twin = build(name, **options), build(name, **options)
    for one in (method, twin):
        one.learn(stream[0])
    if name not in ("frozen", "ranpac") or head == "linear":
        wrecked(toy, stream, method, KeyboardInterrupt, lambda: method.learn(stream[1], interrupted))
        good = method.settings
        method.settings = replace(good, lr=1e30, head_lr=1e30)
        wrecked(toy, stream, method, TrainingError, lambda: method.learn(stream[1]))
        method.settings = good

    with monkeypatch.context() as patch:
        # The last thing a task does, when everything else has changed already.
        patch.setattr(
            type(method.objective.head),
            "store" if method.objective.head is method.objective.rows else "update",
            fail_late,
        )
        wrecked(toy, stream, method, MemoryError, lambda: method.learn(stream[1]))
    for one in (method, twin):
        one.learn(stream[1])
    assert toy.same(method.state_dict(), twin.state_dict())


def fail_late(*_: object) -> None:
    raise MemoryError


def test_an_interrupted_finish_can_be_repeated(build, toy, stream):
    method, twin = build("joint"), build("joint")
    for task in stream[:2]:
        method.learn(task)
    with pytest.raises(KeyboardInterrupt):
        method.finish(interrupted)
    assert method.classes == ()
    method.finish()
    assert toy.same(method.state_dict(), learn(twin, *stream[:2]).state_dict())


@pytest.mark.parametrize("name", STEPWISE)
def test_finishing_a_method_that_is_ready_changes_nothing(build, toy, stream, name):
    method = build(name)
    method.finish()
    method.learn(stream[0])
    before = method.state_dict()
    method.finish()
    assert toy.same(method.state_dict(), before)


def test_joint_training_waits_for_the_last_task(build, stream):
    method = build("joint", epochs=6, batch_size=7, lr=5e-3, dropout=0.0)
    with pytest.raises(UsageError, match=r"nothing to finish.*learn\(task\)"):
        method.finish()
    steps: list[Step] = []
    for task in stream:
        report = method.learn(task, steps.append)
        assert (report.task, report.losses) == (task.name, [])
        assert method.classes == ()
    assert steps == []
    method.finish(steps.append)
    assert steps[-1].step == 6 * 4, "28 samples in batches of 7, six times"
    assert method.classes == stream.classes
    assert np.mean([method.evaluate(task) for task in stream]) > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_counted(build, stream, name):
    method = learn(build(name), *stream)
    counts = method.parameter_counts()
    tensors = [value for value in method.state_dict().values() if isinstance(value, torch.Tensor)]
    assert counts.keys() == {"trainable", "stored"}
    assert counts["stored"] == sum(value.numel() for value in tensors) > 0
    if name in ("frozen", "ranpac"):
        assert counts["trainable"] == 0, "with an analytic head, where nothing is adapted"
        assert learn(build(name, head="linear"), *stream[:2]).parameter_counts()["trainable"] == 33 * 3
        return
    layers = method.model.layers.values()
    adapter = sum(2 * layer.shape[0] if name == "inflora" else 2 * sum(layer.shape) for layer in layers)
    groups = {"ham": lambda: len(method.groups.groups), "sd-lora": lambda: 3, "inflora": lambda: 1}
    columns = 6 if name == "joint" else 2
    assert counts["trainable"] == adapter + 33 * columns + 1 + groups.get(name, lambda: 0)()


@pytest.mark.parametrize("name", STEPWISE)
def test_only_methods_that_keep_something_of_every_task_grow_with_the_tasks(build, toy, name):
    method, sizes = build(name, head="linear", epochs=1, max_groups=2), []
    for i in range(5):
        method.learn(toy.task(f"t{i}", ["red", "green"], 3))
        sizes.append(method.parameter_counts()["stored"])
    steps = np.diff(sizes)[2:]
    assert (steps > 0).all() if name in GROWING else not steps.any()


@pytest.mark.parametrize("name", METHODS)
def test_tasks_that_cannot_be_learned_are_named(build, toy, stream, name):
    method = build(name)
    text = toy.task("words", ["red"], 2, "text")
    with pytest.raises(DataError, match="task 'words' holds text samples, but backbone 'tests/vit' reads image"):
        method.learn(text)
    with pytest.raises(DataError, match="task 'none' has no training samples"):
        method.learn(Task("none", ("red",), Samples()))
    with pytest.raises(DataError, match="task 'gap' has no training samples of class 'green'"):
        method.learn(toy.task("gap", ["red", "green", "blue"], [2, 0, 2]))
    with pytest.raises(DataError, match="task 'untested' has no test samples"):
        method.evaluate(Task("untested", ("red",), text.train))
    learn(method, stream[0])
    with pytest.raises(DataError, match="class 'RED' of task 'case' differs only by case from 'red'"):
        method.learn(toy.task("case", ["blue", "RED"], 2))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_no_test_samples(build, stream, name):
    method = learn(build(name), stream[0])
    samples = fresh(stream[0].test)
    logits, alive = method.logits(samples), weakref.ref(samples)
    method.predict(stream[0].test.inputs)
    del samples
    if alive() is not None:
        gc.collect()
    assert alive() is None
    for order in (list(range(11, -1, -1)), [0] * 12):
        torch.testing.assert_close(method.logits(fresh(stream[0].test, order)), logits[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "head"),
    [*pairs(["ham", "frozen"], ["linear", "cosine", "ncm", "lda", "ridge"]), ("ease", "linear"), ("slca", "linear")],
)
def test_a_method_takes_the_heads_it_names(build, toy, name, head):
    stream = Stream("plain", (toy.task("a", ["red", "green"], 4), toy.task("b", ["blue", "cyan", "pink"], 4)))
    options = {"epochs": 4, "head_lr": 0.05}
    method = learn(build(name, head=head, **options), *stream)
    logits = method.logits(everything(stream))
    assert torch.isfinite(logits).all()
    for task, columns, scores in zip(stream, method.tasks, logits.split([12, 18]), strict=False):
        told = scores[:, columns].argmax(1) == torch.tensor(task.test.labels)
        assert told.float().mean() > 1.3 / len(columns)


@pytest.mark.parametrize(("name", "head"), [("ease", "lda"), ("slca", "cosine")])
def test_a_head_that_a_method_cannot_use_is_refused(toy, name, head):
    kind = load_method(name)
    with pytest.raises(UsageError, match=f"brings its own classifier: head='{head}' must be "):
        kind(toy.vit(), kind.config_type.from_dict({**kind.defaults, "head": head}))


@pytest.mark.parametrize("name", METHODS)
def test_texts_are_learned(build, toy, name):
    tasks = [toy.task("a", ["red", "green"], 10, "text"), toy.task("b", ["blue", "cyan"], 10, "text")]
    method = learn(build(name, "text", epochs=5, batch_size=10, lr=1e-2, distill=1.0, dropout=0.0), *tasks)
    assert np.mean([method.evaluate(task) for task in tasks]) > 0.35


@pytest.mark.parametrize("head", ["linear", "lda"])
@pytest.mark.parametrize("name", ["ham", "seq-lora", "lora-per-task"])
def test_texts_are_kept_near_the_features_without_the_adapter_in_training(build, toy, monkeypatch, name, head):
    method, compared = build(name, "text", head=head, distill=2.0, later_tasks="free", lr=1e-2), []

    def look(model, loss, lesson, plan, preprocess):
        with model.without_task():
            compared.append((loss.anchors, extract(model, lesson.samples, preprocess, plan.machine, plan.device)))
        return train(model, loss, lesson, plan, preprocess)

    monkeypatch.setattr(hamcl.learning.learner, "train", look)
    for i, classes in enumerate((["red", "green"], ["blue", "cyan"], ["pink", "red"])):
        method.learn(toy.task(f"t{i}", classes, 4, "text"))
    for anchors, expected in compared:
        torch.testing.assert_close(anchors, expected, rtol=1e-4, atol=1e-5)
    assert len(compared) == 3
    if name == "ham":
        assert not torch.allclose(compared[1][1].mean(0), compared[0][1].mean(0))


def test_a_task_that_is_free_reads_no_features_to_stay_near(build, toy, monkeypatch):
    method, given = build("ham", "text", head="linear", distill=2.0, later_tasks="hold"), []

    def look(model, loss, lesson, plan, preprocess):
        given.append(loss.anchors)
        return train(model, loss, lesson, plan, preprocess)

    monkeypatch.setattr(hamcl.learning.learner, "train", look)
    for i, classes in enumerate((["red", "green"], ["blue", "cyan"])):
        method.learn(toy.task(f"t{i}", classes, 4, "text"))
    assert given[0] is None
    assert given[1].shape == (8, method.backbone.width)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ham"])
def test_what_suits_ham_is_no_default_of_the_others(name):
    defaults = load_method(name).defaults
    assert defaults.keys() >= BARE.keys()
    differing = {option for option, value in BARE.items() if defaults[option] != value}
    assert differing <= {"importance_lr"}, "where nothing but the adapter trains, it is 0"
    assert defaults["importance_lr"] in (BARE["importance_lr"], 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_starts_from_its_own_defaults(bert_folder, name):
    kind = load_method(name)
    method = kind.from_backbone(str(bert_folder), max_length=20)
    assert method.config.to_dict() == asdict(kind.config_type()) | dict(kind.defaults)
    assert method.backbone.preprocess.describe()["max_length"] == 20
    config = HAMConfig(seed=3, head=kind.heads[-1])
    assert kind.from_backbone(str(bert_folder), config).config == kind.config_type(**config.to_dict())


@pytest.mark.parametrize(("name", "hint"), [("Ham", "'ham'"), ("seq_lora", "'seq-lora'"), ("xyz", "methods are ham,")])
def test_an_unknown_method_is_an_error_with_a_suggestion(name, hint):
    with pytest.raises(UsageError, match=f"there is no method '{name}'; .*{hint}"):
        load_method(name)


def test_methods_are_classes_of_the_contract():
    kinds = [load_method(name) for name in METHODS]
    assert all(issubclass(kind, Learner) for kind in kinds)
    assert len(set(kinds)) == len(METHODS)
    for kind in kinds:
        kind.config_type.from_dict(dict(kind.defaults))


@pytest.mark.parametrize("name", ["ham", "seq-lora", "joint"])
def test_the_report_holds_what_was_noted_when_the_data_was_read(build, stream, name):
    noted = replace(stream[0], notes=("2 files were left out",))
    assert build(name).learn(noted).notes == ["2 files were left out"]


@pytest.mark.parametrize("name", METHODS)
def test_a_class_learned_in_another_spelling_is_the_same_class(build, toy, stream, name):
    """States made before names had one form hold any."""
    method = learn(build(name), stream[0])
    state = method.state_dict()
    state["meta"]["classes"] = [" red", "gru\u0308n"]
    if not method.evaluates_every_step:
        return
    method.load_state_dict(state)
    task = toy.task("again", ["red", "grün"], 2)
    assert 0 <= method.evaluate(task) <= 1
    method.learn(task)
    assert method.classes == (" red", "gru\u0308n") and method.tasks[-1] == [0, 1]
    with pytest.raises(DataError, match="differs only by case"):
        method.learn(toy.task("case", ["GRÜN"], 2))


def test_a_text_with_half_a_character_is_skipped_or_refused(build, toy):
    task = toy.task("cut", ["red", "green"], 4, "text")
    cut = replace(task, train=Samples([*task.train.inputs, "bala \ud83d"], [*task.train.labels, 0]))
    with pytest.raises(DataError, match="sample 8 holds half a character"):
        build("ham", "text").learn(cut)
    method = build("ham", "text", replace(FULL, on_bad_sample="skip"))
    assert len(method.learn(cut).skipped) == 1 and method.logits(cut.test).isfinite().all()
    with pytest.raises(DataError, match="holds half a character"):
        method.predict(["bala \ud83d"])


def test_a_frame_in_any_order_trains_and_is_answered_like_lists(build, toy):
    task = toy.task("frame", ["red", "green"], 6, "text")
    order = [7, 0, 11, 3, 1, 2, 4, 5, 6, 8, 9, 10]
    table = pd.DataFrame({"text": task.train.inputs, "y": [task.classes[y] for y in task.train.labels]}).iloc[order]
    lists = replace(task, train=task.train.select(order), test=task.train.select(order))
    frame = replace(task, train=Samples(table.text, table.y), test=Samples(table.text.array, table.y))
    one, two = build("ham", "text"), build("ham", "text")
    one.learn(lists)
    two.learn(frame)
    assert one.evaluate(lists) == two.evaluate(frame)
    assert torch.equal(one.predict(list(table.text)).probabilities, two.predict(table.text).probabilities)


@pytest.mark.parametrize(
    ("name", "modality", "option"),
    [
        ("frozen", "image", {"rank": 16}),
        ("frozen", "image", {"epochs": 9}),  # a head in closed form trains nothing
        ("seq-lora", "image", {"max_groups": 3}),
        ("ham", "image", {"head": "linear", "shrinkage": 0.1}),
        ("ham", "text", {"views": 4}),
        ("ease", "image", {"drift": "noise", "projection": 99}),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(toy, bert_folder, name, modality, option):
    kind = load_method(name)
    config = kind.config_type.from_dict({**kind.defaults, **option})
    text = modality == "text"
    backbone = load_backbone(str(bert_folder), depths=config.depths_to_read) if text else toy.vit()
    last = list(option)[-1]
    with pytest.raises(
        UsageError, match=rf"^{kind.__name__}.* does nothing with the option {last}=[^\n]*; leave it out$"
    ):
        kind(backbone, config)
    if not text:  # which of several kinds of samples is not known where options are shared
        assert getattr(kind.configured({}, option), last) == getattr(kind.configured({}), last)
