"""Stored samples: which are kept, that they come back as they were, and what training with them changes."""

from typing import Any

import pytest
import torch
from PIL import Image

import hamcl.learning.classify
from hamcl.bench.state import load_state, save_state
from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.memory import Memory
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.reading.prepare import ImagePreprocess
from hamcl.store import Store
from hamcl.streams.base import Samples, Task

SMALL = {"device": "cpu", "precision": "fp32", "epochs": 1, "batch_size": 4, "rank": 2, "projection": 40}


def images(count: int, width: int = 20, height: int = 30) -> list[Image.Image]:
    pixels = torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(0))
    return [Image.fromarray(x.byte().numpy()) for x in pixels]


def same(a: Any, b: Any) -> bool:
    return a == b if isinstance(a, str) else (a.size, a.mode, a.tobytes()) == (b.size, b.mode, b.tobytes())


def make(toy, modality: str, bert_folder, **options: Any) -> HAM:
    backbone = toy.vit() if modality == "image" else load_backbone(str(bert_folder))
    return HAM(backbone, HAMConfig.from_dict({**SMALL, **options}))


def tasks(toy, modality: str, each: int = 5) -> list[Task]:
    parts = (("first", ["red", "green"]), ("second", ["blue", "cyan"]), ("third", ["red", "grey"]))
    return [toy.task(*part, each, modality) for part in parts]


def test_every_class_keeps_as_many_as_asked_or_as_there_are():
    memory = Memory(3, ImagePreprocess(16), seed=0)
    inputs = images(7)
    memory.add(Samples(inputs, [0, 1, 0, 0, 1, 0, 0]), [4, 2])
    assert sorted(memory.columns) == [2, 2, 4, 4, 4]
    kept = {
        column: [x for x, c in zip(memory.inputs, memory.columns, strict=True) if c == column] for column in (2, 4)
    }
    small = [ImagePreprocess(16).small(x) for x in inputs]
    for column, own in ((2, (1, 4)), (4, (0, 2, 3, 5, 6))):
        assert len({x.tobytes() for x in kept[column]}) == len(kept[column])
        assert all(any(same(x, small[i]) for i in own) for x in kept[column])


def test_a_class_that_returns_keeps_its_first_samples():
    memory = Memory(1, ImagePreprocess(64), seed=0)
    first, second = images(1), images(2, 10, 10)
    memory.add(Samples(first, [0]), [0])
    memory.add(Samples(second, [0, 1]), [0, 1])
    assert memory.columns == [0, 1] and same(memory.inputs[0], first[0]) and same(memory.inputs[1], second[1])


def test_nothing_is_kept_by_default(toy, bert_folder):
    learner = make(toy, "image", bert_folder)
    learner.learn(tasks(toy, "image")[0])
    assert HAMConfig().memory_per_class == 0 and len(learner.memory) == 0
    assert not [name for name in learner.state_dict() if name.startswith("memory")]


@pytest.mark.parametrize(("width", "height", "size"), [(15, 30, (15, 30)), (40, 60, (18, 27)), (100, 36, (50, 18))])
def test_images_are_kept_no_larger_than_they_are_read(width, height, size):
    preprocess = ImagePreprocess(16)  # evaluation makes the shorter side 18 pixels before it cuts
    small = preprocess.small(images(1, width, height)[0])
    assert small.size == size
    again = preprocess.transform(False, "photo")(small)
    assert torch.equal(again, preprocess.transform(False, "photo")(images(1, width, height)[0]))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_samples_come_back_as_they_were(toy, bert_folder, modality):
    inputs = images(4) if modality == "image" else ["one", "zwei und drei", "четыре", "5"]
    preprocess = toy.vit().preprocess if modality == "image" else load_backbone(str(bert_folder)).preprocess
    memory, other = (Memory(2, preprocess, seed=0) for _ in range(2))
    other.load_state_dict(memory.state_dict())
    assert len(other) == 0
    memory.add(Samples(inputs, [0, 0, 1, 1]), [1, 0])
    other.load_state_dict(memory.state_dict())
    assert other.columns == memory.columns and len(other) == 4
    assert all(same(a, b) for a, b in zip(memory.inputs, other.inputs, strict=True))


@pytest.mark.parametrize("break_it", ["drop", "cut", "scramble", "count"])
def test_damaged_samples_are_refused(break_it):
    memory = Memory(2, ImagePreprocess(16), seed=0)
    memory.add(Samples(images(2), [0, 0]), [0])
    state = memory.state_dict()
    match break_it:
        case "drop":
            del state["ends"]
        case "cut":
            state["data"] = state["data"][: len(state["data"]) // 2]
        case "scramble":
            state["data"] = state["data"].flip(0)
        case "count":
            state["columns"] = state["columns"][:1]
    with pytest.raises(DataError, match="stored"):
        Memory(2, ImagePreprocess(16), seed=0).load_state_dict(state)


def test_no_more_is_drawn_than_asked_and_another_draw_for_each_task():
    memory = Memory(5, ImagePreprocess(64), seed=0)
    memory.add(Samples(images(20), [i // 5 for i in range(20)]), [0, 1, 2, 3])
    draws = [memory.draw(8, index) for index in range(5)]
    assert all(len(draw) == 8 for draw in draws)
    assert len({tuple(x.tobytes() for x in draw.inputs) for draw in draws}) > 1
    everything = memory.draw(100, 0)
    assert list(everything.labels) == memory.columns and len(everything) == 20


@pytest.mark.parametrize("modality", ["image", "text"])
def test_later_tasks_train_with_stored_samples(toy, bert_folder, modality, monkeypatch):
    seen: list[tuple[int, list[int], int]] = []
    real = hamcl.learning.classify.fit

    def watch(model, rows, samples, *args, **options):
        seen.append((len(samples), sorted(set(samples.labels)), len(rows.bias)))
        return real(model, rows, samples, *args, **options)

    monkeypatch.setattr(hamcl.learning.classify, "fit", watch)
    learner = make(toy, modality, bert_folder, memory_per_class=2, head="linear")
    first, second, third = tasks(toy, modality)
    learner.learn(first)
    before = learner.rows.weight[:2].clone()
    learner.learn(second)
    assert not torch.equal(learner.rows.weight[:2], before)  # rehearsal trains the rows of earlier classes
    learner.learn(third)
    # 10 samples of a task; 2 of each class learned before; labels are columns once there is something stored.
    assert seen == [(10, [0, 1], 2), (14, [0, 1, 2, 3], 4), (18, [0, 1, 2, 3, 4], 5)]
    assert sorted(learner.memory.columns) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_task_rehearses_no_more_than_its_own_count(toy, bert_folder):
    learner = make(toy, "image", bert_folder, memory_per_class=5)
    learner.learn(tasks(toy, "image", 6)[0])
    small = tasks(toy, "image", 2)[1]
    trained, columns = learner._rehearsed(small.train, [2, 3], 1)
    assert (len(trained), columns) == (8, [0, 1, 2, 3])


@pytest.mark.parametrize("modality", ["image", "text"])
def test_going_on_from_a_saved_state_equals_going_on(toy, bert_folder, modality, tmp_path):
    whole = make(toy, modality, bert_folder, memory_per_class=2)
    first, second, third = tasks(toy, modality)
    whole.learn(first)
    whole.learn(second)
    save_state(tmp_path, 2, whole.state_dict())
    whole.learn(third)
    again = make(toy, modality, bert_folder, memory_per_class=2)
    again.load_state_dict(load_state(tmp_path, 2))
    again.learn(third)
    a, b = whole.state_dict(), again.state_dict()
    assert a.keys() == b.keys() and a["meta"] == b["meta"]
    assert all(torch.equal(a[name], b[name]) for name in a if name != "meta")


def test_a_store_keeps_no_samples(bert_folder, tmp_path):
    with pytest.raises(UsageError, match="keeps no samples"):
        Store.create(tmp_path / "store", backbone=str(bert_folder), config=HAMConfig(memory_per_class=1))
    assert not (tmp_path / "store").exists()
