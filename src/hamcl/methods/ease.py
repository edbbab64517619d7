"""EASE (arXiv 2403.12030): one adapter per task, and class prototypes in the features of every adapter."""

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.config import BARE, HAMConfig, option
from hamcl.ham import Layers
from hamcl.ham.flat import adapters_from, adapters_state
from hamcl.heads import Head, Linear, Rows
from hamcl.learning.classify import Classify
from hamcl.learning.learner import Learner
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.streams.base import Samples
from hamcl.training.features import Seen
from hamcl.training.lesson import Lesson, State


@dataclass(frozen=True)
class EASEConfig(HAMConfig):
    """Options of EASE."""

    alpha: float = option(0.1, "Weight of the features of other tasks' adapters in a class's score.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("alpha", self.alpha >= 0, "at least 0")


class Prototypes(Head):
    """Class means in the features of every adapter; those a class never had are made up from similar classes.

    A class c is at home in the features of the last adapter trained on it. For a later adapter j its prototype is a
    mean over the classes k that were seen since j, weighted by how similar they are at c's home (eqs. 6 to 8):
    `p_cj = sum_k softmax_k(cos(p_c,home, p_k,home)) p_kj`. The score of c is the cosine with its prototype at home,
    plus `alpha` times the mean of the cosines with the others (eq. 9; the authors' code takes the mean).

    Attributes:
        counts: samples of each class seen by each adapter, shape (classes, adapters).
        means: shape (classes, adapters, width); zero where the count is.
    """

    SCALE = Rows.SCALE

    def __init__(self, width: int, alpha: float) -> None:
        super().__init__(width)
        self.alpha = alpha
        self.counts = torch.zeros(0, 0)
        self.means = torch.zeros(0, 0, width)

    def add_classes(self, count: int) -> None:
        self._grow(count, 0)

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        """Add samples.

        Args:
            features: shape (n, adapters, width); an adapter not seen before is a new column.
        """
        self._grow(0, features.shape[1] - self.means.shape[1])
        for column in labels.unique().tolist():
            x = features[labels == column]
            self.counts[column] += len(x)
            self.means[column] += (x - self.means[column]).sum(0) / self.counts[column, :, None]
        self._solved = None

    def _grow(self, classes: int, adapters: int) -> None:
        self.counts = F.pad(self.counts, (0, adapters, 0, classes))
        self.means = F.pad(self.means, (0, 0, 0, adapters, 0, classes))
        self._solved = None

    @property
    def homes(self) -> Tensor:
        """The last adapter trained on each class, shape (classes,)."""
        return (self.counts > 0).long().cumsum(1).argmax(1)

    def complete(self) -> Tensor:
        """The prototypes with the missing ones made up, shape (classes, adapters, width)."""
        homes, means = self.homes, self.means.clone()
        for j in range(1, means.shape[1]):
            since = homes >= j
            for home in homes[~since].unique().tolist():
                old = homes == home
                similar = F.normalize(self.means[old, home], dim=1) @ F.normalize(self.means[since, home], dim=1).T
                means[old, j] = similar.softmax(1) @ self.means[since, j]
        return means

    def _solve(self) -> Linear:
        classes, adapters, _ = self.means.shape
        weights = torch.full((classes, adapters), self.alpha / max(1, adapters - 1))
        weights[torch.arange(classes), self.homes] = 1.0
        weight = self.SCALE * weights[:, :, None] * F.normalize(self.complete(), dim=2)
        return Linear(weight.flatten(1), torch.zeros(classes))

    def logits(self, features: Tensor) -> Tensor:
        """Scores of shape (n, classes) for features of shape (n, adapters, width)."""
        return self.linear()(F.normalize(features, dim=2).flatten(1))


class EASE(Learner):
    """EASE (arXiv 2403.12030): an adapter per task from the bare backbone, and class prototypes under all of them.

    At inference all adapters run, one after another.

    The rows a task trains with (`head` cosine or linear) only serve the training. Differences from the paper: LoRA
    instead of bottleneck adapters, and a cosine scale that is fixed.
    """

    defaults = MappingProxyType({**BARE, "head": "cosine", "importance_lr": 0.0})
    heads = ("cosine", "linear")
    config_type = EASEConfig
    config: EASEConfig
    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.adapters: list[Layers] = []
        self.seen = Seen()

    @classmethod
    def reads(cls, config: HAMConfig) -> frozenset[str]:
        return super().reads(config) | {"views"}

    def classify(self) -> Classify:
        return _UnderEach(self, Prototypes(self.backbone.width, self.config.alpha))

    @property
    def together(self) -> bool:
        return False

    def begin(self, lesson: Lesson) -> None:
        """A new adapter on the bare backbone."""
        self.model.load_groups([], [])
        self.model.start_task()

    def end(self, lesson: Lesson) -> None:
        """Keep the adapter beside the others."""
        adapter = lesson.finite_adapter()
        self.adapters.append({name: f.scaled(adapter.importance) for name, f in adapter.layers.items()})
        self.model.end_task()

    def look_again(self, samples: Samples) -> Tensor:
        """Features under every adapter, shape (n, adapters, width)."""

        def under(layers: Layers) -> Tensor:
            self.model.load_groups([layers], [1.0])
            return self.look(samples)

        features = [
            self.seen(samples, (i, self.objective.augmentation), partial(under, layers))
            for i, layers in enumerate(self.adapters)
        ]
        return torch.stack(features, 1)

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        # The adapter shown last is a group, but none is there when the next task trains.
        return {**counts, "trainable": counts["trainable"] - bool(self.adapters)}

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        return adapters_state(self.adapters), {"adapters": len(self.adapters)}

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.adapters = list(adapters_from(tensors, meta["adapters"]))
        self.seen.clear()
        self.model.end_task()


class _UnderEach(Classify):
    """Shows the head the samples under every adapter."""

    learner: EASE

    def statistics(self, lesson: Lesson) -> Tensor:
        """Features of the samples' views under every adapter, shape (views * n, adapters, width)."""
        features = []
        for layers in self.learner.adapters:
            self.learner.model.load_groups([layers], [1.0])
            features.append(super().statistics(lesson))
        return torch.stack(features, 1)
