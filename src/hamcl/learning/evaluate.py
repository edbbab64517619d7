"""What a learner takes the test samples of a task for, and how often it is right: where every evaluation begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from hamcl import metrics
from hamcl.errors import DataError
from hamcl.metrics import Floats, Integers
from hamcl.streams.base import Samples, Task
from hamcl.streams.names import spelled


class Asked(Protocol):
    """What is evaluated, see `hamcl.learning.learner.Learner`."""

    @property
    def classes(self) -> Sequence[str]: ...
    def logits(self, samples: Samples) -> Tensor: ...


class NotFinite(DataError):
    """Scores by which no class can be told."""


@dataclass(frozen=True)
class Answers:
    """What samples of a task were taken for, among all classes seen.

    Attributes:
        logits: shape (n, seen classes).
        labels: shape (n,), the true classes, as the task counts its own.
        columns: shape (classes of the task,), where they stand among those seen.
    """

    logits: Floats
    labels: Integers
    columns: Integers

    @property
    def truth(self) -> Integers:
        """The true columns, shape (n,)."""
        return self.columns[self.labels]

    @property
    def predicted(self) -> Integers:
        """The columns answered, shape (n,); of equal scores, the class that was learned first."""
        return self.logits.argmax(1)

    @property
    def confidence(self) -> Floats:
        """The probability of what was answered, shape (n,)."""
        return 1 / np.exp(self.logits - self.logits.max(1, keepdims=True)).sum(1)

    @property
    def accuracy(self) -> float:
        """The part of the samples that were answered right, in [0, 1]."""
        return metrics.class_accuracy(self.logits, self.labels, self.columns)


def answers(learner: Asked, task: Task, samples: Samples | None = None) -> Answers:
    """Ask a learner about the test samples of a task.

    Args:
        samples: those of the test split to ask about; by default all.

    Raises:
        DataError: there are no test samples, or a class was not learned.
        NotFinite: a score is NaN or infinite.
    """
    samples = task.test if samples is None else samples
    if not len(samples):
        raise DataError(f"task {task.name!r} has no test samples to evaluate")
    names, seen = spelled(task.classes, learner.classes), set(learner.classes)
    if unseen := [name for name in names if name not in seen]:
        raise DataError(f"task {task.name!r} holds classes that were not learned: {', '.join(unseen[:3])}")
    logits = finite(learner.logits(samples)).double().numpy()
    labels = np.asarray(samples.labels, dtype=np.int64)
    return Answers(logits, labels, metrics.columns(names, learner.classes))


def finite(scores: Tensor) -> Tensor:
    """The scores of samples, shape (n, classes), as they are.

    Raises:
        NotFinite: one is NaN or infinite.
    """
    bad = (~scores.isfinite()).any(1).sum().item()
    if bad:
        raise NotFinite(
            f"the scores of {bad} of {len(scores)} samples are not finite: numbers of the model are damaged or far "
            "too large; restore it from a copy, or learn again with a lower lr"
        )
    return scores
