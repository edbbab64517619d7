"""The adapter of one task on plain tensors: low-rank factors per layer and one importance."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The low-rank update of one layer, `delta = B @ A`.

    A convolution's kernel is flattened: `in_features = in_channels * kernel_height * kernel_width`.

    Attributes:
        A: shape (rank, in_features).
        B: shape (out_features, rank).
    """

    A: Tensor
    B: Tensor

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise ValueError(
                f"factors need A (rank, in) and B (out, rank), got A {tuple(self.A.shape)} and B {tuple(self.B.shape)}"
            )

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features) of the delta."""
        return self.B.shape[0], self.A.shape[1]

    def delta(self) -> Tensor:
        """The dense update, shape (out_features, in_features)."""
        return self.B @ self.A

    def scaled(self, scale: float | Tensor) -> "Factors":
        """The factors of `scale * delta`."""
        return Factors(self.A, self.B * scale)


@dataclass(frozen=True)
class Adapter:
    """All layers of one task's adapter, with the scalar importance they share (alpha_i)."""

    task: str
    layers: Mapping[str, Factors]
    importance: float = 1.0

    def check(self) -> None:
        """Raise ValueError naming the task and the layer that holds a NaN or an infinity."""
        for layer, factors in self.layers.items():
            if not (torch.isfinite(factors.A).all() and torch.isfinite(factors.B).all()):
                raise ValueError(f"the adapter of task {self.task!r} is not finite in layer {layer!r}")
