"""Samples from the collections people have: matched by position, whatever index these have."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from hamcl.errors import DataError, UsageError
from hamcl.streams import Samples, Task
from hamcl.streams.lazy import Selected

TEXTS, NAMES = ["one", "two", "three"], ["a", "b", "a"]


def frame():
    """Rows in another order than their index, and with gaps in it."""
    return pd.DataFrame({"text": TEXTS, "y": NAMES, "n": [0, 1, 0]}, index=[7, 0, 1])


class Polars:
    """A column as polars has it: no `Sequence`, and `to_list`."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i]

    def to_list(self):
        return list(self.values)


class MapStyle:
    """A data set as torch has it: a length, and items by number."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return TEXTS[i]


@pytest.mark.parametrize(
    "inputs",
    [
        TEXTS,
        tuple(TEXTS),
        (text for text in TEXTS),
        frame().text,
        frame()[["text"]],
        pd.Index(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.table({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
        datasets.Dataset.from_dict({"text": TEXTS}),
        Polars(TEXTS),
        MapStyle(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_inputs_of_any_kind_are_read_by_position(inputs):
    samples = Samples(inputs, frame().y)
    assert [samples.inputs[i] for i in range(3)] == TEXTS and list(samples.inputs) == TEXTS
    assert [type(x) for x in samples.inputs] == [str] * 3
    chosen = samples.select([2, 0])
    assert list(zip(chosen.inputs, chosen.labels, strict=True)) == [("three", "a"), ("one", "a")]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 0],
        frame().n,
        frame()[["n"]],
        frame().y,
        frame().y.astype("category"),
        frame().n.astype(float),
        frame().n.astype(bool),
        np.array([0, 1, 0], dtype=np.int8),
        [np.int64(0), np.int64(1), np.int64(0)],
        np.array([[0], [1], [0]]),
        np.array(NAMES),
        list(np.array(NAMES)),
        torch.tensor([0, 1, 0]),
        [torch.tensor(0), torch.tensor(1), torch.tensor([0])],
        pa.array([0, 1, 0]),
        list(pa.array(NAMES)),
        datasets.Dataset.from_dict({"y": NAMES})["y"],
        ["a ", "b", "a"],
    ],
    ids=lambda x: type(x).__name__,
)
def test_labels_of_any_kind_become_positions(labels):
    classes = ["a", "b", "c"]
    task = Task("t", classes, Samples(TEXTS, labels), modality="text")
    assert task.classes == ("a", "b", "c")
    assert list(task.train.labels) == [0, 1, 0]
    assert {type(y) for y in task.train.labels} == {int}


def test_arrays_of_images_are_read_one_by_one():
    pixels = np.stack([np.full((4, 5, 3), shade, dtype=np.uint8) for shade in (3, 9)])
    for array in (pixels, torch.from_numpy(pixels)):
        inputs = Samples(array, [0, 0]).inputs
        assert [int(inputs[i][0, 0, 0]) for i in (0, 1)] == [3, 9] and len(inputs) == 2
    images = [Image.fromarray(x) for x in pixels]
    assert Samples(pd.Series(images, index=[1, 0]), [0, 0]).inputs[0] is images[0]


def test_what_is_lazy_stays_so():
    lazy = Selected(TEXTS, (2, 1))
    assert Samples(lazy, [0, 0]).inputs is lazy


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ("one", [0], "inputs must be a sequence, got the single text 'one'; put it into a list"),
        ({"a": 1}, [0], "inputs must be a sequence, got a dict, which has no order"),
        ({"a"}, [0], "inputs must be a sequence, got a set"),
        (frame(), [0, 1, 0], r"inputs must be one column, got a table of 3 \(text, y, n\)"),
        (pa.table({"a": [1], "b": [2]}), [0], r"got a table of 2 \(a, b\)"),
        (torch.tensor(3), [0], "single value"),
        (None, [0], "inputs must be a sequence, got NoneType"),
        (TEXTS, [0, 1], "3 inputs but 2 labels"),
        (TEXTS, [0, 1, float("nan")], "label 2 is nan"),
        (TEXTS, [0, 1, None], "label 2 is None"),
        (TEXTS, [0, 1.5, 0], "label 1 is 1.5"),
        (TEXTS, torch.eye(3), r"label 0 is tensor\(\[1., 0., 0.\]\); a label is a class name or its position"),
        (TEXTS, "aba", "labels must be a sequence"),
    ],
)
def test_what_is_no_sequence_is_one_sentence(inputs, labels, message):
    with pytest.raises(UsageError, match=message) as caught:
        Samples(inputs, labels)
    assert "\n" not in str(caught.value)


def test_what_a_task_cannot_take_is_one_sentence():
    for classes, labels, error, message in (
        ("ab", [0], UsageError, "classes must be a sequence, got the single text 'ab'"),
        ({"a", "b"}, [0], UsageError, "classes must be a sequence, got a set"),
        ([0, 1], [0], DataError, "a class of task 't' is 0, which is no text"),
        (["a"], ["b"], DataError, "split train: the label 'b' is none of the task's class names"),
        (["a"], ["a", 0], DataError, "split train: the label 0 is none of the task's class names"),
        (["a"], [1], DataError, "labels must lie in 0..0, got 1..1"),
    ):
        with pytest.raises(error, match=message):
            Task("t", classes, Samples(TEXTS[: len(labels)], labels))
    with pytest.raises(UsageError, match=r"train of task 't' must be Samples\(inputs, labels\)"):
        Task("t", ["a"], (TEXTS, [0, 0, 0]))  # type: ignore[arg-type]
