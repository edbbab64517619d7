"""Continual-learning metrics as pure functions on the accuracy matrix.

Notation, with tasks and steps counted from 0 and T the number of tasks:

- `R[t][j]` is the accuracy on the test split of task j after task t was learned, in [0, 1]; NaN where it was not
  evaluated. `R` is a square array-like of shape (T, T).
- `n[j]` is the number of test samples of task j.

NaN rules, the same for every function: a value that needs an entry which was not evaluated is NaN, never an average
over fewer entries; a value that has no defining entries (forgetting with one task) is NaN too. No input is modified.

Accuracies are class-incremental: the predicted class is the argmax over every class seen so far, wherever it was
learned. A class that comes back in a later task keeps its one column, so `columns` maps the class names of a task to
the columns of the seen classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def columns(classes: Sequence[str], seen: Sequence[str]) -> Integers:
    """The logit column of each class of a task, shape (len(classes),).

    Raises:
        ValueError: a class of the task is not among the seen classes.
    """
    position = {name: column for column, name in enumerate(seen)}
    unseen = [name for name in classes if name not in position]
    if unseen:
        raise ValueError(f"no logits for {len(unseen)} of the task's classes: {', '.join(unseen[:3])}")
    return np.array([position[name] for name in classes], dtype=np.int64)


def class_accuracy(logits: ArrayLike, labels: ArrayLike, task_columns: ArrayLike) -> float:
    """Class-incremental accuracy: the argmax over all seen classes is the true class.

    Args:
        logits: shape (n, seen classes).
        labels: shape (n,), positions in the class list of the task.
        task_columns: shape (classes of the task,), from `columns`.
    """
    wanted = np.asarray(task_columns)[np.asarray(labels, dtype=np.int64)]
    return _mean(np.argmax(np.asarray(logits), axis=1) == wanted)


def task_accuracy(logits: ArrayLike, labels: ArrayLike, task_columns: ArrayLike) -> float:
    """Task-incremental accuracy: the argmax over the columns of the sample's own task is the true class.

    The arguments are those of `class_accuracy`; the value is never below it.
    """
    own = np.asarray(logits)[:, np.asarray(task_columns)]
    return _mean(np.argmax(own, axis=1) == np.asarray(labels))


def average_accuracy(R: ArrayLike, t: int = -1) -> float:
    """Task-macro average accuracy after step t: `A_t = 1/(t+1) * sum_{j<=t} R[t][j]`.

    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017 (ACC).
    """
    return _mean(_row(R, t))


def sample_accuracy(R: ArrayLike, n: ArrayLike, t: int = -1) -> float:
    """Sample-micro average accuracy after step t: `sum_{j<=t} n[j] R[t][j] / sum_{j<=t} n[j]`.

    The fraction of all test samples of the seen tasks that are right; equal to `average_accuracy` when every task has
    as many test samples.
    """
    row = _row(R, t)
    counts = _counts(n, len(_matrix(R)))[: len(row)]
    return float(row @ counts / counts.sum())


def average_incremental_accuracy(R: ArrayLike, n: ArrayLike | None = None) -> float:
    """Mean over the steps of the average accuracy: `1/T * sum_t A_t`.

    Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", 2017. Task-macro, or sample-micro
    when the test counts `n` are given.
    """
    steps = range(len(_matrix(R)))
    return _mean([average_accuracy(R, t) if n is None else sample_accuracy(R, n, t) for t in steps])


def forgetting(R: ArrayLike) -> float:
    """Average forgetting: `F = 1/(T-1) * sum_{j<T-1} (max_{t<T-1} R[t][j] - R[T-1][j])`.

    Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018. The maximum excludes the last step, so a task
    that improves at the end has a negative forgetting. Entries above the diagonal (a task evaluated before it was
    learned) take part in the maximum where they were evaluated.
    """
    return _mean([task.forgetting for task in per_task(R)[:-1]])


def backward_transfer(R: ArrayLike) -> float:
    """Backward transfer: `BWT = 1/(T-1) * sum_{j<T-1} (R[T-1][j] - R[j][j])`; negative when tasks are forgotten.

    Lopez-Paz and Ranzato, 2017.
    """
    return _mean([task.last - task.learned for task in per_task(R)[:-1]])


def forward_transfer(R: ArrayLike, baseline: ArrayLike) -> float:
    """Forward transfer: `FWT = 1/(T-1) * sum_{0<j} (R[j-1][j] - baseline[j])`.

    Lopez-Paz and Ranzato, 2017. Defined only for a model that can be asked about a task before it learned it; a
    class-incremental learner has no logits for classes it has not seen, and then the value is NaN.

    Args:
        baseline: shape (T,), the accuracy on each task of the model before any training.
    """
    matrix = _matrix(R)
    before = _counts(baseline, len(matrix))
    return _mean(np.diagonal(matrix, offset=1) - before[1:])


@dataclass(frozen=True)
class TaskSummary:
    """What became of one task.

    Attributes:
        learned: accuracy just after it was learned, `R[j][j]`.
        best: the highest accuracy before the last step, `max_{t<T-1} R[t][j]`; NaN for the last task.
        last: accuracy after the last step, `R[T-1][j]`.
        forgetting: `best - last`.
    """

    learned: float
    best: float
    last: float
    forgetting: float


def per_task(R: ArrayLike) -> list[TaskSummary]:
    """One summary per task, in the order of the stream."""
    matrix = _matrix(R)
    final = len(matrix) - 1
    summaries = []
    for j in range(final + 1):
        since, before = matrix[j:final, j], matrix[:j, j]
        # A NaN among the steps since the task was learned must win; earlier steps count where they were evaluated.
        best = float(np.max([*since, *before[~np.isnan(before)]])) if len(since) else float("nan")
        last = float(matrix[final, j])
        summaries.append(TaskSummary(float(matrix[j, j]), best, last, best - last))
    return summaries


@dataclass(frozen=True)
class Bin:
    """The samples whose confidence, the probability of the class they were taken for, lies in one range.

    Attributes:
        low, high: the range, the end of which belongs to the next one.
        samples: how many there are.
        confidence, accuracy: their means; NaN where there are none.
    """

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> list[Bin]:
    """Confidence against accuracy in ranges of equal width (the reliability diagram).

    Args:
        confidence: the largest probability of each sample, shape (n,), in [0, 1].
        right: whether its class was the true one, shape (n,).
    """
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if values.shape != hits.shape or values.ndim != 1 or not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError("reliability needs one confidence in [0, 1] and one answer for each sample")
    place = np.minimum((values * bins).astype(int), bins - 1)
    parts = [place == i for i in range(bins)]
    return [
        Bin(i / bins, (i + 1) / bins, int(part.sum()), _mean(values[part]), _mean(hits[part]))
        for i, part in enumerate(parts)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: `sum_b n_b / n * |accuracy_b - confidence_b|`; NaN without samples.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; Guo et al.,
    "On Calibration of Modern Neural Networks", 2017.
    """
    total = sum(b.samples for b in bins)
    gaps = [b.samples / total * abs(b.accuracy - b.confidence) for b in bins if b.samples]
    return float(sum(gaps)) if gaps else float("nan")


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")


def _matrix(R: ArrayLike) -> Floats:
    matrix = np.asarray(R, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"the accuracy matrix must be square and not empty, got shape {matrix.shape}")
    return matrix


def _row(R: ArrayLike, t: int) -> Floats:
    """The accuracies after step t on the tasks learned by then."""
    matrix = _matrix(R)
    if not -len(matrix) <= t < len(matrix):
        raise ValueError(f"step {t} does not exist in an accuracy matrix of {len(matrix)} steps")
    return matrix[t, : t % len(matrix) + 1]


def _counts(n: ArrayLike, tasks: int) -> Floats:
    counts = np.asarray(n, dtype=np.float64)
    if counts.shape != (tasks,):
        raise ValueError(f"one value per task is needed: {tasks} tasks, got shape {counts.shape}")
    return counts
