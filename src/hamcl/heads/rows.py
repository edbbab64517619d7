"""The linear classifier whose rows are trained task by task."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.errors import DataError
from hamcl.heads.base import Head, Linear
from hamcl.heads.calibration import evidence, temperature


class Rows:
    """The linear classifier whose rows are trained task by task.

    The cosine variant compares directions: `scale * cos(x, row)`, without a bias.

    Attributes:
        weight, bias: shapes (classes, width) and (classes,).
        temperature: what the scores are divided by, shape (); None where nothing asked for it.
    """

    SCALE = 16.0

    def __init__(self, width: int, cosine: bool = False) -> None:
        self.width, self.cosine = width, cosine
        self.weight = torch.zeros(0, width)
        self.bias = torch.zeros(0)
        self.temperature: Tensor | None = None

    def add_classes(self, count: int) -> None:
        """Append rows of zeros."""
        self.weight = torch.cat([self.weight, self.weight.new_zeros(count, self.width)])
        self.bias = torch.cat([self.bias, self.bias.new_zeros(count)])

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

    def state_dict(self) -> dict[str, Tensor]:
        """The rows as tensors."""
        state = {"weight": self.weight, "bias": self.bias}
        return state if self.temperature is None else {**state, "temperature": self.temperature}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            DataError: these are no rows.
        """
        if state.keys() - {"temperature"} != {"weight", "bias"}:
            raise DataError(f"rows hold ['bias', 'weight'], the saved ones {sorted(state)}")
        self.weight, self.bias = state["weight"].clone(), state["bias"].clone()
        self.temperature = state["temperature"].clone() if "temperature" in state else None


class TrainedRows(Head):
    """The rows as they were trained with the tasks (heads "linear" and "cosine"); they keep the state.

    The temperature is fitted to the latest task's samples among all classes. Rows keep no statistics that a sample
    could be left out of, so these are samples they were trained on, and none of earlier tasks: what comes of it is a
    guess.
    """

    trained = True

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows.width)
        self.rows = rows

    def add_classes(self, count: int) -> None:
        """Nothing: the rows have been told."""

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        self.rows.temperature = None
        found = temperature(evidence(self.logits(features), labels), len(labels))
        self.rows.temperature = torch.tensor(found)

    def linear(self) -> Linear:
        """The rows as they are now: they change without this head's doing."""
        return self._solve()

    def _solve(self) -> Linear:
        rows = self.rows
        found = Linear(rows.weight, rows.bias)
        if rows.cosine:
            found = Linear(rows.SCALE * F.normalize(rows.weight, dim=1), torch.zeros_like(rows.bias))
        return found if rows.temperature is None else found.scaled(1 / rows.temperature)

    def logits(self, features: Tensor) -> Tensor:
        x = self._check(features).float()
        return self.linear()(F.normalize(x, dim=1) if self.rows.cosine else x)


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
