"""Put the adapted layers into a backbone, show them the groups, take the trained adapter out."""

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from hamcl.errors import UsageError
from hamcl.ham.adapter import Adapter, Factors, Layers
from hamcl.nn.backbones import Backbone, fingerprint
from hamcl.nn.layers import TASK, Backend, HamConv2d, HamLayer, HamLinear, Shared
from hamcl.nn.selection import select_layers
from hamcl.rng import generator

from peft import LoraConfig, inject_adapter_in_model  # isort: skip  # after hamcl.nn.layers has prepared torchvision


class AdaptedBackbone(nn.Module):
    """A backbone with one adapter in training, frozen groups, and the importances of both.

    The groups and the finished adapters are plain tensors kept elsewhere; this is a view of them, rebuilt by
    `load_groups`, so the groups are not in `state_dict()`. No task is active at first: the features are the bare
    backbone's. Nothing but `start_task`, `load_task`, `load_groups` and `end_task` changes which parameters train.

    Attributes:
        backbone: the backbone given, whose targeted layers were replaced in place.
        importance: alpha_i, a parameter of shape ().
        group_importance: alpha_Gj, a parameter of shape (max_groups,). Without a limit its shape is (number of
            groups,) and `load_groups` makes a new parameter, so make optimizers after it. Entries of empty slots
            stay 1 and get zero gradients.
        layers: layer name (relative to `backbone.module`) -> adapted layer.
        skipped: names that `targets` matched but that cannot be adapted (convolutions with channel groups).
    """

    importance: nn.Parameter
    group_importance: nn.Parameter
    settled_importance: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        max_groups: int | None,
        targets: str | Sequence[str] | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
        seed: int = 0,
        backend: Backend = "auto",
    ) -> None:
        """
        Args:
            backbone: changed in place and frozen.
            rank: of the task adapter; groups may have any rank.
            max_groups: G_max, or None for no limit.
            targets: the layers to adapt, see `hamcl.nn.selection.select_layers`; None takes `backbone.targets`.
            scale: constant factor of the task's update (lora_alpha / rank); finished adapters have it folded in.
            dropout: on the input of the task's adapter, in training only.
            seed: of the one initialisation of A that all tasks share.
            backend: how groups are computed, see `hamcl.nn.layers`.

        Raises:
            UsageError: an option is out of range, a target cannot be adapted, or the backbone is adapted already.
        """
        super().__init__()
        if rank < 1:
            raise UsageError(f"rank must be at least 1, got {rank}")
        if max_groups is not None and max_groups < 1:
            raise UsageError(f"max_groups must be at least 1, or None for no limit, got {max_groups}")
        if not math.isfinite(scale) or scale <= 0:
            raise UsageError(f"scale must be a positive number, got {scale}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, got {dropout}")
        if backend not in get_args(Backend):
            raise UsageError(f"unknown backend {backend!r}: choose one of {', '.join(get_args(Backend))}")
        if any(isinstance(m, HamLayer) for m in backbone.modules()):
            raise UsageError(f"backbone {backbone.spec!r} is adapted already: load it again for a second model")
        names, self.skipped = select_layers(backbone.module, targets, backbone.targets if targets is None else ())
        backbone.requires_grad_(False)
        self.rank, self.max_groups, self.seed = rank, max_groups, seed
        self.backbone = backbone
        self.layers: dict[str, HamLayer] = _inject(backbone.module, names, rank, dropout)
        device = next(iter(self.layers.values())).task_A.device
        self.importance = nn.Parameter(torch.ones((), device=device), requires_grad=False)
        self.group_importance = nn.Parameter(torch.ones(max_groups or 0, device=device), requires_grad=False)
        self.register_buffer("settled_importance", self.group_importance.detach().clone(), persistent=False)
        self._shared = Shared(self, scale, backend)
        for layer in self.layers.values():
            layer.bind(self._shared)
        self.end_task()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features of a collated batch, (n, width)."""
        return self.backbone(batch)

    @contextmanager
    def without_task(self) -> Iterator[None]:
        """Leave the task out, its adapter and what it changed of the importances: the features from before it."""
        before, self._shared.without_task = self._shared.without_task, True
        try:
            yield
        finally:
            self._shared.without_task = before

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Leave everything out: the features of the bare backbone."""
        before, self._shared.frozen = self._shared.frozen, True
        try:
            yield
        finally:
            self._shared.frozen = before

    @torch.no_grad()
    def start_task(self) -> None:
        """Begin a new adapter: A from the initialisation all tasks share (Kaiming-uniform), B = 0, importance 1."""
        for name, layer in self.layers.items():
            A = torch.empty(self.rank, layer.shape[1])
            nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator(self.seed, "lora-init", name))
            layer.task_A.copy_(A.view_as(layer.task_A))
            layer.task_B.zero_()
        self.importance.fill_(1.0)
        self._activate(True)

    def end_task(self) -> None:
        """Remove the adapter (B = 0) and freeze everything."""
        with torch.no_grad():
            for layer in self.layers.values():
                layer.task_B.zero_()
        self._activate(False)

    def task_adapter(self, name: str) -> Adapter:
        """A copy of the adapter in training, on the CPU in float32, `scale` folded into B.

        Raises:
            UsageError: there is none.
        """
        if not self._shared.task:
            raise UsageError(f"there is no adapter to take out for task {name!r}: start_task() comes first")
        layers = {
            layer_name: Factors(
                layer.task_A.detach().flatten(1).to("cpu", torch.float32, copy=True),
                layer.task_B.detach().flatten(1).to("cpu", torch.float32, copy=True) * self._shared.scale,
            )
            for layer_name, layer in self.layers.items()
        }
        return Adapter(name, layers, self.importance.item())

    @torch.no_grad()
    def load_task(self, layers: Layers, importance: float = 1.0) -> None:
        """Put an adapter back as `task_adapter` gave it; it trains, as after `start_task`.

        Raises:
            UsageError: its layers, their shapes or its rank are not this model's.
        """
        self._check(layers, "the adapter")
        for name in self.layers:
            if name not in layers:
                raise UsageError(f"the adapter does not update layer {name!r}, which is adapted here")
            if layers[name].rank != self.rank:
                raise UsageError(
                    f"the adapter does not fit layer {name!r}: its rank is {layers[name].rank}, not {self.rank}"
                )
        for name, layer in self.layers.items():
            layer.task_A.copy_(layers[name].A.view_as(layer.task_A))
            layer.task_B.copy_(layers[name].B.view_as(layer.task_B) / self._shared.scale)
        self.importance.fill_(importance)
        self._activate(True)

    @torch.no_grad()
    def load_groups(self, layers: Sequence[Layers], importances: Sequence[float]) -> None:
        """Replace all groups; they may have any ranks and leave layers out.

        Raises:
            UsageError: too many groups, not one importance each, or unknown layers or shapes.
        """
        if len(importances) != len(layers):
            raise UsageError(f"{len(layers)} groups need as many importances, got {len(importances)}")
        if self.max_groups is not None and len(layers) > self.max_groups:
            raise UsageError(f"{len(layers)} groups do not fit: max_groups is {self.max_groups}")
        for j, group in enumerate(layers):
            self._check(group, f"group {j}")
        for name, layer in self.layers.items():
            layer.set_groups([group.get(name) for group in layers])
        if self.max_groups is None:
            self.group_importance = nn.Parameter(self.group_importance.new_empty(len(layers)), requires_grad=False)
        self.group_importance.fill_(1.0)
        self.group_importance[: len(layers)] = torch.tensor(list(importances)).to(self.group_importance)
        self.settled_importance = self.group_importance.detach().clone()
        self._shared.groups = len(layers)
        self._activate(self._shared.task)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """A and B of every layer: what `start_task` makes trainable, besides the importances."""
        return [p for layer in self.layers.values() for p in (layer.task_A, layer.task_B)]

    def importance_parameters(self) -> list[nn.Parameter]:
        """alpha_i and, once there are groups, the alpha_Gj: what `start_task` makes trainable, besides the adapter."""
        return [self.importance, self.group_importance] if self._shared.groups else [self.importance]

    def trainable_count(self) -> int:
        """How many numbers a task trains; importances of empty slots are not among them."""
        return sum(p.numel() for p in self.adapter_parameters()) + 1 + self._shared.groups

    def folded(self, layers: Layers) -> Backbone:
        """A copy of the bare backbone with `layers` added to its weights: plain, and as fast as the original.

        Raises:
            UsageError: a layer is unknown or of another shape.
        """
        self._check(layers, "the update")
        memo: dict[int, object] = {}
        for name, layer in self.layers.items():
            plain = copy.deepcopy(layer.base_layer, memo)
            weight = layer.base_weight
            if name in layers:
                delta = layers[name].to(torch.float64).delta().cpu().view_as(weight)
                plain.weight = nn.Parameter((weight.detach().cpu() + delta).to(weight), requires_grad=False)
            memo[id(layer)] = plain  # deepcopy puts it wherever the adapted layer was
        folded = copy.deepcopy(self.backbone, memo)
        folded.fingerprint, folded.options = fingerprint(folded.module), None
        return folded

    def _activate(self, task: bool) -> None:
        self._shared.task = task
        for parameter in self.adapter_parameters():
            parameter.requires_grad_(task)
        self.importance.requires_grad_(task)
        self.group_importance.requires_grad_(task and self._shared.groups > 0)
        if not task:
            self.zero_grad(set_to_none=True)

    def _check(self, layers: Layers, what: str) -> None:
        for name, factors in layers.items():
            if name not in self.layers:
                raise UsageError(f"{what} updates layer {name!r}, which is not adapted here")
            if factors.shape != self.layers[name].shape:
                raise UsageError(
                    f"{what} does not fit layer {name!r}: (out, in) is {factors.shape}, not {self.layers[name].shape}"
                )


def _inject(module: nn.Module, names: Sequence[str], rank: int, dropout: float) -> dict[str, HamLayer]:
    """Replace the named layers by adapted ones through PEFT."""
    # A pattern and not a list: PEFT takes names in a list for endings too.
    config = LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules="|".join(re.escape(name) for name in names)
    )
    config._register_custom_module({nn.Linear: HamLinear, nn.Conv2d: HamConv2d})
    inject_adapter_in_model(config, module, adapter_name=TASK)
    # What PEFT leaves on the model would make other libraries take it for a PEFT model.
    del module.peft_config
    layers = {}
    for name in names:
        layer = module.get_submodule(name)
        if not isinstance(layer, HamLayer):
            raise UsageError(f"layer {name!r} cannot be adapted: PEFT made it a {type(layer).__name__}")
        layers[name] = layer
    return layers
