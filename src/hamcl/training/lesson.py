"""One task while it is learned, and what is said of it afterwards."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from hamcl.errors import TrainingError
from hamcl.ham import Adapter
from hamcl.heads import TaskRows
from hamcl.streams.base import Samples, Task

State = dict[str, Any]
"""Tensors by name, and plain values under "meta"."""


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


class Keeper(Protocol):
    """Keeps the position of a training."""

    def load(self) -> State | None:
        """The position to go on from; None at the beginning."""

    def due(self, *, epoch_done: bool) -> bool:
        """Whether to save now; asked after every step but the last."""

    def save(self, position: State) -> None: ...


@dataclass
class TaskReport:
    """What learning one task did.

    Attributes:
        seconds: wall time of the whole of `learn`.
        losses: mean training loss of each epoch.
        samples_per_second: throughput of the training loop.
        skipped: one message per sample left out as unreadable.
        notes: those of the task, see `Task`, and what was guessed of its images.
        phases: seconds of each phase of `learn`.
    """

    task: str
    classes: list[str]
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    samples_per_second: float = 0.0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What another program has trained on a task.

    Attributes:
        rows: its classifier, where rows answer.
    """

    adapter: Adapter
    rows: TaskRows | None = None


@dataclass
class Lesson:
    """One task while it is learned: what every hook of a method takes, and all it takes.

    Attributes:
        task: as it was given.
        index: its place in the model's life, part of every seed.
        samples: the training samples that can be read, each decoded once.
        known: classes learned before it.
        report: filled on the way.
        progress: told of every step of the training.
        keeper: keeps the position of the training.
        given: what another program trained, in place of a training of our own.
        columns: the task's classes among all, by label.
        before: features of the samples from before the task, shape (n, width), where the head follows their moves.
        anchors: the features to stay near, shape (n, width), where a method has them already.
        adapter: what the training made.
    """

    task: Task
    index: int
    samples: Samples
    known: int
    report: TaskReport
    progress: Progress | None = None
    keeper: Keeper | None = None
    given: Given | None = None
    columns: list[int] = field(default_factory=list)
    before: Tensor | None = None
    anchors: Tensor | None = None
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        self._began = self._lap = time.perf_counter()

    @property
    def share(self) -> float:
        """The task's part of all classes, with those from before."""
        return len(self.task.classes) / (len(self.task.classes) + self.known)

    def finite_adapter(self) -> Adapter:
        """What the training made.

        Raises:
            ValueError: it is not finite.
        """
        assert self.adapter is not None, "the training comes first"
        self.adapter.check()
        return self.adapter

    def done(self, phase: str) -> None:
        """Count the time since the last phase ended, or since the lesson began, to this one."""
        now = time.perf_counter()
        self.report.phases[phase] = self.report.phases.get(phase, 0.0) + now - self._lap
        self.report.seconds, self._lap = now - self._began, now


Watch = Callable[[str, int, int], None]
"""Is told of every pass over samples without training: its name, the samples done, and all of them."""


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
