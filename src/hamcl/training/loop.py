"""One straight training loop, shared by all learners."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hamcl.config import HAMConfig
from hamcl.errors import TrainingError
from hamcl.ham import Adapter
from hamcl.machine import Machine
from hamcl.reading.batches import Batch, Batches
from hamcl.reading.prepare import Preprocess
from hamcl.rng import generator, scoped
from hamcl.training.lesson import Lesson, Log
from hamcl.training.position import Position, Trained


class Model(Protocol):
    """A backbone with parts to train, which can be switched off: batch -> features (n, width)."""

    def __call__(self, batch: Batch) -> Tensor: ...
    def without_task(self) -> AbstractContextManager[None]:
        """Leave out the adapter in training."""

    def adapter_parameters(self) -> list[nn.Parameter]: ...
    def importance_parameters(self) -> list[nn.Parameter]: ...
    def task_adapter(self, name: str) -> Adapter:
        """A copy of the adapter in training."""

    def trainable_count(self) -> int:
        """How many numbers a task trains in the backbone."""

    def train(self, mode: bool = True) -> object: ...
    def eval(self) -> object: ...
    def to(self, device: torch.device) -> object: ...


class Loss(Protocol):
    """What a training makes small."""

    def __call__(self, batch: Batch, labels: Tensor, indices: Tensor) -> Tensor:
        """A scalar; the indices are those of the samples, shape (n,)."""

    def parameters(self) -> list[nn.Parameter]:
        """What trains besides the model."""

    def finite(self, batch: Batch) -> bool:
        """Whether all that the model says of a batch is finite."""


CLIP = 1.0
"""The largest norm of a gradient."""


@dataclass(frozen=True)
class Plan:
    """How the training of one task goes.

    Attributes:
        settings: with the learning rates of this task.
        share: the part of the epochs' steps that is taken, in (0, 1]; at least one step. The schedule of the rates is
            that of the steps taken.
        hold: weight of what keeps the features where they are.
    """

    settings: HAMConfig
    share: float
    hold: float
    machine: Machine
    device: torch.device

    def steps(self, batches: int) -> int:
        """How many steps are taken with so many batches an epoch."""
        return max(1, round(self.share * self.settings.epochs * batches))

    def optimizer(self, model: Model, loss: Loss) -> torch.optim.Optimizer:
        """AdamW over all that trains."""
        settings = self.settings
        groups: list[dict[str, Any]] = [
            {"params": model.adapter_parameters(), "lr": settings.lr},
            {"params": loss.parameters(), "lr": settings.head_lr},
        ]
        if settings.importance_lr > 0:
            # A scalar at the adapter's rate barely moves, and decay would pull it to zero instead of to one.
            alphas = model.importance_parameters()
            groups.append({"params": alphas, "lr": settings.importance_lr, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """Linear warm-up, then half a cosine to zero."""
        rising = max(1, round(self.settings.warmup * steps)) if self.settings.warmup > 0 else 0

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(model: Model, loss: Loss, lesson: Lesson, plan: Plan, preprocess: Preprocess) -> None:
    """Train the current adapter, the importances and what the loss brings, and fill the lesson's report.

    What `lesson.keeper` holds is where training goes on; everything else must be as it was then.

    Raises:
        TrainingError: the loss is not finite.
        DataError: the position is that of another training.
    """
    settings, seed = plan.settings, plan.settings.seed
    random = generator(seed, lesson.index, "shuffle")
    batches = Batches(lesson.samples, preprocess, settings.batch_size, random, lesson.task.augmentation, plan.device)
    optimizer = plan.optimizer(model, loss)
    log = Log(lesson, len(batches), plan.steps(len(batches)))
    trained = Trained(optimizer, plan.schedule(optimizer, log.steps), plan.device)
    position = Position(lesson.keeper, trained, log)
    with scoped(seed, lesson.index, "train"), training(model):
        for batch, labels, indices in position.start(batches):
            with plan.machine.autocast(plan.device):
                value = loss(batch, labels, indices)
            log.finite(value.item(), settings.lr)
            value.backward()
            trained.step(CLIP)
            log.step(value.item(), len(labels))
            position.keep()
            if log.done == log.steps:
                break
        # No loss shows what the last step did.
        with torch.no_grad(), plan.machine.autocast(plan.device):
            if not loss.finite(batch):
                raise TrainingError(
                    f"task {lesson.task.name!r} gives features or scores that are not finite after its last batch; "
                    f"lower lr (now {settings.lr}) or look for broken samples"
                )


@contextmanager
def training(model: Model) -> Iterator[None]:
    """The model trains in the block, and is back in evaluation after it."""
    model.train()
    try:
        yield
    finally:
        model.eval()
