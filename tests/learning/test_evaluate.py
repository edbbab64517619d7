"""The one way from samples to right and wrong answers, with a learner that says what it is told to."""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hamcl.errors import DataError
from hamcl.learning.evaluate import NotFinite, answers, finite
from hamcl.streams.base import Samples, Task

SCORES = [[0.0, 1.0, 3.0, 0.5], [2.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 9.0]]


def asked(scores=SCORES, classes=("a", "b", "c", "d")):
    """A learner that answers the i-th text by the i-th row."""
    table = torch.tensor(scores)
    return SimpleNamespace(classes=classes, logits=lambda samples: table[[int(x) for x in samples.inputs]])


def task(classes, labels, name="birds"):
    test = Samples([str(i) for i in range(len(labels))], labels)
    return Task(name, classes, Samples(), test=test, modality="text")


def test_answers_are_columns_of_all_classes_seen():
    found = answers(asked(), task(("c", "a"), [0, 1, 1]))
    assert found.columns.tolist() == [2, 0] and found.labels.tolist() == [0, 1, 1]
    assert found.truth.tolist() == [2, 0, 0]
    assert found.predicted.tolist() == [2, 0, 3], "of equal scores the class that was learned first"
    assert found.accuracy == 2 / 3
    probabilities = torch.tensor(SCORES, dtype=torch.float64).softmax(1).max(1).values
    assert found.confidence == pytest.approx(probabilities.numpy(), abs=1e-15)
    assert found.logits.dtype == np.float64


def test_some_of_the_samples_may_be_left_out():
    whole = task(("a", "b"), [0, 1, 0])
    found = answers(asked(), whole, whole.test.select([1, 2]))
    assert found.truth.tolist() == [1, 0] and found.predicted.tolist() == [0, 3] and found.accuracy == 0


def test_names_in_another_form_are_the_same_classes():
    decomposed = unicodedata.normalize("NFD", "Zürich")
    learner = asked(classes=(decomposed, "b", "c", "d"))
    assert answers(learner, task(("Zürich",), [0])).columns.tolist() == [0]


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(DataError, match="task 'birds' has no test samples to evaluate"):
        answers(asked(), task(("a",), []))
    with pytest.raises(DataError, match="task 'birds' holds classes that were not learned: x, y"):
        answers(asked(), task(("x", "a", "y"), [0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_no_answer(bad):
    scores = [*SCORES[:2], [0.0, 0.0, bad, 0.0]]
    with pytest.raises(NotFinite, match="the scores of 1 of 3 samples are not finite"):
        answers(asked(scores), task(("a",), [0, 0, 0]))
    whole = torch.tensor(SCORES)
    assert finite(whole) is whole
