"""InfLoRA (arXiv 2404.00228): every task trains B alone, in input directions that earlier tasks do not use."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.config import BARE, HAMConfig, option
from hamcl.ham import Factors, merge_layers
from hamcl.ham.flat import layers_from, layers_state, prefixed, stripped
from hamcl.learning.learner import Learner
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.nn.layers import HamLayer
from hamcl.reading.batches import Batch
from hamcl.rng import scoped
from hamcl.streams.base import Samples
from hamcl.training.lesson import Lesson, State


@dataclass(frozen=True)
class InfLoRAConfig(HAMConfig):
    """Options of InfLoRA."""

    energy: float = option(0.95, "Share of a task's input energy that its kept directions hold (epsilon).")
    horizon: int | None = option(
        None, "Tasks over which the share rises to 1, as the paper does, which knows their number; none: it stays."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("energy", 0 < self.energy <= 1, "in (0, 1]")
        self._require("horizon", self.horizon is None or self.horizon >= 1, "at least 1 or none")

    def energy_after(self, index: int) -> float:
        """The share for the task at `index`."""
        return self.energy + (1 - self.energy) * min(1.0, index / self.horizon) if self.horizon else self.energy


@dataclass
class Used:
    """The input directions of one layer that earlier tasks use, or, once they are more than half, all others.

    Keeping the smaller of the two is the paper's DualGPM.

    Attributes:
        basis: orthonormal columns, shape (in_features, directions).
        others: whether the basis spans what is not used.
    """

    basis: Tensor
    others: bool = False

    def unused(self, x: Tensor) -> Tensor:
        """The part of the columns of `x` that lies in unused directions."""
        inside = self.basis @ (self.basis.T @ x)
        return inside if self.others else x - inside

    def add(self, moment: Tensor, energy: float) -> None:
        """Use as many more directions as the inputs need for a share `energy` of |moment|^2 (eqs. 10 and 11).

        Args:
            moment: mean of x x^T over the inputs, shape (in_features, in_features).
        """
        rest, total = self.unused(moment), moment.square().sum().clamp_min(torch.finfo(moment.dtype).tiny)
        held, count = 1 - rest.square().sum() / total, 32
        values, vectors = _directions(rest, count)
        while held + values.sum() / total < energy and count < len(moment):
            count *= 2
            values, vectors = _directions(rest, count)
        needed = int((held + (values / total).cumsum(0) < energy).sum()) + 1 if held < energy else 0
        new = vectors[:, : min(needed, _real(values, moment))]
        if not new.shape[1]:
            return
        if self.others:
            inside = self.basis.T @ new  # the new directions in the basis of those that were left
            self.basis = self.basis @ _complement(inside)
            return
        self.basis = torch.cat([self.basis, new], 1)
        if self.basis.shape[1] > len(moment) / 2:
            self.basis, self.others = _complement(self.basis), True


def _complement(basis: Tensor) -> Tensor:
    """Orthonormal columns that span what the orthonormal columns of `basis` do not."""
    return torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]


def _directions(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest squared singular values and left singular vectors of a square `x`, at most `count`.

    Few of many are found by subspace iteration (Halko, Martinsson and Tropp, 2011), much faster than all.
    """
    if 4 * count >= len(x):
        values, vectors = torch.linalg.eigh(x @ x.T)
        return values.flip(0)[:count].clamp_min(0), vectors.flip(1)[:, :count]
    with scoped(0, "directions"):
        left, values, _ = torch.svd_lowrank(x, 2 * count, niter=2)
    return values[:count].square(), left[:, :count]


def _real(values: Tensor, moment: Tensor) -> int:
    """How many squared singular values are more than rounding."""
    return int((values > 1e-12 * moment.square().sum()).sum())


class InfLoRA(Learner):
    """InfLoRA (arXiv 2404.00228): adapters in input directions that earlier tasks do not use, `W0 + sum_t B_t A_t`.

    Before a task, A becomes the principal directions of the task's inputs to the layer within the directions not used
    so far, divided by sqrt(3) as in the authors' code, and stays; B trains from zero (eqs. 6 to 9). After it, the
    directions the trained model's inputs use are added to the used ones. As in the authors' code, the energy is
    measured on the second moment of the inputs, not on the inputs. Differences from the paper: all targets are
    adapted, not only keys and values, and the share of energy does not rise unless `horizon` says over how many tasks.

    Attributes:
        merged: the sum of all adapters, exact, at most of full rank.
        used: layer -> the directions in use.
    """

    defaults = MappingProxyType({**BARE, "head": "linear", "importance_lr": 0.0})
    config_type = InfLoRAConfig
    config: InfLoRAConfig
    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.merged: Mapping[str, Factors] = {}
        self.used: dict[str, Used] = {}

    def begin(self, lesson: Lesson) -> None:
        """A new adapter, whose A is set to unused directions of the inputs."""
        self.model.start_task()
        self._design(lesson.samples)

    @torch.no_grad()
    def _design(self, samples: Samples) -> None:
        """Set A to the principal unused directions of the inputs, and freeze it."""
        for name, moment in self._moments(samples).items():
            used, layer = self.used.setdefault(name, Used(moment.new_zeros(len(moment), 0))), self.model.layers[name]
            values, vectors = _directions(used.unused(moment), self.config.rank)
            size = _real(values, moment)
            A = torch.zeros(layer.task_A.shape[0], len(moment))
            A[:size] = vectors[:, :size].T / 3**0.5
            layer.task_A.copy_(A.view_as(layer.task_A))
            layer.task_A.requires_grad_(False)

    def end(self, lesson: Lesson) -> None:
        """Use the directions of the task's inputs, and add the adapter to the sum."""
        adapter = lesson.finite_adapter()
        for name, moment in self._moments(lesson.samples).items():
            self.used[name].add(moment, self.config.energy_after(lesson.index))
        parts = [(adapter.layers, adapter.importance)]
        if self.merged:
            parts.insert(0, (self.merged, self.model.group_importance[0].item()))
        layers, weights = zip(*parts, strict=True)
        self.merged = merge_layers(layers, rule="concat", weights=weights).layers
        self._show_merged()

    def _show_merged(self) -> None:
        self.model.end_task()
        merged = [self.merged] if self.merged else []
        self.model.load_groups(merged, [1.0] * len(merged))

    def _moments(self, samples: Samples) -> dict[str, Tensor]:
        """Layer -> mean of x x^T over the layer's inputs x, shape (in_features, in_features), double, on the CPU."""
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        mask: Tensor | None = None

        def look(name: str, layer: HamLayer, x: Tensor) -> None:
            rows = _inputs(layer, x, mask)
            moment = (rows.T @ rows).double().cpu()
            sums[name] = sums[name] + moment if name in sums else moment
            counts[name] = counts.get(name, 0) + len(rows)

        def watched(batch: Batch) -> Tensor:
            nonlocal mask
            mask = batch.get("attention_mask")
            return self.model(batch)

        hooks = [
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: look(name, layer, inputs[0]))
            for name, layer in self.model.layers.items()
        ]
        try:
            self.extract(watched, samples)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: total / counts[name] for name, total in sums.items()}

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        frozen = sum(layer.task_A.numel() for layer in self.model.layers.values())
        return {**counts, "trainable": counts["trainable"] - frozen}

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        bases = {name: used.basis for name, used in self.used.items()}
        tensors = prefixed("merged", layers_state(self.merged)) | prefixed("used", bases)
        return tensors, {"others": [name for name, used in self.used.items() if used.others]}

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.merged = layers_from(stripped("merged", tensors))
        bases = stripped("used", tensors)
        self.used = {name: Used(basis, name in meta["others"]) for name, basis in bases.items()}
        self._show_merged()


def _inputs(layer: HamLayer, x: Tensor, mask: Tensor | None) -> Tensor:
    """The rows a layer multiplies, shape (rows, in_features); those of padding tokens are left out."""
    base = layer.base_layer
    if isinstance(base, nn.Conv2d):
        padded = F.pad(x, base._reversed_padding_repeated_twice)
        patches = F.unfold(padded, base.kernel_size, base.dilation, stride=base.stride)
        return patches.transpose(1, 2).flatten(0, 1).float()
    if mask is not None and x.shape[:2] == mask.shape:
        return x[mask.bool()].float()
    return x.flatten(0, -2).float()
