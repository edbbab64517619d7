"""RanPAC (arXiv 2307.02251): adapt in the first session only, then a ridge head on random projections."""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from hamcl.config import BARE, HAMConfig, option
from hamcl.machine import Machine
from hamcl.methods.seq_lora import SeqLoRA
from hamcl.nn.backbones import Backbone
from hamcl.streams.base import Samples
from hamcl.training.features import Seen
from hamcl.training.lesson import Lesson, State


@dataclass(frozen=True)
class RanPACConfig(HAMConfig):
    """Options of RanPAC."""

    adapt: int = option(1, "Tasks the adapter learns before it settles; 0 leaves the backbone frozen.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("adapt", self.adapt >= 0, "at least 0")


class RanPAC(SeqLoRA):
    """RanPAC (arXiv 2307.02251): first-session adaptation, then ridge regression on a random projection.

    The adapter learns the first task and stays as it is (section 4.3); the head is `Ridge` (eqs. 4 to 7).

    Differences from the paper: LoRA instead of its adapters, because all methods here share one; the head chooses its
    penalty as `Ridge` says; the projection is 4,096 wide by default instead of 10,000 (`projection`). With `adapt` 0
    this is `frozen` with the same head.
    """

    defaults = MappingProxyType({**BARE, "head": "ridge", "importance_lr": 0.0})
    config_type = RanPACConfig
    config: RanPACConfig

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.seen = Seen()

    @property
    def settled(self) -> bool:
        """Whether the adapter has learned all the tasks it does."""
        return len(self.tasks) >= self.config.adapt

    def begin(self, lesson: Lesson) -> None:
        """The adapter trains until it has settled."""
        for parameter in self.model.adapter_parameters() + self.model.importance_parameters():
            parameter.requires_grad_(not self.settled)

    def trains(self, lesson: Lesson) -> bool:
        return not self.settled or self.objective.head.trained

    def end(self, lesson: Lesson) -> None:
        """The adapter stays as trained; what was seen with the one before is forgotten."""
        if not self.settled:
            self.seen.clear()

    def look_again(self, samples: Samples) -> Tensor:
        if not self.settled:
            return self.look(samples)
        return self.seen(samples, self.objective.augmentation, lambda: self.look(samples))

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        if max(0, len(self.tasks) - 1) < self.config.adapt:
            return counts
        rows = counts["trainable"] - self.model.trainable_count()
        return {**counts, "trainable": rows if self.objective.head.trained else 0}

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        super().load_model(tensors, meta)
        self.seen.clear()
