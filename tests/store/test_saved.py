"""`HAM.save` and `HAM.load`, and what stores take in Python: paths, home folders, devices."""

import os
import shutil

import pytest
import torch

from hamcl import HAM, HAMConfig, Store, load_backbone
from hamcl.errors import DataError, UsageError
from hamcl.machine import Machine

from .conftest import BACKBONE, CPU, OPTIONS


def fresh(**options):
    backbone = load_backbone(BACKBONE["backbone"], **BACKBONE["backbone_options"], **options)
    return HAM(backbone, HAMConfig(**OPTIONS), CPU)


@pytest.fixture(scope="module")
def taught(toy):
    """A learner that learned two tasks; do not change it."""
    model = fresh()
    for i in range(2):
        model.learn(toy.task(f"week-{i}", (f"a{i}", f"b{i}"), 5, augmentation="photo"))
    return model


def test_a_learner_comes_back_as_it_was_and_learns_on(taught, week, toy, tmp_path):
    taught.save(tmp_path / "kept")
    names = {path.suffix for path in (tmp_path / "kept").rglob("*") if path.is_file() and path.name != ".lock"}
    assert names <= {".json", ".safetensors"}
    back = HAM.load(tmp_path / "kept", machine=CPU)
    assert toy.same(back.state_dict(), taught.state_dict()) and back.config == taught.config
    assert torch.equal(back.logits(week(0).test), taught.logits(week(0).test))
    same = fresh()
    same.load_state_dict(taught.state_dict())
    for model in (same, back):
        model.learn(week(2))
    assert toy.same(back.state_dict(), same.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_what_was_saved_is_a_store(taught, week, tmp_path):
    taught.save(str(tmp_path / "kept"))
    store = Store.open(tmp_path / "kept", machine=CPU)
    assert [task.name for task in store.manifest.state.tasks] == ["week-0", "week-1"]
    assert store.manifest.state.classes == taught.classes
    assert store.verify()
    assert store.learn(week(2)).task == "week-2" and store.undo() == ["week-2"]


def test_one_that_learned_nothing_can_be_saved(toy, tmp_path):
    fresh().save(tmp_path / "kept")
    assert HAM.load(tmp_path / "kept").classes == ()


def test_the_depths_of_a_backbone_loaded_by_hand_come_back(week, toy, tmp_path):
    model = fresh(depths="last")
    model.learn(week(0))
    model.save(tmp_path / "kept")
    back = HAM.load(tmp_path / "kept", machine=CPU)
    assert toy.same(back.state_dict(), model.state_dict())
    assert back.settings == model.settings and back.settings.depths == "last"


def test_a_network_of_one_layer_read_at_several_depths_is_not_taken_for_its_last_layer(bert_folder, toy, tmp_path):
    """Its features are the same but for their length, so only what was asked for tells them apart."""
    import transformers as tf

    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    small = tf.AutoConfig.from_pretrained(folder)
    small.num_hidden_layers = 1
    tf.BertModel(small).save_pretrained(folder)
    with pytest.raises(UsageError, match="load it with depths='last'"):
        HAM(load_backbone(str(folder)), HAMConfig(head="linear"))
    task = toy.task("one", ("a", "b"), modality="text")
    for depths, config in (("all", {"head": "ridge", "depths": "all"}), ("last", {"head": "ridge"})):
        model = HAM(
            load_backbone(str(folder), depths=depths), HAMConfig(rank=2, projection=8, epochs=1, **config), CPU
        )
        assert len(model.backbone.blocks) == 1 and model.settings.depths == depths
        model.learn(task)
        model.save(tmp_path / depths)
        assert torch.equal(HAM.load(tmp_path / depths, machine=CPU).logits(task.test), model.logits(task.test))


def test_what_was_saved_is_checked_like_a_store(taught, tmp_path):
    taught.save(tmp_path / "kept")
    for change in ("byte", "missing", "manifest"):
        broken = shutil.copytree(tmp_path / "kept", tmp_path / change)
        file = sorted((broken / "objects").glob("*.safetensors"))[0]
        if change == "byte":
            file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        elif change == "missing":
            file.unlink()
        else:
            manifest = broken / "manifest.json"
            manifest.write_text(manifest.read_text().replace("week-1", "week-9"))
        with pytest.raises(DataError, match=r"changed|missing|restore"):
            HAM.load(broken)
    with pytest.raises(UsageError, match="there is no store"):
        HAM.load(tmp_path / "none")


def test_what_cannot_be_saved_is_said_before_anything_is_written(taught, toy, week, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(UsageError, match=r"something at .*full already"):
        taught.save(tmp_path / "full")
    with pytest.raises(UsageError, match="was not made by load_backbone"):
        taught.rebased().save(tmp_path / "out")
    with pytest.raises(UsageError, match="was not made by load_backbone"):
        HAM(toy.vit(), HAMConfig(**{**OPTIONS, "targets": None})).save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_save_that_fails_leaves_nothing(taught, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("hamcl.store.store.Store._commit", fails)
    with pytest.raises(DataError, match=r"cannot write .*kept: No space left"):
        taught.save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_a_store_learns_and_evaluates_what_lies_at_a_path(create, toy, tmp_path):
    samples = toy.samples(["red", "blue"], [5, 5], "image", "path")
    for i, (image, y) in enumerate(zip(samples.inputs, samples.labels, strict=True)):
        (tmp_path / "birds" / ("red", "blue")[y]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "birds" / ("red", "blue")[y] / f"{i}.png")
    (tmp_path / "as-test").mkdir()
    shutil.copytree(tmp_path / "birds", tmp_path / "as-test" / "test")
    shutil.copytree(tmp_path / "birds", tmp_path / "as-test" / "train")
    store = create()
    assert store.learn(tmp_path / "birds").task == "birds"
    assert store.evaluate(str(tmp_path / "as-test")).overall.samples == 10
    assert repr(store) == f"Store({str(store.path)!r}, 1 tasks, 2 classes)"
    with pytest.raises(DataError, match="there is no file or folder"):
        store.learn(tmp_path / "gone")


def test_home_folders_are_found_and_not_made(tmp_path, monkeypatch, learned):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    store = Store.create("~/x.ham", **BACKBONE, config=HAMConfig(**OPTIONS))
    assert store.path == tmp_path / "x.ham" and Store.open("~/x.ham").path == store.path
    HAM.load("~/x.ham").save("~/y.ham")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ham", "y.ham"]


def test_a_store_is_opened_for_a_device(copied):
    with pytest.raises(UsageError, match="device 'meta' cannot be used here"):
        Store.open(copied.path, machine=Machine(device="meta")).model()
    assert Store.open(copied.path, machine=CPU).model().device.type == "cpu"
    store = Store.open(copied.path, machine=Machine(device="meta"))
    assert store.model(CPU).machine is CPU


def test_backbones_and_settings_are_found_in_home_folders(bert_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(bert_folder.parent))
    store = Store.create(tmp_path / "x.ham", backbone=f"~/{bert_folder.name}", config=HAMConfig(projection=8))
    assert store.manifest.backbone.spec == str(bert_folder) and store.model().backbone.spec == str(bert_folder)
    assert Store.open(tmp_path / "x.ham", backbone=f"~/{bert_folder.name}").model().classes == ()
    monkeypatch.setenv("HOME", str(tmp_path))
    HAMConfig(seed=7).save("~/c.json")
    assert HAMConfig.from_file("~/c.json").seed == 7 and (tmp_path / "c.json").is_file()


@pytest.mark.parametrize("task", [3, None, ["a"]])
def test_what_is_no_task_is_one_sentence(create, task):
    with pytest.raises(UsageError, match="a task is a Task or the path of its data, got"):
        create().learn(task)
