"""The backbone as it is, with a head on top: what pre-training alone is worth."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor, nn

from hamcl.config import BARE, HAMConfig
from hamcl.heads import TaskRows
from hamcl.learning.classify import Classifier
from hamcl.learning.learner import State, TaskReport
from hamcl.nn.backbones import Backbone
from hamcl.reading.batches import Batch
from hamcl.streams.base import Samples, Task
from hamcl.training.features import Seen
from hamcl.training.loop import Fit, Progress


class _Bare(nn.Module):
    """A backbone without anything to train, in the shape the training loop takes."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Batch) -> Tensor:
        return self.backbone(batch)

    @contextmanager
    def without_task(self) -> Iterator[None]:
        yield

    frozen = without_task

    def adapter_parameters(self) -> list[nn.Parameter]:
        return []

    importance_parameters = adapter_parameters

    def trainable_count(self) -> int:
        return 0


class Frozen(Classifier):
    """A frozen backbone: nearest mean is SimpleCIL (arXiv 2303.07338), ridge is RanPAC (arXiv 2307.02251) without
    first-session adaptation; only the linear heads train anything.
    """

    defaults = MappingProxyType({**BARE, "head": "ridge"})

    def __init__(self, backbone: Backbone, config: HAMConfig) -> None:
        # All its features are the frozen ones.
        super().__init__(backbone, replace(config, head_features="adapted"), _Bare(backbone))
        self.seen = Seen()

    def _train(
        self,
        rows: TaskRows,
        task: Task,
        samples: Samples,
        index: int,
        anchors: Tensor | None,
        progress: Progress | None,
    ) -> Fit:
        if self.head is not self.rows:
            return Fit()
        return super()._train(rows, task, samples, index, anchors, progress)

    def _begin(self) -> None:
        """Nothing is adapted."""

    def _end(self, task: Task, samples: Samples, index: int, report: TaskReport) -> None:
        """Nothing is merged."""

    def logits(self, samples: Samples) -> Tensor:
        """Scores over all seen classes; the features of the same samples are computed once, while they exist."""
        return self.head.logits(self.seen(samples, self.augmentation, lambda: self._extract(self.model, samples)))

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        return counts if self.head is self.rows else {**counts, "trainable": 0}

    def _model_state(self) -> tuple[dict[str, Tensor], State]:
        return {}, {}

    def _load_model_state(self, tensors: dict[str, Tensor], meta: State) -> None:
        """There is nothing to load."""
