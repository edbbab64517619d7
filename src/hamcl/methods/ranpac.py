"""RanPAC (arXiv 2307.02251): adapt in the first session only, then a ridge head on random projections."""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from hamcl.config import BARE, HAMConfig, option
from hamcl.heads import TaskRows
from hamcl.learning.learner import State, TaskReport
from hamcl.methods.seq_lora import SeqLoRA
from hamcl.nn.backbones import Backbone
from hamcl.streams.base import Samples, Task
from hamcl.training.features import Seen
from hamcl.training.loop import Fit, Progress


@dataclass(frozen=True)
class RanPACConfig(HAMConfig):
    adapt: int = option(1, "Tasks the adapter learns before it settles; 0 leaves the backbone frozen.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("adapt", self.adapt >= 0, "at least 0")


class RanPAC(SeqLoRA):
    """The adapter learns the first task and stays as it is (section 4.3); the head is `Ridge` (eqs. 4 to 7).

    Differences from the paper: LoRA instead of its adapters, because all methods here share one; the head chooses its
    penalty as `Ridge` says; the projection is 4,096 wide by default instead of 10,000 (`projection`). With `adapt` 0
    this is `frozen` with the same head.
    """

    defaults = MappingProxyType({**BARE, "head": "ridge", "importance_lr": 0.0})
    config_type = RanPACConfig
    config: RanPACConfig

    def __init__(self, backbone: Backbone, config: HAMConfig) -> None:
        super().__init__(backbone, config)
        self.seen = Seen()

    @property
    def settled(self) -> bool:
        return len(self.tasks) >= self.config.adapt

    def _begin(self) -> None:
        for parameter in self.model.adapter_parameters() + self.model.importance_parameters():
            parameter.requires_grad_(not self.settled)

    def _train(
        self,
        rows: TaskRows,
        task: Task,
        samples: Samples,
        index: int,
        anchors: Tensor | None,
        progress: Progress | None,
    ) -> Fit:
        if self.settled and self.head is not self.rows:
            return Fit()
        return super()._train(rows, task, samples, index, anchors, progress)

    def _end(self, task: Task, samples: Samples, index: int, report: TaskReport) -> None:
        if not self.settled:
            self.seen.clear()

    def logits(self, samples: Samples) -> Tensor:
        if not self.settled or self.config.head_features != "adapted" or self.config.task_scores > 0:
            return super().logits(samples)
        features = self.seen(samples, self.augmentation, lambda: self._extract(self.model, samples))
        return self.head.logits(features)

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        if max(0, len(self.tasks) - 1) < self.config.adapt:
            return counts
        rows = counts["trainable"] - self.model.trainable_count()
        return {**counts, "trainable": rows if self.head is self.rows else 0}

    def _load_model_state(self, tensors: dict[str, Tensor], meta: State) -> None:
        super()._load_model_state(tensors, meta)
        self.seen.clear()
