"""One task while it is learned, and what is said of it afterwards."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hamcl.ham import Adapter
from hamcl.heads import TaskRows
from hamcl.streams.base import Samples, Task
from hamcl.training.loop import Progress
from hamcl.training.position import Keeper

State = dict[str, Any]
"""Tensors by name, and plain values under "meta"."""


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

    def done(self, phase: str) -> None:
        """Count the time since the last phase ended, or since the lesson began, to this one."""
        now = time.perf_counter()
        self.report.phases[phase] = self.report.phases.get(phase, 0.0) + now - self._lap
        self.report.seconds, self._lap = now - self._began, now


Watch = Callable[[str, int, int], None]
"""Is told of every pass over samples without training: its name, the samples done, and all of them."""
