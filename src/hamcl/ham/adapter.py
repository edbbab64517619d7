"""The adapter of one task on plain tensors: low-rank factors per layer and one importance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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

    def to(self, dtype: torch.dtype) -> "Factors":
        """The same factors in another precision."""
        return Factors(self.A.to(dtype), self.B.to(dtype))


Layers = Mapping[str, Factors]
"""Layer name -> its update: the adapter of one task without its importance, or a merged adapter."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: the low-rank updates of all layers, and one importance for all of them (alpha_i)."""

    task: str
    layers: Layers
    importance: float = 1.0

    def check(self) -> None:
        """Raise ValueError naming the task and the layer (or importance) that is not finite."""
        check_finite(self)


@dataclass
class Group:
    """A group: the merged adapter of several tasks, frozen (G_j).

    Attributes:
        layers: the merged update of every layer.
        importance: alpha_Gj, which stays trainable while later tasks are learned.
        tasks: names of the member tasks, in the order they joined.
    """

    layers: dict[str, Factors]
    importance: float = 1.0
    tasks: list[str] = field(default_factory=list)


def check_finite(update: Layers | Adapter) -> Layers:
    """Return the layers of `update`; raise ValueError naming the task (if known) and what is not finite."""
    layers = update.layers if isinstance(update, Adapter) else update
    if not layers:
        raise ValueError(f"{_owner(update)} updates no layer")
    if isinstance(update, Adapter) and not math.isfinite(update.importance):
        raise ValueError(f"{_owner(update)} has the importance {update.importance}, which is not finite")
    for layer, factors in layers.items():
        if not (torch.isfinite(factors.A).all() and torch.isfinite(factors.B).all()):
            raise ValueError(f"{_owner(update)} is not finite in layer {layer!r}")
    return layers


def check_matching(x: Layers | Adapter, y: Layers | Adapter) -> tuple[Layers, Layers]:
    """Return the layers of both, which must be finite and update the same layers of the same shapes.

    Raises:
        ValueError: names the layer, and the task wherever an `Adapter` was given.
    """
    a, b = check_finite(x), check_finite(y)
    for layer in [*a, *b]:
        if layer not in a or layer not in b:
            has, lacks = (x, y) if layer in a else (y, x)
            raise ValueError(f"{_owner(has)} updates layer {layer!r}, but {_owner(lacks)} does not")
        if a[layer].shape != b[layer].shape:
            raise ValueError(
                f"{_owner(x)} and {_owner(y)} differ in layer {layer!r}: "
                f"(out, in) is {a[layer].shape} and {b[layer].shape}"
            )
    return a, b


def _owner(update: Layers | Adapter) -> str:
    return f"the adapter of task {update.task!r}" if isinstance(update, Adapter) else "a merged adapter"
