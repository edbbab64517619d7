"""One straight training loop, shared by all learners."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hamcl.errors import TrainingError
from hamcl.ham import Adapter
from hamcl.machine import Machine
from hamcl.reading.batches import Batch, Batches
from hamcl.reading.prepare import Preprocess
from hamcl.rng import generator, scoped
from hamcl.streams.base import Samples, Task
from hamcl.training.position import Keeper, Position, Trained


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


@dataclass(frozen=True)
class Step:
    """One optimizer step, as told to a progress callback."""

    task: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    samples_per_second: float


Progress = Callable[[Step], None]

CLIP = 1.0
"""The largest norm of a gradient."""


class Told(Protocol):
    """What a training tells, see `hamcl.learning.lesson.TaskReport`."""

    losses: list[float]
    samples_per_second: float


class Lesson(Protocol):
    """What a training takes of a task, see `hamcl.learning.lesson.Lesson`."""

    @property
    def task(self) -> Task: ...
    @property
    def index(self) -> int: ...
    @property
    def samples(self) -> Samples: ...
    @property
    def report(self) -> Told: ...
    @property
    def progress(self) -> Progress | None: ...
    @property
    def keeper(self) -> Keeper | None: ...


@dataclass(frozen=True)
class Plan:
    """How the training of one task goes.

    Attributes:
        share: the part of the epochs' steps that is taken, in (0, 1]; at least one step. The schedule of the rates is
            that of the steps taken.
        lr, head_lr, importance_lr: learning rates of the adapter, the loss's own parameters and the importances.
        hold: weight of what keeps the features where they are.
    """

    seed: int
    epochs: int
    share: float
    batch_size: int
    lr: float
    head_lr: float
    importance_lr: float
    weight_decay: float
    warmup: float
    hold: float
    machine: Machine
    device: torch.device

    def steps(self, batches: int) -> int:
        """How many steps are taken with so many batches an epoch."""
        return max(1, round(self.share * self.epochs * batches))

    def optimizer(self, model: Model, loss: Loss) -> torch.optim.Optimizer:
        """AdamW over all that trains."""
        groups: list[dict[str, Any]] = [
            {"params": model.adapter_parameters(), "lr": self.lr},
            {"params": loss.parameters(), "lr": self.head_lr},
        ]
        if self.importance_lr > 0:
            # A scalar at the adapter's rate barely moves, and decay would pull it to zero instead of to one.
            groups.append({"params": model.importance_parameters(), "lr": self.importance_lr, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """Linear warm-up, then half a cosine to zero."""
        rising = max(1, round(self.warmup * steps)) if self.warmup > 0 else 0

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
    random = generator(plan.seed, lesson.index, "shuffle")
    batches = Batches(lesson.samples, preprocess, plan.batch_size, random, lesson.task.augmentation, plan.device)
    optimizer = plan.optimizer(model, loss)
    log = Log(lesson, len(batches), plan.steps(len(batches)))
    trained = Trained(optimizer, plan.schedule(optimizer, log.steps), plan.device)
    position = Position(lesson.keeper, trained, log)
    with scoped(plan.seed, lesson.index, "train"), training(model):
        for batch, labels, indices in position.start(batches):
            with plan.machine.autocast(plan.device):
                value = loss(batch, labels, indices)
            log.finite(value.item(), plan.lr)
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
                    f"lower lr (now {plan.lr}) or look for broken samples"
                )


@contextmanager
def training(model: Model) -> Iterator[None]:
    """The model trains in the block, and is back in evaluation after it."""
    model.train()
    try:
        yield
    finally:
        model.eval()


class Log:
    """What is told of a training: of every step, and of each epoch in the end.

    Attributes:
        batches: of an epoch.
        steps: there are to take.
        done: steps taken.
        total: the losses of the present epoch, added up.
        samples: seen, repeats counted.
        seconds: wall time.
    """

    def __init__(self, lesson: Lesson, batches: int, steps: int) -> None:
        self.lesson, self.batches, self.steps = lesson, batches, steps
        self.done, self.total, self.samples, self.seconds = 0, 0.0, 0, 0.0
        self._start = time.perf_counter()

    def finite(self, loss: float, rate: float) -> None:
        """Raise TrainingError where the loss of the next step is none."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of task {self.lesson.task.name!r} is {loss} at batch {self.done % self.batches + 1} of "
                f"epoch {self.done // self.batches + 1}; lower lr (now {rate}) or look for broken samples"
            )

    def step(self, loss: float, samples: int) -> None:
        """Count a step; the last epoch may be cut short."""
        report = self.lesson.report
        epoch = self.done // self.batches
        self.done, self.total, self.samples = self.done + 1, self.total + loss, self.samples + samples
        self.seconds = time.perf_counter() - self._start
        report.samples_per_second = self.samples / max(self.seconds, 1e-9)
        if self.lesson.progress:
            epochs = math.ceil(self.steps / self.batches)
            told = (self.lesson.task.name, epoch + 1, epochs, self.done, self.steps, loss, report.samples_per_second)
            self.lesson.progress(Step(*told))
        if self.done % self.batches == 0 or self.done == self.steps:
            report.losses.append(self.total / (self.done - epoch * self.batches))
            self.total = 0.0

    def state(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        seen = {"losses": list(self.lesson.report.losses), "seconds": self.seconds, "samples": self.samples}
        return {"step": self.done, "total": self.total, "report": seen}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        seen = state["report"]
        self.done, self.total, self.samples = state["step"], state["total"], seen["samples"]
        self.lesson.report.losses = list(seen["losses"])
        self._start -= seen["seconds"]
