"""A store from its first day: learn, read again, evaluate, undo, forget earlier states."""

from dataclasses import fields, replace

import pytest
import torch

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.store import Store
from hamcl.streams import Samples, Task

from .conftest import CPU, OPTIONS


def files(store):
    """The bytes of everything the present state consists of."""
    return {record.name: (store.path / record.name).read_bytes() for record in store.manifest.state.files.values()}


@pytest.mark.parametrize("head", ["ridge", "lda", "linear"])
def test_a_learned_model_comes_back_bit_for_bit(create, week, toy, head):
    store = create(head=head, projection=32 if head == "ridge" else None)
    tasks, config = [week(i) for i in range(3)], store.manifest.options
    backbone = load_backbone("timm/test_vit", depths=config.depths_to_read, pretrained=False, image_size=32)
    plain = HAM(backbone, config, CPU)
    for task in tasks:
        report, alone = store.learn(task), plain.learn(task)
        assert (report.group, report.opened, report.losses) == (alone.group, alone.opened, alone.losses)
    again = Store.open(store.path, machine=CPU)
    assert again.manifest == store.manifest
    model = again.model()
    assert toy.same(model.state_dict(), plain.state_dict())
    assert torch.equal(model.logits(tasks[0].test), plain.logits(tasks[0].test))
    assert model.classes == again.manifest.state.classes == ("a0", "b0", "a1", "b1", "a2", "b2")


def test_objects_that_did_not_change_are_shared(create, week, quick):
    store = create(threshold=50.0)  # opens two groups, then joins the more similar one
    for i in range(2):
        store.learn(week(i))
    before = store.manifest.state.files
    joined = store.learn(week(2)).group
    after = store.manifest.state.files
    assert after[f"groups.{joined}"] != before[f"groups.{joined}"]
    assert after[f"groups.{1 - joined}"] == before[f"groups.{1 - joined}"]
    assert after["head.ridge.projection"] == before["head.ridge.projection"]


def test_the_manifest_tells_what_happened(copied):
    manifest = copied.manifest
    assert manifest.options == HAMConfig.from_dict(dict(manifest.config))
    assert [event.command for event in manifest.history] == ["init", "learn", "learn", "learn", "eval"]
    assert manifest.history[1].text == "learned task 'week-0': 2 classes from 10 samples, opened group 0"
    assert all(event.versions["torch"] == torch.__version__ for event in manifest.history)
    assert [(task.name, task.columns, task.samples) for task in manifest.state.tasks] == [
        (f"week-{i}", (2 * i, 2 * i + 1), 10) for i in range(3)
    ]
    assert sorted(name for group in manifest.state.groups for name in group.tasks) == ["week-0", "week-1", "week-2"]
    assert all(group.rank <= 3 and group.layers for group in manifest.state.groups)


def test_undo_restores_the_exact_files_and_learning_again_gives_the_same(create, week, quick):
    store = create()
    states, contents = [], []
    for i in range(3):
        store.learn(week(i))
        states.append(store.manifest.state)
        contents.append(files(store))
    assert store.undo() == ["week-2"]
    assert (store.manifest.state, files(store)) == (states[1], contents[1])
    store.learn(week(2))
    assert files(store) == contents[2]
    assert store.undo(to="week-0") == ["week-1", "week-2"]
    assert (store.manifest.state, files(store)) == (states[0], contents[0])
    assert store.undo() == ["week-0"]
    assert not store.model().classes
    with pytest.raises(UsageError, match=r"keeps no state before the last task; it keeps none"):
        store.undo()
    assert [event.command for event in store.manifest.history].count("undo") == 3


def test_only_the_last_states_are_kept(create, week, quick):
    store = create(keep=1)
    for i in range(3):
        store.learn(week(i))
    assert [(e.task, e.tasks) for e in store.manifest.earlier] == [("week-1", 2)]
    with pytest.raises(UsageError, match=r"no state of task 'week-0'; it keeps 'week-1'"):
        store.undo(to="week-0")


def test_gc_frees_what_earlier_states_alone_need(copied, quick):
    total = lambda: sum(p.stat().st_size for p in (copied.path / "objects").iterdir())  # noqa: E731
    before = total()
    freed = copied.gc(1)
    assert freed == before - total() > 0
    assert [e.tasks for e in copied.manifest.earlier] == [2]
    assert copied.undo() == ["week-2"]
    copied.gc(0)
    assert {p.name for p in (copied.path / "objects").iterdir()} == {
        record.name.split("/")[1] for record in copied.manifest.state.files.values()
    }
    assert copied.gc(0) == 0
    copied.verify()


def test_evaluations_are_recorded(copied, week, quick):
    result = copied.evaluate([week(0), week(2)])
    assert result.tasks.keys() == {"week-0", "week-2"}
    assert result.classes.keys() == {"a0", "b0", "a2", "b2"}
    model = copied.model()
    for i in (0, 2):
        assert result.tasks[f"week-{i}"].accuracy == pytest.approx(model.evaluate(week(i)))
    assert result.overall.samples == 24
    worth = result.reliability
    logits = torch.cat([model.logits(week(i).test) for i in (0, 2)]).double().softmax(1).max(1)
    assert sum(worth.samples) == 24 and worth.judged == model.judged > 0
    means = sum(n * c for n, c in zip(worth.samples, worth.confidence, strict=True)) / 24
    assert means == pytest.approx(logits.values.mean().item())
    hits = sum(n * a for n, a in zip(worth.samples, worth.accuracy, strict=True)) / 24
    assert hits == pytest.approx(result.overall.accuracy)
    assert Store.open(copied.path).manifest.state.evaluations[-1] == result
    assert copied.manifest.history[-1].text.startswith("evaluated 2 tasks: ")


def test_what_is_taken_for_what(copied, week, toy, monkeypatch):
    monkeypatch.setattr(HAM, "logits", lambda self, samples: torch.eye(6)[[1] * len(samples)])  # all are b0
    result = copied.evaluate([week(0), week(1)], record=False)
    assert [(c.truth, c.predicted, c.count) for c in result.confusions] == [
        ("a0", "b0", 6),
        ("a1", "b0", 6),
        ("b1", "b0", 6),
    ]
    assert (result.tasks["week-0"].accuracy, result.tasks["week-1"].accuracy, result.overall.accuracy) == (
        0.5,
        0,
        0.25,
    )
    assert result.classes["b0"].accuracy == 1
    assert len(copied.manifest.history) == 5


def test_a_task_is_learned_once(copied, week):
    with pytest.raises(DataError, match="has learned task 'week-1' already"):
        copied.learn(week(1))


def test_other_ways_to_learn_are_transactions_too(copied, week, toy, quick):
    with copied.transaction("import", "took over the adapter in x/") as model:
        model.learn(week(7))
    assert copied.manifest.history[-1].text == "took over the adapter in x/"
    assert copied.manifest.state.tasks[-1].data is None
    assert toy.same(copied.model().state_dict(), model.state_dict())
    before = copied.manifest
    with pytest.raises(UsageError, match="import added no task"), copied.transaction("import", "x"):
        pass
    with pytest.raises(ZeroDivisionError), copied.transaction("import", "x") as model:
        model.learn(week(8))
        1 / 0  # noqa: B018
    assert copied.refresh() == before


def test_create_refuses_what_is_there(create, tmp_path):
    create()
    with pytest.raises(UsageError, match=r"there is a store at .* already"):
        create()
    (tmp_path / "other.ham").mkdir()
    (tmp_path / "other.ham" / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds something else"):
        create("other")


def test_open_needs_a_store(tmp_path):
    with pytest.raises(UsageError, match="there is no store at"):
        Store.open(tmp_path)


def test_diff_names_what_differs(copied, learned, week, quick):
    copied.learn(week(3))
    found = copied.diff(Store.open(learned))
    assert {(d.section, d.name, d.theirs) for d in found if d.section in ("class", "task")} == {
        ("class", "a3", None),
        ("class", "b3", None),
        ("task", "week-3", None),
    }
    assert any(d.section == "group" for d in found)
    assert Store.open(learned).diff(Store.open(learned)) == []


def test_diff_says_the_same_only_of_the_same_bytes(create, week, quick):
    stores = [create(name) for name in ("a", "b", "c")]
    for store, epochs in zip(stores, (1, 2, 1), strict=True):
        store.learn(week(0), options={"epochs": epochs})
    found = stores[0].diff(stores[1])
    assert ("option", "week-0: epochs", 1, 2) in [(d.section, d.name, d.mine, d.theirs) for d in found]
    tensors = {d.name: d for d in found if d.section == "tensor"}
    mine, theirs = (store.model().state_dict() for store in stores[:2])
    differ = {name for name in mine if name != "meta" and not torch.equal(mine[name], theirs[name])}
    names = {n.replace("groups.", "model.") for n in tensors}
    assert names == differ
    gap = (mine["rows.weight"] - theirs["rows.weight"]).abs().max().item()
    assert tensors["rows.weight"].theirs == f"F32 2 x 192, up to {gap:.3g} away"
    assert stores[0].diff(stores[2]) == []


def test_the_machine_is_part_of_no_identity(create, week, quick, monkeypatch, toy):
    monkeypatch.setattr("hamcl.store.store.now", lambda: "2026-01-02T03:04:05Z")  # else the times differ
    one = create("one")
    create("other")
    machine = Machine(device="cpu", eval_batch_size=3, on_bad_sample="skip", threads=1)
    other = Store.open(one.path.with_name("other.ham"), machine=machine)
    for store in (one, other):
        store.learn(week(0))
        store.learn(week(1))
    assert one.model().machine != other.model().machine
    for store in (one, other):
        assert not {field.name for field in fields(Machine)} & {*store.manifest.config, *store.manifest.resolved}
        assert [task.options for task in store.manifest.state.tasks] == [{"precision": precision(one)}] * 2
    assert one.manifest.config == other.manifest.config and one.manifest.resolved == other.manifest.resolved
    assert one.manifest.state.files == other.manifest.state.files
    assert toy.same(one.model().state_dict(), other.model().state_dict())
    assert one.manifest.state.key == other.manifest.state.key
    assert one.diff(other) == []


def precision(store):
    """What the arithmetic of a store's machine comes to."""
    model = store.model()
    return model.machine.arithmetic(model.device)


@pytest.mark.parametrize("head", ["auto", "ridge", "linear"])
def test_what_was_asked_is_kept_with_what_it_came_to(create, week, head):
    store = create(head=head, projection=None)
    resolved = store.manifest.resolved
    store.learn(week(0), options={"epochs": 1})
    manifest = Store.open(store.path).manifest
    assert manifest.resolved == resolved and resolved["epochs"] == 2  # those of the store, not of the task
    assert manifest.config == HAMConfig(**{**OPTIONS, "head": head, "projection": None}).to_dict()
    assert manifest.config["depths"] == "auto" and "auto" not in manifest.resolved.values()
    assert manifest.resolved.keys() == manifest.config.keys()
    came_out = {name: manifest.resolved[name] for name in ("head", "depths", "projection")}
    assert (
        came_out
        == {
            "auto": {"head": "stack", "depths": "all", "projection": 1024},
            "ridge": {"head": "ridge", "depths": "all", "projection": 4096},
            "linear": {"head": "linear", "depths": "last", "projection": None},
        }[head]
    )


def test_an_option_that_would_do_nothing_for_a_task_is_refused(create, week):
    store = create(head="linear", projection=None)
    with pytest.raises(UsageError, match=r"^option 'views' does nothing in a store of images with head 'linear'"):
        store.learn(week(0), options={"views": 3})
    assert store.refresh().state.tasks == ()


def test_more_views_of_texts_are_refused_for_a_task_too(tmp_path, toy, bert_folder):
    store = Store.create(tmp_path / "texts.ham", backbone=str(bert_folder), config=HAMConfig(projection=16))
    with pytest.raises(UsageError, match=r"^option 'views' does nothing in a store of texts with head 'ridge'"):
        store.learn(toy.task("week", ["red", "green"], 3, "text"), options={"views": 3})


def test_diff_sees_names_that_changed_places(create, week, quick):
    stores = [create(name) for name in ("a", "b")]
    for store in stores:
        store.learn(week(0))
    manifest = stores[1].manifest
    swapped = replace(manifest, state=replace(manifest.state, classes=("b0", "a0")))
    with stores[1]._folder.writing("test"):
        stores[1]._folder.write(swapped, "test", "swapped")
    assert [(d.section, d.mine, d.theirs) for d in stores[0].diff(stores[1])] == [
        ("class", ("a0", "b0"), ("b0", "a0")),
    ]


def test_the_same_data_again_is_said(copied, week, quick):
    again = copied.learn(replace(week(1), name="again"))
    assert again.notes == ["task 'again' holds the very data of task 'week-1', which now count twice; undo goes back"]
    assert "from the data of task 'week-1'" in copied.manifest.history[-1].text
    assert copied.learn(week(3)).notes == []


def test_an_evaluation_on_training_data_is_known(copied, week, quick):
    own = replace(week(1), test=week(1).train, augmentation="none")
    assert copied.evaluate([own]).trained_on == ("week-1",)
    assert copied.evaluate([week(1)]).trained_on == ()
    assert copied.manifest.state.evaluations[-1].trained_on == ()


def test_the_same_samples_do_not_count_twice(copied, week, quick):
    with pytest.raises(DataError, match=r"^'twin' holds the same samples as 'week-1'; give only one of the two"):
        copied.evaluate([week(1), replace(week(1), name="twin")])


def test_sizes_are_bounded(copied):
    sizes = copied.sizes()
    assert 0 < sizes.groups <= sizes.groups_bound
    assert sizes.rows + sizes.head + sizes.groups == sum(r.size for r in copied.manifest.state.files.values())
    assert sizes.earlier > 0


def test_more_names_than_the_manifest_takes_are_refused_before_any_work(create, monkeypatch, toy):
    store = create()
    before = store.manifest
    monkeypatch.setattr(HAM, "learn", None)
    monkeypatch.setattr("hamcl.store.store.Store._model", None)
    classes = [f"{'x' * 990}{i:05d}" for i in range(8000)]
    task = Task("huge", classes, Samples([None] * 8000, range(8000)))
    with pytest.raises(DataError, match=r"some 17 MiB of names .* with these 8000 classes, but at most 16 are read"):
        store.learn(task)
    assert Store.open(store.path).manifest == before
