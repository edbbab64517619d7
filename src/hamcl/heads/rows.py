"""The linear classifier whose rows are trained task by task."""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.heads.base import Head, Linear
from hamcl.heads.calibration import evidence, temperature


class Rows(Head):
    """The linear classifier whose rows are trained task by task (heads "linear" and "cosine").

    The cosine variant compares directions: `scale * cos(x, row)`, without a bias.

    Attributes:
        temperature: what the scores are divided by, shape (); None where nothing asked for it.
    """

    SCALE = 16.0

    def __init__(self, width: int, cosine: bool = False) -> None:
        super().__init__(width)
        self.cosine = cosine
        self.weight = torch.zeros(0, width)
        self.bias = torch.zeros(0)
        self.temperature: Tensor | None = None

    def add_classes(self, count: int) -> None:
        self.weight = torch.cat([self.weight, self.weight.new_zeros(count, self.width)])
        self.bias = torch.cat([self.bias, self.bias.new_zeros(count)])
        self._solved = None

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        """Nothing: the rows are trained with the adapter."""

    def trainable(self, columns: Tensor, random: torch.Generator) -> "TaskRows":
        """The rows of one task as a module to train; untrained rows start small and random."""
        weight, bias = self.weight[columns].clone(), self.bias[columns].clone()
        fresh = torch.randn(weight.shape, generator=random) * (0.02 / self.width**0.5)
        weight = torch.where(weight.abs().sum(1, keepdim=True) > 0, weight, fresh)
        return TaskRows(weight, bias, self.SCALE if self.cosine else None)

    def store(self, columns: Tensor, rows: "TaskRows") -> None:
        """Write the trained rows of one task back."""
        self.weight[columns] = rows.weight.detach().cpu().float()
        self.bias[columns] = rows.bias.detach().cpu().float()
        self._solved = None

    def calibrate(self, features: Tensor, labels: Tensor) -> None:
        """Fit the temperature to the latest task's samples among all classes.

        Rows keep no statistics that a sample could be left out of, so these are samples they were trained on, and none
        of earlier tasks: what comes of it is a guess.

        Args:
            features: shape (n, width).
            labels: columns of the logits, shape (n,).
        """
        self.temperature, self._solved = None, None
        found = temperature(evidence(self.logits(features), labels), len(labels))
        self.temperature, self._solved = torch.tensor(found), None

    def layout(self, names: Collection[str]) -> dict[str, Tensor]:
        own = {name: value for name, value in self.state_dict().items() if name != "temperature"}
        return {**own, "temperature": torch.ones(())} if "temperature" in names else own

    def _load(self, state: dict[str, Tensor]) -> None:
        super()._load({"temperature": None, **state})  # type: ignore[dict-item]

    def _solve(self) -> Linear:
        found = Linear(self.weight, self.bias)
        if self.cosine:
            found = Linear(self.SCALE * F.normalize(self.weight, dim=1), torch.zeros_like(self.bias))
        return found if self.temperature is None else found.scaled(1 / self.temperature)

    def logits(self, features: Tensor) -> Tensor:
        x = self._check(features).float()
        return self.linear()(F.normalize(x, dim=1) if self.cosine else x)


class TaskRows(nn.Module):
    """The classifier rows of the task in training: features (n, width) -> logits (n, classes of the task)."""

    def __init__(self, weight: Tensor, bias: Tensor, cosine_scale: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias, requires_grad=cosine_scale is None)
        self.cosine_scale = cosine_scale

    def forward(self, features: Tensor) -> Tensor:
        if self.cosine_scale is None:
            return F.linear(features, self.weight, self.bias)
        return self.cosine_scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def within_task(logits: Tensor, tasks: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities of each class among the classes of its own task; a class in two tasks counts to the last.

    Args:
        logits: shape (n, classes).
        tasks: the columns of each task, in the order learned.
    """
    owner = {column: index for index, columns in enumerate(tasks) for column in columns}
    scores = torch.zeros_like(logits)
    for index in range(len(tasks)):
        columns = [column for column, task in owner.items() if task == index]
        if columns:
            scores[:, columns] = logits[:, columns].log_softmax(1)
    return scores
