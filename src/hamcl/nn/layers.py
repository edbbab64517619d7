"""Adapted layers: the base layer, the merged groups and the adapter in training, computed as one.

    h = W0 x + sum_j alpha_Gj dW_Gj x + alpha_i s B A x

Two ways to compute it are chosen per layer by cost. They agree up to rounding, in values and in all gradients:

- "packed": every update is added to the output through its factors. The cost grows with rows x rank.
- "dense": the updates are added to W0 first, so that one matrix product serves them all, forward and backward. The
  cost hardly depends on the rank, because the sum has the size of the weight and not of the activations.

A base weight in half precision is always packed: W0 + dW rounded back to half precision would lose small updates.
Where nothing trains, the sum of weights is kept, so that inference costs what the base layer costs; it goes when
training begins or when a tensor it was made from changes.
This module and `attach` are the only ones that rely on PEFT's internals.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.errors import UsageError
from hamcl.ham.adapter import Factors
from hamcl.reading._torchvision import ensure_torchvision

ensure_torchvision()

from peft.tuners.lora.layer import Conv2d as LoraConv2d  # noqa: E402
from peft.tuners.lora.layer import Linear as LoraLinear  # noqa: E402

Backend = Literal["auto", "packed", "dense"]
TASK = "ham_task"
"""The name of PEFT's one adapter, which holds the task in training."""

# Costs of training steps on one core, forward and backward, in multiply-adds per entry: fitted to whole steps of a
# ViT, a convolutional network and a text encoder, with plain PEFT's time as the yardstick.
PACKED_PASS, PACKED_RANK = 130, 3
"""A packed update, per row and per input and output feature: what it costs at any rank (it reads and writes whole
activations several times), and what each rank adds."""
DENSE_PASS, DENSE_RANK, DENSE_STORED = 100, 3, 20
"""A dense update, per entry of the weight: what it costs at any rank, and what each rank or each stored delta adds;
besides, the weight's gradient costs 1 per row."""


@dataclass(eq=False)
class Shared:
    """What all adapted layers of one model share. A plain object, so that no layer registers the importances.

    Attributes:
        owner: the module that registers `importance`, `group_importance` and `settled_importance`; read through it at
            every use, so that no reference can go stale when a move, a copy or a load replaces the tensors.
        scale: s, the constant factor of the task's update.
        backend: how the layers compute.
        groups: how many groups are loaded.
        task: whether there is a task adapter.
        without_task: leave the task adapter out.
        frozen: leave everything out but the base layer.
    """

    owner: nn.Module
    scale: float
    backend: Backend
    groups: int = 0
    task: bool = False
    without_task: bool = False
    frozen: bool = False

    @property
    def importance(self) -> nn.Parameter:
        """alpha_i, of the task in training."""
        return cast(nn.Parameter, self.owner.importance)

    @property
    def group_importance(self) -> Tensor:
        """As a task trains it; where that task is left out, as it was before."""
        settled = self.task and self.without_task
        return cast(Tensor, self.owner.settled_importance if settled else self.owner.group_importance)


@dataclass(frozen=True, eq=False)
class Folded:
    """A weight with all updates added, and the tensors it was made from, as they were then.

    A change of a tensor is seen by PyTorch's own version count, which every in-place operation raises; only writing
    into `tensor.data` goes past it.
    """

    weight: Tensor
    sources: tuple[Tensor, ...]
    versions: tuple[tuple[int, int], ...]

    def made_from(self, sources: tuple[Tensor, ...]) -> bool:
        """Whether these are the tensors it was made from, unchanged."""
        return (
            len(sources) == len(self.sources)
            and all(a is b for a, b in zip(sources, self.sources, strict=True))
            and _versions(sources) == self.versions
        )


def _versions(tensors: tuple[Tensor, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((t._version, t.data_ptr() if t.device.type != "meta" else 0) for t in tensors)


def _as(weight: Tensor, x: Tensor) -> Tensor:
    """The input in the weight's precision; autocast chooses one for both."""
    return x if _autocasts(x.device) else x.to(weight.dtype)


def _autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


class HamLayer(nn.Module):
    """A LoRA layer with merged groups beside its adapter; `base_layer`, `lora_A` and `lora_B` are PEFT's."""

    base_layer: nn.Module
    lora_A: nn.ModuleDict
    lora_B: nn.ModuleDict
    lora_dropout: nn.ModuleDict
    shared: Shared
    group_A: Tensor
    group_B: Tensor
    group_slots: Tensor
    group_deltas: Tensor

    def bind(self, shared: Shared) -> None:
        """Take part in a model; called once, after PEFT has made the layer."""
        self.shared = shared
        self._folded: Folded | None = None
        for name in ("group_A", "group_B", "group_slots", "group_deltas"):
            self.register_buffer(name, None, persistent=False)
        self.set_groups([])

    @property
    def base_weight(self) -> Tensor:
        """W0, which is frozen."""
        return cast(Tensor, self.base_layer.weight)

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features) of an update, a kernel being flattened."""
        return self.base_weight.shape[0], math.prod(self.base_weight.shape[1:])

    @property
    def task_A(self) -> nn.Parameter:
        """Parameter of shape (rank, in) or (rank, in_channels, kernel height, kernel width)."""
        return cast(nn.Parameter, self.lora_A[TASK].weight)

    @property
    def task_B(self) -> nn.Parameter:
        """Parameter of shape (out, rank) or (out, rank, 1, 1)."""
        return cast(nn.Parameter, self.lora_B[TASK].weight)

    @torch.no_grad()
    def set_groups(self, groups: Sequence[Factors | None]) -> None:
        """Replace the groups' updates; None where a group does not touch this layer."""
        out_features, in_features = self.shape
        like = self.task_A
        parts = [(slot, f) for slot, f in enumerate(groups) if f is not None]
        self.group_A = torch.cat([like.new_empty(0, in_features), *(f.A.to(like) for _, f in parts)])
        self.group_B = torch.cat([like.new_empty(out_features, 0), *(f.B.to(like) for _, f in parts)], dim=1)
        slots = [slot for slot, f in parts for _ in range(f.rank)]
        self.group_slots = torch.tensor(slots, dtype=torch.long, device=like.device)
        # Summing stored deltas is faster than multiplying factors out at high ranks; at most four times their memory.
        factors, deltas = len(slots) * (in_features + out_features), len(groups) * in_features * out_features
        stored = self._precise and self.shared.backend != "packed" and 0 < deltas <= 4 * factors
        empty = like.new_zeros(out_features, in_features)
        self.group_deltas = (
            torch.stack([empty if f is None else f.delta().to(like) for f in groups]) if stored else like.new_empty(0)
        )
        self._folded = None

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared
        groups = self.group_slots.numel() > 0 and not shared.frozen
        task = shared.task and not shared.without_task and not shared.frozen
        if not groups and not task:
            return self.base_layer(x)
        drops = task and self.training and getattr(self.lora_dropout[TASK], "p", 0.0) > 0
        weight = self._weight(x, groups, task and not drops) if groups or not drops else None
        if weight is not None:
            y = self._apply_base(x, weight)
        else:
            y = self.base_layer(x)
            if groups or not drops:
                y = y + self._low_rank(x, *self._factors(groups, task and not drops)).to(y.dtype)
        if drops:
            dropped = self.lora_dropout[TASK](x)
            y = y + self._low_rank(dropped, *self._factors(False, True)).to(y.dtype)
        return y

    def _factors(self, groups: bool, task: bool) -> tuple[Tensor, Tensor, Tensor]:
        """A (rank, in), B (out, rank) and the scale (rank,) of all updates asked for, as one."""
        parts = []
        if groups:
            parts.append((self.group_A, self.group_B, self.shared.group_importance[self.group_slots]))
        if task:
            scale = (self.shared.importance * self.shared.scale).expand(self.task_A.shape[0])
            parts.append((self.task_A.flatten(1), self.task_B.flatten(1), scale))
        if len(parts) == 1:
            return parts[0]
        A, B, scales = zip(*parts, strict=True)
        return torch.cat(A), torch.cat(B, dim=1), torch.cat(scales)

    def _weight(self, x: Tensor, groups: bool, task: bool) -> Tensor | None:
        """W0 plus the updates asked for, or None where it is better to add their outputs."""
        if not self._precise:
            return None
        sources = self._sources(groups, task)
        trains = any(t.requires_grad for t in sources) and (torch.is_grad_enabled() or self.training)
        if trains or torch.compiler.is_compiling() or any(t.is_inference() for t in sources):
            return self._fold(groups, task) if self._dense_pays(x, groups, task) else None
        if self._folded is None or not self._folded.made_from(sources):
            # An ordinary tensor in full precision, whatever the context of the first call that needs it.
            device = self.base_weight.device
            exact = torch.autocast(device.type, enabled=False) if _autocasts(device) else nullcontext()
            with torch.inference_mode(False), torch.no_grad(), exact:
                self._folded = Folded(self._fold(groups, task), sources, _versions(sources))
        return self._folded.weight

    @property
    def _precise(self) -> bool:
        return self.base_weight.dtype in (torch.float32, torch.float64)

    def _sources(self, groups: bool, task: bool) -> tuple[Tensor, ...]:
        sources = [self.base_weight]
        if groups:
            sources += [self.group_A, self.group_B, self.group_slots, self.group_deltas, self.shared.group_importance]
        if task:
            sources += [self.task_A, self.task_B, self.shared.importance]
        return tuple(sources)

    def _dense_pays(self, x: Tensor, groups: bool, task: bool) -> bool:
        if self.shared.backend != "auto":
            return self.shared.backend == "dense"
        out_features, in_features = self.shape
        rows = self._rows(x)
        group_rank = self.group_slots.numel() if groups else 0
        task_rank = self.task_A.shape[0] if task else 0
        stored = len(self.group_deltas) if groups and self.group_deltas.numel() else 0
        forming = DENSE_STORED * stored + DENSE_RANK * (task_rank if stored else group_rank + task_rank)
        dense = in_features * out_features * (rows + DENSE_PASS + forming)
        packed = rows * (in_features + out_features) * (PACKED_PASS + PACKED_RANK * (group_rank + task_rank))
        return bool(dense < packed)

    def _fold(self, groups: bool, task: bool) -> Tensor:
        weight = self.base_weight
        delta: Tensor | None = None
        if groups:
            importance = self.shared.group_importance
            if self.group_deltas.numel():
                delta = torch.tensordot(importance[: len(self.group_deltas)], self.group_deltas, 1)
            else:
                delta = (self.group_B * importance[self.group_slots]) @ self.group_A
        if task:
            A, B = self.task_A.flatten(1), self.task_B.flatten(1) * (self.shared.importance * self.shared.scale)
            delta = B @ A if delta is None else torch.addmm(delta, B, A)
        # W0 is added last and outside of any matrix product: autocast would round it.
        return weight if delta is None else weight + delta.view_as(weight).to(weight.dtype)

    @abstractmethod
    def _rows(self, x: Tensor) -> int:
        """How many rows the layer's matrix product has."""

    @abstractmethod
    def _apply_base(self, x: Tensor, weight: Tensor) -> Tensor:
        """The base layer with another weight."""

    @abstractmethod
    def _low_rank(self, x: Tensor, A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
        """B (scale * A x), with A (rank, in), B (out, rank), scale (rank,) or ()."""

    def train(self, mode: bool = True) -> "HamLayer":
        if mode:
            self._folded = None  # only inference needs it, and it is as large as the weight
        super().train(mode)
        return self

    def merge(self, *args: object, **kwargs: object) -> None:
        """Not offered: PEFT would undo a merge with the importances of that moment, not with those of the merge."""
        raise UsageError("an adapted layer cannot be merged in place: use AdaptedBackbone.folded() for a merged copy")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}  # copies and files need not carry it


class HamLinear(HamLayer, LoraLinear):
    """A linear layer with groups and an adapter."""

    base_layer: nn.Linear

    def _rows(self, x: Tensor) -> int:
        return x.numel() // x.shape[-1]

    def _apply_base(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.base_layer.bias)

    def _low_rank(self, x: Tensor, A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
        return F.linear(F.linear(_as(A, x), A) * scale, B)


class HamConv2d(HamLayer, LoraConv2d):
    """An adapted `nn.Conv2d` with one group of channels; stride, padding and dilation are those of the base layer."""

    base_layer: nn.Conv2d

    def _rows(self, x: Tensor) -> int:
        return x.numel() // (x.shape[-3] * math.prod(self.base_layer.stride))

    def _apply_base(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.base_layer._conv_forward(x, weight, self.base_layer.bias)

    def _low_rank(self, x: Tensor, A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
        kernels = A.view(-1, *self.base_weight.shape[1:])
        down = self.base_layer._conv_forward(_as(A, x), kernels, None)
        return F.conv2d(down * scale.view(-1, 1, 1), B[:, :, None, None])
