"""SLCA (arXiv 2303.05118): a slow learner, and classifier rows aligned on samples of class Gaussians."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.config import BARE, HAMConfig, option
from hamcl.heads import Head, Linear, Rows
from hamcl.learning.classify import Classify
from hamcl.methods.seq_lora import SeqLoRA
from hamcl.rng import generator
from hamcl.training.lesson import Lesson


@dataclass(frozen=True)
class SLCAConfig(HAMConfig):
    """Options of SLCA."""

    align_epochs: int = option(5, "Passes over the drawn features that align the rows after a task.")
    align_samples: int = option(256, "Features drawn of each class for a pass, and features of a batch.")
    logit_norm: float = option(0.1, "Temperature of the normalised logits.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("align_epochs", "align_samples"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("logit_norm", self.logit_norm > 0, "above 0")


class Aligned(Head):
    """Linear rows aligned with each other on features drawn from one Gaussian per class.

    A covariance is kept as its axes, each as long as its standard deviation: n - 1 of them hold the covariance of n
    samples exactly. A class that returns is described by its latest samples alone.

    Attributes:
        means: shape (classes, width).
        axes: those of all classes, shape (axes, width).
        owners: the class of each axis, shape (axes,).
        weight, bias: the aligned rows, shapes (classes, width) and (classes,).
    """

    JITTER = 1e-4
    """Variance added in every direction, as in the authors' code."""

    def __init__(self, width: int, config: SLCAConfig) -> None:
        super().__init__(width)
        self.config = config
        self.means = torch.zeros(0, width)
        self.axes = torch.zeros(0, width)
        self.owners = torch.zeros(0, dtype=torch.long)
        self.weight = torch.zeros(0, width)
        self.bias = torch.zeros(0)

    def add_classes(self, count: int) -> None:
        self.means = F.pad(self.means, (0, 0, 0, count))
        self._solved = None

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        for column in labels.unique().tolist():
            x = features[labels == column].double()
            centred = (x - x.mean(0)) / max(1, len(x) - 1) ** 0.5
            axes = torch.linalg.svd(centred, full_matrices=False)
            kept = min(max(0, len(x) - 1), self.width)
            old = self.owners == column
            self.means[column] = x.mean(0).float()
            self.axes = torch.cat([self.axes[~old], (axes.S[:kept, None] * axes.Vh[:kept]).float()])
            self.owners = torch.cat([self.owners[~old], torch.full((kept,), column)])

    def draw(self, column: int, count: int, random: torch.Generator) -> Tensor:
        """Features of one class, shape (count, width)."""
        axes = self.axes[self.owners == column]
        spread = torch.randn(count, len(axes), generator=random) @ axes
        return self.means[column] + spread + self.JITTER**0.5 * torch.randn(count, self.width, generator=random)

    def align(self, rows: Rows, tasks: Sequence[Sequence[int]]) -> None:
        """Train a copy of `rows` on drawn features (section 3.3).

        The loss is the cross-entropy of the logits divided by `logit_norm` times their norm, which is the mean over
        the tasks of the norm of the task's logits. With one task there is nothing to align.

        Args:
            tasks: the columns of each task.
        """
        config, classes = self.config, len(rows.weight)
        weight, bias = rows.weight.clone().requires_grad_(), rows.bias.clone().requires_grad_()
        count, epochs = config.align_samples, config.align_epochs * (len(tasks) > 1)
        optimizer = torch.optim.AdamW([weight, bias], lr=config.head_lr, weight_decay=config.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))
        for epoch in range(epochs):
            random = generator(config.seed, len(tasks), "align", epoch)
            drawn = torch.cat([self.draw(column, count, random) for column in range(classes)])
            for batch in torch.randperm(len(drawn), generator=random).split(count):
                logits = F.linear(drawn[batch], weight, bias)
                norm = torch.stack([logits[:, columns].norm(dim=1) for columns in tasks]).mean(0) + 1e-7
                loss = F.cross_entropy(logits / norm[:, None] / config.logit_norm, batch // count)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
        self.weight, self.bias, self._solved = weight.detach(), bias.detach(), None

    def _solve(self) -> Linear:
        return Linear(self.weight, self.bias)


class SLCA(SeqLoRA):
    """SLCA (arXiv 2303.05118): a slow learner, and a classifier aligned on features drawn from class Gaussians.

    One adapter goes on through all tasks at a hundredth of the rows' learning rate (section 3.2).

    After every task all rows are aligned, starting from the rows as trained, which later alignments start from again.
    Differences from the paper: LoRA, because all methods here share one, where the paper trains the whole network
    (its follow-up, arXiv 2408.08295, shows that a slow LoRA does as well), and AdamW instead of SGD in the alignment.
    """

    defaults = MappingProxyType({**BARE, "head": "linear", "lr": 1e-4})
    heads = ("linear",)
    config_type = SLCAConfig
    config: SLCAConfig

    @classmethod
    def reads(cls, config: HAMConfig) -> frozenset[str]:
        return super().reads(config) | {"views"}

    def classify(self) -> Classify:
        return _Aligning(self, Aligned(self.backbone.width, self.config))


class _Aligning(Classify):
    """Aligns the rows after every task."""

    head: Aligned

    def teach(self, lesson: Lesson, features: Tensor, labels: Tensor) -> None:
        self.head.update(features, labels)
        self.head.align(self.rows, [*self.tasks, labels.unique().tolist()])
