"""The backbone as it is, with a head on top: what pre-training alone is worth."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

from torch import Tensor, nn

from hamcl.config import BARE, READS, HAMConfig
from hamcl.ham import Adapter
from hamcl.learning.learner import SHARED, TRAINING, Learner
from hamcl.machine import Machine
from hamcl.nn.backbones import Backbone
from hamcl.reading.batches import Batch
from hamcl.streams.base import Samples
from hamcl.training.features import Seen
from hamcl.training.lesson import Lesson, State


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

    def adapter_parameters(self) -> list[nn.Parameter]:
        return []

    importance_parameters = adapter_parameters

    def task_adapter(self, name: str) -> Adapter:
        return Adapter(name, {})

    def trainable_count(self) -> int:
        return 0


class Frozen(Learner):
    """A frozen backbone under a head; only rows that answer train.

    With `ncm` this is SimpleCIL (arXiv 2303.07338), with `ridge` RanPAC (arXiv 2307.02251) without adaptation.
    """

    defaults = MappingProxyType({**BARE, "head": "ridge"})

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.seen = Seen()

    @classmethod
    def reads(cls, config: HAMConfig) -> frozenset[str]:
        rows = TRAINING - {"lr", "importance_lr"} if config.head in ("linear", "cosine") else frozenset[str]()
        return SHARED | READS[config.head] - {"drift"} | rows

    def adapt(self) -> _Bare:
        return _Bare(self.backbone)

    def begin(self, lesson: Lesson) -> None:
        """Nothing is adapted."""

    def trains(self, lesson: Lesson) -> bool:
        return self.objective.head.trained

    def end(self, lesson: Lesson) -> None:
        """Nothing is merged."""

    def look_again(self, samples: Samples) -> Tensor:
        return self.seen(samples, self.objective.augmentation, lambda: self.look(samples))

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        return counts if self.objective.head.trained else {**counts, "trainable": 0}

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        return {}, {}

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        """There is nothing to load."""
