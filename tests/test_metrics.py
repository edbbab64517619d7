"""Metrics against hand-worked matrices, plain-Python formulas and their own inequalities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamcl import metrics

NAN = float("nan")
R = np.array([[0.9, NAN, NAN], [0.7, 0.8, NAN], [0.6, 0.9, 1.0]])
N = [10, 30, 60]


@st.composite
def runs(draw, most_tasks=6):
    """A lower-triangular accuracy matrix whose entries are k/n[j], and n."""
    tasks = draw(st.integers(1, most_tasks))
    counts = draw(st.lists(st.integers(1, 50), min_size=tasks, max_size=tasks))
    matrix = np.full((tasks, tasks), NAN)
    for t in range(tasks):
        for j in range(t + 1):
            matrix[t, j] = draw(st.integers(0, counts[j])) / counts[j]
    return matrix, counts


def test_average_accuracy_by_hand():
    assert metrics.average_accuracy(R) == pytest.approx((0.6 + 0.9 + 1.0) / 3)
    assert metrics.average_accuracy(R, 0) == pytest.approx(0.9)
    assert metrics.average_accuracy(R, 1) == pytest.approx(0.75)
    assert metrics.average_accuracy(R, -2) == metrics.average_accuracy(R, 1)


def test_sample_accuracy_by_hand():
    assert metrics.sample_accuracy(R, N) == pytest.approx((6 + 27 + 60) / 100)
    assert metrics.sample_accuracy(R, N, 1) == pytest.approx((7 + 24) / 40)


def test_average_incremental_accuracy_by_hand():
    assert metrics.average_incremental_accuracy(R) == pytest.approx((0.9 + 0.75 + 2.5 / 3) / 3)
    assert metrics.average_incremental_accuracy(R, N) == pytest.approx((0.9 + 31 / 40 + 0.93) / 3)


def test_forgetting_and_backward_transfer_by_hand():
    # Task 0: best before the last step 0.9, then 0.6. Task 1: 0.8, then 0.9, which is an improvement.
    assert metrics.forgetting(R) == pytest.approx((0.3 - 0.1) / 2)
    assert metrics.backward_transfer(R) == pytest.approx((-0.3 + 0.1) / 2)


def test_forgetting_differs_from_negative_backward_transfer_when_a_task_peaks_later():
    peaks = [[0.5, NAN, NAN], [0.8, 0.5, NAN], [0.4, 0.5, 0.5]]
    assert metrics.forgetting(peaks) == pytest.approx(0.4 / 2)
    assert metrics.backward_transfer(peaks) == pytest.approx(-0.1 / 2)


def test_forgetting_counts_evaluations_before_a_task_was_learned():
    early = [[0.5, 0.9, 0.0], [0.5, 0.4, 0.0], [0.5, 0.4, 0.0]]
    assert metrics.forgetting(early) == pytest.approx((0.0 + 0.5) / 2)


def test_forward_transfer_needs_entries_above_the_diagonal():
    assert math.isnan(metrics.forward_transfer(R, [0.1, 0.1, 0.1]))
    full = [[0.9, 0.3, 0.0], [0.0, 0.9, 0.5], [0.0, 0.0, 0.9]]
    assert metrics.forward_transfer(full, [0.0, 0.1, 0.2]) == pytest.approx((0.2 + 0.3) / 2)


def test_per_task_by_hand():
    first, second, last = metrics.per_task(R)
    assert (first.learned, first.best, first.last) == (0.9, 0.9, 0.6)
    assert (second.learned, second.best, second.last) == (0.8, 0.8, 0.9)
    assert last.learned == last.last == 1.0
    assert math.isnan(last.best) and math.isnan(last.forgetting)


def test_one_task_has_no_forgetting_and_no_transfer():
    for value in (metrics.forgetting([[0.7]]), metrics.backward_transfer([[0.7]])):
        assert math.isnan(value)
    assert math.isnan(metrics.forward_transfer([[0.7]], [0.5]))
    assert metrics.average_incremental_accuracy([[0.7]]) == 0.7


def test_an_entry_that_was_not_evaluated_makes_every_value_that_needs_it_nan():
    only_last = np.full((3, 3), NAN)
    only_last[2] = [0.5, 0.6, 0.7]
    assert metrics.average_accuracy(only_last) == pytest.approx(0.6)
    assert math.isnan(metrics.average_accuracy(only_last, 1))
    assert math.isnan(metrics.average_incremental_accuracy(only_last))
    assert math.isnan(metrics.forgetting(only_last))
    assert math.isnan(metrics.backward_transfer(only_last))
    hole = R.copy()
    hole[1, 0] = NAN
    assert math.isnan(metrics.forgetting(hole))
    assert metrics.backward_transfer(hole) == metrics.backward_transfer(R)


@given(runs())
def test_functions_agree_with_plain_python(run):
    matrix, counts = run
    tasks = len(matrix)
    before = matrix.copy()
    for t in range(tasks):
        right = sum(matrix[t][j] * counts[j] for j in range(t + 1))
        assert metrics.sample_accuracy(matrix, counts, t) == pytest.approx(right / sum(counts[: t + 1]))
        assert metrics.average_accuracy(matrix, t) == pytest.approx(sum(matrix[t][: t + 1]) / (t + 1))
    if tasks > 1:
        drops = [max(matrix[t][j] for t in range(j, tasks - 1)) - matrix[-1][j] for j in range(tasks - 1)]
        assert metrics.forgetting(matrix) == pytest.approx(sum(drops) / len(drops))
        # The best accuracy is at least the accuracy just after learning.
        assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12
    np.testing.assert_array_equal(matrix, before)


@given(runs(), st.integers(1, 50))
def test_both_averages_agree_when_all_tasks_have_as_many_samples(run, count):
    matrix, _ = run
    assert metrics.sample_accuracy(matrix, [count] * len(matrix)) == pytest.approx(metrics.average_accuracy(matrix))


@given(runs())
def test_average_incremental_accuracy_lies_between_the_worst_and_the_best_step(run):
    matrix, counts = run
    for extra in ((), (counts,)):
        steps = [
            metrics.sample_accuracy(matrix, counts, t) if extra else metrics.average_accuracy(matrix, t)
            for t in range(len(matrix))
        ]
        assert min(steps) - 1e-12 <= metrics.average_incremental_accuracy(matrix, *extra) <= max(steps) + 1e-12


def test_columns_follow_names_also_for_classes_that_come_back():
    seen = ("cat", "dog", "eel", "fox")
    np.testing.assert_array_equal(metrics.columns(("eel", "cat"), seen), [2, 0])
    with pytest.raises(ValueError, match="gnu"):
        metrics.columns(("cat", "gnu"), seen)


def test_class_and_task_accuracy_by_hand():
    # Task classes sit in columns 2 and 0; the second sample is drawn away by column 1 of another task.
    logits = [[0.1, 0.0, 0.9], [0.4, 0.9, 0.1], [0.2, 0.1, 0.3]]
    own = metrics.columns(("eel", "cat"), ("cat", "dog", "eel"))
    assert metrics.class_accuracy(logits, [0, 1, 1], own) == pytest.approx(1 / 3)
    assert metrics.task_accuracy(logits, [0, 1, 1], own) == pytest.approx(2 / 3)


@given(st.data())
def test_task_accuracy_is_never_below_class_accuracy(data):
    seen, samples = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    own = data.draw(st.lists(st.integers(0, seen - 1), min_size=1, max_size=seen, unique=True))
    labels = data.draw(st.lists(st.integers(0, len(own) - 1), min_size=samples, max_size=samples))
    # Distinct values: which of two equal logits wins is not part of the definition.
    flat = data.draw(st.permutations(range(seen * samples)))
    logits = np.array(flat, dtype=float).reshape(samples, seen)
    assert metrics.task_accuracy(logits, labels, own) >= metrics.class_accuracy(logits, labels, own)


@pytest.mark.parametrize("matrix", [[], [[0.1, 0.2]], [0.5]])
def test_a_matrix_that_is_not_square_is_refused(matrix):
    with pytest.raises(ValueError, match="square"):
        metrics.average_accuracy(matrix)


def test_a_step_or_a_count_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="step 3"):
        metrics.average_accuracy(R, 3)
    with pytest.raises(ValueError, match="3 tasks"):
        metrics.sample_accuracy(R, [1, 2])


def test_calibration_error_by_hand():
    # Two sure and right; of two at 55 % one right; one at 0.9, which opens the last range, wrong.
    bins = metrics.reliability([0.95, 0.97, 0.55, 0.55, 0.9], [True, True, True, False, False])
    assert [b.samples for b in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    assert (bins[5].low, bins[5].high, bins[5].accuracy) == (0.5, 0.6, 0.5)
    assert bins[9].confidence == pytest.approx(0.94) and bins[9].accuracy == pytest.approx(2 / 3)
    assert math.isnan(bins[0].accuracy)
    assert metrics.calibration_error(bins) == pytest.approx(2 / 5 * 0.05 + 3 / 5 * (0.94 - 2 / 3))
    assert math.isnan(metrics.calibration_error(metrics.reliability([], [])))
    assert metrics.reliability([1.0], [True])[-1].samples == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_between_the_gap_of_the_means_and_one(answers):
    confidence, right = zip(*answers, strict=True)
    found = metrics.calibration_error(metrics.reliability(confidence, right))
    assert abs(np.mean(confidence) - np.mean(right)) - 1e-9 <= found <= 1


@pytest.mark.parametrize(("confidence", "right"), [([1.1], [True]), ([0.5], [True, False]), ([NAN], [True])])
def test_confidence_that_is_none_is_refused(confidence, right):
    with pytest.raises(ValueError, match="reliability needs"):
        metrics.reliability(confidence, right)
